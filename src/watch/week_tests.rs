//! An ordinary week, on a clock of its own: what happens on a host that is well must not call anybody.

use super::facts::{App, Backup, Certificate, Database, Disk, Facts, Reached, Shipped, Slow};
use super::rules::judge;
use super::trend::Trend;
use crate::alert::{State, What};
use crate::value::{Phase, RuleLimits, rule};
use jiff::Timestamp;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// A Monday, at midnight.
const MONDAY: i64 = 1_799_625_600;
/// Between two looks of the watch, in seconds.
const LOOK: i64 = 15;
const GB: u64 = 1 << 30;

/// Whether a second of the week is within so many minutes after an hour of a day (0 is Monday).
fn within(second: i64, day: i64, hour: i64, minutes: i64) -> bool {
    let since = second - day * DAY - hour * HOUR;
    (0..minutes * MINUTE).contains(&since)
}

/// The same on each day.
fn nightly(second: i64, hour: i64, minutes: i64) -> bool {
    within(second % DAY, 0, hour, minutes)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(MONDAY + second).expect("a time")
}

/// The last time that it was so late, before a second of the week.
fn last(second: i64, hour: i64) -> Timestamp {
    let today = second - second % DAY + hour * HOUR;
    at(if today <= second { today } else { today - DAY })
}

/// On Wednesday at three there is an update with a migration, on Saturday at four the machine is booted anew.
fn phase(second: i64) -> Phase {
    if within(second, 2, 3, 5) {
        Phase::Updating { stage: crate::value::Stage::Migrate }
    } else if within(second, 5, 4, 6) {
        Phase::Starting { what: "web".to_owned() }
    } else if within(second, 3, 14, 4) {
        // A service dies twice in a row, and comes back.
        Phase::Running { degraded: vec!["worker".to_owned()] }
    } else {
        Phase::Running { degraded: Vec::new() }
    }
}

fn disk(second: i64) -> Disk {
    // It fills up by 200 MB a day; dumps and images of an update come and go.
    let mut free = 40 * GB - u64::try_from(second).expect("it is positive") * (200 << 20) / 86_400;
    if nightly(second, 2, 20) {
        free -= 8 * GB;
    }
    if within(second, 2, 3, 90) {
        free -= 6 * GB;
    }
    Disk { place: "/data".to_owned(), free, size: 100 * GB, free_inodes: 900, inodes: 1000, left_s: None }
}

fn slow(second: i64) -> Slow {
    let is_away = within(second, 2, 3, 5) || within(second, 5, 4, 6);
    let connections = if nightly(second, 8, 4) { 95 } else { 20 };
    let database =
        Database { connections, most: 100, transaction_s: 40 * MINUTE, age: 200_000_000, ..Database::default() };
    let mut slow = Slow { database: (!is_away).then_some(Ok(database)), ..Slow::default() };
    // After a boot the clock is set within minutes; a unit fails and is started again.
    slow.is_clock_set = Some(!within(second, 5, 4, 20));
    if second % (6 * HOUR) < MINUTE / 2 {
        slow.failed_units = vec!["logrotate.service".to_owned()];
    }
    // Somebody edits env.yml.
    slow.env_error = within(second, 1, 10, 8).then_some((3, 1));
    if is_away {
        slow.unknown =
            rule::RULES.iter().map(|rule| rule.name.to_owned()).filter(|name| name.starts_with("database.")).collect();
    }
    slow
}

