//! `appliance app list`: every app of the host in a line.

use super::super::{print, render};
use crate::env::Env;
use crate::host::docker::Look;
use crate::host::{Cmd, Host, Mode};
use crate::prepare::postgres;
use crate::source;
use crate::state::{Ledger, Status};
use anyhow::Result;
use serde::Serialize;
use std::time::Duration;

/// How long measuring directories may take.
const MEASURING: Duration = Duration::from_secs(60);

/// One app.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    phase: String,
    release: Option<String>,
    url: String,
    /// How many run, and how many there are.
    containers: (usize, usize),
    database_bytes: Option<u64>,
    disk_bytes: Option<u64>,
}

pub async fn list(json: bool, names: bool) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let envs = source::active(&host)?.envs;
    if names {
        let lines: String = envs.iter().map(|env| format!("{}\n", env.app.name)).collect();
        print(&lines)?;
        return Ok(0);
    }
    let mut rows = Vec::new();
    for env in envs.iter() {
        rows.push(row(env, &host).await?);
    }
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?;
        return Ok(0);
    }
    let size = |bytes: Option<u64>| bytes.map_or("-".to_owned(), super::super::stats::size);
    let rows = rows.into_iter().map(|row| {
        vec![
            row.name,
            row.phase,
            row.release.map_or("-".to_owned(), |commit| commit.chars().take(12).collect()),
            row.url,
            format!("{}/{}", row.containers.0, row.containers.1),
            size(row.database_bytes),
            size(row.disk_bytes),
        ]
    });
    print(&render::table(&["NAME", "PHASE", "RELEASE", "URL", "CONTAINERS", "DATABASE", "DISK"], rows))?;
    Ok(0)
}

async fn row(env: &Env, host: &Host) -> Result<Row> {
    let app = &env.app.name;
    let status = Status::read(host, Some(&env.tenant))?;
    let ledger = Ledger::read_for(host, app)?;
    let containers = host.docker().containers(app.as_str(), Look::Quick).await?;
    let running = containers.iter().filter(|container| container.is_running()).count();
    Ok(Row {
        name: app.as_str().to_owned(),
        phase: status.map_or("-".to_owned(), |status| status.phase.name().to_owned()),
        release: ledger.current.map(|release| release.commit.as_str().to_owned()),
        url: format!("https://{}/", env.appliance.domain),
        containers: (running, containers.len()),
        database_bytes: database_bytes(env, host).await,
        disk_bytes: disk_bytes(env, host).await,
    })
}

/// The size of its database; none where nobody can say.
async fn database_bytes(env: &Env, host: &Host) -> Option<u64> {
    let admin = postgres::cluster(host).ok()?.superuser("postgres");
    let sql = "SELECT pg_database_size(datname)::text FROM pg_database WHERE datname = $1";
    let rows = host.query(&admin, sql, &[env.app.database.as_str()]).await.ok()?;
    rows.into_iter().flatten().flatten().next()?.parse().ok()
}

/// What its directories take: checkout, state, and what its containers write there. Volumes are Docker's to measure.
async fn disk_bytes(env: &Env, host: &Host) -> Option<u64> {
    let app = &env.app.name;
    let all = [
        format!("/app/{app}"),
        format!("/data/appliance/apps/{app}"),
        format!("/data/{app}-storage-vault"),
        format!("/data/{app}-pgdump"),
        format!("/volatile/{app}-cache"),
    ];
    let there: Vec<&str> = all.iter().map(String::as_str).filter(|path| host.exists(path)).collect();
    if there.is_empty() {
        return None;
    }
    let args = [&["--summarize", "--bytes", "--total", "--"][..], &there].concat();
    let measured = host.try_ask(Cmd::new("du", args).deadline(MEASURING)).await.ok()?;
    // What vanished while it was measured makes it end with 1.
    measured.stdout.lines().last()?.split_whitespace().next()?.parse().ok()
}
