//! One at a time: whoever changes the host or the stack holds this lock. The kernel drops it with its process,
//! so a stale one cannot exist.
#![allow(clippy::disallowed_methods)] // A lock is an open file; there is no verb of the host for that.

use super::RUN;
use crate::host::{Dir, Host};
use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

/// The lock, held. Taking one as a parameter proves that it is.
#[derive(Debug)]
pub struct Lock {
    _locked: File,
    /// Closed after the lock is given up: closing a file that was open for writing is what wakes those who wait.
    _named: File,
}

const NAME: &str = "lock";
/// How long a lock is looked at again after its file was closed, in pauses of milliseconds. The kernel tells of a close before it
/// gives up the lock of that file, and it closes the files of a killed process in an order of its own.
const AFTER_CLOSE_MS: [u64; 8] = [1, 5, 20, 50, 100, 200, 400, 800];
/// Whoever orders a certificate holds this one; that can take minutes and must not stop anything else.
const ORDER: &str = "order.lock";
/// Whoever makes a release holds this one, beside the lock itself while it touches what runs.
const UPDATE: &str = "update.lock";
/// The locks of those who change what runs: their files are closed when one is given up, however that came about.
pub const LOCKS: [&str; 2] = [NAME, UPDATE];
const CHECKOUT: &str = "checkout.lock";
const AUTHORITY: &str = "authority.lock";

impl Lock {
    /// Takes the lock, or waits for it.
    ///
    /// # Errors
    /// Somebody else still holds it after `patience`; the message says who.
    pub async fn take(host: &Host, verb: &str, patience: Duration) -> Result<Lock> {
        Lock::take_named(host, NAME, verb, patience).await
    }

    /// Takes the lock of those who order a certificate.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub async fn take_order(host: &Host, verb: &str, patience: Duration) -> Result<Lock> {
        Lock::take_named(host, ORDER, verb, patience).await
    }

    /// Takes the lock of those who change the checkout, or git's repository: an update does so beside a supervisor that starts.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub async fn take_checkout(host: &Host, verb: &str, patience: Duration) -> Result<Lock> {
        Lock::take_named(host, CHECKOUT, verb, patience).await
    }

    /// Takes the lock of those who make a release: a build may take long, and must not keep the supervisor from its work.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub async fn take_update(host: &Host, verb: &str, patience: Duration) -> Result<Lock> {
        Lock::take_named(host, UPDATE, verb, patience).await
    }

    /// Takes that lock if it is free.
    pub fn try_take_update(host: &Host, verb: &str) -> Result<Option<Lock>> {
        Lock::try_take_named(host, UPDATE, verb)
    }

    /// Takes the lock of those who change the CA for client certificates: revoking must not wait for an update.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub async fn take_authority(host: &Host, verb: &str, patience: Duration) -> Result<Lock> {
        Lock::take_named(host, AUTHORITY, verb, patience).await
    }

    async fn take_named(host: &Host, name: &str, verb: &str, patience: Duration) -> Result<Lock> {
        let made = host.in_mode(crate::host::Mode::Apply).ensure_dir(RUN, &Dir::plain());
        made.context("could not make the directory of the lock")?;
        // Most find it free, and need not watch: the kernel takes its time to end that.
        if let Some(lock) = Lock::try_take_named(host, name, verb)? {
            return Ok(lock);
        }
        // Watched before it is tried again, so that its release in between is not missed.
        let mut watch = host.watch(RUN, &[name])?;
        let wait = async {
            loop {
                if let Some(lock) = Lock::try_take_named(host, name, verb)? {
                    return anyhow::Ok(lock);
                }
                watch.changed().await?;
                if let Some(lock) = Lock::take_closed(host, name, verb).await? {
                    return Ok(lock);
                }
            }
        };
        match tokio::time::timeout(patience, wait).await {
            Ok(lock) => lock,
            Err(_) => bail!("{} holds the lock; try again when it is done", holder(host, name)),
        }
    }

    /// Takes the lock if it is free.
    pub fn try_take(host: &Host, verb: &str) -> Result<Option<Lock>> {
        Lock::try_take_named(host, NAME, verb)
    }

    /// Takes a lock whose file was just closed, unless somebody else has it by now.
    async fn take_closed(host: &Host, name: &str, verb: &str) -> Result<Option<Lock>> {
        for pause in AFTER_CLOSE_MS {
            if let Some(lock) = Lock::try_take_named(host, name, verb)? {
                return Ok(Some(lock));
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        Lock::try_take_named(host, name, verb)
    }

    /// [`Lock::try_take`] after its file was closed.
    pub async fn try_take_closed(host: &Host, verb: &str) -> Result<Option<Lock>> {
        Lock::take_closed(host, NAME, verb).await
    }

    /// [`Lock::try_take_update`] after its file was closed.
    pub async fn try_take_update_closed(host: &Host, verb: &str) -> Result<Option<Lock>> {
        Lock::take_closed(host, UPDATE, verb).await
    }

    fn try_take_named(host: &Host, name: &str, verb: &str) -> Result<Option<Lock>> {
        let path = host.path(&format!("{RUN}/{name}"));
        if !path.exists() {
            // For root alone: whoever can open it can hold it.
            let make = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
            make.context("could not make the lock")?;
        }
        // Tried through a descriptor that only reads: its closing wakes nobody, least of all ourselves.
        let locked = File::open(&path).context("could not open the lock")?;
        match locked.try_lock() {
            Ok(()) => {
                let open = OpenOptions::new().write(true).truncate(true).open(&path);
                let mut named = open.context("could not open the lock")?;
                write!(named, "{verb} (process {})", std::process::id()).context("could not write the lock")?;
                Ok(Some(Lock { _locked: locked, _named: named }))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).context("could not take the lock"),
        }
    }
}

fn holder(host: &Host, name: &str) -> String {
    let mut text = String::new();
    let read =
        File::open(host.path(&format!("{RUN}/{name}"))).and_then(|file| file.take(200).read_to_string(&mut text));
    match read {
        Ok(1..) => text,
        _ => "another appliance command".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;

    #[tokio::test]
    async fn the_second_waits_and_is_told_who_holds_it() {
        let test = TestHost::new();
        let first = Lock::take(&test.host, "update", Duration::from_secs(1)).await.expect("the lock is free");
        let refused = Lock::take(&test.host, "prepare", Duration::from_millis(20)).await.expect_err("the lock is held");
        assert!(refused.to_string().starts_with("update (process "), "{refused}");
        let (second, ()) =
            tokio::join!(Lock::take(&test.host, "prepare", Duration::from_secs(10)), async { drop(first) });
        assert!(second.is_ok());
    }

    #[tokio::test]
    async fn a_lock_that_is_given_up_a_moment_after_its_file_was_closed_is_taken_all_the_same() {
        let test = TestHost::new();
        let first = Lock::take_update(&test.host, "update", Duration::from_secs(1)).await.expect("the lock is free");
        let late = async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            drop(first);
        };
        let (taken, ()) = tokio::join!(Lock::try_take_update_closed(&test.host, "run"), late);
        let held = taken.expect("it can be tried").expect("it is free by then");
        // One that lives on keeps it.
        assert!(Lock::try_take_update_closed(&test.host, "run").await.expect("it can be tried").is_none());
        drop(held);
    }
}
