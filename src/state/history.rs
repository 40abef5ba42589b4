//! The active env and those that were active before it: each is kept, so that a broken one can be stepped back from.
//! Files here hold secrets and are 0600 in a directory that only root enters.

use crate::host::{Changed, Dir, File, Host};
use anyhow::{Context, Result};

/// The active env: what every command but `run`, `prepare` and `plan` reads.
pub const ACTIVE: &str = "/run/active-env.yml";
/// Where the activated envs are kept.
pub const DIRECTORY: &str = "/data/appliance/host/env-history";
/// What `DIRECTORY` lies in; before storage is prepared it is not there, and must not be made by us.
const PARENT: &str = super::DIRECTORY;
/// How many are kept.
const MAX_KEPT: usize = 200;
/// The largest that is read back, in bytes: an env.yml's own bound.
const MAX_BYTES: u64 = 1 << 20;

/// One activated env. The number orders them: a clock may jump.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kept {
    pub number: u64,
    /// When it was activated, as in its name: `20261121T063000Z`.
    pub when: String,
    /// The first digits of the SHA-256 of its text.
    pub digest: String,
}

impl Kept {
    fn name(&self) -> String {
        format!("{:06}-{}-{}.yml", self.number, self.when, self.digest)
    }

    fn parse(name: &str) -> Option<Kept> {
        let mut parts = name.strip_suffix(".yml")?.splitn(3, '-');
        let number = parts.next()?.parse().ok()?;
        Some(Kept { number, when: parts.next()?.to_owned(), digest: parts.next()?.to_owned() })
    }

    pub fn path(&self) -> String {
        format!("{DIRECTORY}/{}", self.name())
    }
}

/// Makes an env the active one. Kept first: what is active can always be found again.
pub fn activate(host: &Host, text: &[u8], digest: &str) -> Result<()> {
    keep(host, text, digest)?;
    let text = String::from_utf8(text.to_vec()).context("the env is not UTF-8 text")?;
    host.ensure_file(ACTIVE, &File::secret(text)).map(drop)
}

/// Whether envs can be kept yet.
pub fn has_place(host: &Host) -> bool {
    host.is_directory(PARENT)
}

/// Keeps an env, unless it is the last one that was kept, or there is no place for it yet.
pub fn keep(host: &Host, text: &[u8], digest: &str) -> Result<Changed> {
    if !has_place(host) {
        return Ok(Changed::No);
    }
    let all = list(host)?;
    let last = all.last();
    let short: String = digest.chars().take(12).collect();
    if let Some(last) = last
        && last.digest == short
        && read(host, last)? == text
    {
        return Ok(Changed::No);
    }
    let when = host.now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let next = Kept { number: last.map_or(1, |last| last.number + 1), when, digest: short };
    host.ensure_dir(DIRECTORY, &Dir::plain().mode(0o700))?;
    let text = String::from_utf8(text.to_vec()).context("the env is not UTF-8 text")?;
    host.ensure_file(&next.path(), &File::secret(text))?;
    for old in all.iter().take((all.len() + 1).saturating_sub(MAX_KEPT)) {
        host.discard(&old.path())?;
    }
    Ok(Changed::Yes)
}

/// All that are kept, the oldest first.
pub fn list(host: &Host) -> Result<Vec<Kept>> {
    let mut all: Vec<Kept> = host.names(DIRECTORY)?.iter().filter_map(|name| Kept::parse(name)).collect();
    all.sort();
    Ok(all)
}

/// The text of one.
pub fn read(host: &Host, kept: &Kept) -> Result<Vec<u8>> {
    let path = kept.path();
    host.read(&path, MAX_BYTES)?.with_context(|| format!("{path} is not there any more"))
}

/// The newest text with a digest, if it is kept.
pub fn by_digest(host: &Host, digest: &str) -> Result<Option<Vec<u8>>> {
    let found = list(host)?.into_iter().rev().find(|kept| digest.starts_with(&kept.digest));
    found.map(|kept| read(host, &kept)).transpose()
}

/// The one before a text: the newest that differs from it and is older; the newest of all, if the text was never active.
pub fn before(host: &Host, text: &[u8], digest: &str) -> Result<Option<Kept>> {
    let mut all = list(host)?;
    let is_it = |kept: &Kept| digest.starts_with(&kept.digest) && read(host, kept).is_ok_and(|kept| kept == text);
    if let Some(at) = all.iter().rposition(is_it) {
        all.truncate(at);
    }
    Ok(all.into_iter().rev().find(|kept| !is_it(kept)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;

    fn put(host: &Host, text: &str) -> Changed {
        keep(host, text.as_bytes(), &digest(text)).expect("it can be kept")
    }

    /// Texts of one letter are their own digest.
    fn digest(text: &str) -> String {
        text.repeat(64)
    }

    fn before_is(host: &Host, text: &str) -> Option<String> {
        let found = before(host, text.as_bytes(), &digest(text)).expect("the history can be read");
        found.map(|kept| String::from_utf8(read(host, &kept).expect("it can be read")).expect("it is text"))
    }

    #[test]
    fn every_env_is_kept_once_in_its_order() {
        let test = TestHost::new();
        let host = &test.host;
        assert_eq!(put(host, "a"), Changed::No, "there is no place for it yet");
        host.ensure_dir(PARENT, &Dir::plain()).expect("it can be made");
        let changes: Vec<bool> = ["a", "a", "b", "a"].iter().map(|text| put(host, text).yes()).collect();
        assert_eq!(changes, [true, false, true, true]);
        let numbers: Vec<u64> = list(host).expect("it can be listed").iter().map(|kept| kept.number).collect();
        assert_eq!(numbers, [1, 2, 3]);
        assert_eq!(before_is(host, "a").as_deref(), Some("b"));
        assert_eq!(before_is(host, "b").as_deref(), Some("a"));
        assert_eq!(before_is(host, "x").as_deref(), Some("a"), "one that was never active");
    }

    #[test]
    fn only_so_many_are_kept_and_strangers_are_left_alone() {
        let test = TestHost::new();
        let host = &test.host;
        host.put(&format!("{DIRECTORY}/notes.txt"), b"mine", 0o600).expect("it can be written");
        for index in 0..MAX_KEPT + 3 {
            put(host, if index % 2 == 0 { "a" } else { "b" });
        }
        let all = list(host).expect("it can be listed");
        assert_eq!((all.len(), all[0].number), (MAX_KEPT, 4));
        assert!(host.exists(&format!("{DIRECTORY}/notes.txt")));
    }
}
