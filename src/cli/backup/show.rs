//! `appliance backup list` and `status`.

use super::super::{print, render, stats};
use crate::backup::{self, Manifest, Record, Restic};
use crate::host::{Host, Mode};
use crate::source;
use anyhow::Result;
use serde::Serialize;

/// A complete run that is older is told as trouble: two nights have passed, or nearly.
const TOO_OLD_S: i64 = 26 * 3600;

/// A run in a line.
pub fn line(manifest: &Manifest) -> String {
    format!(
        "{}: run {} of {}, {} rows, {} files ({})",
        manifest.app,
        manifest.run,
        manifest.at.strftime("%Y-%m-%d %H:%M:%S UTC"),
        manifest.rows(),
        manifest.files.count,
        stats::size(manifest.files.bytes)
    )
}

#[derive(Debug, Serialize)]
struct Row {
    run: String,
    app: String,
    at: jiff::Timestamp,
    machine: String,
    generation: u64,
}

pub async fn list(json: bool) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let envs = source::active(&host)?.envs;
    let found = backup::runs(&Restic::of(envs.host(), &host)?).await?;
    let rows: Vec<Row> = found
        .runs
        .into_iter()
        .map(|run| Row {
            run: run.id,
            app: run.app.as_str().to_owned(),
            at: run.at,
            machine: run.machine,
            generation: run.generation,
        })
        .collect();
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?;
        return Ok(0);
    }
    let rows = rows
        .into_iter()
        .map(|row| vec![row.run, row.app, row.at.strftime("%Y-%m-%d %H:%M UTC").to_string(), row.machine]);
    print(&render::table(&["RUN", "APP", "AT", "MACHINE"], rows))?;
    Ok(0)
}

/// From what this host knows: the target is not asked.
pub fn status(json: bool) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let envs = source::active(&host)?.envs;
    let record = Record::read(&host)?;
    let age = record.last_success.map(|at| host.now().as_second() - at.as_second());
    let is_wanted = envs.host().appliance.backup.url.is_some();
    let is_old = is_wanted && age.is_none_or(|age| age > TOO_OLD_S);
    let code = u8::from(is_old || record.trouble.is_some());
    if json {
        print(&format!("{}\n", serde_json::to_string(&record)?))?;
        return Ok(code);
    }
    let mut text = match (&record.last_run, record.last_success) {
        (Some(run), Some(at)) => format!(
            "last complete run  {run}, {} ({} s)\n                   {} of files, {} of databases\n",
            at.strftime("%Y-%m-%d %H:%M UTC"),
            record.last_seconds.unwrap_or_default(),
            stats::size(record.last_bytes.unwrap_or_default()),
            stats::size(record.last_database_bytes.unwrap_or_default())
        ),
        _ => "last complete run  none\n".to_owned(),
    };
    if !is_wanted {
        text.push_str("target             none: 'appliance.backup.url' is not set, so nothing is backed up\n");
    }
    if is_old {
        text.push_str(
            "trouble            there was no complete run for 26 hours; see: journalctl -u appliance-backup\n",
        );
    }
    if let Some(trouble) = &record.trouble {
        text.push_str(&format!("trouble            {trouble}\n"));
    }
    text.push_str(&format!("data checked       up to part {} of 28\n", record.checked_part));
    print(&text)?;
    Ok(code)
}
