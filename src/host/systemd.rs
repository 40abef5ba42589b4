//! systemd and hostnamed over D-Bus. A connection lives only as long as one verb: an idle one would be woken by
//! signals that nobody wants.

use super::Pending;
use super::units::{UnitState, Units};
use anyhow::{Context, Result, anyhow, bail};
use futures_util::StreamExt;
use std::time::Duration;
use zbus_systemd::hostname1::HostnamedProxy;
use zbus_systemd::systemd1::{ManagerProxy, ServiceProxy, UnitProxy};
use zbus_systemd::timedate1::TimedatedProxy;
use zbus_systemd::zbus;

/// How long a unit's job may take.
const JOB_DEADLINE: Duration = Duration::from_secs(120);
/// How long one of a database may take: it writes what is in its memory before it stops, and reads its log before it is up.
const DATABASE_JOB_DEADLINE: Duration = Duration::from_secs(6 * 3600);

/// How long the supervisor's may take, as its unit has it: images are built and a database is migrated until it is up.
const SUPERVISOR_JOB_DEADLINE: Duration = Duration::from_secs(24 * 3600);

fn job_deadline(unit: &str) -> Duration {
    match unit {
        "appliance-supervisor.service" => SUPERVISOR_JOB_DEADLINE,
        _ if unit.starts_with("postgresql") => DATABASE_JOB_DEADLINE,
        _ => JOB_DEADLINE,
    }
}

/// This machine's systemd.
pub struct Systemd;

async fn bus() -> Result<zbus::Connection> {
    zbus::Connection::system().await.context("could not reach the system's D-Bus")
}

/// Runs a job to its end, which systemd tells in one word.
async fn job(verb: &'static str, unit: &str) -> Result<String> {
    let bus = bus().await?;
    let manager = ManagerProxy::new(&bus).await.context("could not reach systemd")?;
    manager.subscribe().await.context("could not subscribe to systemd's signals")?;
    let mut removed = manager.receive_job_removed().await.context("could not subscribe to systemd's jobs")?;
    let (name, mode) = (unit.to_owned(), "replace".to_owned());
    let job = match verb {
        "start" => manager.start_unit(name, mode).await,
        "stop" => manager.stop_unit(name, mode).await,
        "reload" => manager.reload_or_restart_unit(name, mode).await,
        _ => manager.restart_unit(name, mode).await,
    }
    .with_context(|| format!("could not {verb} {unit}"))?;
    let wait = async {
        while let Some(signal) = removed.next().await {
            let args = signal.args().context("systemd sent a broken signal")?;
            if args.job.as_str() == job.as_str() {
                return Ok(args.result.clone());
            }
        }
        Err(anyhow!("systemd closed the connection"))
    };
    let deadline = job_deadline(unit);
    tokio::time::timeout(deadline, wait)
        .await
        .with_context(|| format!("could not {verb} {unit} within {} s", deadline.as_secs()))?
}

async fn run_job(verb: &'static str, unit: &str) -> Result<()> {
    // Whoever asks here knows why it should run again, however often it died before.
    if verb != "stop" && state(unit).await? == UnitState::Failed {
        reset_failed(unit).await?;
    }
    let mut result = job(verb, unit).await?;
    // It was started so often that systemd would not once more.
    if result == "failed" && is_refused(unit).await? {
        reset_failed(unit).await?;
        result = job(verb, unit).await?;
    }
    if result != "done" && result != "skipped" {
        bail!("could not {verb} {unit}: systemd says '{result}'; see: journalctl -u {unit}");
    }
    Ok(())
}

/// Makes systemd forget that a unit failed, and how often it was started.
async fn reset_failed(unit: &str) -> Result<()> {
    let bus = bus().await?;
    let manager = ManagerProxy::new(&bus).await.context("could not reach systemd")?;
    manager.reset_failed_unit(unit.to_owned()).await.with_context(|| format!("could not reset {unit}"))
}

/// Whether systemd refuses a service for the number of its starts.
async fn is_refused(unit: &str) -> Result<bool> {
    let bus = bus().await?;
    let manager = ManagerProxy::new(&bus).await.context("could not reach systemd")?;
    let look = async {
        let path = manager.load_unit(unit.to_owned()).await?;
        let service =
            ServiceProxy::builder(&bus).path(path).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
        service.result().await
    };
    // Of units other than services there is no such result.
    Ok(look.await.is_ok_and(|result| result == "start-limit-hit"))
}

async fn state(unit: &str) -> Result<UnitState> {
    let bus = bus().await?;
    let manager = ManagerProxy::new(&bus).await.context("could not reach systemd")?;
    let look = async {
        let path = manager.load_unit(unit.to_owned()).await?;
        let unit = UnitProxy::builder(&bus)
            .path(path)
            // Asked once; a cache would fetch every property of the unit.
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        zbus::Result::Ok((unit.load_state().await?, unit.active_state().await?))
    };
    let (load, active) = look.await.with_context(|| format!("could not look at the unit {unit}"))?;
    Ok(match (load.as_str(), active.as_str()) {
        ("not-found", _) => UnitState::Missing,
        (_, "active" | "reloading") => UnitState::Active,
        (_, "activating" | "deactivating") => UnitState::Changing,
        (_, "failed") => UnitState::Failed,
        _ => UnitState::Inactive,
    })
}

async fn failed() -> Result<Vec<String>> {
    let bus = bus().await?;
    let manager = ManagerProxy::new(&bus).await.context("could not reach systemd")?;
    let units = manager.list_units_filtered(vec!["failed".to_owned()]).await.context("could not list failed units")?;
    let mut names: Vec<String> = units.into_iter().map(|unit| unit.0).collect();
    names.sort();
    Ok(names)
}

async fn is_clock_set() -> Result<bool> {
    let bus = bus().await?;
    let clock = TimedatedProxy::builder(&bus).cache_properties(zbus::proxy::CacheProperties::No).build();
    let clock = clock.await.context("could not reach timedated")?;
    clock.ntp_synchronized().await.context("could not ask timedated for the clock")
}

async fn set_hostname(name: &str) -> Result<()> {
    let bus = bus().await?;
    let hostnamed = HostnamedProxy::new(&bus).await.context("could not reach hostnamed")?;
    let both = async {
        hostnamed.set_static_hostname(name.to_owned(), false).await?;
        hostnamed.set_hostname(name.to_owned(), false).await
    };
    both.await.with_context(|| format!("could not set the host name to {name}"))
}

impl Units for Systemd {
    fn state<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<UnitState>> {
        Box::pin(state(unit))
    }

    fn start<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(run_job("start", unit))
    }

    fn reload<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(run_job("reload", unit))
    }

    fn restart<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(run_job("restart", unit))
    }

    fn stop<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(run_job("stop", unit))
    }

    fn reload_all<'a>(&'a self) -> Pending<'a, Result<()>> {
        Box::pin(async {
            let bus = bus().await?;
            let manager = ManagerProxy::new(&bus).await.context("could not reach systemd")?;
            manager.reload().await.context("systemd could not read its units anew")
        })
    }

    fn failed<'a>(&'a self) -> Pending<'a, Result<Vec<String>>> {
        Box::pin(failed())
    }

    fn is_clock_set<'a>(&'a self) -> Pending<'a, Result<bool>> {
        Box::pin(is_clock_set())
    }

    fn set_hostname<'a>(&'a self, name: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(set_hostname(name))
    }
}
