//! `appliance backup list` and `status`.

use super::super::{print, render, stats};
use crate::backup::{self, Drill, How, Manifest, Record, Restic, Shipping};
use crate::env::Env;
use crate::host::{Host, Mode};
use crate::source;
use anyhow::Result;
use serde::Serialize;

/// A complete run that is older is told as trouble: two nights have passed, or nearly.
const TOO_OLD_S: i64 = 26 * 3600;

/// A run so far in the future was made while the clock was wrong.
const AHEAD_S: i64 = 300;

/// A drill that passed so long ago is told as trouble: one was missed, and nearly a second one.
const DRILL_TOO_OLD_S: i64 = 10 * 24 * 3600;

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

/// What a drill has come to.
pub fn drill(drill: &Drill) -> String {
    let at = drill.at.strftime("%Y-%m-%d %H:%M UTC");
    let mut text = match &drill.trouble {
        None => format!("drilled            {at}, passed ({} s)\n", drill.seconds),
        Some(trouble) => format!("drilled            {at}, FAILED: {trouble}\n"),
    };
    for part in &drill.parts {
        let how = match part.how {
            How::Restored => "restored and compared",
            How::Counted => "rows counted in the dump; there was no room to restore it",
            How::NoRoom => "there was no room to restore it",
            How::None => "has no database",
        };
        let what = match &part.app {
            Some(app) => format!("{app}: run {}: {how}, {} files compared", part.run, part.files),
            None => format!("all databases as they were shipped last: {how}, {} files compared", part.files),
        };
        text.push_str(&format!("                   {what} ({} s)\n", part.seconds));
    }
    text
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

/// What `status --json` prints: the record of runs, and what was shipped between them.
#[derive(Debug, Serialize)]
struct Status<'a> {
    #[serde(flatten)]
    run: &'a Record,
    shipping: Option<&'a Shipped>,
    drill: Option<&'a Drill>,
}

/// What is shipped between runs, where it is wanted and there was a run.
#[derive(Debug, Serialize)]
struct Shipped {
    until: Option<jiff::Timestamp>,
    /// Nothing was shipped for six times as long as it should be.
    is_behind: bool,
    /// Why nothing can be shipped on this host.
    impossible: Option<String>,
    trouble: Option<String>,
}

/// So many times may shipping fail before it is told as trouble.
const MISSES: i64 = 6;

fn shipped(env: &Env, host: &Host) -> Result<Option<Shipped>> {
    let backup = &env.appliance.backup;
    let (Some(every), true) = (backup.continuous, backup.url.is_some()) else { return Ok(None) };
    let (record, shipping) = (Record::read(host)?, Shipping::read(host)?);
    let Some(first) = record.last_success else { return Ok(None) };
    if let Some(why) = shipping.impossible {
        return Ok(Some(Shipped { until: None, is_behind: false, impossible: Some(why), trouble: None }));
    }
    let last = shipping.last_success.unwrap_or(first);
    let age = host.now().as_second() - last.as_second();
    // One that takes long comes less often.
    let long = shipping.last_seconds.saturating_mul(20).min(backup::PAUSE);
    let is_behind = age > i64::from(every.minutes).saturating_mul(60 * MISSES).saturating_add(i64::try_from(long)?);
    Ok(Some(Shipped { until: shipping.last_success, is_behind, impossible: None, trouble: shipping.trouble }))
}

impl Shipped {
    fn text(&self) -> String {
        let at = |at: jiff::Timestamp| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        let until = self.until.map_or_else(|| "nothing yet".to_owned(), at);
        if let Some(why) = &self.impossible {
            return format!("not shipped        {why}\n");
        }
        let mut text = format!("shipped until      {until}\n");
        if self.is_behind {
            text.push_str(
                "trouble            changes are not shipped as they should be; see: journalctl -u appliance-ship\n",
            );
        }
        if let Some(trouble) = &self.trouble {
            text.push_str(&format!("                   the last attempt failed: {trouble}\n"));
        }
        text
    }
}

/// From what this host knows: the target is not asked.
pub fn status(json: bool) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let envs = source::active(&host)?.envs;
    let record = Record::read(&host)?;
    let age = record.last_success.map(|at| host.now().as_second() - at.as_second());
    let is_wanted = envs.host().appliance.backup.url.is_some();
    let is_old = is_wanted && age.is_none_or(|age| age > TOO_OLD_S);
    let is_ahead = age.is_some_and(|age| age < -AHEAD_S);
    let shipping = shipped(envs.host(), &host)?;
    let is_behind = shipping.as_ref().is_some_and(|shipped| shipped.is_behind);
    let drill = Drill::read(&host)?;
    let last_drill = drill.as_ref().and_then(|drill| drill.last_passed);
    let is_stale = envs.host().appliance.backup.drill.is_some()
        && last_drill.is_some_and(|at| host.now().as_second() - at.as_second() > DRILL_TOO_OLD_S);
    let is_running = drill.as_ref().is_some_and(|drill| drill.is_running(&host));
    let has_failed = is_stale || !is_running && drill.as_ref().is_some_and(|drill| drill.trouble.is_some());
    let code = u8::from(is_old || is_ahead || record.trouble.is_some() || is_behind || has_failed);
    if json {
        print(&format!(
            "{}\n",
            serde_json::to_string(&Status { run: &record, shipping: shipping.as_ref(), drill: drill.as_ref() })?
        ))?;
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
    if let Some(shipped) = &shipping {
        text.push_str(&shipped.text());
    }
    if let Some(last) = &drill {
        match is_running {
            true => {
                text.push_str(&format!("drill              running since {}\n", last.at.strftime("%Y-%m-%d %H:%M UTC")))
            }
            false => text.push_str(&self::drill(last)),
        }
        if is_stale {
            text.push_str("trouble            no drill has passed for 10 days; see: journalctl -u appliance-drill\n");
        }
    }
    if !is_wanted {
        text.push_str("target             none: 'appliance.backup.url' is not set, so nothing is backed up\n");
    }
    if is_old {
        text.push_str(
            "trouble            there was no complete run for 26 hours; see: journalctl -u appliance-backup\n",
        );
    }
    if is_ahead {
        text.push_str(
            "trouble            the last run lies in the future by this host's clock, so its age cannot be told; see: timedatectl\n",
        );
    }
    if let Some(trouble) = &record.trouble {
        text.push_str(&format!("trouble            {trouble}\n"));
    }
    text.push_str(&format!("data checked       up to part {} of 28\n", record.checked_part));
    print(&text)?;
    Ok(code)
}
