//! `appliance status`: the status file, readable.

use super::{print, render};
use crate::env::MAX_BYTES;
use crate::host::{Host, Mode};
use crate::state::history::ACTIVE;
use crate::state::{Status, StepState, flags};
use crate::value::Phase;
use anyhow::{Context, Result};

pub fn status(json: bool) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let status = Status::read(&host)?;
    let mut status = status
        .context("the appliance has not run since the host was booted; start it with: systemctl start appliance")?;
    // The flag is the truth: it may have been raised or removed by hand.
    match (flags::failed(&host)?, &status.phase) {
        (Some(reason), phase) if !matches!(phase, Phase::Failed { .. }) => status.phase = Phase::Failed { reason },
        (None, Phase::Failed { .. }) => {
            status.phase = Phase::Standby { reason: "recovered; start it with: systemctl start appliance".to_owned() };
        }
        _ => {}
    }
    let stale = status.is_stale(&host);
    let differs = differs(&status, &host);
    if json {
        let mut value = serde_json::to_value(&status).context("could not render the status")?;
        value["stale"] = stale.into();
        value["env_differs"] = differs.into();
        print(&format!("{value:#}\n"))?;
    } else {
        print(&readable(&status, stale, differs))?;
    }
    Ok(if stale { 1 } else { status.exit_code() })
}

/// Whether the file that the active env was read from says something else by now. Who may not read it is not told.
fn differs(status: &Status, host: &Host) -> bool {
    let Some(path) = status.source.as_deref().filter(|source| source.starts_with('/')) else { return false };
    let read = |path: &str| host.read(path, MAX_BYTES).ok().flatten();
    match (read(path), read(ACTIVE)) {
        (Some(written), Some(active)) => written != active,
        _ => false,
    }
}

fn readable(status: &Status, stale: bool, differs: bool) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<9} {value}\n"));
    if stale {
        line("stale", "the supervisor is gone; this is the last it wrote. See: systemctl status appliance-supervisor");
    }
    line("phase", &format!("{} since {}", status.phase.text(), status.since.strftime("%Y-%m-%d %H:%M:%S UTC")));
    let optional = [("app", &status.app), ("url", &status.url), ("env", &status.source), ("release", &status.commit)];
    for (name, value) in optional {
        if let Some(value) = value {
            line(name, value);
        }
    }
    if differs {
        line("differs", "that file is another one than the active env by now; see: appliance plan");
    }
    let steps: Vec<String> = status
        .steps
        .iter()
        .filter(|step| matches!(step.state, StepState::Running | StepState::Failed))
        .map(|step| format!("{} {:?}", step.step, step.state).to_lowercase())
        .collect();
    if !steps.is_empty() {
        line("steps", &steps.join(", "));
    }
    for warning in &status.warnings {
        line("warning", warning);
    }
    if !status.services.is_empty() {
        let rows = status.services.iter().map(|service| {
            let health =
                if service.degraded { format!("{}, degraded", service.health) } else { service.health.clone() };
            vec![service.service.clone(), service.state.clone(), health, service.restarts.to_string()]
        });
        text.push('\n');
        text.push_str(&render::table(&["SERVICE", "STATE", "HEALTH", "RESTARTS"], rows));
    }
    text
}
