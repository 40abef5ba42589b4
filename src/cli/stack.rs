//! The commands about the app's containers: ps and logs. `exec` has its own file.

use super::{print, render};
use crate::host::docker::{Look, is_missing};
use crate::host::{Host, Mode};
use crate::source;
use crate::stack::logs::{JOURNALCTL, Query, entry};
use anyhow::{Context, Result, bail};
use clap::Args;

#[derive(Debug, Args)]
pub struct LogsArguments {
    /// Services; else all
    services: Vec<String>,
    /// Keep showing new lines
    #[arg(short, long)]
    follow: bool,
    /// Show only the last lines
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<u32>,
    /// Show only lines since then, as journalctl takes it: '10 min ago', '2026-01-31 12:00'
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
}

pub async fn ps(json: bool) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let found = source::active(&host)?;
    let mut containers = Vec::new();
    for container in host.docker().containers(found.env.app.name.as_str(), Look::Close).await? {
        match host.docker().started_at(&container.id).await {
            Ok(started) => containers.push((container, started)),
            // Gone meanwhile.
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    if json {
        let rows: Vec<serde_json::Value> = containers
            .iter()
            .map(|(container, started_at)| {
                serde_json::json!({
                    "service": container.service(), "name": container.name, "id": container.id, "state": container.state,
                    "health": container.health, "exit_code": container.exit_code, "started_at": started_at,
                })
            })
            .collect();
        print(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?;
        return Ok(0);
    }
    let rows = containers.iter().map(|(container, started_at)| {
        let health =
            container.health.map(|health| format!("{health:?}").to_lowercase()).unwrap_or_else(|| "-".to_owned());
        let started = started_at.get(..19).unwrap_or("-").replace('T', " ");
        vec![
            container.service().to_owned(),
            container.name.clone(),
            format!("{:?}", container.state).to_lowercase(),
            health,
            started,
        ]
    });
    print(&render::table(&["SERVICE", "CONTAINER", "STATE", "HEALTH", "STARTED (UTC)"], rows))?;
    Ok(0)
}

pub async fn logs(arguments: LogsArguments) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let found = source::active(&host)?;
    let project = found.env.app.name.as_str().to_owned();
    for service in &arguments.services {
        if service.parse::<crate::value::ServiceName>().is_err() {
            bail!("'{service}' is not a service's name");
        }
    }
    let query = Query {
        project,
        services: arguments.services,
        follow: arguments.follow,
        tail: arguments.tail,
        since: arguments.since,
    };
    let mut width = 0;
    let mut show = |line: &str| {
        let Some((service, message)) = entry(line) else { return Ok(()) };
        width = width.max(service.len());
        print(&format!("{service:<width$} | {message}\n"))
    };
    host.lines(JOURNALCTL, &query.arguments(), &mut show).await.context("could not read the journal")?;
    Ok(0)
}
