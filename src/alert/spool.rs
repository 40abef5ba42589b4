//! Where alerts lie until they are told: files of root's on the root file system, since a volume that is missing is one of the alerts. While
//! that is full, they lie in memory, and in a file beside whose blocks were taken beforehand, from which they come back after a power cut.

use crate::host::{Dir, Host};
use anyhow::{Result, bail};
use std::io::{self, ErrorKind};

/// Where they lie.
pub const HOME: &str = "/var/lib/appliance/alerts";
/// Where they lie while nothing can be written there.
pub const AWAY: &str = "/run/appliance/alerts";
/// What lies in [`AWAY`], for the time after a power cut.
const RESERVE: &str = "/var/lib/appliance/alerts/reserve";
/// The reserve is made when there is so much room, in bytes.
const ROOMY: u64 = 16 << 20;
/// The largest file, in bytes.
const MAX: u64 = 1 << 20;

/// The files; names are below [`HOME`].
#[derive(Clone, Copy)]
pub struct Spool<'a>(pub &'a Host);

/// Whether nothing more can be written to the file system.
fn is_full(error: &anyhow::Error) -> bool {
    let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::ReadOnlyFilesystem];
    // A disk that dies takes nothing either.
    let is_broken = |error: &io::Error| error.raw_os_error() == Some(nix::errno::Errno::EIO as i32);
    let mut all = error.chain().filter_map(|part| part.downcast_ref::<io::Error>());
    all.any(|error| full.contains(&error.kind()) || is_broken(error))
}

/// Whether a name leads to a file below, as all that are written do.
fn is_plain(name: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.');
    name.split('/').all(is_part) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"/.-_".contains(&b))
}

impl Spool<'_> {
    /// Makes the directories that are needed, and brings back what a power cut has taken from memory.
    ///
    /// # Errors
    /// They cannot be made at either place.
    pub fn open(&self, directories: &[String]) -> Result<()> {
        for below in directories {
            for top in [HOME, AWAY] {
                let directory = |path: &str| self.0.ensure_dir(path, &Dir::plain().mode(0o700));
                let made = directory(top).and_then(|_| {
                    let steps = below.match_indices('/').map(|(end, _)| &below[..end]).chain([below.as_str()]);
                    steps.into_iter().try_for_each(|step| directory(&format!("{top}/{step}")).map(drop))
                });
                match made {
                    Err(error) if top == HOME && is_full(&error) => tracing::warn!("{error:#}"),
                    made => made?,
                }
            }
        }
        let kept = self.0.reserve_all(RESERVE).unwrap_or_else(|error| {
            // What is told from now on is worth more than what is in there.
            tracing::error!("{error:#}");
            Vec::new()
        });
        for (name, contents) in kept {
            let away = format!("{AWAY}/{name}");
            if is_plain(&name) && !self.0.exists(&away) {
                self.0.put(&away, &contents, 0o600)?;
            }
        }
        self.settle()?;
        // Opened for writing while there is room: on an overlay only that gives it blocks of its own.
        match self.0.reserve_remove(RESERVE, "") {
            Err(error) if is_full(&error) => tracing::debug!("{error:#}"),
            opened => opened?,
        }
        Ok(())
    }

    /// Writes a file; it is on a disk when this returns, or in memory where none takes it.
    ///
    /// # Errors
    /// It could be written nowhere, or is larger than 1 MiB.
    pub fn put(&self, name: &str, contents: &[u8]) -> Result<()> {
        if contents.len() as u64 > MAX {
            // It could not be read again.
            bail!("{name} would be larger than {MAX} bytes, and is not written");
        }
        let away = format!("{AWAY}/{name}");
        // What lies in memory stays there until it is settled: so no older one is ever taken for the newer.
        if !self.0.exists(&away) {
            match self.0.put(&format!("{HOME}/{name}"), contents, 0o600) {
                Err(error) if is_full(&error) => {}
                written => return written,
            }
        }
        self.0.put(&away, contents, 0o600)?;
        if let Err(error) = self.0.reserve_put(RESERVE, name, contents) {
            tracing::info!("{name} would not outlive a power cut: {error:#}");
        }
        Ok(())
    }

    /// Writes a file that is not worth the room in memory, nor in the reserve.
    ///
    /// # Errors
    /// It could not be written, or is larger than 1 MiB.
    pub fn put_on_disk(&self, name: &str, contents: &[u8]) -> Result<()> {
        if contents.len() as u64 > MAX {
            bail!("{name} would be larger than {MAX} bytes, and is not written");
        }
        self.0.put(&format!("{HOME}/{name}"), contents, 0o600)
    }

    /// What a file holds; `None` if it is not there. What lies in memory is newer than what lies on the disk.
    ///
    /// # Errors
    /// It cannot be read, or is too large.
    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self.0.read(&format!("{AWAY}/{name}"), MAX)? {
            Some(contents) => Ok(Some(contents)),
            None => self.0.read(&format!("{HOME}/{name}"), MAX),
        }
    }

    /// Removes a file.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn discard(&self, name: &str) -> Result<()> {
        let (home, away) = (format!("{HOME}/{name}"), format!("{AWAY}/{name}"));
        // What was told must not come back: so its copy at home goes first, and the reserve before memory, which says that there is one.
        if self.0.exists(&home) {
            match self.0.discard(&home) {
                // Read-only: whoever reads it again knows that it was told.
                Err(error) if is_full(&error) => tracing::debug!("{error:#}"),
                discarded => discarded?,
            }
        }
        if self.0.exists(&away) { self.leave(name, &away) } else { Ok(()) }
    }

    /// Takes away what lies in memory, and first what would bring it back.
    fn leave(&self, name: &str, away: &str) -> Result<()> {
        match self.0.reserve_remove(RESERVE, name) {
            // Read-only by now: what comes back after a power cut is known to have been told.
            Err(error) if is_full(&error) => tracing::debug!("{error:#}"),
            removed => removed?,
        }
        self.0.discard(away)
    }

    /// The names of the files in a directory, sorted.
    ///
    /// # Errors
    /// It cannot be listed.
    pub fn names(&self, directory: &str) -> Result<Vec<String>> {
        let mut names = self.0.names(&format!("{HOME}/{directory}"))?;
        names.extend(self.0.names(&format!("{AWAY}/{directory}"))?);
        // Files that are being written have names of their own.
        names.retain(|name| name.ends_with(".json") && !name.starts_with('.'));
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Puts what lies in memory on the disk, if there is room, and makes the reserve.
    ///
    /// # Errors
    /// What lies in memory cannot be listed or read.
    pub fn settle(&self) -> Result<()> {
        let room = self.0.room("/var/lib/appliance")?.map_or(0, |room| room.free);
        if room >= ROOMY && !self.0.exists(RESERVE) {
            match self.0.make_reserve(RESERVE) {
                Err(error) if is_full(&error) => tracing::debug!("{error:#}"),
                made => made?,
            }
        }
        let mut directories = vec![String::new()];
        while let Some(below) = directories.pop() {
            for name in self.0.names(&format!("{AWAY}{below}"))? {
                let path = format!("{below}/{name}");
                if self.0.is_directory(&format!("{AWAY}{path}")) {
                    directories.push(path);
                } else if let Some(contents) = self.0.read(&format!("{AWAY}{path}"), MAX)? {
                    match self.0.put(&format!("{HOME}{path}"), &contents, 0o600) {
                        Ok(()) => self.leave(path.trim_start_matches('/'), &format!("{AWAY}{path}"))?,
                        Err(error) if is_full(&error) => return Ok(()),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(())
    }
}