fn facts(second: i64, trend: &mut Trend) -> Facts {
    let mut disk = disk(second);
    trend.add(&[(disk.place.as_str(), disk.free)], at(second));
    disk.left_s = trend.left_s(&disk.place);
    let is_booting = within(second, 5, 4, 2);
    let app = App {
        name: "shop".to_owned(),
        phase: phase(second),
        // The package's own upgrade replaces the supervisor.
        is_stale: within(second, 4, 5, 2),
        update_trouble: None,
    };
    // On Tuesday night the target of the backup is away for an hour, and the run is made up for by hand at eight.
    let is_troubled = within(second, 1, 2, 6 * 60);
    let backup = Backup {
        last_success: Some(if is_troubled { last(second - DAY, 2) } else { last(second, 2) }),
        trouble: is_troubled.then(|| "the target does not answer".to_owned()),
        last_drill: Some(at(-6 * DAY)),
        shipping: Some(Shipped {
            last_success: Some(if within(second, 1, 2, 50) { at(DAY + 2 * HOUR) } else { at(second - second % 300) }),
            every_s: 300,
            ..Shipped::default()
        }),
        ..Backup::default()
    };
    // An authority's certificate of 90 days, renewed on Thursday when 30 are left.
    let left = if second < 3 * DAY { 33 * DAY - second } else { 93 * DAY - second };
    let certificates = vec![Certificate { app: "shop".to_owned(), not_after: MONDAY + second + left }];
    // A receiver is away for a quarter of an hour.
    let waiting_since = within(second, 6, 12, 15).then(|| at(6 * DAY + 12 * HOUR));
    let unknown =
        if is_booting { vec![rule::APP_FAILED, rule::APP_DEGRADED, rule::APP_UNSUPERVISED] } else { Vec::new() };
    Facts {
        disks: vec![disk],
        apps: if is_booting { Vec::new() } else { vec![app] },
        backup: Some(backup),
        certificates,
        last_update: Some(Some(last(second, 3))),
        memory_stall: Some(if nightly(second, 2, 4) { 60.0 } else { 1.0 }),
        // A kernel waits for the boot on Saturday.
        needs_reboot: (2 * DAY..5 * DAY + 4 * HOUR).contains(&second),
        channels: vec![Reached { channel: "ops".to_owned(), has_taken: true, waiting_since }],
        slow: slow(second),
        unknown: unknown.iter().map(|rule| rule.name.to_owned()).collect(),
        ..Facts::default()
    }
}

#[test]
fn an_ordinary_week_tells_of_one_backup_that_failed_and_of_nothing_else() {
    let (mut state, mut trend) = (State::default(), Trend::default());
    let mut told = Vec::new();
    let mut looks = 0;
    for second in (0..7 * DAY).step_by(usize::try_from(LOOK).expect("it is positive")) {
        if within(second, 5, 4, 1) {
            // The machine is off; the watch begins anew with what lies on the disk.
            trend = Trend::default();
            continue;
        }
        looks += 1;
        let round = judge(&facts(second, &mut trend), &RuleLimits::default(), at(second));
        told.extend(state.round(&round, at(second)).into_iter().map(|note| (note.what, note.key.to_string())));
    }
    assert!(looks > 40_000, "{looks}");
    let trouble = "backup.trouble".to_owned();
    assert_eq!(told, [(What::Fires, trouble.clone()), (What::Over, trouble)]);
}

/// The same week, each day of which something happens that somebody has to know.
#[test]
fn a_week_that_is_not_ordinary_is_told_of() {
    let (mut state, mut trend) = (State::default(), Trend::default());
    let mut told = Vec::new();
    for second in (0..7 * DAY).step_by(usize::try_from(LOOK).expect("it is positive")) {
        let mut facts = facts(second, &mut trend);
        if second > DAY {
            facts.memory_stall = Some(60.0);
        }
        if second > 2 * DAY {
            facts.last_update = Some(Some(at(-6 * DAY)));
        }
        if second > 6 * DAY {
            facts.apps[0].phase = Phase::Failed { reason: "web died".to_owned() };
        }
        let round = judge(&facts, &RuleLimits::default(), at(second));
        told.extend(state.round(&round, at(second)).into_iter().map(|note| (note.what, note.key.rule)));
    }
    let count = |what: What, rule: &str| told.iter().filter(|(told, name)| *told == what && name == rule).count();
    assert_eq!((count(What::Fires, "memory.pressure"), count(What::Lasts, "memory.pressure")), (1, 5), "once a day");
    assert_eq!((count(What::Fires, "update.missed"), count(What::Lasts, "update.missed")), (1, 4));
    assert_eq!((count(What::Fires, "app.failed"), count(What::Lasts, "app.failed")), (1, 5), "every four hours");
}
