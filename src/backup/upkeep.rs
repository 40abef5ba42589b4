//! What is done to a repository behind each run: its structure and a part of its data are checked, what is no longer kept is removed, and
//! room is given back.

use super::drilled::Drill;
use super::record::Record;
use super::restic::Restic;
use super::runs::{self, Found, HOST};
use super::shipping::Shipping;
use super::thin;
use super::told::Snapshot;
use crate::env::Env;
use crate::host::Host;
use crate::state::DrillLock;
use anyhow::{Result, bail};
use jiff::Timestamp;
use std::collections::BTreeSet;

/// In so many runs all of the data is read once.
const PARTS: u32 = 28;
/// How often room is given back, in seconds.
const PRUNE_EVERY_S: i64 = 7 * 24 * 3600;
/// A run without a manifest is not begun anew after this, in seconds: it was cut off.
const CUT_OFF_AFTER_S: i64 = 2 * 24 * 3600;

/// Checks the repository, and thins it out.
///
/// # Errors
/// It is damaged, or something in it cannot be removed.
pub async fn keep_up(
    restic: &Restic<'_>,
    env: &Env,
    machine: &str,
    may_remove: bool,
    record: &mut Record,
    host: &Host,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<()> {
    let part = record.checked_part % PARTS + 1;
    progress(&format!("checking the repository, part {part} of {PARTS} of its data"));
    restic.check(&format!("{part}/{PARTS}")).await?;
    record.checked_part = part;
    if !may_remove {
        tracing::warn!("the clock is not synchronised, so nothing is removed from the repository");
        return Ok(());
    }
    // A drill reads without a lock of the repository's: what it reads must not go away meanwhile.
    let Some(_no_drill) = DrillLock::try_take(host, "backup run")? else {
        tracing::warn!("a drill is at work, so nothing is removed from the repository this time");
        return Ok(());
    };
    Shipping::read(host)?.forget(restic, host).await?;
    let (now, found) = (host.now(), runs::runs(restic).await?);
    let drilled = Drill::read(host)?;
    let (ids, wrong) = to_remove(&found, env, machine, drilled.as_ref(), now);
    if !ids.is_empty() {
        progress(&format!("removing {} snapshots", ids.len()));
        restic.forget(&ids).await?;
        let left = restic.snapshots().await?;
        if let Some(still) = left.iter().find(|snapshot| ids.contains(&snapshot.id)) {
            bail!("the repository keeps what was to be removed ({}); is it append-only?", still.id);
        }
    }
    let due = record.last_prune.is_none_or(|last| now.as_second() - last.as_second() >= PRUNE_EVERY_S);
    if due {
        progress("giving room back");
        restic.prune().await?;
        record.last_prune = Some(now);
    }
    wrong
}

/// The snapshots that go, and what kept some from it.
fn to_remove(
    found: &Found,
    env: &Env,
    machine: &str,
    drilled: Option<&Drill>,
    now: Timestamp,
) -> (Vec<String>, Result<()>) {
    let keep = env.appliance.backup.keep;
    // Each app by itself: one that fails for weeks loses no run to those of the others.
    let (mut gone, mut wrong) = (BTreeSet::new(), Ok(()));
    for (app, times) in found.times(machine) {
        let drilled = drilled.and_then(|drill| drill.passed.get(app.as_str())).map(String::as_str);
        match thin::to_forget(&times, drilled, keep, now) {
            Ok(ids) => gone.extend(ids.into_iter().map(|id| (app.as_str().to_owned(), id))),
            // Told in the end: the others are thinned out all the same.
            Err(error) => wrong = wrong.and(Err(error.context(format!("the runs of {app}")))),
        }
    }
    let mut ids = ids_of(found, &gone, machine, now);
    match thin::shipped_to_forget(&found.bases_of(machine), &found.shipments_of(machine), keep.continuous_days, now) {
        Ok(shipped) => ids.extend(shipped),
        Err(error) => wrong = wrong.and(Err(error)),
    }
    (ids, wrong)
}

/// Snapshots of runs that go, by app and id, and of runs of ours that were cut off long ago. What is the host's goes with the last app's part.
fn ids_of(found: &Found, gone: &BTreeSet<(String, String)>, machine: &str, now: jiff::Timestamp) -> Vec<String> {
    let is_gone = |app: &str, run: &str| gone.contains(&(app.to_owned(), run.to_owned()));
    let stays = |app: &str, run: &str| {
        let is_it = |known: &&runs::Run| known.id == run && (app == HOST || known.app.as_str() == app);
        found.runs.iter().filter(is_it).any(|known| !is_gone(known.app.as_str(), run))
    };
    let goes = |snapshot: &&Snapshot| {
        let (Some(run), Some(app)) = (snapshot.tag("run"), snapshot.tag("app")) else { return false };
        let is_ours = snapshot.tag("machine").is_some_and(|of| machine.starts_with(of));
        let is_old = now.as_second() - snapshot.time.as_second() > CUT_OFF_AFTER_S;
        let was_complete = found.runs.iter().any(|known| known.id == run && (app == HOST || known.app.as_str() == app));
        is_ours && !stays(app, run) && (was_complete || is_old)
    };
    found.snapshots.iter().filter(goes).map(|snapshot| snapshot.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ones_own_is_removed_and_what_was_cut_off_only_later() {
        let now: jiff::Timestamp = "2026-11-30T00:00:00Z".parse().expect("a time");
        let snapshot = |id: &str, run: &str, hours: i64, machine: &str| Snapshot {
            id: id.to_owned(),
            time: now - jiff::SignedDuration::from_hours(hours),
            tags: vec![format!("run={run}"), format!("machine={machine}"), "app=shop".to_owned()],
            paths: Vec::new(),
        };
        let of = |app: &str, snapshot: Snapshot| {
            let tags = snapshot.tags.iter().map(|tag| tag.replace("app=shop", &format!("app={app}"))).collect();
            Snapshot { tags, ..snapshot }
        };
        let complete = |app: &str, run: &str| runs::Run {
            id: run.to_owned(),
            app: app.parse().expect("it is a name"),
            at: now,
            machine: "aa".to_owned(),
            generation: 1,
            serial: 0,
            snapshot: "m".to_owned(),
        };
        let found = Found {
            bases: Vec::new(),
            shipments: Vec::new(),
            runs: vec![
                complete("shop", "gone"),
                complete("shop", "half"),
                complete("wiki", "half"),
                complete("shop", "stays"),
            ],
            snapshots: vec![
                snapshot("1", "gone", 1, "aa"),
                of("-", snapshot("2", "gone", 1, "aa")),
                snapshot("3", "gone", 1, "bb"),
                // One app's part goes, and another one's stays, with what is the host's.
                snapshot("4", "half", 1, "aa"),
                of("wiki", snapshot("5", "half", 1, "aa")),
                of("-", snapshot("6", "half", 1, "aa")),
                snapshot("7", "stays", 99, "aa"),
                snapshot("8", "cut off", 49, "aa"),
                of("-", snapshot("9", "cut off", 49, "aa")),
                snapshot("10", "at work", 1, "aa"),
            ],
        };
        let gone = [("shop", "gone"), ("shop", "half")].map(|(app, run)| (app.to_owned(), run.to_owned())).into();
        assert_eq!(ids_of(&found, &gone, "aa00", now), ["1", "2", "4", "8", "9"]);
    }
}
