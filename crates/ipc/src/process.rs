//! Who is alive. A pid alone can be a later process of the same number; with its start time it can not.

use std::fs;
use std::os::fd::OwnedFd;

use embedring_protocol::ProcessId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Field 22 of `/proc/PID/stat`. The second field is the program's name in parentheses and may hold
/// anything, so counting starts behind the last `)`.
fn start_ticks(pid: u64) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    // A zombie does nothing any more: for everyone who waits on it, it is dead.
    if matches!(state, "Z" | "X") {
        return None;
    }
    // `state` was field 3.
    fields.nth(18)?.parse().ok()
}

/// This process.
#[must_use]
pub fn current_process() -> ProcessId {
    let pid = u64::from(std::process::id());
    ProcessId {
        pid,
        start_ticks: start_ticks(pid).unwrap_or(0),
    }
}

/// True when exactly this process still runs.
#[must_use]
pub fn is_alive(process: ProcessId) -> bool {
    !process.is_nobody() && start_ticks(process.pid) == Some(process.start_ticks)
}

/// Resident set of this process in bytes, from `/proc/self/statm`; 0 when it can not be read.
#[must_use]
pub fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// Watches one process through a pidfd, which becomes readable the moment the process ends.
#[derive(Debug)]
pub struct Liveness {
    process: ProcessId,
    pidfd: Option<OwnedFd>,
}

impl Liveness {
    /// Begins to watch. `None` when the process has ended already.
    #[must_use]
    pub fn watch(process: ProcessId) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(process.pid).ok()?)?;
        // Without a pidfd (an old kernel, no descriptors left) /proc is asked each time instead.
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok();
        // Opened first and checked second: what was checked is what the descriptor refers to.
        is_alive(process).then_some(Self { process, pidfd })
    }

    /// The process watched.
    #[must_use]
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// True once the process has ended. Costs one system call.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match &self.pidfd {
            Some(pidfd) => {
                let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
                matches!(poll(&mut fds, Some(&Timespec::default())), Ok(ready) if ready > 0)
            }
            None => !is_alive(self.process),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn this_process_is_alive_and_nobody_is_not() {
        assert!(is_alive(current_process()));
        assert!(!is_alive(ProcessId::default()));
        let mut other = current_process();
        other.start_ticks += 1;
        assert!(!is_alive(other), "same pid, another process");
        assert!(resident_bytes() > 100_000);
    }

    #[test]
    fn a_killed_child_is_noticed() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = u64::from(child.id());
        let process = ProcessId {
            pid,
            start_ticks: start_ticks(pid).unwrap(),
        };
        let watch = Liveness::watch(process).unwrap();
        assert!(!watch.has_ended());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(watch.has_ended());
        assert!(Liveness::watch(process).is_none());
    }
}
