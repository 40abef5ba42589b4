//! What the rules look at: how things stand now. Most of it costs next to nothing and is looked at every few seconds; what asks another
//! process is looked at once a minute (`slow.rs`).

mod database;
mod kernel;
mod slow;

pub use database::Database;
pub use slow::{BETWEEN as BETWEEN_SLOW, ClientCa, Slow};

use super::alive::Answered;
use super::trend::Trend;
use crate::alert::{self, Spool};
use crate::backup::{Drill, Record, Shipping};
use crate::env::Envs;
use crate::host::Host;
use crate::prepare::postgres::archive;
use crate::prepare::tls::{self, Place};
use crate::state::{Ledger, Status};
use crate::value::{Phase, Rule, rule};
use jiff::Timestamp;
use std::collections::BTreeSet;

/// The file systems that are looked at, where they are there and on a device of their own.
const PLACES: [&str; 10] = [
    "/",
    "/boot",
    "/boot/efi",
    "/data",
    "/volatile",
    "/var",
    "/var/lib/appliance",
    "/var/lib/docker",
    "/var/lib/postgresql",
    "/var/log",
];
const LAST_UPDATE: &str = "/app/etc/tags/update_last_call";
/// Packages that were replaced while something runs that uses them leave it (Debian Policy, 6.5; unattended-upgrades).
const REBOOT: &str = "/run/reboot-required";

/// The rules that need an app's status.
const OF_APPS: [Rule; 4] = [rule::APP_FAILED, rule::APP_DEGRADED, rule::APP_UNSUPERVISED, rule::UPDATE_FAILED];
/// The rules that an env has nothing to say to.
const OF_HOST: [Rule; 4] = [rule::DISK_FULL, rule::DISK_INODES, rule::RAID_DEGRADED, rule::MEMORY_PRESSURE];
const OF_BACKUPS: [&str; 5] = [
    rule::BACKUP_OLD.name,
    rule::BACKUP_TROUBLE.name,
    rule::BACKUP_SHIPPING.name,
    rule::BACKUP_DRILL.name,
    rule::DRILL_OLD.name,
];

/// How things stand.
#[derive(Debug, Default, Clone)]
pub struct Facts {
    pub disks: Vec<Disk>,
    pub apps: Vec<App>,
    pub backup: Option<Backup>,
    pub certificates: Vec<Certificate>,
    /// When updates were looked for last, where that is done by itself; inside, none: never, as far as is known.
    pub last_update: Option<Option<Timestamp>>,
    /// For how much of the last minute all that runs waited for memory, in percent.
    pub memory_stall: Option<f64>,
    /// RAID arrays that lack a disk, and their states.
    pub arrays: Vec<(String, String)>,
    /// Whether packages wait for a reboot.
    pub needs_reboot: bool,
    pub channels: Vec<Reached>,
    /// There is an env, and it names nobody to be told.
    pub has_no_channel: bool,
    /// What the dead man's switch answered last, where there is one.
    pub alive: Option<Answered>,
    /// What is looked at less often.
    pub slow: Slow,
    /// What could not be looked at: names of rules.
    pub unknown: BTreeSet<String>,
}

/// A file system.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    pub place: String,
    pub free: u64,
    pub size: u64,
    pub free_inodes: u64,
    pub inodes: u64,
    /// In how many seconds it is full, by the last hours.
    pub left_s: Option<i64>,
}

/// An app, as its supervisor and its ledger say.
#[derive(Debug, Clone)]
pub struct App {
    pub name: String,
    pub phase: Phase,
    /// The supervisor that said so is gone.
    pub is_stale: bool,
    /// Why the last update did not go through.
    pub update_trouble: Option<String>,
}

/// What is known of backups, where there is a target.
#[derive(Debug, Clone, Default)]
pub struct Backup {
    pub last_success: Option<Timestamp>,
    pub trouble: Option<String>,
    pub drill_trouble: Option<String>,
    pub last_drill: Option<Timestamp>,
    /// What is shipped between the runs, where that is asked for.
    pub shipping: Option<Shipped>,
}

/// How shipping stands.
#[derive(Debug, Clone, Default)]
pub struct Shipped {
    pub last_success: Option<Timestamp>,
    /// How often it is done, in seconds.
    pub every_s: i64,
    /// Why nothing can be shipped.
    pub impossible: Option<String>,
    pub trouble: Option<String>,
}

/// The certificate of an app.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub app: String,
    /// Seconds since the epoch.
    pub not_after: i64,
}

/// A channel: whether it has ever taken anything, and since when it has not taken what waits.
#[derive(Debug, Clone)]
pub struct Reached {
    pub channel: String,
    pub has_taken: bool,
    pub waiting_since: Option<Timestamp>,
}

