//! The rules by which the watch finds what is wrong: their names, how bad it is, and the limits that an env may set. How each is judged is
//! `watch/rules/`.

use super::Invalid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Who has to know, and how soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Told once.
    Warning,
    /// Told once a day until it is over.
    Error,
    /// Told every four hours.
    Critical,
}

impl Severity {
    pub const ALL: [Severity; 3] = [Severity::Warning, Severity::Error, Severity::Critical];

    pub fn name(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Error => "error",
            Severity::Critical => "critical",
        }
    }
}

impl FromStr for Severity {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Severity, Invalid> {
        let found = Severity::ALL.into_iter().find(|severity| severity.name() == text);
        found.ok_or_else(|| Invalid::new("'warning', 'error' or 'critical'"))
    }
}

/// Beyond what a rule fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Of a whole, 1 to 99.
    Percent(u8),
    /// In seconds, from a minute to 400 days.
    Seconds(i64),
}

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Limit::Percent(percent) => write!(f, "{percent}%"),
            Limit::Seconds(seconds) if seconds % DAY == 0 => write!(f, "{}d", seconds / DAY),
            Limit::Seconds(seconds) if seconds % HOUR == 0 => write!(f, "{}h", seconds / HOUR),
            Limit::Seconds(seconds) => write!(f, "{}m", seconds / MINUTE),
        }
    }
}

impl Limit {
    /// Another limit of the same kind: `10%`, `90m`, `36h`, `14d`.
    fn parse(self, text: &str) -> Result<Limit, Invalid> {
        match self {
            Limit::Percent(_) => {
                let percent = text.strip_suffix('%').and_then(|number| number.trim_end().parse().ok());
                percent
                    .filter(|percent| (1..=99).contains(percent))
                    .map(Limit::Percent)
                    .ok_or_else(|| Invalid::new("a percentage from 1% to 99%, or 'off'"))
            }
            Limit::Seconds(_) => {
                let right = || Invalid::new("a time from 1m to 400d, like '90m', '36h' or '14d', or 'off'");
                let unit = match text.chars().last() {
                    Some('m') => MINUTE,
                    Some('h') => HOUR,
                    Some('d') => DAY,
                    _ => return Err(right()),
                };
                let number: i64 = text[..text.len() - 1].parse().map_err(|_| right())?;
                let seconds = number.checked_mul(unit).filter(|all| (MINUTE..=400 * DAY).contains(all));
                seconds.map(Limit::Seconds).ok_or_else(right)
            }
        }
    }
}

/// A rule, as `appliance alert rules` lists it.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    pub name: &'static str,
    pub severity: Severity,
    /// When it fires; "the limit" is `limit`.
    pub when: &'static str,
    /// None: there is nothing to set.
    pub limit: Option<Limit>,
    /// For how long that must hold before it is told, in seconds.
    pub hold_s: i64,
    /// For how long it must not hold before it is over, in seconds.
    pub keep_s: i64,
}

impl Rule {
    /// For how long it must hold before it fires, as people write it; `-`: it fires at once.
    pub fn held_for(&self) -> String {
        match self.hold_s {
            0 => "-".to_owned(),
            seconds if seconds < MINUTE => format!("{seconds}s"),
            seconds => Limit::Seconds(seconds).to_string(),
        }
    }
}

macro_rules! rules {
    ($($id:ident: $name:literal, $severity:ident, $limit:expr, hold $hold:expr, keep $keep:expr, $when:literal;)+) => {
        $(pub const $id: Rule = Rule {
            name: $name, severity: Severity::$severity, when: $when, limit: $limit, hold_s: $hold, keep_s: $keep,
        };)+
        /// All rules.
        pub const RULES: &[Rule] = &[$($id),+];
    };
}

const fn percent(percent: u8) -> Option<Limit> {
    Some(Limit::Percent(percent))
}

const fn within(seconds: i64) -> Option<Limit> {
    Some(Limit::Seconds(seconds))
}

