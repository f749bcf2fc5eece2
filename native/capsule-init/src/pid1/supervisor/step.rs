//! What the supervisor wants done.

use nix::unistd::Pid;

/// What the caller must do now. Some steps want an answer, a method of [`super::Supervisor`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start it; answer with `spawned` or `spawn_failed`.
    Spawn(usize),
    /// See whether its `requires` exists; answer with `checked`.
    CheckFile(usize),
    /// See whether its socket accepts; answer with `probed`.
    Probe(usize),
    /// Ask its process to end.
    Terminate { index: usize, pid: Pid },
    /// Its process did not end in time: kill its whole process group.
    Kill { index: usize, pid: Pid },
}
