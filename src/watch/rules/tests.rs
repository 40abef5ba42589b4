//! Each rule just before it fires and just after, and what is said.

use super::*;
use crate::alert::Condition;
use crate::value::rule::{self, Limit};
use crate::value::{Phase, Severity};
use crate::watch::facts::{App, Backup, Certificate, ClientCa, Database, Disk, Killed, Shipped, Slow};

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("a time")
}

fn ago(seconds: i64) -> Timestamp {
    Timestamp::from_second(now().as_second() - seconds).expect("a time")
}

fn found(facts: &Facts) -> Vec<Condition> {
    judge(facts, &RuleLimits::default(), now()).conditions
}

fn keys(facts: &Facts) -> Vec<String> {
    found(facts).iter().map(|found| found.key.to_string()).collect()
}

fn disk(free: u64, free_inodes: u64, left_s: Option<i64>) -> Facts {
    let disk = Disk { place: "/data".to_owned(), free, size: 10_000, free_inodes, inodes: 1000, left_s };
    Facts { disks: vec![disk], ..Facts::default() }
}

fn app(phase: Phase, is_stale: bool, update_trouble: Option<&str>) -> Facts {
    let update_trouble = update_trouble.map(str::to_owned);
    Facts { apps: vec![App { name: "shop".to_owned(), phase, is_stale, update_trouble }], ..Facts::default() }
}

fn running(degraded: &[&str]) -> Phase {
    Phase::Running { degraded: degraded.iter().map(|one| (*one).to_owned()).collect() }
}

/// Of a host whose last run was good.
fn backup(known: Backup) -> Facts {
    let (last_success, last_drill) = (known.last_success.or(Some(ago(0))), known.last_drill.or(Some(ago(0))));
    Facts { backup: Some(Backup { last_success, last_drill, ..known }), ..Facts::default() }
}

fn shipped(seconds: i64, every_s: i64) -> Facts {
    let shipping = Some(Shipped { last_success: Some(ago(seconds)), every_s, ..Shipped::default() });
    backup(Backup { shipping, ..Backup::default() })
}

fn slow(slow: Slow) -> Facts {
    Facts { slow, ..Facts::default() }
}

fn database(known: Database) -> Facts {
    slow(Slow { database: Some(Ok(Database { most: 100, ..known })), ..Slow::default() })
}

fn certificate(left: i64) -> Facts {
    let certificates = vec![Certificate { app: "shop".to_owned(), not_after: now().as_second() + left }];
    Facts { certificates, ..Facts::default() }
}

fn client_ca(ends: Result<i64, String>) -> Facts {
    let ends = ends.map(|left| now().as_second() + left);
    slow(Slow { client_authorities: vec![ClientCa { app: "shop".to_owned(), ends }], ..Slow::default() })
}

fn channel(has_taken: bool, waiting: Option<i64>) -> Facts {
    let waiting_since = waiting.map(ago);
    Facts { channels: vec![Reached { channel: "ops".to_owned(), has_taken, waiting_since }], ..Facts::default() }
}

