//! A file whose blocks are taken beforehand: what is written into it needs no room, so that something can still be kept, and survives a power
//! cut, when a file system is full to the last byte. It holds small named texts in slots of one size.
#![allow(clippy::disallowed_methods)] // Writing in place is what it is for; there is no other verb of the host for that.

use super::Host;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::Duration;

/// The most that one text takes with its head, in bytes.
const SLOT: usize = 32 << 10;
const SLOTS: usize = 128;
/// How often a lock that another process holds is tried, and how long apart: it is held for a moment only.
const TRIES: usize = 100;
const APART: Duration = Duration::from_millis(50);

/// The first line of a slot that is in use.
#[derive(Serialize, Deserialize)]
struct Head {
    name: String,
    /// Of two slots of one name the higher one counts.
    sequence: u64,
    length: usize,
    digest: String,
}

/// A slot that is in use.
struct Used {
    slot: usize,
    head: Head,
    contents: Vec<u8>,
}

impl Host {
    /// Makes the file, empty.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn make_reserve(&self, path: &str) -> Result<()> {
        // Zeros that are written take blocks, unlike a length that is set.
        self.put(path, &vec![0; SLOT * SLOTS], 0o600)
    }

    /// Keeps a text under a name, in the place of the one before.
    ///
    /// # Errors
    /// The file is missing, no slot is free, or the text is too long for one.
    pub fn reserve_put(&self, path: &str, name: &str, contents: &[u8]) -> Result<()> {
        self.before_change(path)?;
        let mut file = self.open_reserve(path)?;
        let used = read(&mut file)?;
        let sequence = used.iter().map(|used| used.head.sequence).max().unwrap_or(0) + 1;
        let digest = hex_digest(contents);
        let head = Head { name: name.to_owned(), sequence, length: contents.len(), digest };
        let mut text = serde_json::to_vec(&head).context("the head of a slot cannot be rendered")?;
        text.push(b'\n');
        text.extend_from_slice(contents);
        if text.len() > SLOT {
            bail!("{name} is too long to be kept in {path}");
        }
        let free = (0..SLOTS).find(|slot| used.iter().all(|used| used.slot != *slot));
        let free = free.with_context(|| format!("{path} is full"))?;
        write(&mut file, free, &text).with_context(|| format!("could not write {path}"))?;
        // Only now: a power cut in between leaves both, and the newer one counts.
        for old in used.iter().filter(|used| used.head.name == name) {
            write(&mut file, old.slot, &[0; 16]).with_context(|| format!("could not write {path}"))?;
        }
        Ok(())
    }

    /// Forgets a text, if there is one of that name.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn reserve_remove(&self, path: &str, name: &str) -> Result<()> {
        if !self.exists(path) {
            return Ok(());
        }
        self.before_change(path)?;
        let mut file = self.open_reserve(path)?;
        for old in read(&mut file)?.iter().filter(|used| used.head.name == name) {
            write(&mut file, old.slot, &[0; 16]).with_context(|| format!("could not write {path}"))?;
        }
        Ok(())
    }

    /// All texts by their names, the oldest first; none where the file is missing.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn reserve_all(&self, path: &str) -> Result<Vec<(String, Vec<u8>)>> {
        if !self.exists(path) {
            return Ok(Vec::new());
        }
        // Only read: a file system that is read-only by now gives back what was kept before.
        let mut file =
            OpenOptions::new().read(true).open(self.path(path)).with_context(|| format!("could not open {path}"))?;
        let mut used = read(&mut file)?;
        used.sort_by_key(|used| used.head.sequence);
        // A power cut between a new text and the end of the old one leaves both.
        let newest: BTreeMap<String, u64> =
            used.iter().map(|used| (used.head.name.clone(), used.head.sequence)).collect();
        used.retain(|used| newest.get(&used.head.name) == Some(&used.head.sequence));
        Ok(used.into_iter().map(|used| (used.head.name, used.contents)).collect())
    }

    /// Opens the file, for this process alone.
    fn open_reserve(&self, path: &str) -> Result<File> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(path));
        let file = file.with_context(|| format!("could not open {path}"))?;
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => std::thread::sleep(APART),
                Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("could not lock {path}")),
            }
        }
        bail!("another process does not let go of {path}")
    }
}

fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(file: &mut File) -> Result<Vec<Used>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take((SLOT * SLOTS) as u64).read_to_end(&mut bytes).context("could not read the reserve")?;
    Ok(bytes.chunks(SLOT).enumerate().filter_map(|(slot, bytes)| parse(slot, bytes)).collect())
}

/// A slot whose text is whole.
fn parse(slot: usize, bytes: &[u8]) -> Option<Used> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let head: Head = serde_json::from_slice(&bytes[..end]).ok()?;
    let contents = bytes.get(end + 1..end.checked_add(1)?.checked_add(head.length)?)?.to_vec();
    (hex_digest(&contents) == head.digest).then_some(Used { slot, head, contents })
}

fn write(file: &mut File, slot: usize, bytes: &[u8]) -> std::io::Result<()> {
    file.seek(SeekFrom::Start((slot * SLOT) as u64))?;
    file.write_all(bytes)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;

    #[test]
    fn the_newest_text_of_a_name_is_kept_and_a_torn_one_is_none() {
        let test = TestHost::new();
        let (host, path) = (&test.host, "/reserve");
        assert_eq!(host.reserve_all(path).expect("none is no error"), []);
        host.make_reserve(path).expect("it can be made");
        for (name, text) in [("a", "1"), ("b", "2"), ("a", "3\nmore")] {
            host.reserve_put(path, name, text.as_bytes()).expect("there is room");
        }
        let all = |host: &Host| {
            let all = host.reserve_all(path).expect("it can be read");
            all.into_iter().map(|(name, text)| (name, String::from_utf8(text).expect("text"))).collect::<Vec<_>>()
        };
        let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(all(host), [pair("b", "2"), pair("a", "3\nmore")]);
        host.reserve_remove(path, "b").expect("it can be removed");
        assert_eq!(all(host), [pair("a", "3\nmore")]);
        // A power cut between the new text and the end of the old one: both are there, and the newer one counts.
        let before = host.read(path, 8 << 20).expect("readable").expect("it is there");
        host.reserve_put(path, "a", b"newer").expect("there is room");
        let mut both = host.read(path, 8 << 20).expect("readable").expect("it is there");
        for (slot, old) in both.chunks_mut(SLOT).zip(before.chunks(SLOT)) {
            if old.starts_with(b"{") {
                slot.copy_from_slice(old);
            }
        }
        assert_eq!(both.chunks(SLOT).filter(|slot| slot.starts_with(b"{")).count(), 2);
        host.put(path, &both, 0o600).expect("it can be written");
        assert_eq!(all(host), [pair("a", "newer")]);
        host.reserve_put(path, "a", b"3\nmore").expect("there is room");
        // A power cut amid writing: the text is not whole.
        let mut bytes = host.read(path, 8 << 20).expect("readable").expect("it is there");
        let at = bytes.windows(6).position(|part| part == b"3\nmore").expect("it is in there");
        bytes[at] = b'4';
        host.put(path, &bytes, 0o600).expect("it can be written");
        assert_eq!(all(host), []);
        let long = vec![b'x'; SLOT];
        assert!(host.reserve_put(path, "long", &long).is_err());
        for number in 0..SLOTS {
            host.reserve_put(path, &number.to_string(), b"x").expect("there is room");
        }
        let error = host.reserve_put(path, "one more", b"x").expect_err("it is full");
        assert!(error.to_string().contains("is full"), "{error:#}");
    }
}
