//! Noticing that another command made a release, or died while it did. The ledger and the lock of updates are watched, so that nothing
//! polls.

use super::board::Board;
use crate::env::Env;
use crate::error::Halt;
use crate::host::docker::is_away;
use crate::host::watch::Watch;
use crate::host::{Host, notify};
use crate::source;
use crate::stack::{self, Stack};
use crate::state::{Ledger, RUN, Release, StackLock, UpdateLock, app_directory, ledger, locks_of};
use crate::update::{self, UpdateEvent};
use crate::value::{AppName, Stage};
use anyhow::{Context, Result};
use std::time::Duration;
use tokio::time::Instant;

/// What runs, for as long as it does.
pub struct Running {
    pub env: Env,
    pub stack: Stack,
    pub release: Release,
    /// When a copy of the database that a killed update left was last looked for.
    pub settled: Option<Instant>,
    /// Whether the host was prepared for it: an app that ran already goes on where that cannot be.
    pub is_prepared: bool,
}

/// Between two looks for such a copy: its dump takes a lock, whose end is what wakes us.
const BETWEEN_COPIES: Duration = Duration::from_secs(600);

/// The longest that an update may take to be undone: a day for a dump that is put back, and what belongs to it.
const LONGEST: Duration = Duration::from_secs(25 * 3600);
/// Between tries to finish or undo what a killed update left.
const AGAIN_S: [u64; 4] = [1, 2, 4, 8];

pub struct Releases {
    ledger: Watch,
    lock: Watch,
}

impl Releases {
    pub fn watch(host: &Host, app: &AppName) -> Result<Releases> {
        let locks = locks_of(app);
        let locks: Vec<&str> = locks.iter().map(String::as_str).collect();
        Ok(Releases { ledger: host.watch(&app_directory(app), &[ledger::NAME])?, lock: host.watch(RUN, &locks)? })
    }

    /// Waits until something may have changed. Cancel-safe.
    pub async fn changed(&mut self) -> Result<Change> {
        tokio::select! {
            changed = self.ledger.changed() => changed.map(|()| Change::Written),
            changed = self.lock.changed() => changed.map(|()| Change::Closed),
        }
    }
}

/// What may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The ledger was written; whoever did may well be at it still.
    Written,
    /// A lock's file was closed, by its holder or by the holder's death.
    Closed,
}

/// Whether what the supervisor knows is not what is to run: another command is changing that, died over it, or is done. Then nothing
/// is mended by what is known.
pub fn is_outdated(host: &Host, running: &Running) -> Result<bool> {
    let ledger = Ledger::read_for(host, &running.env.app.name)?;
    let is_changing = ledger.in_flight.is_some_and(|flight| flight.stage > Stage::Build);
    Ok(is_changing || ledger.current.as_ref() != Some(&running.release))
}

/// Takes up what the ledger says now: a release that another command made, or one that it left half way. Gives back whether it is
/// another release.
///
/// # Errors
/// [`Halt`] with failed: what was left half way can neither be finished nor undone.
pub async fn take_up(host: &Host, board: &Board, running: &mut Running, change: Change) -> Result<bool> {
    let env = source::active_of(host, &running.env.app.name)?;
    if change == Change::Closed
        && let Err(error) = host.sweep_again(&update::writes(&env.app.name))
    {
        tracing::warn!("{error:#}");
    }
    if let Some(flight) = Ledger::read_for(host, &env.app.name)?.in_flight {
        // A build goes on beside what runs. Asked first, since giving up the other lock would wake the loop.
        if flight.stage <= Stage::Build && alone(host, change).await?.is_none() {
            return Ok(false);
        }
        // Whoever is at it holds it; it tells when it is done.
        let lock = match change {
            Change::Written => StackLock::try_take_of(host, &env.app.name, "run")?,
            Change::Closed => StackLock::try_take_closed_of(host, &env.app.name, "run").await?,
        };
        let Some(lock) = lock else { return Ok(false) };
        recover(&env, host, board, &lock).await?;
    }
    let ledger = Ledger::read_for(host, &env.app.name)?;
    if ledger.in_flight.is_some() {
        return Ok(false);
    }
    if change == Change::Closed && running.settled.is_none_or(|at| at.elapsed() >= BETWEEN_COPIES) {
        running.settled = Some(Instant::now());
        update::settle_soon(&env, host);
    }
    let release = ledger.current.context("the ledger has lost the current release")?;
    let is_other = release != running.release;
    if is_other {
        running.stack = stack::load(&env, host)?;
        tracing::info!("the release is {} now", release.commit.short());
        board.describe(|status| status.commit = Some(release.commit.as_str().to_owned()));
        running.env = env;
        running.release = release;
    }
    // How things stand is told by the look that follows.
    board.hide_page();
    Ok(is_other)
}

/// The lock of updates, if nobody is at one.
async fn alone(host: &Host, change: Change) -> Result<Option<UpdateLock>> {
    match change {
        Change::Written => UpdateLock::try_take(host, "run"),
        Change::Closed => UpdateLock::try_take_closed(host, "run").await,
    }
}

/// Finishes or undoes what a killed update left. The lock is held, so no update lives that has touched what runs; one that fetches or
/// builds has a lock of its own.
///
/// # Errors
/// [`Halt`] with failed, after some tries; or Docker is away.
pub async fn recover(env: &Env, host: &Host, board: &Board, lock: &StackLock) -> Result<()> {
    // A dump that is put back takes as long as it takes.
    let _busy = notify::Busy::begin_for(LONGEST);
    let mut waits = AGAIN_S.iter();
    loop {
        let Some(flight) = Ledger::read_for(host, &env.app.name)?.in_flight else { return Ok(()) };
        let _alone = match flight.stage > Stage::Build {
            true => None,
            false => match UpdateLock::try_take(host, "run")? {
                Some(alone) => Some(alone),
                None => return Ok(()),
            },
        };
        let show = |event: UpdateEvent<'_>| board.show(event);
        match (update::recover_locked(env, host, lock, update::Reporter(&show)).await, waits.next()) {
            (Ok(_), _) => return Ok(()),
            (Err(error), _) if is_away(&error) => return Err(error),
            (Err(error), Some(seconds)) => {
                tracing::warn!("{error:#}; trying again in {seconds} s");
                tokio::time::sleep(Duration::from_secs(*seconds)).await;
            }
            (Err(error), None) => {
                return Err(Halt::failed("An update could not be undone", format!("{error:#}")).into());
            }
        }
    }
}
