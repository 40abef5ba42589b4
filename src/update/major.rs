//! Another major version of PostgreSQL: the app stops, all that is in the cluster is copied into a new one, the copy is compared
//! with its original, and the app starts on it. The old cluster is kept until somebody says otherwise, and is the way back.

use super::{Reporter, room, transfer, undo};
use crate::env::Env;
use crate::host::Host;
use crate::prepare::postgres::{Cluster, Id, census, change, record, upgrade as cluster_upgrade};
use crate::prepare::{self, postgres};
use crate::state::{HostLock, Ledger, StackLock, UpdateLock};
use crate::value::Stage;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::time::Duration;

/// How long it waits for another command.
const PATIENCE: Duration = Duration::from_secs(600);
/// What a copy may take more than its original.
const SPARE_PERCENT: u64 = 10;

/// PostgreSQL on this host, for people and scripts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Clusters {
    /// In use, like `15/main`.
    pub in_use: Option<String>,
    /// Kept from before an upgrade.
    pub kept: Option<String>,
    /// The newest version that is installed.
    pub newest: Option<String>,
}

/// What there is.
pub fn clusters(host: &Host) -> Result<Clusters> {
    let kept = record::read(host)?.kept.map(|id| id.to_string());
    let in_use = postgres::find(host)?.map(|cluster| cluster.id.to_string());
    Ok(Clusters { in_use, kept, newest: postgres::installed(host)?.pop() })
}

/// What would be upgraded to what; `None`: the newest version is in use.
///
/// # Errors
/// Something is in the way, which is named.
pub async fn upgrade_waiting(host: &Host) -> Result<Option<(Cluster, Id)>> {
    let from = postgres::cluster(host)?;
    let newest = postgres::installed(host)?.pop().context("PostgreSQL is not installed")?;
    let to = Id { version: newest, name: from.id.name.clone() };
    if to.number() <= from.id.number() {
        return Ok(None);
    }
    let record = record::read(host)?;
    if let Some(kept) = record.kept.filter(|kept| *kept == to) {
        bail!(
            "{kept} is kept, since it was gone back from; to use it again: appliance postgres back; to be rid of it: appliance postgres forget"
        );
    }
    if let Some(other) = postgres::clusters(host)?.into_iter().find(|known| known.id == to) {
        if !other.has_data {
            bail!("{to} is configured, but has no data; remove it: pg_dropcluster {} {}", to.version, to.name);
        }
        host.start_unit(&to.unit()).await?;
        if !census::is_empty(&other, host).await? {
            bail!("{to} is there already and is not empty; nothing is done over it. Look at it: pg_lsclusters");
        }
    }
    let is_configured = postgres::clusters(host)?.iter().any(|known| known.id == to);
    let taken = [host.names(&to.data())?, host.names(&to.configuration())?].concat();
    if !is_configured && !taken.is_empty() {
        bail!(
            "there is something in {} or {} that is no cluster; move it away. Nothing was done",
            to.data(),
            to.configuration()
        );
    }
    if let Some(elsewhere) = census::tablespaces(&from, host).await?.first() {
        bail!(
            "{} has data outside of its directory, in the tablespace {elsewhere}; that is not copied, so nothing was done",
            from.id
        );
    }
    whose(&from, host).await.context("nothing was done")?;
    cluster_upgrade::check(&from, host).await?;
    let (all, largest) = census::sizes(&from, host).await?;
    room::for_cluster(all + all / 100 * SPARE_PERCENT, largest, &format!("a copy of {}", from.id), host)?;
    Ok(Some((from, to)))
}

/// Whose database is which, where everything can be copied as it is.
async fn whose(from: &Cluster, host: &Host) -> Result<census::Whose> {
    let whose = census::whose(from, host).await?;
    if let Some(closed) = whose.closed.first() {
        bail!(
            "nobody may connect to the database {closed}, so it would not be copied; open it (ALTER DATABASE … ALLOW_CONNECTIONS true), or \
             drop it"
        );
    }
    let strangers = census::strangers(from, &whose, host).await?;
    if !strangers.is_empty() {
        bail!(
            "these things would belong to somebody else in a copy, or could not be made there: {}. Drop them, give them to the role app \
             (ALTER … OWNER TO app), or move them to a database of their owner's",
            strangers.join("; ")
        );
    }
    Ok(whose)
}

