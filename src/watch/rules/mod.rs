//! The rules: what is wrong, by what is known. Pure. Few, each with a remedy that names a command; their table is `value/rule.rs`.

mod apps;
mod backup;
mod database;
mod host;

use super::alive::Answered;
use super::facts::{Facts, Reached};
use crate::alert::{Condition, Key, Round};
use crate::value::rule::{ALERT_ALIVE, ALERT_NOBODY, ALERT_UNDELIVERED, ALERT_UNTESTED, RULES};
use crate::value::{Rule, RuleLimits};
use jiff::Timestamp;
use std::collections::BTreeSet;

const DAY: i64 = 24 * 3600;

/// What a rule has found; the limits are the env's.
struct Judge<'a> {
    limits: &'a RuleLimits,
    now: Timestamp,
}

/// What holds.
pub fn judge(facts: &Facts, limits: &RuleLimits, now: Timestamp) -> Round {
    let judge = Judge { limits, now };
    let mut conditions = judge.host(facts);
    conditions.extend(judge.apps(facts));
    conditions.extend(judge.database(&facts.slow, &facts.disks));
    conditions.extend(facts.backup.iter().flat_map(|known| judge.backup(known)));
    conditions.extend(facts.channels.iter().flat_map(|channel| judge.channel(channel)));
    if facts.has_no_channel {
        let summary = "nobody is notified when something goes wrong: env.yml names no channel".to_owned();
        conditions.push(on(&ALERT_NOBODY, "", summary, "set appliance.alert in /app/env.yml, then: appliance apply"));
    }
    let mut unknown: BTreeSet<String> = facts.unknown.union(&facts.slow.unknown).cloned().collect();
    match facts.alive {
        None | Some(Answered::Well) => {}
        Some(Answered::NotSince(since)) if judge.is_older(since, &ALERT_ALIVE) => conditions.push(silent(since)),
        // A watch that has just begun does not know whether it was well before.
        Some(Answered::NotYet | Answered::NotSince(_)) => drop(unknown.insert(ALERT_ALIVE.name.to_owned())),
    }
    let off = RULES.iter().filter(|rule| limits.is_off(rule)).map(|rule| rule.name.to_owned()).collect();
    Round { conditions, unknown, off }
}

fn silent(since: Timestamp) -> Condition {
    let summary = format!("the dead man's switch has not answered since {}", day(since));
    let remedy = "journalctl -u appliance-watch; see whether its URL (appliance.alert.alive) is still right";
    on(&ALERT_ALIVE, "", summary, remedy)
}

/// The longest summary, in characters.
const MAX_SUMMARY: usize = 500;

fn on(rule: &Rule, subject: &str, summary: String, remedy: impl Into<String>) -> Condition {
    let key = Key { rule: rule.name.to_owned(), subject: subject.to_owned() };
    // A part of it may be somebody else's words.
    let summary = summary.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_SUMMARY).collect();
    let Rule { severity, hold_s, keep_s, .. } = *rule;
    Condition { key, severity, summary, remedy: remedy.into(), hold_s, keep_s, parents: Vec::new() }
}

fn key(rule: &Rule, subject: &str) -> Key {
    Key { rule: rule.name.to_owned(), subject: subject.to_owned() }
}

impl Judge<'_> {
    /// How long ago that is, in seconds. A little in the future is now; what is said of more was said by a clock that was wrong, so that
    /// nobody knows how long ago it was.
    fn age(&self, at: Timestamp) -> i64 {
        match self.now.as_second() - at.as_second() {
            ahead if ahead < -DAY => i64::MAX,
            seconds => seconds.max(0),
        }
    }

    fn is_older(&self, at: Timestamp, rule: &Rule) -> bool {
        self.age(at) > self.limits.seconds(rule)
    }

    fn channel(&self, channel: &Reached) -> Vec<Condition> {
        let Reached { channel: name, has_taken, waiting_since } = channel;
        let mut found = Vec::new();
        let remedy = format!("appliance alert channels; appliance alert test {name}");
        if let Some(since) = waiting_since.filter(|since| self.is_older(*since, &ALERT_UNDELIVERED)) {
            let summary = format!("the channel {name} has not taken an alert since {}", day(since));
            found.push(on(&ALERT_UNDELIVERED, name, summary, remedy.clone()));
        }
        if !has_taken {
            let summary = format!("the channel {name} has never taken anything; nobody knows whether it works");
            let condition = on(&ALERT_UNTESTED, name, summary, remedy);
            let parents = vec![key(&ALERT_UNDELIVERED, name)];
            found.push(Condition { hold_s: self.limits.seconds(&ALERT_UNTESTED), parents, ..condition });
        }
        found
    }
}

/// What a text says first: what a container or a command printed stands in further lines, and stays on this host.
fn first(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests;
