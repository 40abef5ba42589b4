//! Making, swapping and removing clusters, by Debian's own tools. Each is in the record before it begins, and [`finish`] ends what a
//! killed run had begun.

use super::cluster::{self, Cluster, Id};
use super::record::{self, Change, Record};
use super::tools::{WORKER, put_in_place, wipe, worker};
use super::upgrade;
use crate::host::{Cmd, Host, UnitState, What};
use crate::state::{InFlight, Ledger, ledger};
use anyhow::{Context, Result, bail};
use std::time::Duration;

const MAX_CONFIG: u64 = 1 << 20;

/// How long making an empty cluster may take.
const CREATING: Duration = Duration::from_secs(600);

/// Undoes or finishes what a killed run had begun. Not for whoever is at it: a trial that goes on would be ended by it.
pub async fn finish(host: &Host) -> Result<()> {
    let mut record = record::read(host)?;
    let Some(change) = record.change.clone().filter(|_| host.applies()) else { return Ok(()) };
    let worker = format!("{WORKER}.service");
    if host.unit_state(&worker).await? != UnitState::Missing {
        host.stop_unit(&worker).await?;
    }
    match change {
        // One that has run since is somebody's by now.
        Change::Create { id } if host.exists(&format!("{}/postmaster.opts", id.data())) => {}
        Change::Create { id } | Change::Drop { id } => wipe(&id, host).await?,
        Change::Adopt { id } => {
            let config =
                host.read_text(&format!("{}/postgresql.conf", id.configuration()), MAX_CONFIG)?.unwrap_or_default();
            // One that knows of the data is done, whoever has made it.
            if !config.contains(&format!("data_directory = '{}'", id.data())) {
                host.remove_tree(&id.configuration()).await?;
            }
            host.remove_tree(&empty(&id)).await?;
        }
        Change::Copy { to, port } => {
            let from = record.in_use.clone().context("an upgrade is under way, but of no cluster")?;
            tracing::warn!("an upgrade of PostgreSQL was cut off; {from} is brought back");
            upgrade::undo(&from, &to, port, host).await?;
        }
        // The app was good on it, and may have been used since.
        Change::Trial { since, .. } if !is_on_trial(since, host)? => {}
        Change::Trial { from, port, .. } => {
            let to = record.in_use.clone().context("an upgrade is being tried, but of no cluster")?;
            tracing::warn!("the app had not come up on {to} yet; {from} is brought back, and {to} is kept");
            put_in_place(&from, Some(&to), port, host).await?;
            record = Record { in_use: Some(from), kept: Some(to), change: None };
        }
        Change::Swap { to, port } => {
            let from = record.in_use.clone().context("a swap is under way, but of no cluster")?;
            put_in_place(&to, Some(&from), port, host).await?;
            record = Record { in_use: Some(to), kept: Some(from), change: None };
        }
    }
    record.change = None;
    record::write(&record, host)
}

/// A new cluster, or a configuration for data that is there.
///
/// # Errors
/// Debian's tool fails, which the journal of the unit tells; or there is something in the place.
pub async fn make(change: Change, host: &Host) -> Result<()> {
    let (Change::Create { id } | Change::Adopt { id }) = change.clone() else {
        bail!("only a cluster that is not there can be made");
    };
    // What is there may not be taken away if this is cut off.
    let mut taken = host.names(&id.configuration())?;
    if matches!(change, Change::Create { .. }) {
        taken.extend(host.names(&id.data())?);
    }
    if !taken.is_empty() {
        bail!(
            "{} and {} should be empty, but there is {}; move it away",
            id.data(),
            id.configuration(),
            taken.join(", ")
        );
    }
    record::write(&Record { change: Some(change.clone()), ..record::read(host)? }, host)?;
    let made = match change {
        Change::Adopt { .. } => adopt(&id, host).await,
        _ => {
            let cmd = worker("/usr/bin/pg_createcluster", &["--no-status", &id.version, &id.name]).deadline(CREATING);
            host.act(What::Database, &id.to_string(), "create an empty cluster", cmd).await.map(|_| ())
        }
    };
    if let Err(error) = made {
        finish(host).await?;
        return Err(error.context(format!("could not make the cluster {id}; see: journalctl -u {WORKER}")));
    }
    host.reload_units().await?;
    record::write(&Record { in_use: Some(id), change: None, ..record::read(host)? }, host)
}

