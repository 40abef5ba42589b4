//! `appliance status`: the status file, readable.

use super::choice::AppArgument;
use super::{print, render};
use crate::env::{Envs, MAX_BYTES};
use crate::host::{Host, Mode};
use crate::source;
use crate::state::flags::Flag;
use crate::state::history::ACTIVE;
use crate::state::{Status, StepState, ledger};
use crate::value::{AppName, Phase, Tenant};
use anyhow::{Context, Result};

pub fn status(app: &AppArgument, json: bool) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let active = source::active(&host).ok().map(|found| found.envs).filter(|envs| !envs.is_alone());
    let Some(envs) = active else { return of_host(&host, json) };
    let shown = match app.is_named() {
        true => Vec::new(),
        false => vec![look(None, &host)?],
    };
    let apps: Vec<Shown> = app.some(&envs)?.into_iter().filter_map(|env| look(Some(&env.tenant), &host).ok()).collect();
    if json {
        let whole = match shown.first() {
            None => apps.first().map(Shown::json).transpose()?.unwrap_or_default(),
            Some(of_host) => {
                let mut whole = of_host.json()?;
                whole["apps"] = apps.iter().map(Shown::json).collect::<Result<Vec<_>>>()?.into();
                whole
            }
        };
        print(&format!("{whole:#}\n"))?;
    } else {
        let blocks: Vec<String> = shown.iter().chain(&apps).map(Shown::readable).collect();
        print(&blocks.join("\n"))?;
        let left = left_over(&envs, &host)?;
        if !left.is_empty() && !app.is_named() {
            print(&format!("\nleft over  {}: data of apps that env.yml does not name\n", left.join(", ")))?;
        }
    }
    Ok(shown.iter().chain(&apps).map(Shown::exit_code).max().unwrap_or(0))
}

/// Of an appliance with one app, or without an env.
fn of_host(host: &Host, json: bool) -> Result<u8> {
    let shown = look(None, host)?;
    match json {
        true => print(&format!("{:#}\n", shown.json()?))?,
        false => print(&shown.readable())?,
    }
    Ok(shown.exit_code())
}

/// Apps that the env does not name, and of which something is left.
fn left_over(envs: &Envs, host: &Host) -> Result<Vec<String>> {
    let unnamed = |app: &AppName| envs.of(app).is_none();
    Ok(ledger::apps(host)?.iter().filter(|app| unnamed(app)).map(|app| app.as_str().to_owned()).collect())
}

struct Shown {
    status: Status,
    is_stale: bool,
    differs: bool,
}

/// The status of the host (`None`), or of one of several apps.
fn look(of: Option<&Tenant>, host: &Host) -> Result<Shown> {
    let status = Status::read(host, of)?;
    let mut status = status
        .context("the appliance has not run since the host was booted; start it with: systemctl start appliance")?;
    // The flag is the truth: it may have been raised or removed by hand.
    match (of.map_or(Flag::Host, Flag::from).failed(host)?, &status.phase) {
        (Some(reason), phase) if !matches!(phase, Phase::Failed { .. }) => status.phase = Phase::Failed { reason },
        (None, Phase::Failed { .. }) => {
            status.phase = Phase::Standby { reason: "recovered; start it with: systemctl start appliance".to_owned() };
        }
        _ => {}
    }
    let is_stale = status.is_stale(host);
    let differs = of.is_none() && differs(&status, host);
    Ok(Shown { status, is_stale, differs })
}

impl Shown {
    fn exit_code(&self) -> u8 {
        if self.is_stale { 1 } else { self.status.exit_code() }
    }

    fn json(&self) -> Result<serde_json::Value> {
        let mut value = serde_json::to_value(&self.status).context("could not render the status")?;
        value["stale"] = self.is_stale.into();
        value["env_differs"] = self.differs.into();
        Ok(value)
    }

    fn readable(&self) -> String {
        readable(&self.status, self.is_stale, self.differs)
    }
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
