//! Drives that carry a file for us: found by their label, read through a mount that no path leads to. The kernel undoes
//! such a mount with its last descriptor, however this process ends.

use super::{Cmd, Host};
use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::io::Read;
use std::time::Duration;

/// A block device with a file system on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    pub device: String,
    pub label: String,
    pub kind: String,
}

/// The kinds that are mounted, and what keeps the kernel from writing a journal to them.
const KINDS: [(&str, Option<&str>); 8] = [
    ("iso9660", None),
    ("udf", None),
    ("vfat", None),
    ("ext2", None),
    ("ext3", Some("noload")),
    ("ext4", Some("noload")),
    ("xfs", Some("norecovery")),
    ("btrfs", Some("rescue=nologreplay")),
];

/// How long reading a drive may take.
const READING: Duration = Duration::from_secs(5);

impl Host {
    /// All drives with a label, in the order of their names. Drives that cannot be read are not among them.
    ///
    /// # Errors
    /// The drives could not be looked at in time.
    pub async fn drives(&self, deadline: Duration) -> Result<Vec<Drive>> {
        // Not from the cache: it may tell of drives that are gone.
        let look = Cmd::new("blkid", ["-c", "/dev/null", "-o", "export"]).deadline(deadline);
        let output = self.try_ask(look).await?;
        match output.code {
            // 2: no drive, or none that this user may read.
            Some(0 | 2) => Ok(parse_blkid(&output.stdout)),
            code => bail!("blkid ended with {}: {}", code.unwrap_or(-1), output.stderr.trim()),
        }
    }

    /// The path of a device that links lead to, as the kernel calls it; `None` if it is not there.
    pub fn real_path(&self, path: &str) -> Option<String> {
        self.path(path).canonicalize().ok()?.to_str().map(str::to_owned)
    }

    /// Whether somebody has mounted a block device or made something of it (open(2): `O_EXCL` without `O_CREAT`).
    pub fn is_device_in_use(&self, path: &str) -> Result<bool> {
        match rustix::fs::open(self.path(path), OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty()) {
            Ok(_) => Ok(false),
            Err(rustix::io::Errno::BUSY) => Ok(true),
            Err(error) => Err(error).with_context(|| format!("could not look at {path}")),
        }
    }

    /// The first bytes of a file on a drive, at most `max`; `None` if the drive does not have it. Links are not followed.
    ///
    /// # Errors
    /// A file system that is not mounted here or is broken, something other than a file, or a drive that takes too long.
    pub async fn read_from_drive(&self, drive: &Drive, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let (drive, path) = (drive.clone(), path.to_owned());
        let device = drive.device.clone();
        let reading = tokio::task::spawn_blocking(move || read(&drive, &path, max));
        match tokio::time::timeout(READING, reading).await {
            Ok(read) => read.context("reading the drive was interrupted")?,
            Err(_) => bail!("{device} could not be read within {} s", READING.as_secs()),
        }
    }
}

fn read(drive: &Drive, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
    let Some((kind, option)) = KINDS.iter().find(|(kind, _)| *kind == drive.kind) else {
        bail!("{} holds a file system of the kind '{}', which is not mounted here", drive.device, drive.kind);
    };
    let failed = || format!("could not mount {} ({kind}) to read it", drive.device);
    let context = rustix::mount::fsopen(*kind, FsOpenFlags::FSOPEN_CLOEXEC).with_context(failed)?;
    rustix::mount::fsconfig_set_string(&context, "source", drive.device.as_str()).with_context(failed)?;
    rustix::mount::fsconfig_set_flag(&context, "ro").with_context(failed)?;
    match option.map(|option| option.split_once('=').ok_or(option)) {
        Some(Ok((key, value))) => rustix::mount::fsconfig_set_string(&context, key, value).with_context(failed)?,
        Some(Err(flag)) => rustix::mount::fsconfig_set_flag(&context, flag).with_context(failed)?,
        None => {}
    }
    rustix::mount::fsconfig_create(&context).with_context(failed)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).with_context(failed)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let file = match rustix::fs::openat2(&root, path, flags, Mode::empty(), inside) {
        Ok(file) => std::fs::File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("could not open {path} on {}", drive.device)),
    };
    let could_not = || format!("could not read {path} on {}", drive.device);
    if !file.metadata().with_context(could_not)?.is_file() {
        bail!("{path} on {} is not a file", drive.device);
    }
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes).with_context(could_not)?;
    Ok(Some(bytes))
}

/// `blkid -o export`: blocks of `NAME=value`, one per device, between empty lines.
fn parse_blkid(text: &str) -> Vec<Drive> {
    let drive = |block: &str| {
        let field =
            |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(unescaped);
        Some(Drive { device: field("DEVNAME")?, label: field("LABEL")?, kind: field("TYPE")? })
    };
    let mut drives: Vec<Drive> = text.split("\n\n").filter_map(drive).collect();
    drives.sort_by(|a, b| a.device.cmp(&b.device));
    drives
}

/// blkid escapes what a shell would not take as it is with a backslash.
fn unescaped(text: &str) -> String {
    let mut after_backslash = false;
    text.chars()
        .filter(|c| {
            after_backslash = *c == '\\' && !after_backslash;
            !after_backslash
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labelled_drives_are_taken_from_blkids_blocks() {
        let text = "DEVNAME=/dev/vdb\nUUID=1\nLABEL=cidata\nBLOCK_SIZE=2048\nTYPE=iso9660\n\nDEVNAME=/dev/vda1\nTYPE=ext4\n\n\
                    DEVNAME=/dev/sda\nLABEL=my\\ disk\nTYPE=vfat\n";
        let found = parse_blkid(text);
        let drive = |device: &str, label: &str, kind: &str| Drive {
            device: device.into(),
            label: label.into(),
            kind: kind.into(),
        };
        assert_eq!(found, [drive("/dev/sda", "my disk", "vfat"), drive("/dev/vdb", "cidata", "iso9660")]);
        assert_eq!(parse_blkid(""), []);
    }
}
