//! Debian's own tools on one cluster: run in a unit, put in its place, stopped, taken away. In which order, and what a killed run left, is
//! `change.rs`.

use super::cluster::{self, Id};
use crate::host::{Changed, Cmd, File, Host, UnitState, What};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// How long removing a cluster may take.
const DROPPING: Duration = Duration::from_secs(1800);
/// The unit in which Debian's tools work on clusters: what a killed run had begun ends with it.
pub(super) const WORKER: &str = "appliance-postgres";

/// One of Debian's tools, in the unit; what it says is in the journal.
pub(super) fn worker<'a>(program: &'a str, args: &[&'a str]) -> Cmd {
    let unit = format!("--unit={WORKER}");
    let run =
        ["--quiet", "--wait", "--collect", &unit, "--property=TimeoutStopSec=20", "--setenv=LC_ALL=C.UTF-8", program];
    Cmd::new("systemd-run", [&run, args].concat())
}

/// The one cluster runs, on this port, also after a boot; the other one does not.
pub(super) async fn put_in_place(id: &Id, other: Option<&Id>, port: u16, host: &Host) -> Result<()> {
    if let Some(other) = other {
        stop(other, host).await?;
        // The one's own is given up below.
        let others = cluster::clusters(host)?;
        let taken: Vec<u16> = others.iter().filter(|known| known.id != *id).map(|known| known.port).collect();
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
pub(super) async fn stop(id: &Id, host: &Host) -> Result<()> {
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
pub(super) async fn wipe(id: &Id, host: &Host) -> Result<()> {
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
