//! Taking what runs down: what `systemctl stop appliance` does, and the end of an app that failed.

use crate::env::{Env, Envs};
use crate::host::{Host, notify};
use crate::report::page::{self, View};
use crate::source;
use crate::stack::stop;
use crate::stack::{self, Stack, stopped};
use crate::state::{StackLock, Status, history, ledger};
use crate::value::{AppName, Phase, Tenant};
use anyhow::{Context, Result};
use futures_util::future::join_all;
use std::time::Duration;

/// How long stopping waits for another command; then it goes ahead, since systemd would kill it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Stops all that the active env names, all apps at once, and what is left of apps that it does not name any more. Without an active env
/// there is nothing to stop.
///
/// # Errors
/// One of the apps could not be stopped; the others were.
pub async fn stop_all(host: &Host) -> Result<()> {
    let Some(found) = source::judged(host, history::ACTIVE).context("the active env cannot be read")? else {
        return Ok(());
    };
    let known = join_all(found.envs.iter().map(|env| stop_app(env, host))).await;
    let others = stop_strangers(&found.envs, host).await;
    // All were stopped as well as they could be; the first that could not is told.
    known.into_iter().chain([others]).collect()
}

/// Stops one app's stack, in reverse dependency order.
pub async fn stop_app(env: &Env, host: &Host) -> Result<()> {
    let stack = match stack::load_to_stop(env, host) {
        Ok(stack) => Some(stack),
        Err(error) => {
            tracing::warn!("the compose file cannot be read, so all containers are stopped at once: {error:#}");
            None
        }
    };
    stop_stack(&env.app.name, stack.as_ref(), host).await
}

/// Stops what is left of apps that the env does not name any more: their data stay.
pub async fn stop_strangers(envs: &Envs, host: &Host) -> Result<()> {
    if envs.is_alone() {
        return Ok(());
    }
    for app in ledger::apps(host)?.iter().filter(|app| envs.of(app).is_none()) {
        stop_stack(app, None, host).await?;
    }
    Ok(())
}

async fn stop_stack(app: &AppName, stack: Option<&Stack>, host: &Host) -> Result<()> {
    notify::extend(PATIENCE + budget(stack));
    let _lock = match StackLock::take_of(host, app, "stop", PATIENCE).await {
        Ok(lock) => Some(lock),
        Err(error) => {
            tracing::warn!("{error:#}; stopping all the same");
            None
        }
    };
    // The next start starts all of it.
    stopped::write(&Default::default(), host, app)?;
    stopped::give_up(&Default::default(), host, app)?;
    stop::stop(stack, app.as_str(), host).await
}

fn budget(stack: Option<&Stack>) -> Duration {
    let levels = stack.map(Stack::levels).unwrap_or_default();
    stop::budget(levels.iter().map(|level| level.iter().map(|service| service.stop_grace).max().unwrap_or_default()))
}

/// What visitors and `status` are told while all is stopped by hand.
pub fn announce(host: &Host) -> Result<()> {
    let active = source::judged(host, history::ACTIVE).ok().flatten();
    let tenants = active.iter().flat_map(|found| found.envs.iter()).map(|env| &env.tenant);
    let of_apps = tenants.filter(|tenant| !tenant.is_alone()).map(|tenant| announce_of(Some(tenant), host));
    // Whoever can be told is told.
    let told: Vec<Result<()>> = of_apps.chain([announce_of(None, host)]).collect();
    told.into_iter().collect()
}

fn announce_of(of: Option<&Tenant>, host: &Host) -> Result<()> {
    let reason = "stopped; start it with: systemctl start appliance";
    let phase = Phase::Standby { reason: reason.to_owned() };
    let stopped = Status::new(phase.clone(), host);
    page::show(host, of, &View::of(&stopped))?;
    let mut status = match Status::read(host, of)? {
        // A failed state stays one: stopping does not mend it.
        Some(status) if matches!(status.phase, Phase::Failed { .. } | Phase::Standby { .. }) => return Ok(()),
        Some(status) => status,
        None => stopped,
    };
    status.phase = phase;
    status.since = host.now();
    status.services.clear();
    status.write(host, of)
}
