//! The end, and how far it has come.

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drain {
    /// Serving.
    No,
    /// Still serving, and letting go of connections that clients keep: the next request is to go elsewhere.
    Leaving,
    /// No new connections; open requests are finished.
    Begun,
    /// Event streams end, between two events.
    Streams,
    /// Everything is cut.
    Now,
}
