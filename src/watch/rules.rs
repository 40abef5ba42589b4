//! The rules: what is wrong, by what is known. Pure. Few, each with a remedy that names a command (docs/alerts.md).

use super::facts::{App, Backup, Disk, Facts};
use crate::alert::{Condition, Key, Round, Severity};
use crate::value::Phase;
use jiff::Timestamp;

/// A rule, as `appliance alert rules` lists it.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    pub name: &'static str,
    pub severity: Severity,
    /// When it fires.
    pub when: &'static str,
    /// For how long that must hold before it is told, in seconds.
    hold_s: i64,
    /// For how long it must not hold before it is over, in seconds.
    keep_s: i64,
}

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

macro_rules! rules {
    ($($id:ident: $name:literal, $severity:ident, hold $hold:expr, keep $keep:expr, $when:literal;)+) => {
        $(const $id: Rule =
            Rule { name: $name, severity: Severity::$severity, when: $when, hold_s: $hold, keep_s: $keep };)+
        /// All rules.
        pub const RULES: &[Rule] = &[$($id),+];
    };
}

rules! {
    DISK_FULL: "disk.full", Critical, hold MINUTE / 2, keep 2 * MINUTE, "less than 5 % of a file system is free";
    DISK_INODES: "disk.inodes", Critical, hold MINUTE / 2, keep 2 * MINUTE, "less than 5 % of a file system's inodes are free";
    MEMORY: "memory.pressure", Error, hold 5 * MINUTE, keep 10 * MINUTE, "all that runs waits for memory for more than 20 % of the time";
    APP_FAILED: "app.failed", Critical, hold 0, keep MINUTE, "an app is in the failed state";
    APP_DEGRADED: "app.degraded", Error, hold 5 * MINUTE, keep 5 * MINUTE, "a service of an app keeps dying";
    APP_UNSUPERVISED: "app.unsupervised", Critical, hold 5 * MINUTE, keep MINUTE, "an app's supervisor is gone";
    UPDATE_MISSED: "update.missed", Error, hold 0, keep 0, "no update was looked for in 8 days, though that is done by itself";
    CERTIFICATE: "certificate.expires", Error, hold 0, keep 0, "a certificate ends within 10 days; critical within 3";
    BACKUP_OLD: "backup.old", Critical, hold 0, keep 0, "the last complete run of the backup is older than 32 hours";
    BACKUP_TROUBLE: "backup.trouble", Error, hold 0, keep 0, "the last run of the backup was not complete";
    BACKUP_DRILL: "backup.drill", Critical, hold 0, keep 0, "the last drill showed that the backup cannot be restored";
    DRILL_OLD: "backup.drill-old", Error, hold 0, keep 0, "the last drill that passed is older than 35 days";
    UNDELIVERED: "alert.undelivered", Error, hold 0, keep 0, "a channel has not taken an alert for 30 minutes";
}

impl Rule {
    fn on(self, subject: &str, summary: String, remedy: String) -> Condition {
        let key = Key { rule: self.name.to_owned(), subject: subject.to_owned() };
        let Rule { severity, hold_s, keep_s, .. } = self;
        Condition { key, severity, summary, remedy, hold_s, keep_s, parents: Vec::new() }
    }
}

/// What holds.
pub fn judge(facts: &Facts, now: Timestamp) -> Round {
    let mut conditions: Vec<Condition> = facts.disks.iter().flat_map(disk).collect();
    if let Some(stall) = facts.memory_stall.filter(|stall| *stall > 20.0) {
        let summary = format!("for {stall:.0} % of the last minute all that runs waited for memory");
        conditions.push(MEMORY.on(
            "",
            summary,
            "appliance stats --no-stream shows who uses it; give the host more, or limit that service".to_owned(),
        ));
    }
    conditions.extend(facts.apps.iter().filter_map(app));
    if let Some(last) = facts.last_update.filter(|last| age(*last, now) > 8 * DAY) {
        let summary = format!("no update was looked for since {}", day(last));
        conditions.push(UPDATE_MISSED.on(
            "",
            summary,
            "systemctl status appliance-update.timer; journalctl -u appliance-update".to_owned(),
        ));
    }
    for certificate in &facts.certificates {
        let left = certificate.not_after - now.as_second();
        if left < 10 * DAY {
            let app = &certificate.app;
            let end = Timestamp::from_second(certificate.not_after).map_or_else(|_| "long ago".to_owned(), day);
            let summary = format!("the certificate of {app} ends {end}");
            let condition = CERTIFICATE.on(app, summary, "appliance cert show; appliance cert renew".to_owned());
            let severity = if left < 3 * DAY { Severity::Critical } else { condition.severity };
            conditions.push(Condition { severity, ..condition });
        }
    }
    conditions.extend(facts.backup.iter().flat_map(|known| backup(known, now)));
    for waiting in facts.channels.iter().filter(|waiting| age(waiting.since, now) > 30 * MINUTE) {
        let name = &waiting.channel;
        let summary =
            format!("the channel {name} has not taken an alert since {}", waiting.since.strftime("%H:%M UTC"));
        conditions.push(UNDELIVERED.on(
            name,
            summary,
            format!("appliance alert channels; appliance alert test {name}"),
        ));
    }
    Round { conditions, unknown: facts.unknown.clone() }
}

