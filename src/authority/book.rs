//! The book of a CA: what it issued, and what of that is revoked. One file, written before what it tells of.

use crate::host::Host;
use crate::prepare::client_ca;
use crate::value::{Email, Tenant};
use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

const MAX_BYTES: u64 = 32 << 20;
/// The most certificates that one CA issues.
const MAX_ISSUED: usize = 50_000;

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// In hexadecimal, as `X-Ssl-Client-Serial` has it.
    pub serial: String,
    pub name: String,
    pub email: Option<Email>,
    pub issued: Timestamp,
    pub expires: Timestamp,
    pub revoked: Option<Timestamp>,
}

/// Whether a certificate is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Valid,
    Expired,
    Revoked,
}

impl Entry {
    pub fn state(&self, now: Timestamp) -> State {
        match self.revoked {
            Some(_) => State::Revoked,
            None if self.expires <= now => State::Expired,
            None => State::Valid,
        }
    }
}

/// Everything that the CA did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Book {
    /// The number of the last list (RFC 5280, 5.2.3).
    pub(super) list_number: u64,
    pub(super) issued: Vec<Entry>,
}

fn path(tenant: &Tenant) -> String {
    format!("{}/book.json", client_ca::home(tenant))
}

impl Book {
    pub(super) fn read(host: &Host, tenant: &Tenant) -> Result<Book> {
        match host.read(&path(tenant), MAX_BYTES)? {
            // Not guessed at: it says who must not be let in.
            Some(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is broken", path(tenant))),
            None => Ok(Book::default()),
        }
    }

    pub(super) fn write(&self, host: &Host, tenant: &Tenant) -> Result<()> {
        host.put(&path(tenant), &serde_json::to_vec_pretty(self).context("the book cannot be written")?, 0o600)
    }

    pub(super) fn add(&mut self, entry: Entry) -> Result<()> {
        if self.issued.len() >= MAX_ISSUED {
            bail!("the CA has issued {MAX_ISSUED} certificates, the most that it does");
        }
        self.issued.push(entry);
        Ok(())
    }

    /// Marks the one certificate that has this serial number or, if only one is valid, this name.
    pub(super) fn revoke(&mut self, which: &str, now: Timestamp) -> Result<Entry> {
        let serial = which.replace(':', "").to_ascii_uppercase();
        let is_it = |entry: &Entry| entry.serial == serial;
        if let Some(entry) = self.issued.iter_mut().find(|entry| is_it(entry)) {
            // Revoked before stays revoked since then.
            entry.revoked.get_or_insert(now);
            return Ok(entry.clone());
        }
        let mut named: Vec<&mut Entry> =
            self.issued.iter_mut().filter(|entry| entry.name == which && entry.state(now) == State::Valid).collect();
        match named.as_mut_slice() {
            // Revoked before is as wanted.
            [] => match self.issued.iter().rev().find(|entry| entry.name == which && entry.revoked.is_some()) {
                Some(entry) => Ok(entry.clone()),
                None => {
                    bail!("no certificate has the serial number or the name '{which}'; see: appliance cert ca list")
                }
            },
            [entry] => {
                entry.revoked = Some(now);
                Ok((**entry).clone())
            }
            many => {
                let serials: Vec<&str> = many.iter().map(|entry| entry.serial.as_str()).collect();
                bail!("'{which}' has {} valid certificates; say which: {}", serials.len(), serials.join(", "))
            }
        }
    }
}

/// A name as a certificate takes it (X.520, ub-common-name).
pub(super) fn check_name(name: &str) -> Result<&str> {
    let trimmed = name.trim();
    if trimmed.is_empty() || trimmed.chars().count() > 64 || trimmed.chars().any(char::is_control) {
        bail!("a name has 1 to 64 characters, none of them a control character");
    }
    Ok(trimmed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(serial: &str, name: &str, expires_s: i64) -> Entry {
        let at = |seconds| Timestamp::from_second(seconds).expect("a time");
        let (serial, name) = (serial.to_owned(), name.to_owned());
        Entry { serial, name, email: None, issued: at(0), expires: at(expires_s), revoked: None }
    }

    #[test]
    fn one_certificate_is_revoked_by_serial_or_by_a_name_that_is_clear() {
        let now = Timestamp::from_second(100).expect("a time");
        let issued =
            vec![entry("0A", "eva", 50), entry("0B", "eva", 200), entry("0C", "max", 200), entry("0D", "max", 200)];
        let mut book = Book { list_number: 0, issued };
        assert_eq!(book.revoke("eva", now).expect("one is valid").serial, "0B");
        assert_eq!(book.revoke("eva", now).expect("it was revoked before").serial, "0B");
        assert!(book.revoke("ida", now).is_err());
        let said = book.revoke("max", now).expect_err("two are valid").to_string();
        assert!(said.contains("0C, 0D"), "{said}");
        let later = Timestamp::from_second(150).expect("a time");
        assert_eq!(book.revoke("0b", later).expect("it is there").revoked, Some(now), "it was revoked then");
        assert_eq!(book.revoke("0c", later).expect("it is there").revoked, Some(later));
    }

    #[test]
    fn names_are_what_a_certificate_takes() {
        assert_eq!(check_name(" Eva Groß ").expect("a good name"), "Eva Groß");
        for bad in ["", "  ", "a\nb", &"x".repeat(65)] {
            assert!(check_name(bad).is_err());
        }
    }
}