/// Debian's tool makes a configuration only together with data, or out of one that lies in the data: so it makes an empty cluster, whose
/// configuration is then told of the data that is there.
async fn adopt(id: &Id, host: &Host) -> Result<()> {
    let empty = empty(id);
    let args = ["--no-status", "--datadir", &empty, &id.version, &id.name];
    let cmd = worker("/usr/bin/pg_createcluster", &args).deadline(CREATING);
    host.act(What::Database, &id.to_string(), "take over the data that is there", cmd).await?;
    if !host.applies() {
        return Ok(());
    }
    let set = ["set", "data_directory", &id.data()];
    host.ask(Cmd::new("pg_conftool", [&[id.version.as_str(), &id.name], &set[..]].concat())).await?;
    host.remove_tree(&empty).await
}

/// Where a cluster's empty data lies that is needed for a moment.
fn empty(id: &Id) -> String {
    format!("{}{}", id.data(), cluster::EMPTY)
}

/// The copy is no good: the old cluster is in use again, and the new one goes.
pub async fn undo_copy(error: anyhow::Error, host: &Host) -> anyhow::Error {
    match finish(host).await {
        Ok(()) => error.context("the PostgreSQL of before is in use again"),
        Err(worse) => error.context(format!("{worse:#}, after an upgrade failed")),
    }
}

/// Whether the app is still being tried: whether what the ledger has in flight is this very trial, and not something that was begun later.
fn is_on_trial(since: Option<jiff::Timestamp>, host: &Host) -> Result<bool> {
    // One without a time is of a version of the appliance that did not write it down.
    let is_it = |flight: &InFlight| since.is_none_or(|since| since == flight.since);
    for app in ledger::apps(host)? {
        if Ledger::read_for(host, &app)?.in_flight.as_ref().is_some_and(is_it) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The copy is good: the app is tried on it, in the ledger's entry that is in flight.
pub fn try_out(from: &Cluster, to: &Id, ledger: &Ledger, host: &Host) -> Result<()> {
    let since = ledger.in_flight.as_ref().map(|flight| flight.since);
    let change = Change::Trial { from: from.id.clone(), port: from.port, since };
    record::write(&Record { in_use: Some(to.clone()), kept: Some(from.id.clone()), change: Some(change) }, host)
}

/// The app is good on what is in use now.
pub fn settle(host: &Host) -> Result<()> {
    record::write(&Record { change: None, ..record::read(host)? }, host)
}

/// Puts the cluster that was kept in the place of the one in use, which is kept instead.
///
/// # Errors
/// The one that was kept cannot run; nothing was done then.
pub async fn swap(host: &Host) -> Result<()> {
    let record = record::read(host)?;
    let (Some(from), Some(to)) = (&record.in_use, &record.kept) else {
        bail!("no other PostgreSQL cluster is kept");
    };
    let has_data = cluster::clusters(host)?.iter().any(|known| known.id == *to && known.has_data);
    if !has_data || !cluster::installed(host)?.contains(&to.version) {
        bail!(
            "{to} cannot run: its data or its PostgreSQL is not there any more; appliance postgres forget forgets it"
        );
    }
    let change = Change::Swap { to: to.clone(), port: port_of(from, host)? };
    record::write(&Record { change: Some(change), ..record.clone() }, host)?;
    finish(host).await
}

fn port_of(id: &Id, host: &Host) -> Result<u16> {
    let port = cluster::clusters(host)?.into_iter().find(|known| known.id == *id).map(|known| known.port);
    port.with_context(|| format!("the cluster {id} is not there"))
}

/// Removes a cluster with its data.
pub async fn drop(id: &Id, host: &Host) -> Result<()> {
    let record = record::read(host)?;
    if record.in_use.as_ref() == Some(id) {
        bail!("{id} is in use");
    }
    let kept = record.kept.clone().filter(|kept| kept != id);
    record::write(&Record { change: Some(Change::Drop { id: id.clone() }), kept, ..record }, host)?;
    finish(host).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;
    use crate::state::{InFlight, Touched};
    use crate::value::{AppName, Stage};

    #[test]
    fn only_the_entry_that_the_trial_began_with_counts() {
        let test = TestHost::new();
        let host = &test.host;
        let begun = host.now();
        assert!(!is_on_trial(Some(begun), host).expect("the ledger is read"), "nothing is in flight");
        let flight = InFlight { commit: None, stage: Stage::Packages, since: begun, database: Touched::No, why: None };
        let ledger = Ledger { app: Some(AppName::ecs()), in_flight: Some(flight), ..Ledger::default() };
        ledger.write(host, &AppName::ecs()).expect("the ledger is written");
        assert!(is_on_trial(Some(begun), host).expect("the ledger is read"));
        let weeks_before = begun - jiff::SignedDuration::from_hours(24 * 20);
        assert!(!is_on_trial(Some(weeks_before), host).expect("the ledger is read"), "this is another stop of the app");
        assert!(is_on_trial(None, host).expect("the ledger is read"), "of a version that wrote no time");
    }
}