/// A process that the kernel has killed for want of memory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Killed {
    pub process: String,
    /// The container's identifier, in short.
    pub container: Option<String>,
}

/// What is looked at every few seconds. What an env has to say is left out where there is none.
pub fn gather(envs: Option<&Envs>, channels: &[String], trend: &mut Trend, spool: Spool<'_>, host: &Host) -> Facts {
    let mut facts = Facts::default();
    disks(&mut facts, trend, host);
    match kernel::memory_stall(host) {
        Ok(stall) => facts.memory_stall = stall,
        Err(error) => lost(&mut facts.unknown, &[rule::MEMORY_PRESSURE.name], &error),
    }
    match kernel::degraded_arrays(host) {
        Ok(arrays) => facts.arrays = arrays,
        Err(error) => lost(&mut facts.unknown, &[rule::RAID_DEGRADED.name], &error),
    }
    facts.needs_reboot = host.exists(REBOOT);
    facts.has_no_channel = envs.is_some() && channels.is_empty();
    for channel in channels {
        let looked = alert::health(channel, spool).and_then(|health| Ok((health, alert::oldest(channel, spool)?)));
        match looked {
            Ok((health, waiting)) => facts.channels.push(Reached {
                channel: channel.clone(),
                has_taken: health.last_success.is_some(),
                // In quiet hours an event waits although the receiver is there.
                waiting_since: waiting.and_then(|waiting| Some(health.failing_since?.max(waiting))),
            }),
            Err(error) => {
                lost(&mut facts.unknown, &[rule::ALERT_UNDELIVERED.name, rule::ALERT_UNTESTED.name], &error);
            }
        }
    }
    match envs {
        Some(envs) => of_envs(&mut facts, envs, host),
        // What was wrong with apps is not over because nobody can say which there are.
        None => {
            let others = rule::RULES.iter().filter(|rule| !OF_HOST.iter().any(|one| one.name == rule.name));
            facts.unknown.extend(others.map(|rule| rule.name.to_owned()));
        }
    }
    facts
}

/// The rules' alerts of one thing.
fn about(rules: &[Rule], subject: &str) -> Vec<String> {
    rules.iter().map(|rule| format!("{}:{subject}", rule.name)).collect()
}

fn of_envs(facts: &mut Facts, envs: &Envs, host: &Host) {
    for env in envs.iter().filter(|env| env.app.is_enabled) {
        let name = env.app.name.as_str();
        match Status::read(host, Some(&env.tenant)) {
            Ok(Some(status)) => {
                let update_trouble = update_trouble(facts, env, host);
                let is_stale = status.is_stale(host);
                // On its way up it has not come up yet.
                let is_moving =
                    matches!(status.phase, Phase::Preparing { .. } | Phase::Starting { .. } | Phase::Updating { .. });
                if is_stale || is_moving {
                    facts.unknown.extend(about(&[rule::APP_FAILED, rule::APP_DEGRADED], name));
                }
                facts.apps.push(App { name: name.to_owned(), phase: status.phase, is_stale, update_trouble });
            }
            // Nobody has said anything since the boot: that is no end of what was wrong before.
            Ok(None) => facts.unknown.extend(about(&OF_APPS, name)),
            Err(error) => {
                tracing::debug!("{error:#}");
                facts.unknown.extend(about(&OF_APPS, name));
            }
        }
        match tls::current(host, &Place::of(&env.tenant)) {
            Some(pair) => {
                facts.certificates.push(Certificate { app: name.to_owned(), not_after: pair.facts().not_after });
            }
            None => facts.unknown.extend(about(&[rule::CERTIFICATE], name)),
        }
    }
    let env = envs.host();
    if env.appliance.backup.url.is_some() {
        match backup(envs, &mut facts.unknown, host) {
            Ok(known) => facts.backup = Some(known),
            Err(error) => lost(&mut facts.unknown, &OF_BACKUPS, &error),
        }
    }
    if env.appliance.update.automatic {
        match host.read_text(LAST_UPDATE, 64) {
            // A tag that holds no time tells as little as none.
            Ok(tag) => {
                facts.last_update = Some(tag.and_then(|tag| Timestamp::from_second(tag.trim().parse().ok()?).ok()))
            }
            Err(error) => lost(&mut facts.unknown, &[rule::UPDATE_MISSED.name], &error),
        }
    }
}

/// Why the last update of an app did not go through, if it did not and nothing has been put in place since.
fn update_trouble(facts: &mut Facts, env: &crate::env::Env, host: &Host) -> Option<String> {
    match Ledger::read_for(host, &env.app.name) {
        Ok(ledger) => {
            let last =
                ledger.last.filter(|last| ![Ledger::DONE, Ledger::WITHDRAWN].contains(&last.outcome.as_str()))?;
            let is_newer = ledger.current.as_ref().is_some_and(|current| current.since > last.at);
            (!is_newer && ledger.in_flight.is_none()).then_some(last.outcome)
        }
        Err(error) => {
            tracing::debug!("{error:#}");
            facts.unknown.extend(about(&[rule::UPDATE_FAILED], env.app.name.as_str()));
            None
        }
    }
}

