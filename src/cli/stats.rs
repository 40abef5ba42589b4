//! `appliance stats` and `appliance top`: what the app's containers use, and their processes.

use super::choice::AppArgument;
use super::{print, render};
use crate::env::Env;
use crate::host::docker::{Container, Look, Usage, is_missing};
use crate::host::{Host, Mode, terminal};
use anyhow::{Result, bail};
use clap::Args;
use futures_util::StreamExt;

#[derive(Debug, Args)]
pub struct StatsArguments {
    /// Services; else all
    services: Vec<String>,
    /// Print once, even on a terminal
    #[arg(long)]
    no_stream: bool,
    /// Print JSON, once
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    app: AppArgument,
}

#[derive(Debug, Args)]
pub struct TopArguments {
    /// Services; else all
    services: Vec<String>,
    #[command(flatten)]
    app: AppArgument,
}

/// How many containers are asked at once; each answer takes Docker a second, in which it measures.
const AT_ONCE: usize = 64;

pub async fn stats(arguments: StatsArguments) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let envs = arguments.app.all_active(&host)?;
    let live = !arguments.no_stream && !arguments.json && terminal::size().is_some();
    loop {
        let containers = running(&host, &envs, &arguments.services).await?;
        let each = futures_util::stream::iter(containers).map(|container| measure(&host, container));
        let measured: Vec<Result<Option<(Container, Usage)>>> = each.buffered(AT_ONCE).collect().await;
        let measured: Vec<(Container, Usage)> =
            measured.into_iter().filter_map(Result::transpose).collect::<Result<_>>()?;
        if arguments.json {
            print(&json(&measured)?)?;
        } else {
            let clear = if live { "\u{1b}[H\u{1b}[2J" } else { "" };
            print(&format!("{clear}{}", table(&measured)))?;
        }
        // Measuring takes its time: there is no other pause between two rounds. Ctrl-C ends it.
        if !live || measured.is_empty() {
            return Ok(0);
        }
    }
}

/// The containers that run, of these services or of all.
async fn running(host: &Host, envs: &[Env], services: &[String]) -> Result<Vec<Container>> {
    let mut all = Vec::new();
    for env in envs {
        all.extend(host.docker().containers(env.app.name.as_str(), Look::Quick).await?);
    }
    let known = |service: &String| all.iter().any(|container| container.service() == service);
    if let Some(unknown) = services.iter().find(|service| !known(service)) {
        bail!("there is no container of a service {unknown}");
    }
    let is_asked =
        |container: &Container| services.is_empty() || services.iter().any(|name| name == container.service());
    Ok(all.into_iter().filter(|container| container.is_running() && is_asked(container)).collect())
}

async fn measure(host: &Host, container: Container) -> Result<Option<(Container, Usage)>> {
    match host.docker().usage(&container.id).await {
        Ok(usage) => Ok(Some((container, usage))),
        // Gone meanwhile.
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn table(measured: &[(Container, Usage)]) -> String {
    let header =
        ["SERVICE", "CONTAINER", "CPU %", "MEM", "LIMIT", "MEM %", "NET IN", "NET OUT", "READ", "WRITTEN", "PIDS"];
    let rows = measured.iter().map(|(container, usage)| {
        vec![
            container.service().to_owned(),
            container.name.clone(),
            format!("{:.2}", usage.cpu_percent),
            size(usage.memory),
            size(usage.memory_limit),
            format!("{:.2}", percent(usage.memory, usage.memory_limit)),
            size(usage.received),
            size(usage.sent),
            size(usage.read),
            size(usage.written),
            usage.processes.to_string(),
        ]
    });
    render::table(&header, rows)
}

fn json(measured: &[(Container, Usage)]) -> Result<String> {
    let rows = measured.iter().map(|(container, usage)| {
        serde_json::json!({
            "service": container.service(), "container": container.name, "cpu_percent": usage.cpu_percent,
            "memory_bytes": usage.memory, "memory_limit_bytes": usage.memory_limit, "received_bytes": usage.received,
            "sent_bytes": usage.sent, "read_bytes": usage.read, "written_bytes": usage.written,
            "processes": usage.processes,
        })
    });
    Ok(format!("{}\n", serde_json::to_string_pretty(&rows.collect::<Vec<_>>())?))
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// `12.3 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{size:.1} {}", UNITS[unit]) }
}

pub async fn top(arguments: TopArguments) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let envs = arguments.app.all_active(&host)?;
    for container in running(&host, &envs, &arguments.services).await? {
        let (titles, rows) = match host.docker().processes(&container.id).await {
            Ok(found) => found,
            Err(error) if is_missing(&error) => continue,
            Err(error) => return Err(error),
        };
        let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
        print(&format!("{} ({})\n{}\n", container.service(), container.name, render::table(&titles, rows)))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_the_unit_that_fits() {
        assert_eq!((size(0).as_str(), size(1023).as_str()), ("0 B", "1023 B"));
        assert_eq!((size(1536).as_str(), size(3 << 30).as_str()), ("1.5 KiB", "3.0 GiB"));
        assert_eq!(percent(1, 0), 0.0);
    }
}