fn disk(disk: &Disk) -> Vec<Condition> {
    let Disk { place, free, size, free_inodes, inodes } = disk;
    let mut found = Vec::new();
    let is_low = |free: u64, all: u64| all > 0 && free.saturating_mul(20) < all;
    if is_low(*free, *size) {
        let summary = format!("{place} is full: {} MB of {} MB are free", free >> 20, size >> 20);
        let remedy =
            format!("du -xh --max-depth=3 {place} | sort -h | tail; journalctl --vacuum-size=200M; docker system df");
        found.push(DISK_FULL.on(place, summary, remedy));
    }
    if is_low(*free_inodes, *inodes) {
        let summary = format!("{place} takes no more files: {free_inodes} of {inodes} inodes are free");
        found.push(DISK_INODES.on(place, summary, format!("du -x --inodes --max-depth=3 {place} | sort -n | tail")));
    }
    found
}

fn app(app: &App) -> Option<Condition> {
    let name = app.name.as_str();
    if app.is_stale {
        let summary = format!("the supervisor of {name} is gone; what runs is not looked after");
        let remedy = "systemctl status appliance-supervisor; systemctl start appliance".to_owned();
        return Some(APP_UNSUPERVISED.on(name, summary, remedy));
    }
    match &app.phase {
        Phase::Failed { reason } => {
            // What a container printed stands in further lines, and stays on this host.
            let why = reason.lines().next().unwrap_or_default();
            let remedy = "appliance status; appliance logs; then appliance recover --start".to_owned();
            Some(APP_FAILED.on(name, format!("{name} is out of service: {why}"), remedy))
        }
        Phase::Running { degraded } if !degraded.is_empty() => {
            let services = degraded.join(", ");
            let remedy = format!("appliance logs {}", degraded.join(" "));
            Some(APP_DEGRADED.on(name, format!("{name} runs, but these services keep dying: {services}"), remedy))
        }
        _ => None,
    }
}

fn backup(known: &Backup, now: Timestamp) -> Vec<Condition> {
    let mut found = Vec::new();
    let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    let is_old = |last: &Timestamp, most: i64| age(*last, now) > most;
    if let Some(last) = known.last_success.filter(|last| is_old(last, 32 * HOUR)) {
        let summary = format!("the last complete backup is of {}", day(last));
        found.push(BACKUP_OLD.on("", summary, "appliance backup status; appliance backup run".to_owned()));
    }
    if let Some(trouble) = &known.trouble {
        let remedy = "appliance backup status; appliance backup run".to_owned();
        found.push(BACKUP_TROUBLE.on("", format!("the last backup was not complete: {}", first(trouble)), remedy));
    }
    if let Some(trouble) = &known.drill_trouble {
        let remedy = "appliance backup verify; appliance backup drill".to_owned();
        found.push(BACKUP_DRILL.on("", format!("the backup cannot be restored: {}", first(trouble)), remedy));
    }
    if let Some(last) = known.last_drill.filter(|last| is_old(last, 35 * DAY)) {
        let summary = format!("whether the backup can be restored was tried last {}", day(last));
        found.push(DRILL_OLD.on(
            "",
            summary,
            "systemctl status appliance-drill.timer; appliance backup drill".to_owned(),
        ));
    }
    found
}

/// How long ago that is, in seconds; the future is now.
fn age(at: Timestamp, now: Timestamp) -> i64 {
    (now.as_second() - at.as_second()).max(0)
}

fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::super::facts::{Certificate, Waiting};
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).expect("a time")
    }

    fn ago(seconds: i64) -> Timestamp {
        Timestamp::from_second(now().as_second() - seconds).expect("a time")
    }

    fn keys(facts: &Facts) -> Vec<String> {
        judge(facts, now()).conditions.iter().map(|found| found.key.to_string()).collect()
    }

    fn disk(free: u64, free_inodes: u64) -> Facts {
        let disk = Disk { place: "/data".to_owned(), free, size: 10_000, free_inodes, inodes: 1000 };
        Facts { disks: vec![disk], ..Facts::default() }
    }

    fn app(phase: Phase, is_stale: bool) -> Facts {
        Facts { apps: vec![App { name: "shop".to_owned(), phase, is_stale }], ..Facts::default() }
    }

    fn backup(known: Backup) -> Facts {
        Facts { backup: Some(known), ..Facts::default() }
    }

    /// Each rule just before it fires, and just after.
    #[test]
    fn each_rule_fires_beyond_its_threshold_and_not_before() {
        let certificate = |left: i64| Facts {
            certificates: vec![Certificate { app: "shop".to_owned(), not_after: now().as_second() + left }],
            ..Facts::default()
        };
        let waiting = |seconds: i64| Facts {
            channels: vec![Waiting { channel: "ops".to_owned(), since: ago(seconds) }],
            ..Facts::default()
        };
        let stall = |stall: f64| Facts { memory_stall: Some(stall), ..Facts::default() };
        let update = |seconds: i64| Facts { last_update: Some(ago(seconds)), ..Facts::default() };
        let run = |seconds: i64| backup(Backup { last_success: Some(ago(seconds)), ..Backup::default() });
        let drill = |seconds: i64| backup(Backup { last_drill: Some(ago(seconds)), ..Backup::default() });
        let trouble = |text: Option<&str>| backup(Backup { trouble: text.map(str::to_owned), ..Backup::default() });
        let drilled =
            |text: Option<&str>| backup(Backup { drill_trouble: text.map(str::to_owned), ..Backup::default() });
        let running =
            |degraded: &[&str]| Phase::Running { degraded: degraded.iter().map(|one| (*one).to_owned()).collect() };
        let failed = Phase::Failed { reason: "web died\nsecret output".to_owned() };
        let standby = Phase::Standby { reason: String::new() };
        let table = [
            ("disk.full:/data", disk(500, 50), disk(499, 50)),
            ("disk.inodes:/data", disk(500, 50), disk(500, 49)),
            ("memory.pressure", stall(20.0), stall(20.2)),
            ("app.failed:shop", app(standby, false), app(failed, false)),
            ("app.degraded:shop", app(running(&[]), false), app(running(&["worker"]), false)),
            ("app.unsupervised:shop", app(running(&[]), false), app(running(&[]), true)),
            ("update.missed", update(8 * DAY), update(8 * DAY + 1)),
            ("certificate.expires:shop", certificate(10 * DAY), certificate(10 * DAY - 1)),
            ("backup.old", run(32 * HOUR), run(32 * HOUR + 1)),
            ("backup.trouble", trouble(None), trouble(Some("the target is full"))),
            ("backup.drill", drilled(None), drilled(Some("a row is missing"))),
            ("backup.drill-old", drill(35 * DAY), drill(35 * DAY + 1)),
            ("alert.undelivered:ops", waiting(30 * MINUTE), waiting(30 * MINUTE + 1)),
        ];
        for (key, before, after) in &table {
            assert_eq!(keys(before), Vec::<String>::new(), "{key}");
            assert_eq!(keys(after), [(*key).to_owned()]);
        }
        // None of them is left out.
        let tested = table.map(|(key, ..)| key.split(':').next().unwrap_or_default());
        assert_eq!(RULES.iter().map(|rule| rule.name).collect::<Vec<_>>().len(), tested.len());
        assert!(RULES.iter().all(|rule| tested.contains(&rule.name)));
    }

    #[test]
    fn the_docs_list_every_rule() {
        let docs = include_str!("../../docs/alerts.md");
        for rule in RULES {
            let row = format!("| `{}` | {} | {} |\n", rule.name, rule.severity.name(), rule.when);
            assert!(docs.contains(&row), "{row}");
        }
    }

    #[test]
    fn what_is_said_has_a_remedy_and_nothing_that_a_container_printed() {
        let failed = Phase::Failed { reason: "web died\nsecret output".to_owned() };
        let found = judge(&app(failed, false), now()).conditions;
        assert_eq!(found[0].summary, "shop is out of service: web died");
        assert!(found[0].remedy.contains("appliance recover"));
        let certificates = vec![Certificate { app: "shop".to_owned(), not_after: now().as_second() + 3 * DAY - 1 }];
        let found = judge(&Facts { certificates, ..Facts::default() }, now()).conditions;
        assert_eq!(found[0].severity, Severity::Critical);
        // A clock that was ahead makes nothing old.
        assert_eq!(
            keys(&backup(Backup { last_success: Some(ago(-1000 * DAY)), ..Backup::default() })),
            Vec::<String>::new()
        );
        // A file system that counts no inodes has enough of them.
        let mut without = disk(5000, 0);
        without.disks[0].inodes = 0;
        assert_eq!(keys(&without), Vec::<String>::new());
    }
}