fn lost(unknown: &mut BTreeSet<String>, rules: &[&str], error: &anyhow::Error) {
    tracing::debug!("{error:#}");
    unknown.extend(rules.iter().map(|rule| (*rule).to_owned()));
}

fn disks(facts: &mut Facts, trend: &mut Trend, host: &Host) {
    let mut seen = BTreeSet::new();
    for place in PLACES {
        match host.room(place) {
            Ok(Some(room)) if seen.insert(room.device) => facts.disks.push(Disk {
                place: place.to_owned(),
                free: room.free,
                size: room.size,
                free_inodes: room.free_inodes,
                inodes: room.inodes,
                left_s: None,
            }),
            Ok(_) => {}
            Err(error) => lost(&mut facts.unknown, &[rule::DISK_FULL.name, rule::DISK_INODES.name], &error),
        }
    }
    let free: Vec<(&str, u64)> = facts.disks.iter().map(|disk| (disk.place.as_str(), disk.free)).collect();
    trend.add(&free, host.now());
    for disk in &mut facts.disks {
        disk.left_s = trend.left_s(&disk.place);
        if !trend.is_known(&disk.place) {
            facts.unknown.extend(about(&[rule::DISK_FORECAST], &disk.place));
        }
    }
}

fn backup(envs: &Envs, unknown: &mut BTreeSet<String>, host: &Host) -> anyhow::Result<Backup> {
    let (record, mut drill) = (Record::read(host)?, Drill::read(host)?);
    // One that has begun counts as failed until it ends: while it runs, nobody knows yet.
    if let Some(drill) = drill.as_mut().filter(|drill| drill.is_running(host)) {
        drill.trouble = None;
        unknown.insert(rule::BACKUP_DRILL.name.to_owned());
    }
    let env = envs.host();
    let shipping = match archive::is_wanted(env) {
        true => Some(Shipping::read(host)?).map(|known| Shipped {
            last_success: known.last_success,
            every_s: env.appliance.backup.continuous.as_ref().map_or(0, |every| i64::from(every.minutes) * 60),
            impossible: known.impossible,
            trouble: known.trouble,
        }),
        false => None,
    };
    Ok(Backup {
        last_success: record.last_success,
        trouble: record.trouble,
        drill_trouble: drill.as_ref().and_then(|drill| drill.trouble.clone()),
        last_drill: drill.and_then(|drill| drill.last_passed),
        shipping,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use crate::host::fake::TestHost;
    use crate::state::Process;

    /// The file of a drill that has begun says that it was cut off, for whoever comes after it was.
    #[test]
    fn a_drill_that_runs_has_not_failed_yet() {
        let test = TestHost::new();
        let text = "appliance: {domain: a.example.org, backup: {url: 'file:///srv/x', encrypt: 0123456789abcdef0123456789abcdef}}\napp: {name: shop, git: {source: /srv/x}}\n";
        let envs = Env::parse(text.as_bytes()).envs.expect("it is an env");
        let drill = |process: Process| {
            let at = "2026-01-01T00:00:00Z";
            let drill = serde_json::json!({ "at": at, "parts": [], "trouble": "it was cut off", "seconds": 0, "process": process });
            let text = drill.to_string();
            test.host.put("/data/appliance/host/drill.json", text.as_bytes(), 0o600).expect("it can be written");
        };
        for directory in ["/data", "/data/appliance", "/data/appliance/host"] {
            test.host.ensure_dir(directory, &crate::host::Dir::plain()).expect("it can be made");
        }
        // As the kernel has it: the 22nd field is when it started.
        let stat = format!("7 (appliance) S {}4711 0\n", "0 ".repeat(18));
        test.host.ensure_dir("/proc", &crate::host::Dir::plain()).expect("it can be made");
        test.host.ensure_dir("/proc/7", &crate::host::Dir::plain()).expect("it can be made");
        test.host.put("/proc/7/stat", stat.as_bytes(), 0o444).expect("it can be written");
        let look = || {
            let facts = gather(Some(&envs), &[], &mut Trend::default(), Spool(&test.host), &test.host);
            let trouble = facts.backup.expect("there is a target").drill_trouble;
            (trouble.is_some(), facts.unknown.contains(rule::BACKUP_DRILL.name))
        };
        drill(Process { pid: 7, started: 4711 });
        assert_eq!(look(), (false, true));
        // It was killed, and its number is another one's now.
        drill(Process { pid: 7, started: 4710 });
        assert_eq!(look(), (true, false));
    }
}
