//! Reading where others than root may write: no link is followed out of the place, no pipe waited for, and what is checked is what is read.
#![allow(clippy::disallowed_methods)] // A part of the door for files.

use super::Host;
use anyhow::{Context, Result, anyhow, bail};
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

/// The most links on one path, as Linux counts them (path_resolution(7)).
const MAX_LINKS: u32 = 40;

impl Host {
    /// Like [`Host::read`], but a link in the file's place is an error, and so is anything else but a plain file: for files in
    /// directories that somebody else owns, who may swap one for the other at any moment.
    pub fn read_unlinked(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let Some((file, _)) = self.open_unlinked(path)? else { return Ok(None) };
        read_all(file, path, max).map(Some)
    }

    /// [`Host::read_unlinked`], as text.
    pub fn read_text_unlinked(&self, path: &str, max: u64) -> Result<Option<String>> {
        match self.read_unlinked(path, max)? {
            Some(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| anyhow!("{path} is not UTF-8 text")),
            None => Ok(None),
        }
    }

    /// [`Host::read_unlinked`], for what only root can have written: a file of somebody else's, or one that others can write, is told and
    /// left out.
    pub fn read_of_root(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        if !self.exists(path) {
            return Ok(None);
        }
        let Ok(Some((file, meta))) = self.open_unlinked(path) else {
            tracing::warn!("{path} is no plain file and is not used");
            return Ok(None);
        };
        let (root, _) = self.ids(&"root".parse().context("a user name is an owner")?)?;
        if meta.uid() != root || meta.mode() & 0o022 != 0 || meta.nlink() != 1 {
            tracing::warn!("{path} can be written by others than root and is not used");
            return Ok(None);
        }
        // The very file that was looked at.
        read_all(file, path, max).map(Some)
    }

