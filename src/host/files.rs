//! Files, directories and links: read with a bound, written by write-sync-rename, changed only when they differ.
#![allow(clippy::disallowed_methods)] // This is the door they are disallowed for.

use super::beside::{self, link_atomically, make_dir, sync_parent, write_atomically};
use super::{Changed, Host, What};
use crate::value::Owner;
use anyhow::{Context, Result, anyhow, bail};
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A file as it should be.
#[derive(Debug, Clone)]
pub struct File {
    pub(super) contents: Vec<u8>,
    pub(super) mode: Option<u32>,
    pub(super) owner: Option<Owner>,
}

impl File {
    /// World-readable text. The mode of a file that is already there is kept unless [`File::mode`] is called.
    pub fn text(contents: impl Into<String>) -> File {
        File { contents: contents.into().into_bytes(), mode: None, owner: None }
    }

    /// World-readable bytes.
    pub fn bytes(contents: Vec<u8>) -> File {
        File { contents, mode: None, owner: None }
    }

    /// Readable by its owner alone: everything that holds a secret.
    pub fn secret(contents: impl Into<String>) -> File {
        File::text(contents).mode(0o600)
    }

    pub fn mode(self, mode: u32) -> File {
        File { mode: Some(mode), ..self }
    }

    pub fn owner(self, owner: &Owner) -> File {
        File { owner: Some(owner.clone()), ..self }
    }
}

/// The most names of a directory that are read: far above what any that is listed holds.
const MAX_NAMES: usize = 10_000;

/// The room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Which file system.
    pub device: u64,
    /// In bytes.
    pub free: u64,
    /// Of the whole file system, in bytes.
    pub size: u64,
    /// How many more files there may be, and how many in all; both 0 where the file system has no such limit.
    pub free_inodes: u64,
    pub inodes: u64,
}

/// A directory as it should be.
#[derive(Debug, Clone)]
pub struct Dir {
    mode: Option<u32>,
    owner: Option<Owner>,
}

impl Dir {
    pub fn plain() -> Dir {
        Dir { mode: None, owner: None }
    }

    pub fn mode(self, mode: u32) -> Dir {
        Dir { mode: Some(mode), ..self }
    }

    pub fn owner(self, owner: &Owner) -> Dir {
        Dir { owner: Some(owner.clone()), ..self }
    }
}

