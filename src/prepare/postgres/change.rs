//! Making, swapping and removing clusters, by Debian's own tools. Each is in the record before it begins, and [`finish`] ends what a
//! killed run had begun.

use super::cluster::{self, Cluster, Id};
use super::record::{self, Change, Record};
use crate::host::{Changed, Cmd, File, Host, UnitState, What};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// How long making an empty cluster may take.
const CREATING: Duration = Duration::from_secs(600);
/// How long removing one may take.
const DROPPING: Duration = Duration::from_secs(1800);
/// How long copying one into another may take.
const COPYING: Duration = Duration::from_secs(24 * 3600);
/// What copies, so that it ends with its unit, whoever began it.
const COPIER: &str = "appliance-postgres-upgrade";

/// Undoes or finishes what a killed run had begun.
pub async fn finish(host: &Host) -> Result<()> {
    let mut record = record::read(host)?;
    match record.change.clone() {
        None => return Ok(()),
        Some(_) if !host.applies() => return Ok(()),
        Some(Change::Create { id }) => wipe(&id, host).await?,
        Some(Change::Adopt { id }) => {
            host.remove_tree(&id.configuration()).await?;
            host.remove_tree(&beside(&id)).await?;
        }
        Some(Change::Drop { id }) => wipe(&id, host).await?,
        Some(Change::Copy { to, port }) => {
            let from = record.in_use.clone().context("an upgrade is under way, but of no cluster")?;
            tracing::warn!("an upgrade of PostgreSQL was cut off; {from} is brought back");
            give_up(&from, &to, port, host).await?;
        }
        Some(Change::Swap { to, port }) => {
            let from = record.in_use.clone().context("a swap is under way, but of no cluster")?;
            put_in_place(&to, Some(&from), port, host).await?;
            record = Record { in_use: Some(to), kept: Some(from), change: None };
        }
    }
    record.change = None;
    record::write(&record, host)
}

/// A new cluster, or a configuration for data that is there.
pub async fn make(change: Change, host: &Host) -> Result<()> {
    record::write(&Record { change: Some(change.clone()), ..record::read(host)? }, host)?;
    let id = match change {
        Change::Create { id } => {
            let cmd = Cmd::new("pg_createcluster", ["--no-status", &id.version, &id.name]).deadline(CREATING);
            host.act(What::Database, &id.to_string(), "create an empty cluster", cmd).await?;
            id
        }
        Change::Adopt { id } => {
            adopt(&id, host).await.with_context(|| format!("could not take over {}", id.data()))?;
            id
        }
        _ => bail!("only a cluster that is not there can be made"),
    };
    host.reload_units().await?;
    record::write(&Record { in_use: Some(id), change: None, ..record::read(host)? }, host)
}

/// Debian's tool makes a configuration only together with data, or out of one that lies in the data: so it makes an empty cluster, whose
/// configuration is then told of the data that is there.
async fn adopt(id: &Id, host: &Host) -> Result<()> {
    let empty = beside(id);
    let args = ["--no-status", "--datadir", &empty, &id.version, &id.name];
    let cmd = Cmd::new("pg_createcluster", args).deadline(CREATING);
    host.act(What::Database, &id.to_string(), "take over the data that is there", cmd).await?;
    if !host.applies() {
        return Ok(());
    }
    let set = ["set", "data_directory", &id.data()];
    host.ask(Cmd::new("pg_conftool", [&[id.version.as_str(), &id.name], &set[..]].concat())).await?;
    host.remove_tree(&empty).await
}

/// Where a cluster's empty data lies that is needed for a moment.
fn beside(id: &Id) -> String {
    format!("{}.appliance-empty", id.data())
}

/// Copies the cluster in use into a new one of another version, which then has its port and its configuration. The old one is stopped and
/// kept. On an error the old one is in use as before.
pub async fn copy(from: &Cluster, to: &Id, host: &Host) -> Result<()> {
    let record = record::read(host)?;
    let change = Change::Copy { to: to.clone(), port: from.port };
    record::write(&Record { change: Some(change), ..record }, host)?;
    // By dump: a newer distribution sorts text in another order, and indexes are built anew by it.
    let args = [
        "--quiet",
        "--wait",
        "--collect",
        &format!("--unit={COPIER}"),
        "--property=TimeoutStopSec=20",
        "--setenv=LC_ALL=C.UTF-8",
        "/usr/bin/pg_upgradecluster",
        "--method=dump",
        "-v",
        &to.version,
        &from.id.version,
        &from.id.name,
    ];
    let cmd = Cmd::new("systemd-run", args).deadline(COPYING);
    let copied = host.act(What::Database, &from.id.to_string(), &format!("copy into {to}"), cmd).await;
    if let Err(error) = copied {
        let error = error.context(format!("could not copy {} into {to}; see: journalctl -u {COPIER}", from.id));
        return Err(undo_copy(error, host).await);
    }
    Ok(())
}