/// Upgrades to what was agreed on.
///
/// # Errors
/// The copy failed, is not the same, or the app does not come up on it: then the old cluster is in use again.
pub async fn upgrade(env: &Env, agreed: &Id, host: &Host, reporter: Reporter<'_>) -> Result<()> {
    let alone = UpdateLock::take(host, "postgres upgrade", PATIENCE).await?;
    undo::recover_first(env, host, &alone, reporter).await?;
    let Some((from, to)) = upgrade_waiting(host).await? else { bail!("nothing newer is installed any more") };
    if to != *agreed {
        bail!("{to} is the newest now, not {agreed}; nothing was done");
    }
    let _lock = StackLock::take_of(host, &env.app.name, "postgres upgrade", PATIENCE).await?;
    let mut ledger = undo::stop_app(env, host, reporter).await?;
    if let Err(error) = copy(env, &ledger, (&from, &to), host, reporter).await {
        return Err(match undo::come_up(env, &mut ledger, host, reporter).await {
            Ok(()) => error,
            Err(worse) => error.context(format!("the app does not come up again: {worse:#}")),
        });
    }
    let Err(error) = undo::come_up(env, &mut ledger, host, reporter).await else { return change::settle(host) };
    reporter.doing("the app does not come up on it; going back");
    let mut ledger = undo::stop_app_again(env, host, reporter).await?;
    change::swap(host).await?;
    undo::come_up(env, &mut ledger, host, reporter).await?;
    // The app may have written there meanwhile, if only by itself.
    Err(error.context(format!(
        "the app did not come up on {to}, so {} is in use again; {to} is kept, and appliance postgres forget removes it",
        from.id
    )))
}

async fn copy(
    env: &Env,
    ledger: &Ledger,
    (from, to): (&Cluster, &Id),
    host: &Host,
    reporter: Reporter<'_>,
) -> Result<()> {
    // Debian makes an empty one with every new version.
    if postgres::clusters(host)?.iter().any(|known| known.id == *to) {
        change::drop(to, host).await?;
    }
    match make_copy(env, from, to, host, reporter).await {
        Ok(()) => change::try_out(from, to, ledger, host),
        Err(error) => {
            let error = error.context(format!("could not copy {} into {to}", from.id));
            Err(change::undo_copy(error, host).await)
        }
    }
}

async fn make_copy(env: &Env, from: &Cluster, to: &Id, host: &Host, reporter: Reporter<'_>) -> Result<()> {
    cluster_upgrade::begin(from, to, host).await?;
    // Once more, now that nobody else gets in.
    let whose = whose(from, host).await?;
    reporter.doing("counting what is there");
    let before = census::take(from, &prepare::app_login_at(from, env, host)?, host).await?;
    reporter.doing(&format!("making {to}"));
    let new = cluster_upgrade::make(from, to, host).await?;
    transfer::all(env, from, &whose, &new, host, reporter).await?;
    reporter.doing("comparing the copy");
    let app = prepare::app_login_at(&new, env, host)?;
    if let Some(difference) = before.difference(&census::take(&new, &app, host).await?) {
        bail!("the copy is not the same: {difference}");
    }
    cluster_upgrade::end(from, to, host).await
}

/// Goes to the cluster that is kept; what was written since it was left is in the other one, which is kept instead.
pub async fn back(env: &Env, agreed: &Id, host: &Host, reporter: Reporter<'_>) -> Result<()> {
    let alone = UpdateLock::take(host, "postgres back", PATIENCE).await?;
    // An app that does not come up on the one in use is a reason to go back, and not one against it.
    let stage = Ledger::read_for(host, &env.app.name)?.in_flight.map(|flight| flight.stage);
    if stage != Some(Stage::Packages) {
        undo::recover_first(env, host, &alone, reporter).await?;
    }
    if record::read(host)?.kept.as_ref() != Some(agreed) {
        bail!("{agreed} is not kept any more; nothing was done");
    }
    let _lock = StackLock::take_of(host, &env.app.name, "postgres back", PATIENCE).await?;
    let mut ledger = undo::stop_app_again(env, host, reporter).await?;
    reporter.doing(&format!("going to {agreed}"));
    let swapped = change::swap(host).await;
    undo::come_up(env, &mut ledger, host, reporter).await?;
    swapped
}

/// Removes the cluster that is kept.
pub async fn forget(agreed: &Id, host: &Host) -> Result<()> {
    let _alone = UpdateLock::take(host, "postgres forget", PATIENCE).await?;
    let _lock = HostLock::take(host, "postgres forget", PATIENCE).await?;
    if kept(host)?.as_ref() != Some(agreed) {
        bail!("{agreed} is not kept any more; nothing was done");
    }
    change::finish(host).await?;
    if record::read(host)?.kept.as_ref() == Some(agreed) { change::drop(agreed, host).await } else { Ok(()) }
}

/// The cluster that is kept, or whose removal was cut off.
pub fn kept(host: &Host) -> Result<Option<Id>> {
    let record = record::read(host)?;
    Ok(record.kept.or(match record.change {
        Some(record::Change::Drop { id }) => Some(id),
        _ => None,
    }))
}
