//! Which process wrote something, so that others can tell whether it still lives.

use crate::host::Host;
use serde::{Deserialize, Serialize};

/// A process. Its number alone may be another one's by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// When it started, in the kernel's ticks since boot.
    pub started: u64,
}

impl Process {
    /// This one.
    pub fn current(host: &Host) -> Process {
        let pid = std::process::id();
        Process { pid, started: started(host, pid).unwrap_or_default() }
    }

    /// Whether it still lives.
    pub fn lives(self, host: &Host) -> bool {
        started(host, self.pid) == Some(self.started)
    }
}

/// When a process started (proc(5), stat field 22).
fn started(host: &Host, pid: u32) -> Option<u64> {
    let stat = host.read_text(&format!("/proc/{pid}/stat"), 4096).ok()??;
    // The second field is the program's name in brackets and may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