/// The copy is no good: the old cluster is in use again, and the new one goes.
pub async fn undo_copy(error: anyhow::Error, host: &Host) -> anyhow::Error {
    match finish(host).await {
        Ok(()) => error.context("the PostgreSQL of before is in use again"),
        Err(worse) => error.context(format!("{worse:#}, after an upgrade failed")),
    }
}

/// The copy is good, and counts from here on.
pub fn settle_copy(from: &Id, to: &Id, host: &Host) -> Result<()> {
    record::write(&Record { in_use: Some(to.clone()), kept: Some(from.clone()), change: None }, host)
}

/// Puts the cluster that was kept in the place of the one in use, which is kept instead.
pub async fn swap(host: &Host) -> Result<()> {
    let record = record::read(host)?;
    let (Some(from), Some(to)) = (&record.in_use, &record.kept) else {
        bail!("no other PostgreSQL cluster is kept");
    };
    let port = cluster::clusters(host)?.into_iter().find(|known| known.id == *from).map(|known| known.port);
    let port = port.with_context(|| format!("the cluster {from} is not there"))?;
    let change = Change::Swap { to: to.clone(), port };
    record::write(&Record { change: Some(change), ..record.clone() }, host)?;
    finish(host).await
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

async fn give_up(from: &Id, to: &Id, port: u16, host: &Host) -> Result<()> {
    let copier = format!("{COPIER}.service");
    if host.unit_state(&copier).await? != UnitState::Missing {
        host.stop_unit(&copier).await?;
    }
    wipe(to, host).await?;
    // It may run with nobody let in, beside its unit.
    stop(from, host).await?;
    put_in_place(from, None, port, host).await
}

/// The one cluster runs, on this port, also after a boot; the other one does not.
async fn put_in_place(id: &Id, other: Option<&Id>, port: u16, host: &Host) -> Result<()> {
    if let Some(other) = other {
        stop(other, host).await?;
        let taken: Vec<u16> = cluster::clusters(host)?.iter().map(|known| known.port).collect();
        let free = (5433..).find(|free| !taken.contains(free) && *free != port).context("no port is free")?;
        set_port(other, free, host).await?;
        starts(other, "manual", host)?;
    }
    if !cluster::clusters(host)?.iter().any(|known| known.id == *id && known.port == port) {
        stop(id, host).await?;
        set_port(id, port, host).await?;
    }
    starts(id, "auto", host)?;
    host.reload_units().await?;
    host.start_unit(&id.unit()).await
}

async fn set_port(id: &Id, port: u16, host: &Host) -> Result<()> {
    let cmd = Cmd::new("pg_conftool", [&id.version, &id.name, "set", "port", &port.to_string()]);
    let set = host.act(What::Database, &id.to_string(), &format!("use port {port}"), cmd).await;
    set.map(|_| ()).with_context(|| format!("could not set the port of {id}"))
}

fn starts(id: &Id, how: &str, host: &Host) -> Result<Changed> {
    let text = format!("# Written by appliance: auto is the cluster in use, manual one that is kept.\n{how}\n");
    host.ensure_file(&format!("{}/start.conf", id.configuration()), &File::text(text).mode(0o644))
}

/// Stops a server, also one that was started beside its unit.
async fn stop(id: &Id, host: &Host) -> Result<()> {
    if host.unit_state(&id.unit()).await? != UnitState::Missing {
        host.stop_unit(&id.unit()).await?;
    }
    let cmd = Cmd::new("pg_ctlcluster", ["--skip-systemctl-redirect", "--mode=fast", &id.version, &id.name, "stop"]);
    let stopped = host.try_ask(cmd.deadline(Duration::from_secs(120))).await?;
    match stopped.code {
        // pg_ctlcluster(1), "EXIT CODES": 2, it did not run.
        Some(0 | 2) => Ok(()),
        _ => bail!("could not stop {id}: {}", stopped.stderr.trim()),
    }
}

/// Takes away a cluster of which nothing is needed, however much of it there is.
async fn wipe(id: &Id, host: &Host) -> Result<()> {
    if host.exists(&format!("{}/postgresql.conf", id.configuration())) {
        let cmd = Cmd::new("pg_dropcluster", ["--stop", &id.version, &id.name]).deadline(DROPPING);
        // What is half-made it may not know; that goes all the same.
        if let Err(error) = host.act(What::Database, &id.to_string(), "remove", cmd).await {
            tracing::debug!("{error:#}");
        }
    }
    host.remove_tree(&id.configuration()).await?;
    host.remove_tree(&id.data()).await?;
    host.reload_units().await
}
