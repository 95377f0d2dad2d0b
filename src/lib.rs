//! `mcp-auth-proxy`: OAuth 2.1 in front of any MCP server.
//!
//! ```text
//! client ─▶ server/listener ─▶ server/router ─┬─▶ oauth/<endpoint> ─▶ store, github          answers itself
//!                                             └─▶ gate ──Permit──▶ upstream ─▶ MCP server     streams back
//! ```
//!
//! | module | answers the question |
//! |---|---|
//! | [`cli`] | what was asked on the command line? |
//! | [`app`] | how do the parts come together? |
//! | [`config`] | what did the operator write? |
//! | [`server`] | how do requests come in and responses go out? |
//! | [`oauth`] | the authorization server: register, authorize, consent, callback, token, revoke |
//! | [`gate`] | may this request reach this resource? |
//! | [`upstream`] | how does it get there, and the answer back? |
//! | [`github`] | who is this person, and does their token live? |
//! | [`store`] | what must survive a restart? |
//! | [`limit`] | how often may somebody do something? |
//! | [`keyfile`] | which key, when none was configured? |
//! | [`seal`] | what do strangers carry for us, and is it unchanged? |
//! | [`protocol`] | what do the RFCs' words mean? |
//! | [`tls`] | which certificate is shown, and whose is believed? |
//! | [`process`] | what does the machine see of us? |
//! | [`telemetry`] | what does the operator read? |
//! | [`recent`] | what was so a moment ago? |
//! | [`clock`] | what time is it, and what is random? |
//!
//! Imports go down this list, never up. ARCHITECTURE.md says why, and lists the invariants.
#![forbid(unsafe_code)]

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod gate;
pub mod github;
pub mod keyfile;
pub mod limit;
pub mod oauth;
pub mod process;
pub mod protocol;
pub mod recent;
pub mod seal;
pub mod server;
pub mod store;
pub mod tcp;
pub mod telemetry;
pub mod timer;
pub mod tls;
pub mod upstream;
