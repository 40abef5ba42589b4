//! How a file or a link is replaced so that a reader, and a power cut, see the old one or the new one: made beside, synced, renamed.
//! Whatever is made beside is locked by its maker for as long as it lives: what a killed process left can be told from what is
//! being made, and the next process that writes there takes it away.
#![allow(clippy::disallowed_methods)] // Part of the door for files.

use super::Host;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What everything made beside is called by.
const PREFIX: &str = ".appliance-";
/// How often something is made anew that was taken away between its making and its locking.
const TRIES: u32 = 10;
/// How many names of a directory are looked at.
const MAX_NAMES: usize = 10_000;

/// Directories that were looked through, each with the prefix that was looked for.
pub(super) type Swept = Arc<Mutex<BTreeSet<PathBuf>>>;

/// A synced file next to its target, to be renamed.
pub(super) fn file(
    target: &Path,
    contents: &[u8],
    mode: u32,
    ids: Option<(u32, u32)>,
) -> Result<tempfile::NamedTempFile> {
    let parent = target.parent().context("a file needs a directory")?;
    let mut beside = locked(|| {
        let file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(parent)?;
        let held = file.as_file().try_clone()?;
        let path = file.path().to_owned();
        Ok((file, path, held))
    })?
    .0;
    if let Some((uid, gid)) = ids {
        std::os::unix::fs::fchown(beside.as_file(), Some(uid), Some(gid))?;
    }
    beside.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    beside.write_all(contents)?;
    beside.as_file().sync_all()?;
    Ok(beside)
}

/// A directory of one's own, removed when it is dropped.
pub(super) struct Directory {
    directory: tempfile::TempDir,
    _held: File,
}

impl Directory {
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }
}

pub(super) fn directory(parent: &Path, prefix: &str) -> Result<Directory> {
    let (directory, held) = locked(|| {
        let directory = tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?;
        let held = File::open(directory.path())?;
        let path = directory.path().to_owned();
        Ok((directory, path, held))
    })?;
    Ok(Directory { directory, _held: held })
}

/// Makes something and locks it; made anew where somebody took it for left over before it was locked.
fn locked<T>(make: impl Fn() -> io::Result<(T, PathBuf, File)>) -> Result<(T, File)> {
    for _ in 0..TRIES {
        let (made, path, held) = make()?;
        held.lock()?;
        match path.symlink_metadata() {
            Ok(meta) if meta.ino() == held.metadata()?.ino() => return Ok((made, held)),
            _ => drop(made),
        }
    }
    bail!("what was made beside it was taken away {TRIES} times")
}

/// Write beside, sync, rename, sync the directory. Owner and mode are set before the contents can be seen.
pub(super) fn write_atomically(target: &Path, contents: &[u8], mode: u32, ids: Option<(u32, u32)>) -> Result<()> {
    file(target, contents, mode, ids)?.persist(target).map_err(|failed| failed.error)?;
    sync_parent(target)?;
    Ok(())
}

pub(super) fn link_atomically(target: &Path, to: impl AsRef<Path>) -> Result<()> {
    let parent = target.parent().context("a link needs a directory")?;
    fs::create_dir_all(parent)?;
    let beside = directory(parent, PREFIX)?;
    let link = beside.path().join("link");
    std::os::unix::fs::symlink(to.as_ref(), &link)?;
    fs::rename(&link, target)?;
    sync_parent(target)?;
    Ok(())
}

pub(super) fn sync_parent(target: &Path) -> io::Result<()> {
    match target.parent() {
        Some(parent) => match File::open(parent) {
            Ok(directory) => directory.sync_all(),
            Err(missing) if missing.kind() == ErrorKind::NotFound => Ok(()),
            Err(other) => Err(other),
        },
        None => Ok(()),
    }
}

pub(super) fn make_dir(target: &Path, mode: u32, ids: Option<(u32, u32)>) -> Result<()> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    // Made closed, opened last: nobody looks in between.
    fs::DirBuilder::new().create(target)?;
    if let Some((uid, gid)) = ids {
        std::os::unix::fs::lchown(target, Some(uid), Some(gid))?;
    }
    fs::set_permissions(target, fs::Permissions::from_mode(mode))?;
    sync_parent(target)?;
    Ok(())
}

