//! Another major version of PostgreSQL: the app stops, the cluster is copied into a new one by Debian's own tool, the copy is compared
//! with its original, and the app starts on it. The old cluster is kept until somebody says otherwise, and is the way back.

use super::{News, undo};
use crate::env::Env;
use crate::host::Host;
use crate::prepare::postgres::{self, Cluster, Id, census, change, record};
use crate::state::{Ledger, Lock};
use crate::value::{Size, Stage};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::time::Duration;

/// How long it waits for another command.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long filling one materialized view may take.
const REFRESHING: Duration = Duration::from_secs(6 * 3600);
/// What a copy may take more than its original, and what is to stay free beside it, in bytes.
const SPARE_PERCENT: u64 = 10;
const SPARE: u64 = 256 << 20;

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
    let size = census::size(&from, host).await?;
    let needed = size + size / 100 * SPARE_PERCENT + SPARE;
    let data = "/var/lib/postgresql";
    let free = host.room(data)?.with_context(|| format!("{data} is missing"))?.free;
    if free < needed {
        bail!(
            "a copy of {} takes {}, but {data} has {} free; nothing was stopped",
            from.id,
            Size(needed),
            Size(free.max(1))
        );
    }
    Ok(Some((from, to)))
}

/// Upgrades to what was agreed on.
///
/// # Errors
/// The copy failed, is not the same, or the app does not come up on it: then the old cluster is in use again.
pub async fn upgrade(env: &Env, agreed: &Id, host: &Host, news: News<'_>) -> Result<()> {
    let alone = Lock::take_update(host, "postgres upgrade", PATIENCE).await?;
    undo::recover(env, host, &alone, news).await?;
    let Some((from, to)) = upgrade_waiting(host).await? else { bail!("nothing newer is installed any more") };
    if to != *agreed {
        bail!("{to} is the newest now, not {agreed}; nothing was done");
    }
    let _lock = Lock::take(host, "postgres upgrade", PATIENCE).await?;
    let mut ledger = undo::stop_app(env, host, news).await?;
    if let Err(error) = copy(&from, &to, host, news).await {
        return Err(match undo::come_up(env, &mut ledger, host, news).await {
            Ok(()) => error,
            Err(worse) => error.context(format!("the app does not come up again: {worse:#}")),
        });
    }
    let Err(error) = undo::come_up(env, &mut ledger, host, news).await else { return change::settle(host) };
    news.doing("the app does not come up on it; going back");
    let mut ledger = undo::stop_app(env, host, news).await?;
    change::swap(host).await?;
    undo::come_up(env, &mut ledger, host, news).await?;
    // The app may have written there meanwhile, if only by itself.
    Err(error.context(format!(
        "the app did not come up on {to}, so {} is in use again; {to} is kept, and appliance postgres forget removes it",
        from.id
    )))
}

async fn copy(from: &Cluster, to: &Id, host: &Host, news: News<'_>) -> Result<()> {
    news.doing("counting what is there");
    let before = census::take(from, host).await?;
    // Debian makes an empty one with every new version.
    if postgres::clusters(host)?.iter().any(|known| known.id == *to) {
        change::drop(to, host).await?;
    }
    news.doing(&format!("copying {} into {to}", from.id));
    change::copy(from, to, host).await?;
    news.doing("comparing the copy");
    if let Err(error) = is_same(&before, to, host).await {
        return Err(change::undo_copy(error, host).await);
    }
    change::try_out(from, to, host)
}

async fn is_same(before: &census::Census, to: &Id, host: &Host) -> Result<()> {
    let copy = postgres::clusters(host)?.into_iter().find(|known| known.id == *to);
    let copy = copy.with_context(|| format!("there is no {to} after the copy"))?;
    host.start_unit(&to.unit()).await?;
    census::refresh(before, &copy, REFRESHING, host).await?;
    match before.difference(&census::take(&copy, host).await?) {
        Some(difference) => bail!("the copy is not the same: {difference}"),
        None => Ok(()),
    }
}

/// Goes to the cluster that is kept; what was written since it was left is in the other one, which is kept instead.
pub async fn back(env: &Env, agreed: &Id, host: &Host, news: News<'_>) -> Result<()> {
    let alone = Lock::take_update(host, "postgres back", PATIENCE).await?;
    // An app that does not come up on the one in use is a reason to go back, and not one against it.
    let stage = Ledger::read_for(host, &env.app.name)?.in_flight.map(|flight| flight.stage);
    if stage != Some(Stage::Packages) {
        undo::recover(env, host, &alone, news).await?;
    }
    if record::read(host)?.kept.as_ref() != Some(agreed) {
        bail!("{agreed} is not kept any more; nothing was done");
    }
    let _lock = Lock::take(host, "postgres back", PATIENCE).await?;
    let mut ledger = undo::stop_app(env, host, news).await?;
    news.doing(&format!("going to {agreed}"));
    let swapped = change::swap(host).await;
    undo::come_up(env, &mut ledger, host, news).await?;
    swapped
}

/// Removes the cluster that is kept.
pub async fn forget(agreed: &Id, host: &Host) -> Result<()> {
    let _alone = Lock::take_update(host, "postgres forget", PATIENCE).await?;
    let _lock = Lock::take(host, "postgres forget", PATIENCE).await?;
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