impl Host {
    /// A file's bytes; `None` if there is none.
    ///
    /// # Errors
    /// Anything but a missing file, and a file larger than `max` bytes.
    pub fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        match self.read_start(path, max + 1)? {
            Some(bytes) if bytes.len() as u64 > max => {
                bail!("{path} is larger than {max} bytes, the most that is read")
            }
            other => Ok(other),
        }
    }

    /// The first bytes of a file, at most `max`; `None` if there is none.
    pub fn read_start(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        // A pipe in a file's place must not block.
        let open = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(self.path(path));
        let file = match open {
            Ok(file) => file,
            Err(missing) if matches!(missing.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(other) => return Err(other).with_context(|| format!("could not open {path}")),
        };
        let mut bytes = Vec::new();
        file.take(max).read_to_end(&mut bytes).with_context(|| format!("could not read {path}"))?;
        Ok(Some(bytes))
    }

    /// Like [`Host::read`], as text.
    pub fn read_text(&self, path: &str, max: u64) -> Result<Option<String>> {
        match self.read(path, max)? {
            Some(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| anyhow!("{path} is not UTF-8 text")),
            None => Ok(None),
        }
    }

    /// Gives a file that is there its owner and mode; its contents are not looked at. Links and directories are left alone.
    pub fn ensure_owned(&self, path: &str, mode: u32, owner: &Owner) -> Result<Changed> {
        match self.path(path).symlink_metadata() {
            Ok(meta) if meta.is_file() => self.ensure_access(What::File, path, Some(mode), Some(self.ids(owner)?)),
            _ => Ok(Changed::No),
        }
    }

    /// Random bytes from the kernel.
    pub fn random<const N: usize>(&self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        let mut source = fs::File::open("/dev/urandom").context("could not open /dev/urandom")?;
        source.read_exact(&mut bytes).context("could not read /dev/urandom")?;
        Ok(bytes)
    }

    /// Whether something is there; a dangling link counts.
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// Whether a directory is there, or a link that leads to one.
    pub fn is_directory(&self, path: &str) -> bool {
        self.path(path).is_dir()
    }

    /// The names in a directory, sorted; none if it is missing.
    ///
    /// # Errors
    /// It cannot be read, or holds more than 10,000.
    pub fn names(&self, path: &str) -> Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(path)) {
            Ok(entries) => entries,
            Err(missing) if missing.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(other) => return Err(other).with_context(|| format!("could not list {path}")),
        };
        let mut names = Vec::new();
        for (index, entry) in entries.enumerate() {
            if index == MAX_NAMES {
                bail!("{path} holds more than {MAX_NAMES} names; a part of them is not used");
            }
            let entry = entry.with_context(|| format!("could not list {path}"))?;
            names.extend(entry.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    /// The target of a symbolic link, if the path is one.
    pub fn link_target(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?.into_os_string().into_string().ok()?;
        // In a temporary root, links lead there too.
        match Path::new(&target).strip_prefix(&self.root) {
            Ok(below) if self.root != Path::new("/") => below.to_str().map(|below| format!("/{below}")),
            _ => Some(target),
        }
    }

    /// Writes a file if it differs in contents, mode or owner.
    pub fn ensure_file(&self, path: &str, want: &File) -> Result<Changed> {
        let target = self.path(path);
        self.sweep_beside(path)?;
        let meta = match target.symlink_metadata() {
            Ok(meta) if meta.is_dir() => bail!("{path} is a directory, but must be a file; move it away"),
            Ok(meta) => Some(meta).filter(|meta| meta.is_file()),
            Err(_) => None,
        };
        let ids = want.owner.as_ref().map(|owner| self.ids(owner)).transpose()?;
        let Some(meta) = meta else {
            self.note(What::File, path, "create");
            return self.write(path, want, want.mode.unwrap_or(0o644), ids);
        };
        let same = meta.len() == want.contents.len() as u64
            && self.read_unlinked(path, want.contents.len() as u64)?.as_deref() == Some(&want.contents);
        if !same {
            self.note(What::File, path, "change");
            let mode = want.mode.unwrap_or(meta.mode() & 0o7777);
            return self.write(path, want, mode, ids.or(Some((meta.uid(), meta.gid()))));
        }
        self.ensure_access(What::File, path, want.mode, ids)
    }

    fn write(&self, path: &str, want: &File, mode: u32, ids: Option<(u32, u32)>) -> Result<Changed> {
        if self.applies() {
            self.before_change(path)?;
            write_atomically(&self.path(path), &want.contents, mode, ids)
                .with_context(|| format!("could not write {path}"))?;
        }
        Ok(Changed::Yes)
    }

    /// Writes a file of the appliance's own state: atomically; never in check mode, and without a journal entry.
    pub fn put(&self, path: &str, contents: &[u8], mode: u32) -> Result<()> {
        self.put_as(path, contents, mode, None)
    }

    /// As [`Host::put`], for root and those who may read the host's logs (group `adm`): what an app printed may stand in it.
    pub fn put_for_administrators(&self, path: &str, contents: &[u8]) -> Result<()> {
        match self.gid("adm")? {
            Some(adm) => self.put_as(path, contents, 0o640, Some((nix::unistd::geteuid().as_raw(), adm))),
            None => self.put_as(path, contents, 0o600, None),
        }
    }

    fn put_as(&self, path: &str, contents: &[u8], mode: u32, ids: Option<(u32, u32)>) -> Result<()> {
        if self.applies() {
            self.before_change(path)?;
            let target = self.path(path);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).with_context(|| format!("could not make the directory of {path}"))?;
            }
            self.sweep_beside(path)?;
            write_atomically(&target, contents, mode, ids).with_context(|| format!("could not write {path}"))?;
        }
        Ok(())
    }

    /// Writes a file that must not be there yet, unless it may be replaced; without a journal entry.
    ///
    /// # Errors
    /// It is there already, or cannot be written.
    pub fn write_new(&self, path: &str, contents: &[u8], mode: u32, replace: bool) -> Result<()> {
        if replace {
            return self.put(path, contents, mode);
        }
        if self.applies() {
            self.before_change(path)?;
            let target = self.path(path);
            let beside =
                beside::file(&target, contents, mode, None).with_context(|| format!("could not write {path}"))?;
            beside.persist_noclobber(&target).map_err(|failed| match failed.error.kind() {
                ErrorKind::AlreadyExists => anyhow!("{path} is there already"),
                _ => anyhow!("could not write {path}: {}", failed.error),
            })?;
            sync_parent(&target).with_context(|| format!("could not sync the directory of {path}"))?;
        }
        Ok(())
    }

    /// Puts a file that was made beside its target in the target's place, once it is on the disk.
    pub fn settle_file(&self, beside: &str, target: &str) -> Result<()> {
        if self.applies() {
            self.before_change(target)?;
            let settle = || {
                let flags = nix::libc::O_NOFOLLOW;
                fs::OpenOptions::new().read(true).custom_flags(flags).open(self.path(beside))?.sync_all()?;
                fs::rename(self.path(beside), self.path(target))?;
                sync_parent(&self.path(target))
            };
            settle().with_context(|| format!("could not put {beside} in the place of {target}"))?;
        }
        Ok(())
    }

    /// How long a plain file is, in bytes; `None` if there is none, or something else.
    pub fn length_unlinked(&self, path: &str) -> Result<Option<u64>> {
        match self.path(path).symlink_metadata() {
            Ok(meta) if meta.is_file() => Ok(Some(meta.len())),
            Ok(_) => Ok(None),
            Err(missing) if missing.kind() == ErrorKind::NotFound => Ok(None),
            Err(other) => Err(other).with_context(|| format!("could not look at {path}")),
        }
    }

    /// How much room there is for a directory's files; `None` if it is missing.
    pub fn room(&self, path: &str) -> Result<Option<Room>> {
        let path_here = self.path(path);
        let meta = match path_here.metadata() {
            Ok(meta) => meta,
            Err(missing) if missing.kind() == ErrorKind::NotFound => return Ok(None),
            Err(other) => return Err(other).with_context(|| format!("could not look at {path}")),
        };
        let stat = nix::sys::statvfs::statvfs(&path_here).with_context(|| format!("could not look at {path}"))?;
        let bytes = |blocks: u64| blocks * stat.fragment_size();
        Ok(Some(Room {
            device: meta.dev(),
            free: bytes(stat.blocks_available()),
            size: bytes(stat.blocks()),
            free_inodes: stat.files_available(),
            inodes: stat.files(),
        }))
    }

    /// Removes a file or link of the appliance's own state, without a journal entry.
    pub fn discard(&self, path: &str) -> Result<()> {
        if self.applies() {
            self.before_change(path)?;
            match fs::remove_file(self.path(path)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("could not remove {path}"));
                }
                _ => {
                    sync_parent(&self.path(path)).with_context(|| format!("could not sync the directory of {path}"))?
                }
            }
        }
        Ok(())
    }

    /// Removes an empty directory of the appliance's own state; one that is missing or holds something is left.
    pub fn discard_directory(&self, path: &str) -> Result<()> {
        self.before_change(path)?;
        match fs::remove_dir(self.path(path)) {
            Err(error)
                if !matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory
                ) =>
            {
                Err(error).with_context(|| format!("could not remove {path}"))
            }
            _ => Ok(()),
        }
    }

    /// Removes a file or link, if it is there.
    pub fn ensure_absent(&self, path: &str) -> Result<Changed> {
        if !self.exists(path) {
            return Ok(Changed::No);
        }
        self.note(What::File, path, "remove");
        self.discard(path)?;
        Ok(Changed::Yes)
    }

    /// Makes a directory, its parents included. A link in its place is refused: a user could have put it there.
    pub fn ensure_dir(&self, path: &str, want: &Dir) -> Result<Changed> {
        let target = self.path(path);
        let ids = want.owner.as_ref().map(|owner| self.ids(owner)).transpose()?;
        match target.symlink_metadata() {
            Ok(meta) if meta.is_dir() => {
                self.sweep(path)?;
                self.ensure_access(What::Directory, path, want.mode, ids)
            }
            Ok(_) => bail!("{path} is in the way: it must be a directory; move it away"),
            Err(missing) if missing.kind() == ErrorKind::NotFound => {
                self.note(What::Directory, path, "create");
                if self.applies() {
                    self.before_change(path)?;
                    make_dir(&target, want.mode.unwrap_or(0o755), ids)
                        .with_context(|| format!("could not make the directory {path}"))?;
                }
                Ok(Changed::Yes)
            }
            Err(other) => Err(other).with_context(|| format!("could not look at {path}")),
        }
    }

    /// Makes a symbolic link. An empty directory in its place is replaced; anything else there is refused.
    pub fn ensure_link(&self, path: &str, to: &str) -> Result<Changed> {
        let target = self.path(path);
        self.sweep_beside(path)?;
        match target.symlink_metadata() {
            Ok(meta) if meta.is_symlink() && self.link_target(path).as_deref() == Some(to) => return Ok(Changed::No),
            Ok(meta) if meta.is_dir() && fs::read_dir(&target)?.next().is_some() => {
                bail!("{path} is a directory with files in it, but must be a link to {to}; move it away")
            }
            Ok(meta) if meta.is_file() => bail!("{path} is a file, but must be a link to {to}; move it away"),
            Ok(meta) => {
                self.note(What::Link, path, format!("point to {to}"));
                if self.applies() && meta.is_dir() {
                    fs::remove_dir(&target).with_context(|| format!("could not replace {path}"))?;
                }
            }
            Err(_) => self.note(What::Link, path, format!("point to {to}")),
        }
        if self.applies() {
            self.before_change(path)?;
            let there = if to.starts_with('/') { self.path(to) } else { PathBuf::from(to) };
            link_atomically(&target, &there).with_context(|| format!("could not link {path} to {to}"))?;
        }
        Ok(Changed::Yes)
    }

    fn ensure_access(&self, what: What, path: &str, mode: Option<u32>, ids: Option<(u32, u32)>) -> Result<Changed> {
        // Through one descriptor that follows no link: a user who owns the directory could swap the name in between.
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let open = fs::OpenOptions::new().read(true).custom_flags(flags).open(self.path(path));
        let file = open.with_context(|| format!("could not look at {path}"))?;
        let meta = file.metadata().with_context(|| format!("could not look at {path}"))?;
        let mut changed = Changed::No;
        if let Some((uid, gid)) = ids
            && (meta.uid(), meta.gid()) != (uid, gid)
        {
            self.note(what, path, format!("owner {}:{} to {uid}:{gid}", meta.uid(), meta.gid()));
            if self.applies() {
                self.before_change(path)?;
                std::os::unix::fs::fchown(&file, Some(uid), Some(gid))
                    .with_context(|| format!("could not change the owner of {path}"))?;
            }
            changed = Changed::Yes;
        }
        if let Some(mode) = mode
            && meta.mode() & 0o7777 != mode
        {
            self.note(what, path, format!("mode {:04o} to {mode:04o}", meta.mode() & 0o7777));
            if self.applies() {
                self.before_change(path)?;
                file.set_permissions(fs::Permissions::from_mode(mode))
                    .with_context(|| format!("could not change the mode of {path}"))?;
            }
            changed = Changed::Yes;
        }
        Ok(changed)
    }
}

/// A text with the managed block of that name replaced, or appended; an empty block is taken out.
/// The rest of the file belongs to others and stays as it is.
pub fn replace_block(text: &str, name: &str, block: &str) -> String {
    let (begin, end) = (format!("# begin {name}\n"), format!("# end {name}\n"));
    let whole = if block.is_empty() { String::new() } else { format!("{begin}{block}{end}") };
    if let Some(start) = text.find(&begin)
        && let Some(length) = text[start..].find(&end)
    {
        return format!("{}{whole}{}", &text[..start], &text[start + length + end.len()..]);
    }
    if whole.is_empty() {
        return text.to_owned();
    }
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{newline}{whole}")
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
