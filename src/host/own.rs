//! The appliance's own program: a version that came up is kept, so that one that does not can be put back. Putting back is done by
//! a script (`units/put-back`), which needs no program that works.
#![allow(clippy::disallowed_methods)] // Part of the door for files.

use super::Host;
use super::beside::sync_parent;
use anyhow::{Context, Result};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The version that the package brought.
const INSTALLED: &str = "/usr/lib/appliance/appliance";
/// The version that came up last.
const GOOD: &str = "/usr/lib/appliance/good";
/// A link to one of the two.
const CURRENT: &str = "/usr/lib/appliance/current";
/// What the script that puts a version back says about it.
const PUT_BACK: &str = "/var/lib/appliance/put-back";
/// That it was put back just now, for the unit that starts it.
const PUT_BACK_NOW: &str = "/run/appliance/put-back";
/// Where that script counts.
const UNTRIED: &str = "/run/appliance/untried";
/// The program that runs, even if its file was replaced.
const SELF: &str = "/proc/self/exe";

/// How the installed version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// It came up, or there is no other.
    Good,
    /// It has not come up yet.
    Untried,
    /// It did not come up, and the one before runs in its place.
    PutBack,
}

impl Host {
    /// How the appliance's installed version stands.
    pub fn own(&self) -> Result<Own> {
        let same = match (id(&self.path(GOOD))?, id(&self.path(INSTALLED))?) {
            (Some(good), Some(installed)) => good == installed,
            _ => true,
        };
        let puts_back = self.link_target(CURRENT).as_deref() == Some("good");
        Ok(match (same, puts_back) {
            (true, _) => Own::Good,
            (false, true) => Own::PutBack,
            (false, false) => Own::Untried,
        })
    }

    /// Keeps the running program as the version that came up. Nothing happens if it is kept already, or is not the installed one.
    pub fn keep_own(&self) -> Result<()> {
        let kept = self.keep(Path::new(SELF)).context("could not keep this version of the appliance to go back to");
        kept.and_then(|()| self.discard(UNTRIED))
    }

    fn keep(&self, running: &Path) -> Result<()> {
        let installed = self.path(INSTALLED);
        let good = self.path(GOOD);
        let own = id(running)?;
        // Another version may have been installed meanwhile; it shall show by itself whether it comes up.
        if own.is_none() || own != id(&installed)? || own == id(&good)? {
            return Ok(());
        }
        let beside = installed.with_file_name("good.new");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        fs::hard_link(&installed, &beside)?;
        // Replaced between the look and the link: not this version.
        if id(&beside)? != own {
            return Ok(fs::remove_file(&beside)?);
        }
        fs::rename(&beside, &good)?;
        Ok(sync_parent(&good)?)
    }

    /// What is to be said about a version that was put back, once.
    pub fn put_back_news(&self) -> Result<Option<String>> {
        Ok(self.read_text(PUT_BACK, 4096)?.map(|text| text.trim().to_owned()))
    }

    /// It was said, by a version that has started.
    pub fn put_back_told(&self) -> Result<()> {
        self.discard(PUT_BACK_NOW)?;
        self.discard(PUT_BACK)
    }
}

/// What makes two names one file.
fn id(path: &Path) -> Result<Option<(u64, u64)>> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("could not look at {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;

    #[test]
    fn a_version_that_came_up_is_kept_and_one_that_was_replaced_meanwhile_is_not() {
        let machine = TestHost::new();
        let host = &machine.host;
        let here = |name: &str| host.path(&format!("/usr/lib/appliance/{name}"));
        let install = |text: &str| {
            fs::write(here("new"), text).expect("written");
            fs::rename(here("new"), here("appliance")).expect("renamed");
        };
        fs::create_dir_all(here("")).expect("made");
        install("one");
        std::os::unix::fs::symlink("appliance", here("current")).expect("linked");
        assert_eq!(host.own().expect("seen"), Own::Good, "there is no other");
        let running = |name: &str| fs::hard_link(here("appliance"), here(name)).expect("linked");
        running("one");
        host.keep(&here("one")).expect("kept");
        host.keep(&here("one")).expect("kept twice");
        assert_eq!(
            (host.own().expect("seen"), fs::read_to_string(here("good")).expect("read")),
            (Own::Good, "one".to_owned())
        );
        // A newer one is there: the running one is not it, whatever it says.
        install("two");
        assert_eq!(host.own().expect("seen"), Own::Untried);
        host.keep(&here("one")).expect("nothing to keep");
        assert_eq!(
            (host.own().expect("seen"), fs::read_to_string(here("good")).expect("read")),
            (Own::Untried, "one".to_owned())
        );
        running("two");
        // What a killed one left is no hindrance.
        fs::write(here("good.new"), "half").expect("written");
        host.keep(&here("two")).expect("kept");
        assert_eq!(
            (host.own().expect("seen"), fs::read_to_string(here("good")).expect("read")),
            (Own::Good, "two".to_owned())
        );
        assert!(!here("good.new").exists());
    }
}
