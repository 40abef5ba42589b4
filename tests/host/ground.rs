//! What a host's directory lies on: this machine's memory, its disk, or a small disk of the host's own. What is in it, and how it
//! is booted, is `machine.rs`.

use super::rootfs;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether hosts are on this machine's disk in any case: where they are measured, or stay.
pub static ON_DISK: AtomicBool = AtomicBool::new(false);

/// Memory that must be left to put one more host into it, in kB.
const PLENTY_KB: u64 = 6 << 20;

/// Tests need no disk that is one, only its meaning: a host whose power is cut finds everything again. Memory costs the
/// processors less.
fn is_in_memory() -> bool {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available =
        text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse().ok());
    !ON_DISK.load(Ordering::Relaxed) && available.is_some_and(|available: u64| available > PLENTY_KB)
}

/// Lays the ground for a host whose directory is there: a disk of so many MB, or whatever this machine has plenty of.
pub(super) fn lay(base: &Path, megabytes: Option<u32>) {
    if let Some(megabytes) = megabytes {
        let image = disk(base).display().to_string();
        rootfs::run("truncate", &[&format!("--size={megabytes}M"), &image]);
        // Nothing is kept for root: full is full.
        rootfs::run("mkfs.ext4", &["-q", "-F", "-m", "0", &image]);
        rootfs::run("mount", &["-o", "loop", &image, &base.display().to_string()]);
    } else if is_in_memory() {
        rootfs::run(
            "mount",
            &["-t", "tmpfs", "-o", "mode=0755,size=75%", "appliance-test", &base.display().to_string()],
        );
    }
}

/// Takes the directory away, with all that is mounted there.
pub(super) fn remove(base: &Path) {
    let root = base.join("root");
    if root.exists() {
        // Not mounted is as good as unmounted.
        drop(Command::new("umount").arg("--lazy").arg(&root).stderr(Stdio::null()).status());
    }
    // Where it is in memory, or has a disk of its own.
    drop(Command::new("umount").arg("--lazy").arg(base).stderr(Stdio::null()).status());
    drop(fs::remove_file(disk(base)));
    if base.exists() {
        drop(Command::new("rm").args(["-rf", "--one-file-system"]).arg(base).status());
    }
}

/// The image of a host's own disk.
fn disk(base: &Path) -> PathBuf {
    base.with_extension("disk")
}