rules! {
    DISK_FULL: "disk.full", Critical, percent(5), hold MINUTE / 2, keep 2 * MINUTE,
        "the free space of a file system is below the limit";
    DISK_INODES: "disk.inodes", Critical, percent(5), hold MINUTE / 2, keep 2 * MINUTE,
        "the free inodes of a file system are below the limit";
    DISK_FORECAST: "disk.forecast", Error, within(DAY), hold 30 * MINUTE, keep 30 * MINUTE,
        "a file system that is more than half full will be full within the limit, at the rate of the last 1 to 6 hours";
    RAID_DEGRADED: "raid.degraded", Critical, None, hold MINUTE, keep MINUTE,
        "a software RAID array (md) is missing a disk";
    MEMORY_PRESSURE: "memory.pressure", Error, percent(20), hold 5 * MINUTE, keep 10 * MINUTE,
        "all tasks were stalled on memory for more than the limit, as a share of the last minute (PSI `full`, avg60)";
    MEMORY_OOM: "memory.oom", Error, None, hold 0, keep 15 * MINUTE,
        "the kernel's OOM killer ended a process";
    UNIT_FAILED: "unit.failed", Error, None, hold 3 * MINUTE, keep MINUTE,
        "a systemd unit is in the failed state";
    CLOCK: "clock.unsynchronized", Error, None, hold HOUR, keep MINUTE,
        "the clock is not synchronized with a time server";
    REBOOT_WAITING: "reboot.waiting", Warning, within(7 * DAY), hold 0, keep 0,
        "updated packages have required a reboot for longer than the limit";
    APP_FAILED: "app.failed", Critical, None, hold 0, keep MINUTE,
        "an app is in the failed state";
    APP_DEGRADED: "app.degraded", Error, None, hold 5 * MINUTE, keep 5 * MINUTE,
        "a service of an app keeps restarting";
    APP_UNSUPERVISED: "app.unsupervised", Critical, None, hold 5 * MINUTE, keep MINUTE,
        "the supervisor of an app does not run";
    UPDATE_FAILED: "update.failed", Error, None, hold 0, keep 0,
        "the last update of an app failed";
    UPDATE_MISSED: "update.missed", Error, within(8 * DAY), hold 0, keep 0,
        "no automatic update was attempted for longer than the limit (`appliance.update.automatic`)";
    ENV_BROKEN: "env.broken", Error, None, hold 10 * MINUTE, keep 0,
        "/app/env.yml has errors, so the next start uses the last good env";
    CERTIFICATE: "certificate.expires", Error, within(10 * DAY), hold 0, keep 0,
        "a certificate expires within the limit (critical: within 3 days)";
    CLIENT_CA: "client-ca.expires", Critical, within(3 * DAY), hold 0, keep 0,
        "the client CA of an app, or its revocation list, expires within the limit or cannot be used";
    DATABASE_AWAY: "database.away", Critical, None, hold 2 * MINUTE, keep MINUTE,
        "PostgreSQL accepts no connection";
    DATABASE_CONNECTIONS: "database.connections", Error, percent(80), hold 5 * MINUTE, keep 5 * MINUTE,
        "more than the limit, as a share of max_connections, is in use";
    DATABASE_TRANSACTION: "database.transaction", Warning, within(HOUR), hold 0, keep 0,
        "a transaction of an app has been open for longer than the limit (it blocks vacuum)";
    DATABASE_WRAPAROUND: "database.wraparound", Critical, None, hold 0, keep 0,
        "the oldest transaction ID of a database is older than 1.5 billion transactions; at 2 billion PostgreSQL stops writing";
    DATABASE_COLLATION: "database.collation", Error, None, hold 0, keep 0,
        "the collation version of a database differs from the system's, so its indexes may be corrupt";
    BACKUP_OLD: "backup.old", Critical, within(32 * HOUR), hold 0, keep 0,
        "the last complete backup is older than the limit, or there is still none after that time";
    BACKUP_TROUBLE: "backup.trouble", Error, None, hold 0, keep 0,
        "the last backup failed or was incomplete";
    BACKUP_SHIPPING: "backup.shipping", Error, within(HOUR), hold 0, keep 0,
        "no database changes were shipped for longer than the limit (at least twice `continuous`), or they cannot be shipped";
    BACKUP_DRILL: "backup.drill", Critical, None, hold 0, keep 0,
        "the last drill found that the backup cannot be restored";
    DRILL_OLD: "backup.drill-old", Error, within(35 * DAY), hold 0, keep 0,
        "the last successful drill is older than the limit";
    ALERT_UNDELIVERED: "alert.undelivered", Error, within(30 * MINUTE), hold 0, keep 0,
        "deliveries to a channel have failed for longer than the limit";
    ALERT_NOBODY: "alert.nobody", Warning, None, hold 0, keep 0,
        "env.yml names no channel (it can only be listed)";
    ALERT_UNTESTED: "alert.untested", Warning, within(DAY), hold 0, keep 0,
        "a channel has existed for longer than the limit and has never delivered anything";
    ALERT_ALIVE: "alert.alive", Error, within(30 * MINUTE), hold 0, keep 0,
        "requests to `appliance.alert.alive` have failed for longer than the limit";
}

