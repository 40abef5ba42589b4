//! What the rules look at: how things stand now. Only what is cheap: this is looked at every few seconds.

use crate::alert::{self, Spool};
use crate::backup::{Drill, Record};
use crate::env::Envs;
use crate::host::Host;
use crate::prepare::tls::{self, Place};
use crate::state::Status;
use crate::value::Phase;
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
const PRESSURE: &str = "/proc/pressure/memory";
const LAST_UPDATE: &str = "/app/etc/tags/update_last_call";

/// The rules that need an app's status.
const OF_APPS: [&str; 3] = ["app.failed", "app.degraded", "app.unsupervised"];

/// How things stand.
#[derive(Debug, Default, Clone)]
pub struct Facts {
    pub disks: Vec<Disk>,
    pub apps: Vec<App>,
    pub backup: Option<Backup>,
    pub certificates: Vec<Certificate>,
    /// When updates were looked for last, where that is done by itself.
    pub last_update: Option<Timestamp>,
    /// For how much of the last minute all that runs waited for memory, in percent.
    pub memory_stall: Option<f64>,
    pub channels: Vec<Waiting>,
    /// What could not be looked at: names of rules.
    pub unknown: BTreeSet<String>,
}

/// A file system.
#[derive(Debug, Clone)]
pub struct Disk {
    pub place: String,
    pub free: u64,
    pub size: u64,
    pub free_inodes: u64,
    pub inodes: u64,
}

/// An app, as its supervisor says.
#[derive(Debug, Clone)]
pub struct App {
    pub name: String,
    pub phase: Phase,
    /// The supervisor that said so is gone.
    pub is_stale: bool,
}

/// What is known of backups, where there is a target.
#[derive(Debug, Clone, Default)]
pub struct Backup {
    pub last_success: Option<Timestamp>,
    pub trouble: Option<String>,
    pub drill_trouble: Option<String>,
    pub last_drill: Option<Timestamp>,
}

/// The certificate of an app.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub app: String,
    /// Seconds since the epoch.
    pub not_after: i64,
}

/// A channel, and since when its oldest event waits.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub channel: String,
    pub since: Timestamp,
}

/// Looks at everything. What an env has to say is left out where there is none.
pub fn gather(envs: Option<&Envs>, channels: &[String], spool: Spool<'_>, host: &Host) -> Facts {
    let mut facts = Facts::default();
    disks(&mut facts, host);
    facts.memory_stall = host.read_text(PRESSURE, 4096).ok().flatten().and_then(|text| stall(&text));
    for channel in channels {
        match alert::oldest(channel, spool) {
            Ok(since) => facts.channels.extend(since.map(|since| Waiting { channel: channel.clone(), since })),
            Err(error) => lost(&mut facts, &["alert.undelivered"], &error),
        }
    }
    let Some(envs) = envs else { return facts };
    for env in envs.iter().filter(|env| env.app.is_enabled) {
        let name = env.app.name.as_str();
        match Status::read(host, Some(&env.tenant)) {
            Ok(Some(status)) => {
                let is_stale = status.is_stale(host);
                facts.apps.push(App { name: name.to_owned(), phase: status.phase, is_stale });
            }
            // Nobody has said anything since the boot: that is no end of what was wrong before.
            Ok(None) => facts.unknown.extend(OF_APPS.map(str::to_owned)),
            Err(error) => lost(&mut facts, &OF_APPS, &error),
        }
        match tls::current(host, &Place::of(&env.tenant)) {
            Some(pair) => {
                facts.certificates.push(Certificate { app: name.to_owned(), not_after: pair.facts().not_after });
            }
            None => drop(facts.unknown.insert("certificate.expires".to_owned())),
        }
    }
    let appliance = &envs.host().appliance;
    if appliance.backup.url.is_some() {
        match backup(host) {
            Ok(known) => facts.backup = Some(known),
            Err(error) => lost(&mut facts, &["backup.old", "backup.trouble", "backup.drill"], &error),
        }
    }
    if appliance.update.automatic {
        let tag = host.read_text(LAST_UPDATE, 64).ok().flatten();
        facts.last_update = tag.and_then(|text| Timestamp::from_second(text.trim().parse().ok()?).ok());
    }
    facts
}

fn lost(facts: &mut Facts, rules: &[&str], error: &anyhow::Error) {
    tracing::debug!("{error:#}");
    facts.unknown.extend(rules.iter().map(|rule| (*rule).to_owned()));
}

fn disks(facts: &mut Facts, host: &Host) {
    let mut seen = BTreeSet::new();
    for place in PLACES {
        match host.room(place) {
            Ok(Some(room)) if seen.insert(room.device) => facts.disks.push(Disk {
                place: place.to_owned(),
                free: room.free,
                size: room.size,
                free_inodes: room.free_inodes,
                inodes: room.inodes,
            }),
            Ok(_) => {}
            Err(error) => lost(facts, &["disk.full", "disk.inodes"], &error),
        }
    }
}

fn backup(host: &Host) -> anyhow::Result<Backup> {
    let (record, drill) = (Record::read(host)?, Drill::read(host)?);
    Ok(Backup {
        last_success: record.last_success,
        trouble: record.trouble,
        drill_trouble: drill.as_ref().and_then(|drill| drill.trouble.clone()),
        last_drill: drill.and_then(|drill| drill.last_passed),
    })
}

/// The line `full avg10=0.00 avg60=0.00 …` (Linux, Documentation/accounting/psi.rst).
fn stall(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("full "))?;
    line.split(' ').find_map(|part| part.strip_prefix("avg60="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_memory_is_read() {
        let text = "some avg10=1.00 avg60=2.00 avg300=3.00 total=4\nfull avg10=5.00 avg60=21.50 avg300=7.00 total=8\n";
        assert_eq!(stall(text), Some(21.5));
        assert_eq!(stall("full avg10=1"), None);
        assert_eq!(stall(""), None);
    }
}
