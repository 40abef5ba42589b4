//! One at a time: whoever changes the host or the stack holds this lock. The kernel drops it with its process,
//! so a stale one cannot exist.
#![allow(clippy::disallowed_methods)] // A lock is an open file; there is no verb of the host for that.

use super::RUN;
use crate::host::{Dir, Host};
use crate::value::AppName;
use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

/// A lock, held. Taking one as a parameter proves that it is; which one, its type says.
#[derive(Debug)]
pub struct Lock<K> {
    _locked: File,
    /// Closed after the lock is given up: closing a file that was open for writing is what wakes those who wait.
    _named: File,
    _kind: PhantomData<K>,
}

/// What a lock is for.
pub trait Kind {
    /// Its file, or how that begins where each app has one.
    const NAME: &'static str;
}

/// A lock of which the host has one.
pub trait OfHost: Kind {}

/// A lock of which each app has one: what is done to one app keeps no other waiting.
pub trait OfApp: Kind {}

macro_rules! locks {
    ($($(#[$doc:meta])* $alias:ident, $kind:ident, $of:ident, $name:literal;)+) => {
        $(
            #[doc(hidden)]
            #[derive(Debug)]
            pub struct $kind;

            impl Kind for $kind {
                const NAME: &'static str = $name;
            }

            impl $of for $kind {}

            $(#[$doc])*
            pub type $alias = Lock<$kind>;
        )+
    };
}

locks! {
    /// Of whoever changes an app, or what of it runs. Who needs the host's, too, takes this one first.
    StackLock, Stack, OfApp, "stack";
    /// Of whoever changes what all apps share: the host, nginx's configuration, who reaches PostgreSQL.
    HostLock, Whole, OfHost, "lock";
    /// Of whoever makes a release, who holds the stack's beside it while what runs is touched: a build may take long, and must not keep the
    /// supervisor from its work. One app after the other.
    UpdateLock, Update, OfHost, "update.lock";
    /// Of whoever orders a certificate; that can take minutes and must not stop anything else.
    OrderLock, Order, OfHost, "order.lock";
    /// Of whoever changes the checkout, or git's repository: an update does so beside a supervisor that starts.
    CheckoutLock, Checkout, OfApp, "checkout";
    /// Of whoever changes the CA for client certificates: revoking must not wait for an update.
    AuthorityLock, Authority, OfHost, "authority.lock";
    /// Of whoever makes a run or a restore, or checks the backup's repository.
    BackupLock, Backup, OfHost, "backup.lock";
    /// Of whoever ships, and of whoever changes what shipments build on, or takes snapshots away: a run that takes hours keeps no shipment
    /// waiting while it stores dumps and files. Who needs the backup's, too, takes that one first.
    ShipLock, Ship, OfHost, "ship.lock";
    /// Of whoever tries out whether a backup can be restored: beside other uses of the repository, which it only reads.
    DrillLock, Drill, OfHost, "drill.lock";
    /// Of whoever changes what is known of alerts.
    AlertLock, Alert, OfHost, "alert.lock";
}

/// How long a lock is looked at again after its file was closed, in pauses of milliseconds. The kernel tells of a close before it
/// gives up the lock of that file, and it closes the files of a killed process in an order of its own.
const AFTER_CLOSE_MS: [u64; 8] = [1, 5, 20, 50, 100, 200, 400, 800];
/// The locks of those who change what runs of an app: their files are closed when one is given up, however that came about.
pub fn locks_of(app: &AppName) -> [String; 2] {
    [of_app::<Stack>(app), Update::NAME.to_owned()]
}

fn of_app<K: OfApp>(app: &AppName) -> String {
    format!("{}-{app}.lock", K::NAME)
}

impl<K: OfHost> Lock<K> {
    /// Takes the lock, or waits for it.
    ///
    /// # Errors
    /// Somebody else still holds it after `patience`; the message says who.
    pub async fn take(host: &Host, verb: &str, patience: Duration) -> Result<Self> {
        Self::take_file(host, K::NAME, verb, patience).await
    }

    /// Takes the lock, whose file was just closed, unless somebody else has it by now.
    pub async fn try_take_closed(host: &Host, verb: &str) -> Result<Option<Self>> {
        Self::try_take_closed_file(host, K::NAME, verb).await
    }

    /// Takes the lock if it is free.
    pub fn try_take(host: &Host, verb: &str) -> Result<Option<Self>> {
        Self::try_take_file(host, K::NAME, verb)
    }
}

impl<K: OfApp> Lock<K> {
    /// Takes an app's lock, or waits for it.
    ///
    /// # Errors
    /// Somebody else still holds it after `patience`; the message says who.
    pub async fn take_of(host: &Host, app: &AppName, verb: &str, patience: Duration) -> Result<Self> {
        Self::take_file(host, &of_app::<K>(app), verb, patience).await
    }

    /// Takes an app's lock, whose file was just closed, unless somebody else has it by now.
    pub async fn try_take_closed_of(host: &Host, app: &AppName, verb: &str) -> Result<Option<Self>> {
        Self::try_take_closed_file(host, &of_app::<K>(app), verb).await
    }

    /// Takes an app's lock if it is free.
    pub fn try_take_of(host: &Host, app: &AppName, verb: &str) -> Result<Option<Self>> {
        Self::try_take_file(host, &of_app::<K>(app), verb)
    }
}

impl<K: Kind> Lock<K> {
    async fn take_file(host: &Host, name: &str, verb: &str, patience: Duration) -> Result<Self> {
        let made = host.in_mode(crate::host::Mode::Apply).ensure_dir(RUN, &Dir::plain());
        made.context("could not make the directory of the lock")?;
        // Most find it free, and need not watch: the kernel takes its time to end that.
        if let Some(lock) = Self::try_take_file(host, name, verb)? {
            return Ok(lock);
        }
        // Watched before it is tried again, so that its release in between is not missed.
        let mut watch = host.watch(RUN, &[name])?;
        let wait = async {
            loop {
                if let Some(lock) = Self::try_take_file(host, name, verb)? {
                    return anyhow::Ok(lock);
                }
                watch.changed().await?;
                if let Some(lock) = Self::try_take_closed_file(host, name, verb).await? {
                    return Ok(lock);
                }
            }
        };
        match tokio::time::timeout(patience, wait).await {
            Ok(lock) => lock,
            Err(_) => bail!("{} holds the lock; try again when it is done", holder(host, name)),
        }
    }

    async fn try_take_closed_file(host: &Host, name: &str, verb: &str) -> Result<Option<Self>> {
        for pause in AFTER_CLOSE_MS {
            if let Some(lock) = Self::try_take_file(host, name, verb)? {
                return Ok(Some(lock));
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        Self::try_take_file(host, name, verb)
    }

    fn try_take_file(host: &Host, name: &str, verb: &str) -> Result<Option<Self>> {
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
                Ok(Some(Lock { _locked: locked, _named: named, _kind: PhantomData }))
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
        let first = HostLock::take(&test.host, "update", Duration::from_secs(1)).await.expect("the lock is free");
        let refused =
            HostLock::take(&test.host, "prepare", Duration::from_millis(20)).await.expect_err("the lock is held");
        assert!(refused.to_string().starts_with("update (process "), "{refused}");
        let (second, ()) =
            tokio::join!(HostLock::take(&test.host, "prepare", Duration::from_secs(10)), async { drop(first) });
        assert!(second.is_ok());
    }

    #[tokio::test]
    async fn a_lock_that_is_given_up_a_moment_after_its_file_was_closed_is_taken_all_the_same() {
        let test = TestHost::new();
        let first = UpdateLock::take(&test.host, "update", Duration::from_secs(1)).await.expect("the lock is free");
        let late = async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            drop(first);
        };
        let (taken, ()) = tokio::join!(UpdateLock::try_take_closed(&test.host, "run"), late);
        let held = taken.expect("it can be tried").expect("it is free by then");
        // One that lives on keeps it.
        assert!(UpdateLock::try_take_closed(&test.host, "run").await.expect("it can be tried").is_none());
        drop(held);
    }
}
