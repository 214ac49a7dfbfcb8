//! System calls of a running process that fail or take long, by strace.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::waiting::until;

/// Whether strace can watch others on this machine.
pub(super) fn is_there() -> bool {
    let tried = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "-e", "trace=none", "true"])
        .stderr(Stdio::null())
        .status();
    tried.is_ok_and(|status| status.success())
}

/// What is done to a process until it is dropped.
pub(super) struct Injection {
    strace: Child,
    told: PathBuf,
}

impl Injection {
    /// `what` in strace's words: `fdatasync:error=EIO`. All threads of these processes are hit.
    pub(super) async fn into(pids: &[u32], what: &str, folder: &Path) -> Injection {
        let told = folder.join("strace");
        let _ = std::fs::remove_file(&told);
        let call = what.split_once(':').expect("it names a call").0;
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-s", "0", "-e", &format!("trace={call}")]);
        command.args(["-e", &format!("inject={what}"), "-o"]).arg(&told);
        for pid in pids {
            command.args(["-p", &pid.to_string()]);
        }
        let strace = command.stderr(Stdio::null()).spawn().unwrap();
        for pid in pids {
            // One that has ended is watched no more.
            let look = || async { is_traced(*pid).unwrap_or(true).then_some(()) };
            until("strace to watch", look).await;
        }
        Injection { strace, told }
    }

    /// How many calls it has hit so far.
    pub(super) fn hits(&self) -> usize {
        let told = std::fs::read_to_string(&self.told).unwrap_or_default();
        told.lines()
            .filter(|line| line.contains("(INJECTED)") || line.contains("(DELAYED)"))
            .count()
    }

    /// Ends it; gives how many calls it has hit.
    pub(super) fn end(mut self) -> usize {
        self.interrupt();
        self.hits()
    }

    fn interrupt(&mut self) {
        // It lets go of the process and ends; killed, it would leave it stopped.
        let pid = self.strace.id().to_string();
        let _ = Command::new("kill").args(["-INT", &pid]).status();
        let _ = self.strace.wait();
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        if matches!(self.strace.try_wait(), Ok(None)) {
            self.interrupt();
        }
    }
}

/// Whether every thread of a process is watched; none where it has ended.
fn is_traced(pid: u32) -> Option<bool> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let is_traced = |thread: std::fs::DirEntry| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        !status.lines().any(|line| line == "TracerPid:\t0")
    };
    Some(threads.flatten().all(is_traced))
}
