//! Taking the stack down: what `systemctl stop appliance` does, and the end of a failed run.

use crate::host::{Host, notify};
use crate::report::page::{self, View};
use crate::source;
use crate::stack::stop;
use crate::stack::{self, Stack, stopped};
use crate::state::{StackLock, Status, history};
use crate::value::Phase;
use anyhow::{Context, Result};
use std::time::Duration;

/// How long stopping waits for another command; then it goes ahead, since systemd would kill it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Stops the active env's stack, in reverse dependency order. Without an active env there is nothing to stop.
pub async fn stop_stack(host: &Host) -> Result<()> {
    let Some(found) = source::judged(host, history::ACTIVE).context("the active env cannot be read")? else {
        return Ok(());
    };
    let stack = match stack::load_to_stop(&found.env, host) {
        Ok(stack) => Some(stack),
        Err(error) => {
            tracing::warn!("the compose file cannot be read, so all containers are stopped at once: {error:#}");
            None
        }
    };
    notify::extend(PATIENCE + budget(stack.as_ref()));
    let _lock = match StackLock::take(host, "stop", PATIENCE).await {
        Ok(lock) => Some(lock),
        Err(error) => {
            tracing::warn!("{error:#}; stopping all the same");
            None
        }
    };
    // The next start starts all of it.
    stopped::write(&Default::default(), host)?;
    stopped::give_up(&Default::default(), host)?;
    stop::stop(stack.as_ref(), found.env.app.name.as_str(), host).await
}

fn budget(stack: Option<&Stack>) -> Duration {
    let levels = stack.map(Stack::levels).unwrap_or_default();
    stop::budget(levels.iter().map(|level| level.iter().map(|service| service.stop_grace).max().unwrap_or_default()))
}

/// What visitors and `status` are told while the stack is stopped by hand.
pub fn announce(host: &Host) -> Result<()> {
    let reason = "stopped; start it with: systemctl start appliance";
    let phase = Phase::Standby { reason: reason.to_owned() };
    let stopped = Status::new(phase.clone(), host);
    page::show(host, &View::of(&stopped))?;
    let mut status = match Status::read(host)? {
        // A failed state stays one: stopping does not mend it.
        Some(status) if matches!(status.phase, Phase::Failed { .. } | Phase::Standby { .. }) => return Ok(()),
        Some(status) => status,
        None => stopped,
    };
    status.phase = phase;
    status.since = host.now();
    status.services.clear();
    status.write(host)
}
