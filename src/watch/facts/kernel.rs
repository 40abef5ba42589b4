//! What the kernel says in its files: memory, RAID arrays, processes that it killed.

use super::Killed;
use crate::host::{Cmd, Host};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::time::Duration;

const PRESSURE: &str = "/proc/pressure/memory";
const ARRAYS: &str = "/proc/mdstat";
pub(super) const COUNTERS: &str = "/proc/vmstat";
/// The largest of these files, in bytes.
const MAX: u64 = 256 << 10;
/// The most of what the kernel has killed that is named.
const MAX_NAMED: usize = 10;

/// For how much of the last minute all that runs waited for memory, in percent; none where the kernel does not say.
///
/// # Errors
/// The kernel's file cannot be read.
pub fn memory_stall(host: &Host) -> Result<Option<f64>> {
    // A kernel may be told to keep no such account: then reading gives an error that is none.
    let is_off = |error: &anyhow::Error| {
        error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.raw_os_error() == Some(nix::errno::Errno::EOPNOTSUPP as i32))
    };
    match host.read_text(PRESSURE, MAX) {
        Err(error) if is_off(&error) => Ok(None),
        read => Ok(read?.and_then(|text| stall(&text))),
    }
}

/// The RAID arrays that lack a disk, with their states: `md0`, `[U_]`.
///
/// # Errors
/// The kernel's list cannot be read.
pub fn degraded_arrays(host: &Host) -> Result<Vec<(String, String)>> {
    Ok(host.read_text(ARRAYS, MAX)?.map(|text| degraded(&text)).unwrap_or_default())
}

/// How many processes the kernel has killed for want of memory since the boot; none where it does not count them (before Linux 4.13).
///
/// # Errors
/// The kernel's counters cannot be read.
pub fn oom_kills(host: &Host) -> Result<Option<u64>> {
    let text = host.read_text(COUNTERS, MAX)?.unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.map(|count| count.trim().parse().context("the kernel's counter is no number")).transpose()
}

/// What the kernel has killed in the last two minutes, by its log.
///
/// # Errors
/// The log cannot be read.
pub async fn killed(host: &Host) -> Result<BTreeSet<Killed>> {
    let args = ["-k", "-q", "-o", "cat", "--since", "-2min", "-n", "500"];
    let cmd = Cmd::new("journalctl", args).deadline(Duration::from_secs(20));
    let out = host.ask(cmd).await.context("the kernel's log cannot be read")?;
    Ok(out.stdout.lines().filter_map(victim).take(MAX_NAMED).collect())
}

/// The line `full avg10=0.00 avg60=0.00 …` (Linux, Documentation/accounting/psi.rst).
fn stall(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("full "))?;
    line.split(' ').find_map(|part| part.strip_prefix("avg60="))?.parse().ok()
}

/// In a block of `/proc/mdstat` the array's name begins the first line, and `[2/1] [U_]` stands in the second: disks that there should be,
/// disks that work, and each one (md(4)).
fn degraded(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut name = "";
    for line in text.lines() {
        match line.split_once(" : ") {
            Some((array, state)) if !line.starts_with(' ') => {
                name = array.trim();
                // It could not be put together, or its last disk is gone: then there is no second line of it.
                if let Some(word) = ["inactive", "broken"].into_iter().find(|word| state.trim_start().starts_with(word))
                {
                    found.push((name.to_owned(), word.to_owned()));
                }
            }
            _ => {
                let each = line.split_whitespace().find(|word| {
                    let inside = word.strip_prefix('[').and_then(|word| word.strip_suffix(']')).unwrap_or_default();
                    !inside.is_empty() && inside.bytes().all(|b| b == b'U' || b == b'_')
                });
                if let Some(each) = each.filter(|each| each.contains('_') && !name.is_empty()) {
                    found.push((name.to_owned(), each.to_owned()));
                }
            }
        }
    }
    found
}

/// `oom-kill:constraint=…,task_memcg=/docker/ID,task=NAME,pid=7,uid=0` (Linux, mm/oom_kill.c, dump_oom_summary).
fn victim(line: &str) -> Option<Killed> {
    let (_, after) = line.split_once(",task_memcg=")?;
    let (group, task) = after.split_once(",task=")?;
    // A process chooses its own name.
    let task = task.rsplit_once(",pid=").map_or(task, |(task, _)| task);
    let is_hex = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let part = group.rsplit('/').next().unwrap_or_default();
    let container = part.strip_prefix("docker-").and_then(|part| part.strip_suffix(".scope")).unwrap_or(part);
    Some(Killed {
        process: task.chars().filter(|c| !c.is_control()).take(40).collect(),
        container: is_hex(container).then(|| container[..12].to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_memory_is_read() {
        let text = "some avg10=1.00 avg60=2.00 avg300=3.00 total=4\nfull avg10=5.00 avg60=21.50 avg300=7.00 total=8\n";
        assert_eq!(stall(text), Some(21.5));
        assert_eq!(stall("full avg10=1"), None);
        assert_eq!(stall(""), None);
    }

    #[test]
    fn an_array_without_a_disk_is_found_and_one_that_is_whole_is_not() {
        let text = "Personalities : [raid1] [raid6] [raid5] [raid4]
md0 : active raid1 sdb1[1] sda1[0]
      1953382400 blocks super 1.2 [2/2] [UU]
      bitmap: 0/15 pages [0KB], 65536KB chunk

md1 : active raid5 sdd1[3](F) sdc1[1] sde1[0]
      3906764800 blocks super 1.2 level 5, 512k chunk, algorithm 2 [3/2] [UU_]
      [==>..................]  recovery = 12.6% (123/987) finish=107.6min speed=132480K/sec

md2 : active raid0 sdf1[0] sdg1[1]
      100 blocks super 1.2 512k chunks

md3 : inactive sdh1[1](S)
      100 blocks super 1.2

unused devices: <none>
";
        let found = [("md1", "[UU_]"), ("md3", "inactive")].map(|(name, state)| (name.to_owned(), state.to_owned()));
        assert_eq!(degraded(text), found);
        assert_eq!(degraded("Personalities : \nunused devices: <none>\n"), []);
    }

    #[test]
    fn what_was_killed_is_named_with_its_container() {
        let id = "0123456789ab".to_owned() + &"c".repeat(52);
        let line = |group: &str, task: &str| {
            format!(
                "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0,oom_memcg={group},task_memcg={group},task={task},pid=7,uid=0"
            )
        };
        let killed = |process: &str, container: Option<&str>| {
            Some(Killed { process: process.to_owned(), container: container.map(str::to_owned) })
        };
        let scope = format!("/system.slice/docker-{id}.scope");
        assert_eq!(victim(&line(&scope, "python3")), killed("python3", Some("0123456789ab")));
        assert_eq!(victim(&line(&format!("/docker/{id}"), "a,b")), killed("a,b", Some("0123456789ab")));
        assert_eq!(victim(&line("/system.slice/cron.service", "sh")), killed("sh", None));
        assert_eq!(victim("Out of memory: Killed process 7 (sh)"), None);
    }
}
