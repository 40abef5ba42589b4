//! Files that change together or not at all: a version is a directory, and one link says which is current.
#![allow(clippy::disallowed_methods)] // Part of the door for files.

use super::beside::{link_atomically, write_atomically};
use super::{Changed, File, Host, What};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;

impl Host {
    /// Files that only make sense together (a key and its certificate): each stands at its own path as a link through
    /// `directory/current`, and that one link is switched, so that a reader never sees half of a change.
    ///
    /// `files` are path, name below the directory, and the file.
    pub fn ensure_together(&self, directory: &str, files: &[(&str, &str, File)]) -> Result<Changed> {
        let current = format!("{directory}/current");
        let mut changed = Changed::No;
        for (path, name, want) in files {
            let max = want.contents.len() as u64 + 1;
            let have = self.read_start(&format!("{current}/{name}"), max)?;
            if have.as_deref() != Some(&want.contents) {
                self.note(What::File, *path, if have.is_some() { "change" } else { "create" });
                changed = Changed::Yes;
            }
        }
        if changed.yes() && self.applies() {
            self.switch_version(directory, &current, files).with_context(|| format!("could not switch {current}"))?;
        }
        for (path, name, _) in files {
            // Relative where both lie in one directory, so that the links hold wherever that is mounted.
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            let to = format!("{current}/{name}");
            let to = to.strip_prefix(&format!("{parent}/")).unwrap_or(&to).to_owned();
            if self.link_target(path).as_deref() != Some(&to) {
                if self.applies() {
                    link_atomically(&self.path(path), &to).with_context(|| format!("could not link {path} to {to}"))?;
                }
                changed = Changed::Yes;
            }
        }
        Ok(changed)
    }

    /// Files that changed together, as they were at one moment: their names below the directory. `None` where there are none.
    pub fn read_together(&self, directory: &str, names: [&str; 2], max: u64) -> Result<Option<[String; 2]>> {
        let Some(version) = self.link_target(&format!("{directory}/current")) else { return Ok(None) };
        let [one, other] = names.map(|name| self.read_text(&format!("{directory}/{version}/{name}"), max));
        Ok(one?.zip(other?).map(|(one, other)| [one, other]))
    }

    fn switch_version(&self, directory: &str, current: &str, files: &[(&str, &str, File)]) -> Result<()> {
        let base = self.path(directory);
        if base.parent().is_some_and(|parent| !parent.exists()) {
            bail!("its directory is missing; run the step storage first");
        }
        fs::create_dir_all(&base)?;
        let before = self.link_target(current);
        let fresh = tempfile::Builder::new().prefix("version-").tempdir_in(&base)?;
        for (_, name, want) in files {
            let ids = want.owner.as_ref().map(|owner| self.ids(owner)).transpose()?;
            write_atomically(&fresh.path().join(name), &want.contents, want.mode.unwrap_or(0o644), ids)?;
        }
        fs::set_permissions(fresh.path(), fs::Permissions::from_mode(0o755))?;
        let name =
            fresh.path().file_name().and_then(|name| name.to_str()).context("a version needs a name")?.to_owned();
        link_atomically(&self.path(current), &name)?;
        // From here on it is the current version and stays.
        let _kept = fresh.keep();
        for old in self.names(directory)? {
            // A reader may have followed the link a moment ago, so the one before stays.
            if old.starts_with("version-") && old != name && Some(&old) != before.as_ref() {
                fs::remove_dir_all(base.join(old))?;
            }
        }
        Ok(())
    }
}
