//! The one place that waits for processes: children of this program and all whose parents have ended. Whoever wants to know
//! how one ended asks by its pid, before or shortly after.

use nix::errno::Errno;
use nix::libc;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How long the end of a process is kept that nobody asked for: its pid may be learnt from a file only then.
const KEPT: Duration = Duration::from_secs(30);

#[derive(Clone, Default)]
pub struct Reaper {
    ends: Arc<Mutex<Ends>>,
}

#[derive(Default)]
struct Ends {
    waiting: HashMap<i32, oneshot::Sender<i32>>,
    unclaimed: HashMap<i32, (i32, Instant)>,
}

impl Reaper {
    /// Begins to reap. Call inside of the runtime, once.
    pub fn start() -> std::io::Result<Self> {
        let reaper = Self::default();
        let mut children = signal(SignalKind::child())?;
        let own = reaper.clone();
        tokio::spawn(async move {
            loop {
                own.reap();
                if children.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    /// Resolves with the exit code of a process: its own, or 128 + signal.
    pub fn end_of(&self, pid: i32) -> oneshot::Receiver<i32> {
        let (tell, told) = oneshot::channel();
        let mut ends = self.lock();
        if let Some((code, _)) = ends.unclaimed.remove(&pid) {
            let _ = tell.send(code);
        } else {
            ends.waiting.insert(pid, tell);
        }
        told
    }

    fn reap(&self) {
        loop {
            let mut status = 0;
            // SAFETY: the kernel writes one int. Not nix's: it knows no real-time signals, and would lose who died by one.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid < 0 && Errno::last() == Errno::EINTR {
                continue;
            }
            if pid <= 0 {
                return;
            }
            let Some(code) = exit_code(status) else { continue };
            let mut ends = self.lock();
            ends.unclaimed.retain(|_, (_, at)| at.elapsed() < KEPT);
            if let Some(tell) = ends.waiting.remove(&pid) {
                let _ = tell.send(code);
            } else {
                ends.unclaimed.insert(pid, (code, Instant::now()));
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of a process that has ended.
fn exit_code(status: i32) -> Option<i32> {
    if libc::WIFEXITED(status) {
        Some(libc::WEXITSTATUS(status))
    } else if libc::WIFSIGNALED(status) {
        Some(128 + libc::WTERMSIG(status))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_without_a_name_has_a_code_too() {
        assert_eq!(exit_code(7 << 8), Some(7));
        assert_eq!(exit_code(9), Some(137));
        assert_eq!(exit_code(40), Some(168));
        assert_eq!(exit_code(0x137f), None);
    }
}
