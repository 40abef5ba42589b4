//! `appliance rollback`: to the other of the two releases that the ledger knows, by hand.

use super::databases::Databases;
use super::undo::{recover_first, undo};
use super::{Reporter, Wish, dump, restore, room, run};
use crate::env::Env;
use crate::host::Host;
use crate::state::{InFlight, Ledger, StackLock, Touched, UpdateLock};
use crate::value::{Commit, Stage};
use anyhow::{Result, bail};
use std::time::Duration;

/// How long going back waits for another command.
const PATIENCE: Duration = Duration::from_secs(600);

/// What going back means now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Back {
    pub from: Commit,
    pub to: Commit,
    /// The database goes back too, to what it was then: what was written since is lost.
    pub database_of: Option<jiff::Timestamp>,
    /// It is the newer of the two: what was gone back from.
    pub forth: bool,
}

impl Back {
    /// What `appliance rollback` would do.
    ///
    /// # Errors
    /// There is no other release.
    pub fn look(ledger: &Ledger) -> Result<Back> {
        let (Some(current), Some(previous)) = (&ledger.current, &ledger.previous) else {
            bail!("there is no other release to go to; see: appliance releases");
        };
        if previous.commit == current.commit {
            bail!("there is no other release to go to; see: appliance releases");
        }
        let database_of = (current.migrated && !ledger.rolled_back).then_some(current.since);
        Ok(Back { from: current.commit.clone(), to: previous.commit.clone(), database_of, forth: ledger.rolled_back })
    }
}

/// Goes to the other release. Back: the database too if it was migrated. Forth again: as an update to it.
///
/// # Errors
/// It is not what was agreed on any more; else as for an update.
pub async fn rollback(env: &Env, agreed: &Back, host: &Host, reporter: Reporter<'_>) -> Result<()> {
    let alone = UpdateLock::take(host, "rollback", PATIENCE).await?;
    recover_first(env, host, &alone, reporter).await?;
    let mut ledger = Ledger::read_for(host, &env.app.name)?;
    if Back::look(&ledger)? != *agreed {
        bail!("another command has changed the release meanwhile; nothing was done, look again: appliance releases");
    }
    if agreed.database_of.is_none() {
        let migrate = agreed.forth && ledger.previous.as_ref().is_some_and(|previous| previous.migrated);
        let wish = Wish { force: true, migrate, to: Some(agreed.to.clone()), back: !agreed.forth, ..Wish::default() };
        return run::update_alone(env, wish, host, &alone, reporter).await.map(drop);
    }
    room::check(env, None, 1, host).await?;
    let _lock = StackLock::take_of(host, &env.app.name, "rollback", PATIENCE).await?;
    let dump = dump::path(&env.app.name);
    if !restore::has_way_back(env, &dump, host).await? {
        bail!("{dump} is missing, and without it the database cannot go back with the app");
    }
    Databases::of(env, host)?.refuse_strangers().await?;
    dump::forget_failed(env, host).await?;
    reporter.doing("reading the dump of the database beside it");
    restore::make_ready(env, &dump, host).await?;
    std::mem::swap(&mut ledger.current, &mut ledger.previous);
    ledger.rolled_back = true;
    let flight = InFlight::at(Some(agreed.from.clone()), Stage::Undo, host);
    ledger.in_flight = Some(InFlight { database: Touched::Left, ..flight });
    undo(env, &mut ledger, host, reporter, Some("gone back from by hand".to_owned())).await
}
