//! What this machine may see of the process: nobody but root reads its memory, and none of it is left in a file.
//!
//! A core dump would hold every token that is in use.

#[cfg(target_os = "linux")]
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
#[cfg(unix)]
use rustix::process::{Resource, Rlimit, setrlimit};

/// Switches core dumps off and, on Linux, shuts /proc/PID/{mem,environ,fd} and debuggers of the same user out.
#[cfg(unix)]
pub fn keep_to_itself() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // The limit alone does not count where the kernel pipes cores to a program.
    #[cfg(target_os = "linux")]
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Other systems leave no memory behind unless an administrator tells them to.
#[cfg(not(unix))]
pub fn keep_to_itself() -> std::io::Result<()> {
    Ok(())
}