impl Host {
    /// Takes away what killed processes left in a directory while they were writing there; once in the life of a process.
    pub fn sweep(&self, directory: &str) -> Result<()> {
        self.sweep_of(&self.path(directory), PREFIX)
    }

    /// [`Host::sweep`] once more: another process may have died since this one looked.
    pub fn sweep_again(&self, directories: &[String]) -> Result<()> {
        self.swept.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
        self.sweep_private()?;
        directories.iter().try_for_each(|directory| self.sweep(directory))
    }

    /// [`Host::sweep`] for the directory that a file lies in.
    pub(super) fn sweep_beside(&self, path: &str) -> Result<()> {
        match self.path(path).parent() {
            Some(parent) => self.sweep_of(parent, PREFIX),
            None => Ok(()),
        }
    }

    pub(super) fn sweep_of(&self, directory: &Path, prefix: &str) -> Result<()> {
        // The guarded code only adds; a poisoned set is still a set.
        let is_new = || {
            let mut swept = self.swept.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            swept.insert(directory.join(prefix))
        };
        // Not while it is swept: what is said of it may lead here again.
        if !self.applies() || !is_new() {
            return Ok(());
        }
        sweep(directory, prefix).with_context(|| format!("could not look for left-overs in {}", directory.display()))
    }
}

fn sweep(directory: &Path, prefix: &str) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(none) if matches!(none.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        Err(other) => return Err(other),
    };
    for entry in entries.take(MAX_NAMES) {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
            match take_away(&entry.path()) {
                // The directory may be somebody else's, who puts there whatever he likes.
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    tracing::warn!("{} cannot be taken away: {error}", entry.path().display());
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Removes a left-over, unless somebody holds it.
fn take_away(path: &Path) -> io::Result<()> {
    // What is made beside is a file or a directory; anything else is nobody's work.
    if !path.symlink_metadata().is_ok_and(|meta| meta.is_file() || meta.is_dir()) {
        return fs::remove_file(path);
    }
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let left = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match left.try_lock() {
        Err(fs::TryLockError::WouldBlock) => Ok(()),
        Err(fs::TryLockError::Error(error)) => Err(error),
        Ok(()) if left.metadata()?.is_dir() => fs::remove_dir_all(path),
        Ok(()) => fs::remove_file(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;

    #[test]
    fn what_is_left_over_goes_and_what_is_being_made_stays() {
        let test = TestHost::new();
        test.host.put("/x/y", b"1", 0o600).expect("it can be written");
        let directory = test.host.path("/x");
        fs::write(directory.join(".appliance-dead"), "a key").expect("it can be written");
        // Somebody else's, in a directory that he owns too.
        std::os::unix::fs::symlink("nowhere", directory.join(".appliance-link")).expect("it can be made");
        nix::unistd::mkfifo(&directory.join(".appliance-pipe"), nix::sys::stat::Mode::S_IRWXU).expect("it can be made");
        fs::create_dir(directory.join(".appliance-dead-too")).expect("it can be made");
        fs::write(directory.join(".appliance-dead-too/link"), "").expect("it can be written");
        let living = file(&directory.join("z"), b"2", 0o600, None).expect("it can be made");
        let room = super::directory(&directory, PREFIX).expect("it can be made");
        // Another process's host: this one has looked already.
        let next = test.another();
        next.ensure_dir("/x", &crate::host::Dir::plain()).expect("it is there");
        let mut names = next.names("/x").expect("it can be listed");
        names.retain(|name| name != "y");
        let mut made = [living.path(), room.path()].map(|path| path.file_name().expect("a name").to_owned());
        made.sort();
        assert_eq!(names, made.map(|name| name.into_string().expect("text")));
        living.persist(directory.join("z")).expect("it is still there");
        // Somebody dies while this process lives on.
        fs::write(directory.join(".appliance-later"), "a page").expect("it can be written");
        next.sweep("/x").expect("it can be looked at");
        assert!(directory.join(".appliance-later").exists(), "looked at once");
        next.sweep_again(&["/x".to_owned(), "/none".to_owned()]).expect("it can be looked at");
        assert!(!directory.join(".appliance-later").exists());
    }
}