/// What an env says of the rules: of those that it does not name, their own limits hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleLimits(BTreeMap<&'static str, Option<Limit>>);

impl RuleLimits {
    /// Takes up what is said of a rule: `off`, or a limit.
    ///
    /// # Errors
    /// It has no such limit.
    pub fn set(&mut self, rule: &Rule, text: &str) -> Result<(), Invalid> {
        let said = match (rule.limit, text) {
            // YAML 1.1 took the first for a boolean, and people write the second for it.
            (_, "off" | "no" | "false") => None,
            (Some(own), text) => Some(own.parse(text)?),
            (None, _) => return Err(Invalid::new("'off': this rule has no limit that could be set")),
        };
        self.0.insert(rule.name, said);
        Ok(())
    }

    /// Whether nobody wants to hear of it.
    pub fn is_off(&self, rule: &Rule) -> bool {
        self.0.get(rule.name).is_some_and(Option::is_none)
    }

    /// The limit that holds.
    pub fn of(&self, rule: &Rule) -> Option<Limit> {
        self.0.get(rule.name).copied().flatten().or(rule.limit)
    }

    /// The limit of a rule that has a percentage.
    pub fn percent(&self, rule: &Rule) -> u8 {
        match self.of(rule) {
            Some(Limit::Percent(percent)) => percent,
            _ => 100,
        }
    }

    /// The limit of a rule that has a time, in seconds.
    pub fn seconds(&self, rule: &Rule) -> i64 {
        match self.of(rule) {
            Some(Limit::Seconds(seconds)) => seconds,
            _ => i64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_takes_limits_of_its_own_kind() {
        let set = |rule: &Rule, text: &str| {
            let mut limits = RuleLimits::default();
            limits.set(rule, text).map(|()| (limits.is_off(rule), limits.of(rule)))
        };
        assert_eq!(set(&DISK_FULL, "12%"), Ok((false, percent(12))));
        assert_eq!(set(&DISK_FULL, "12 %"), Ok((false, percent(12))));
        assert_eq!(set(&DISK_FULL, "off"), Ok((true, percent(5))));
        assert_eq!(set(&BACKUP_OLD, "50h"), Ok((false, within(50 * HOUR))));
        assert_eq!(set(&APP_FAILED, "off"), Ok((true, None)));
        for (rule, wrong) in [
            (&DISK_FULL, "12"),
            (&DISK_FULL, "0%"),
            (&DISK_FULL, "100%"),
            (&DISK_FULL, "3h"),
            (&BACKUP_OLD, "50"),
            (&BACKUP_OLD, "0h"),
            (&BACKUP_OLD, "401d"),
            (&BACKUP_OLD, "-1h"),
            (&BACKUP_OLD, "5%"),
            (&BACKUP_OLD, "ü"),
            (&BACKUP_OLD, ""),
            (&BACKUP_OLD, "9223372036854775807d"),
            (&APP_FAILED, "1h"),
        ] {
            assert!(set(rule, wrong).is_err(), "{} {wrong}", rule.name);
        }
        assert_eq!(
            ["12%", "36h", "2d", "90m"].map(|text| {
                let own = if text.ends_with('%') { Limit::Percent(1) } else { Limit::Seconds(60) };
                own.parse(text).map(|limit| limit.to_string())
            }),
            ["12%", "36h", "2d", "90m"].map(|text| Ok(text.to_owned()))
        );
    }

    #[test]
    fn no_two_rules_have_one_name() {
        let names: std::collections::BTreeSet<&str> = RULES.iter().map(|rule| rule.name).collect();
        assert_eq!(names.len(), RULES.len());
    }
}