type Case = (&'static str, Facts, Facts);

fn of_host() -> Vec<Case> {
    let stall = |stall: f64| Facts { memory_stall: Some(stall), ..Facts::default() };
    let reboot = Facts { needs_reboot: true, ..Facts::default() };
    let nobody = Facts { has_no_channel: true, ..Facts::default() };
    let array = Facts { arrays: vec![("md1".to_owned(), "[U_]".to_owned())], ..Facts::default() };
    let killed = [Killed { process: "python3".to_owned(), container: Some("0123456789ab".to_owned()) }].into();
    let unit = |name: &str| slow(Slow { failed_units: vec![name.to_owned()], ..Slow::default() });
    let clock = |is_set: bool| slow(Slow { is_clock_set: Some(is_set), ..Slow::default() });
    let alive = |seconds: i64| Facts { alive: Some(Answered::NotSince(ago(seconds))), ..Facts::default() };
    vec![
        ("disk.full:/data", disk(500, 50, None), disk(499, 50, None)),
        ("disk.inodes:/data", disk(500, 50, None), disk(500, 49, None)),
        ("disk.forecast:/data", disk(4999, 50, Some(DAY)), disk(4999, 50, Some(DAY - 1))),
        ("disk.forecast:/data", disk(5000, 50, Some(HOUR)), disk(4999, 50, Some(HOUR))),
        ("raid.degraded:md1", Facts::default(), array),
        ("memory.pressure", stall(20.0), stall(20.2)),
        ("memory.oom:0123456789ab", Facts::default(), slow(Slow { killed, ..Slow::default() })),
        ("unit.failed:cron.service", unit("appliance-ship.service"), unit("cron.service")),
        ("clock.unsynchronized", clock(true), clock(false)),
        ("reboot.waiting", Facts::default(), reboot),
        ("alert.nobody", Facts::default(), nobody),
        ("env.broken", Facts::default(), slow(Slow { env_error: Some((3, 5)), ..Slow::default() })),
        ("alert.undelivered:ops", channel(true, Some(30 * MINUTE)), channel(true, Some(30 * MINUTE + 1))),
        ("alert.untested:ops", channel(true, None), channel(false, None)),
        ("alert.alive", alive(30 * MINUTE), alive(30 * MINUTE + 1)),
    ]
}

fn of_apps() -> Vec<Case> {
    let update = |seconds: i64| Facts { last_update: Some(Some(ago(seconds))), ..Facts::default() };
    let never = Facts { last_update: Some(None), ..Facts::default() };
    let failed = Phase::Failed { reason: "web died\nsecret output".to_owned() };
    let standby = Phase::Standby { reason: String::new() };
    let refused = Some("the migration failed\nsecret output");
    vec![
        ("app.failed:shop", app(standby, false, None), app(failed, false, None)),
        ("app.degraded:shop", app(running(&[]), false, None), app(running(&["worker"]), false, None)),
        ("app.unsupervised:shop", app(running(&[]), false, None), app(running(&[]), true, None)),
        ("update.failed:shop", app(running(&[]), false, None), app(running(&[]), false, refused)),
        ("update.missed", update(8 * DAY), update(8 * DAY + 1)),
        ("update.missed", update(0), never),
        ("certificate.expires:shop", certificate(10 * DAY), certificate(10 * DAY - 1)),
        ("client-ca.expires:shop", client_ca(Ok(3 * DAY)), client_ca(Ok(3 * DAY - 1))),
        ("client-ca.expires:shop", client_ca(Ok(9 * DAY)), client_ca(Err("it is broken".to_owned()))),
    ]
}

fn of_data() -> Vec<Case> {
    let run = |seconds: i64| backup(Backup { last_success: Some(ago(seconds)), ..Backup::default() });
    let last_drill = Some(ago(0));
    let none = Facts { backup: Some(Backup { last_drill, ..Backup::default() }), ..Facts::default() };
    let last_success = Some(ago(0));
    let undrilled = Facts { backup: Some(Backup { last_success, ..Backup::default() }), ..Facts::default() };
    let troubled = Some(Shipped { trouble: Some("no base".to_owned()), ..Shipped::default() });
    let drill = |seconds: i64| backup(Backup { last_drill: Some(ago(seconds)), ..Backup::default() });
    let trouble = |text: Option<&str>| backup(Backup { trouble: text.map(str::to_owned), ..Backup::default() });
    let drilled = |text: Option<&str>| backup(Backup { drill_trouble: text.map(str::to_owned), ..Backup::default() });
    let impossible = Some(Shipped { impossible: Some("no archive".to_owned()), ..Shipped::default() });
    let away = slow(Slow { database: Some(Err("Connection refused".to_owned())), ..Slow::default() });
    let connections = |connections: u64| database(Database { connections, ..Database::default() });
    let transaction = |transaction_s: i64| database(Database { transaction_s, ..Database::default() });
    let age = |age: u64| database(Database { age, ..Database::default() });
    let sorted = Database { sorted_otherwise: vec!["shop".to_owned()], ..Database::default() };
    let well = || database(Database::default());
    vec![
        ("database.away", well(), away),
        ("database.connections", connections(80), connections(81)),
        ("database.transaction", transaction(HOUR), transaction(HOUR + 1)),
        ("database.wraparound", age(1_500_000_000), age(1_500_000_001)),
        ("database.collation:shop", well(), database(sorted)),
        ("backup.old", run(32 * HOUR), run(32 * HOUR + 1)),
        ("backup.old", run(0), none),
        ("backup.trouble", trouble(None), trouble(Some("the target is full"))),
        ("backup.shipping", shipped(HOUR, 300), shipped(HOUR + 1, 300)),
        // Where it is done once an hour, one attempt may be missed.
        ("backup.shipping", shipped(2 * HOUR, 3600), shipped(2 * HOUR + 1, 3600)),
        ("backup.shipping", run(0), backup(Backup { shipping: impossible, ..Backup::default() })),
        ("backup.shipping", run(0), backup(Backup { shipping: troubled, ..Backup::default() })),
        ("backup.drill-old", drill(0), undrilled),
        ("backup.drill", drilled(None), drilled(Some("a row is missing"))),
        ("backup.drill-old", drill(35 * DAY), drill(35 * DAY + 1)),
    ]
}

#[test]
fn each_rule_fires_beyond_its_threshold_and_not_before() {
    let table: Vec<Case> = of_host().into_iter().chain(of_apps()).chain(of_data()).collect();
    for (key, before, after) in &table {
        assert_eq!(keys(before), Vec::<String>::new(), "{key}");
        assert_eq!(keys(after), [(*key).to_owned()]);
    }
    // None of them is left out.
    let is_tested = |rule: &&Rule| table.iter().any(|(key, ..)| key.split(':').next() == Some(rule.name));
    let untested: Vec<&str> = RULES.iter().filter(|rule| !is_tested(rule)).map(|rule| rule.name).collect();
    assert_eq!(untested, Vec::<&str>::new());
}

#[test]
fn a_limit_of_ones_own_holds_and_a_rule_that_is_off_is_silent() {
    let mut limits = RuleLimits::default();
    for (rule, text) in [(&rule::DISK_FULL, "20%"), (&rule::BACKUP_OLD, "2d"), (&rule::APP_FAILED, "off")] {
        limits.set(rule, text).expect("it is a limit");
    }
    let keys = |facts: &Facts| -> Vec<String> {
        judge(facts, &limits, now()).conditions.iter().map(|found| found.key.to_string()).collect()
    };
    assert_eq!(keys(&disk(1999, 999, None)), ["disk.full:/data"]);
    assert_eq!(keys(&disk(2000, 999, None)), Vec::<String>::new());
    let run = |seconds: i64| backup(Backup { last_success: Some(ago(seconds)), ..Backup::default() });
    assert_eq!((keys(&run(2 * DAY)).len(), keys(&run(2 * DAY + 1)).len()), (0, 1));
    let round = judge(&Facts::default(), &limits, now());
    assert_eq!(round.off.iter().map(String::as_str).collect::<Vec<_>>(), ["app.failed"]);
    // What is to hold for as long as its limit says.
    let none = Facts { backup: Some(Backup::default()), ..Facts::default() };
    assert_eq!(judge(&none, &limits, now()).conditions[0].hold_s, 2 * DAY);
}

#[test]
fn no_rule_has_a_limit_that_is_not_looked_at() {
    for rule in RULES {
        let limits = RuleLimits::default();
        match rule.limit {
            Some(Limit::Percent(percent)) => assert_eq!(limits.percent(rule), percent),
            Some(Limit::Seconds(seconds)) => assert_eq!(limits.seconds(rule), seconds),
            None => assert_eq!((limits.percent(rule), limits.seconds(rule)), (100, i64::MAX)),
        }
    }
}

#[test]
fn the_docs_list_every_rule() {
    let docs = include_str!("../../../docs/alerts.md");
    for rule in RULES {
        let limit = rule.limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
        let (severity, held_for) = (rule.severity.name(), rule.held_for());
        let row = format!("| `{}` | {severity} | {limit} | {held_for} | {} |\n", rule.name, rule.when);
        assert!(docs.contains(&row), "{row}");
    }
}

#[test]
fn what_is_said_has_a_remedy_and_nothing_that_a_container_printed() {
    let table = of_host().into_iter().chain(of_apps()).chain(of_data());
    for condition in table.flat_map(|(_, _, after)| found(&after)) {
        assert!(!condition.remedy.is_empty() && !condition.summary.contains("secret"), "{condition:?}");
        assert!(!condition.summary.contains('\n') && !condition.remedy.contains('\n'), "{condition:?}");
    }
    assert_eq!(found(&certificate(3 * DAY - 1))[0].severity, Severity::Critical);
    // A clock that was a little ahead makes nothing old; one that was far ahead leaves nobody knowing how old it is.
    let ahead = |days: i64| keys(&backup(Backup { last_success: Some(ago(-days * DAY)), ..Backup::default() }));
    assert_eq!((ahead(1), ahead(1000)), (Vec::new(), vec!["backup.old".to_owned()]));
    // A file system that counts no inodes has enough of them.
    let mut without = disk(5000, 0, None);
    without.disks[0].inodes = 0;
    assert_eq!(keys(&without), Vec::<String>::new());
}

/// What is not known must be neither wrong nor well: an alert of before stays as it is.
#[test]
fn a_dead_mans_switch_that_was_not_asked_yet_is_no_end() {
    let is_unknown = |alive: Option<Answered>| {
        let round = judge(&Facts { alive, ..Facts::default() }, &RuleLimits::default(), now());
        assert_eq!(round.conditions, []);
        round.unknown.contains("alert.alive")
    };
    let all = [None, Some(Answered::Well), Some(Answered::NotYet), Some(Answered::NotSince(ago(60)))];
    assert_eq!(all.map(is_unknown), [false, false, true, true]);
}

#[test]
fn a_consequence_knows_its_cause() {
    let parents = |facts: &Facts| -> Vec<String> {
        found(facts).iter().flat_map(|found| &found.parents).map(ToString::to_string).collect()
    };
    let unit = |name: &str| Facts {
        slow: Slow { failed_units: vec![name.to_owned()], ..Slow::default() },
        ..app(running(&[]), false, None)
    };
    assert_eq!(parents(&unit("appliance-supervisor.service")), ["app.failed:shop"]);
    assert_eq!(parents(&unit("postgresql@15-main.service")), ["database.away"]);
    assert_eq!(parents(&unit("appliance-backup.service")), ["backup.trouble", "backup.old"]);
    assert_eq!(parents(&unit("cron.service")), Vec::<String>::new());
    // Many are told as one more.
    let many: Vec<String> = (0..30).map(|number| format!("u{number}.service")).collect();
    assert_eq!(found(&slow(Slow { failed_units: many, ..Slow::default() })).len(), 11);
}
