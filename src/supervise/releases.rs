//! Noticing that another command made a release, or died while it did. The ledger and the lock of updates are watched, so that nothing
//! polls.

use super::board::Board;
use super::start::{PATIENCE, Running};
use crate::error::Halt;
use crate::host::Host;
use crate::host::watch::Watch;
use crate::source;
use crate::stack;
use crate::state::{Ledger, Lock, RUN, UPDATE_LOCK};
use crate::update::{self, News, Told};
use crate::value::{Event, Stage};
use anyhow::{Context, Result};
use std::time::Duration;

/// How often the lock of a killed update is tried: the kernel closes the files of a killed process in an order of its own.
const TRIES: u32 = 5;

pub struct Releases {
    ledger: Watch,
    lock: Watch,
}

impl Releases {
    pub fn watch(host: &Host) -> Result<Releases> {
        Ok(Releases { ledger: host.watch("/app/etc/", &["ledger.json"])?, lock: host.watch(RUN, &[UPDATE_LOCK])? })
    }

    /// Waits until something may have changed. Cancel-safe.
    pub async fn changed(&mut self) -> Result<()> {
        tokio::select! {
            changed = self.ledger.changed() => changed,
            changed = self.lock.changed() => changed,
        }
    }
}

/// Whether another command is changing what runs, or died over it: then nothing is mended.
pub fn is_being_changed(host: &Host, running: &Running) -> Result<bool> {
    let flight = Ledger::read_for(host, &running.env.app.name)?.in_flight;
    Ok(flight.is_some_and(|flight| flight.stage > Stage::Build))
}

/// Takes up what the ledger says now: a release that another command made, or one that it left half way. Gives back whether it is
/// another release.
///
/// # Errors
/// [`Halt`] with failed: what was left half way can neither be finished nor undone.
pub async fn take_up(host: &Host, board: &Board, running: &mut Running) -> Result<bool> {
    let mut ledger = Ledger::read_for(host, &running.env.app.name)?;
    if ledger.in_flight.is_some() {
        let Some(alone) = try_alone(host).await? else { return Ok(false) };
        let lock = Lock::take(host, "run", PATIENCE).await?;
        let env = source::active(host)?.env;
        let told = |told: Told<'_>| board.told(told);
        let recovered = update::recover_locked(&env, host, &lock, News(&told)).await;
        drop((lock, alone));
        recovered.map_err(|error| match crate::host::docker::is_away(&error) {
            true => error,
            false => Halt::failed("An update could not be undone", format!("{error:#}")).into(),
        })?;
        ledger = Ledger::read_for(host, &running.env.app.name)?;
    }
    let release = ledger.current.context("the ledger has lost the current release")?;
    let is_other = release != running.release;
    if is_other {
        let env = source::active(host)?.env;
        running.stack = stack::load(&env, host)?;
        tracing::info!("the release is {} now", release.commit.short());
        board.describe(|status| status.commit = Some(release.commit.as_str().to_owned()));
        running.env = env;
        running.release = release;
    }
    board.hide_page();
    board.event(Event::Up);
    Ok(is_other)
}

/// The lock of updates, if nobody has it.
async fn try_alone(host: &Host) -> Result<Option<Lock>> {
    for _ in 0..TRIES {
        if let Some(lock) = Lock::try_take_update(host, "run")? {
            return Ok(Some(lock));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(None)
}