    /// [`Host::read`], for a file in a directory that is somebody else's: links in it lead nowhere but into it.
    ///
    /// # Errors
    /// As for [`Host::read`]; and a link that leads out of the directory.
    pub fn read_beneath(&self, directory: &str, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        use rustix::fs::{Mode, OFlags, ResolveFlags};
        use rustix::io::Errno;
        let inside = path.strip_prefix(directory).map(|rest| rest.trim_start_matches('/'));
        let inside = inside.with_context(|| format!("{path} is not in {directory}"))?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened =
            rustix::fs::open(self.path(directory), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).and_then(|base| {
                rustix::fs::openat2(
                    base,
                    inside,
                    flags,
                    Mode::empty(),
                    ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
                )
            });
        let file = match opened {
            Ok(file) => fs::File::from(file),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::XDEV) => bail!("{path} leads out of {directory}, so it is not read"),
            Err(other) => return Err(other).with_context(|| format!("could not open {path}")),
        };
        if !file.metadata().with_context(|| format!("could not look at {path}"))?.is_file() {
            bail!("{path} must be a plain file");
        }
        read_all(file, path, max).map(Some)
    }

    /// [`Host::read`], for a file that counts as root's word wherever it lies.
    ///
    /// # Errors
    /// Others than root can write it.
    pub fn read_trusted(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let Ok(meta) = self.path(path).metadata() else { return Ok(None) };
        let (root, _) = self.ids(&"root".parse().context("a user name is an owner")?)?;
        if meta.uid() != root || meta.mode() & 0o022 != 0 {
            bail!(
                "{path} can be written by others than root, so it is not used; run: chown root '{path}'; chmod go-w '{path}'"
            );
        }
        self.read(path, max)
    }

    /// The first link on the way of an absolute path that others than root may have put there: one in a directory that is theirs, or that
    /// they can write, and whatever lies below. `theirs` are directories that count so whoever owns them, and of which `is_known` says that a
    /// link is as it was meant. A path that ends early has none.
    pub fn foreign_link(&self, path: &str, theirs: &[&str], is_known: &dyn Fn(&str) -> bool) -> Result<Option<String>> {
        let (root, _) = self.ids(&"root".parse().context("a user name is an owner")?)?;
        let parts = |path: &str| path.split('/').rev().map(str::to_owned).collect::<Vec<String>>();
        let (mut done, mut left, mut links, mut is_theirs) = (String::new(), parts(path), 0, false);
        while let Some(part) = left.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    done.truncate(done.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let next = format!("{done}/{part}");
            let Ok(meta) = self.path(&next).symlink_metadata() else { return Ok(None) };
            if meta.is_symlink() {
                if is_theirs && !is_known(&next) {
                    return Ok(Some(next));
                }
                links += 1;
                if links > MAX_LINKS {
                    bail!("{path} leads over more than {MAX_LINKS} links");
                }
                let target = self.link_target(&next).with_context(|| format!("could not read the link {next}"))?;
                if target.starts_with('/') {
                    (done, is_theirs) = (String::new(), false);
                }
                left.extend(parts(&target));
                continue;
            }
            is_theirs |= meta.uid() != root || meta.mode() & 0o022 != 0 || theirs.contains(&next.as_str());
            done = next;
        }
        Ok(None)
    }

    /// The first directory on the way of an absolute path that others than root can write, or a link that they may have put there: whoever
    /// writes below as root may write elsewhere. A path that ends early is looked at as far as it goes.
    pub fn written_by_others(&self, path: &str) -> Result<Option<String>> {
        if let Some(link) = self.foreign_link(path, &[], &|_| false)? {
            return Ok(Some(link));
        }
        let (root, _) = self.ids(&"root".parse().context("a user name is an owner")?)?;
        let mut at = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            at = format!("{at}/{part}");
            // Links of root's are followed.
            let Ok(meta) = self.path(&at).metadata() else { return Ok(None) };
            if meta.uid() != root || meta.mode() & 0o022 != 0 {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn open_unlinked(&self, path: &str) -> Result<Option<(fs::File, fs::Metadata)>> {
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(self.path(path)) {
            Ok(file) => file,
            Err(missing) if matches!(missing.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(linked) if linked.raw_os_error() == Some(nix::libc::ELOOP) => {
                bail!("{path} must be a plain file; remove what is there")
            }
            Err(other) => return Err(other).with_context(|| format!("could not open {path}")),
        };
        let meta = file.metadata().with_context(|| format!("could not look at {path}"))?;
        if !meta.is_file() {
            bail!("{path} must be a plain file; remove what is there");
        }
        Ok(Some((file, meta)))
    }
}

fn read_all(file: fs::File, path: &str, max: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).with_context(|| format!("could not read {path}"))?;
    if bytes.len() as u64 > max {
        bail!("{path} is larger than {max} bytes, the most that is read")
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use crate::host::Dir;
    use crate::host::fake::TestHost;

    #[test]
    fn links_count_by_whose_directory_they_are_in() {
        let test = TestHost::new();
        let host = &test.host;
        for (directory, mode) in [("/own", 0o755), ("/own/below", 0o755), ("/open", 0o777), ("/open/below", 0o755)] {
            host.ensure_dir(directory, &Dir::plain().mode(mode)).expect("it can be made");
        }
        let links = [
            ("/own/to", "below"),
            ("/own/out", "/open"),
            ("/open/to", "/own"),
            ("/open/below/to", "../../own"),
            ("/round", "round"),
        ];
        for (link, to) in links {
            host.ensure_link(link, to).expect("it can be made");
        }
        let found =
            |path: &str, theirs: &[&str]| host.foreign_link(path, theirs, &|link| link == "/known/to").map_err(drop);
        assert_eq!(found("/own/to/x", &[]), Ok(None));
        assert_eq!(found("/own/to", &["/own"]), Ok(Some("/own/to".to_owned())), "a container writes there");
        assert_eq!(found("/own/out/to", &[]), Ok(Some("/open/to".to_owned())), "followed to where others write");
        assert_eq!(
            found("/open/below/to", &[]),
            Ok(Some("/open/below/to".to_owned())),
            "below counts, whoever owns it"
        );
        assert_eq!(found("/open/below", &[]), Ok(None));
        assert_eq!(found("/missing/x", &[]), Ok(None));
        assert_eq!(found("/round", &[]), Err(()));
        for (path, expected) in [
            ("/own/below/new", None),
            ("/own/to/new", None),
            ("/open/below/new", Some("/open")),
            ("/own/out/new", Some("/own/out")),
            ("/open/to/new", Some("/open/to")),
        ] {
            assert_eq!(host.written_by_others(path).expect("it can be looked at").as_deref(), expected, "{path}");
        }
    }
}
