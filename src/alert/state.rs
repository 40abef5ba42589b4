//! What is wrong, since when, and what is told of it: the conditions that hold now, and the time, give the new state and the notes that are
//! to be sent. Pure, so that a week can be walked through in a moment. Whoever calls this keeps the state on disk before the notes go out:
//! then a restart repeats nothing and misses nothing.

use crate::value::Severity;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

impl Severity {
    /// After how long it is told again while nobody has acknowledged it.
    fn again(self) -> Option<SignedDuration> {
        match self {
            Severity::Warning => None,
            Severity::Error => Some(SignedDuration::from_hours(24)),
            Severity::Critical => Some(SignedDuration::from_hours(4)),
        }
    }
}

/// What is wrong with what: the rule's name, and the disk, app or unit that it is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    pub rule: String,
    pub subject: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.subject.is_empty() { f.write_str(&self.rule) } else { write!(f, "{}:{}", self.rule, self.subject) }
    }
}

impl FromStr for Key {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Key, Self::Err> {
        let (rule, subject) = text.split_once(':').unwrap_or((text, ""));
        Ok(Key { rule: rule.to_owned(), subject: subject.to_owned() })
    }
}

/// Something that a rule has found to hold now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    pub key: Key,
    pub severity: Severity,
    /// What holds, in a line.
    pub summary: String,
    /// What to do: a command where there is one.
    pub remedy: String,
    /// It is told only once it has held for so long, in seconds.
    pub hold_s: i64,
    /// It is over only once it has not held for so long, in seconds.
    pub keep_s: i64,
    /// While one of these fires, this one is its consequence and is not told.
    pub parents: Vec<Key>,
}

/// What the rules have found in one round.
#[derive(Debug, Clone, Default)]
pub struct Round {
    pub conditions: Vec<Condition>,
    /// Rules, or single alerts by their names, that could not be looked at: what is known of them stays as it is.
    pub unknown: BTreeSet<String>,
    /// Rules that nobody wants to hear of: what is known of them is forgotten without a word.
    pub off: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Pending,
    Firing,
    Recovering,
}

/// Something that is, or may soon be, told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    pub condition: Condition,
    pub phase: Phase,
    /// Since when the condition has held.
    pub since: Timestamp,
    /// When the phase began.
    pub changed: Timestamp,
    /// When it was told last; none: nobody knows of it, so nobody is told that it is over.
    pub told: Option<Timestamp>,
    /// How bad it was when it was told.
    #[serde(default)]
    pub told_as: Option<Severity>,
    /// Somebody knows: it is not told again until then, but when it is over.
    pub acknowledged_until: Option<Timestamp>,
}

/// Alerts that are not told while it lasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    pub rule: String,
    /// None: whatever it is about.
    pub subject: Option<String>,
    pub until: Timestamp,
    pub why: String,
}

impl Silence {
    /// What it is about, as people write it.
    pub fn key(&self) -> Key {
        Key { rule: self.rule.clone(), subject: self.subject.clone().unwrap_or_default() }
    }
}

/// All that is remembered between rounds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    alerts: Vec<Alert>,
    pub silences: Vec<Silence>,
    /// When each has begun to fire within the last hour, and whether that it flaps was told.
    flaps: Vec<(Key, Flapping)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Flapping {
    fired: Vec<Timestamp>,
    told: Option<Timestamp>,
}

/// What is told of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    Fires,
    /// It was told before, and still holds.
    Lasts,
    /// It comes and goes; each time is not told any more.
    Flaps,
    Over,
    /// Something that is no alert: a program or a person says it.
    Said,
}

/// Something to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub what: What,
    pub key: Key,
    pub severity: Severity,
    pub summary: String,
    pub remedy: String,
    pub since: Timestamp,
}

/// So many beginnings within an hour are flapping.
const FLAPS: usize = 4;
const HOUR: SignedDuration = SignedDuration::from_hours(1);

impl State {
    /// What is, or may soon be, told.
    pub fn alerts(&self) -> &[Alert] {
        &self.alerts
    }

    /// Somebody knows of it. Gives back whether there is such an alert.
    pub fn acknowledge(&mut self, key: &Key, until: Timestamp) -> bool {
        let alert = self.alerts.iter_mut().find(|alert| alert.condition.key == *key);
        alert.map(|alert| alert.acknowledged_until = Some(until)).is_some()
    }

    /// Takes up a round: gives back what is to be told. A clock that goes back makes nothing older than it was.
    pub fn round(&mut self, round: &Round, now: Timestamp) -> Vec<Note> {
        self.silences.retain(|silence| silence.until > now);
        self.alerts.retain(|alert| !round.off.contains(&alert.condition.key.rule));
        self.forget_the_future(now);
        let mut known: BTreeMap<Key, Alert> =
            self.alerts.drain(..).map(|alert| (alert.condition.key.clone(), alert)).collect();
        let mut over = Vec::new();
        for condition in round.conditions.iter().filter(|condition| !round.off.contains(&condition.key.rule)) {
            holds(&mut known, condition, now);
        }
        let seen: BTreeSet<&Key> = round.conditions.iter().map(|condition| &condition.key).collect();
        known.retain(|key, alert| {
            let is_unknown = round.unknown.contains(&key.rule) || round.unknown.contains(&key.to_string());
            let stays = seen.contains(key) || is_unknown || alert.still_stands(now);
            if !stays && alert.phase == Phase::Recovering {
                over.push(alert.clone());
            }
            stays
        });
        self.alerts = known.into_values().collect();
        let mut notes = self.tell(now);
        for alert in over.iter().filter(|alert| alert.told.is_some()) {
            let is_flapping = self.flapping(&alert.condition.key, now).fired.len() >= FLAPS;
            // Whoever was told of it is told of its end, silenced or not.
            if !is_flapping {
                notes.push(alert.note(What::Over));
            }
        }
        self.flaps.retain(|(_, flapping)| flapping.fired.iter().any(|at| now.duration_since(*at) < HOUR));
        notes
    }

    /// A clock that was ahead: nothing is to wait until it is that late again.
    fn forget_the_future(&mut self, now: Timestamp) {
        for alert in &mut self.alerts {
            (alert.since, alert.changed) = (alert.since.min(now), alert.changed.min(now));
            alert.told = alert.told.map(|told| told.min(now));
        }
        for (_, flapping) in &mut self.flaps {
            flapping.fired.retain(|fired| *fired <= now);
            flapping.told = flapping.told.filter(|told| *told <= now);
        }
    }

    /// What is to be told of those that fire.
    fn tell(&mut self, now: Timestamp) -> Vec<Note> {
        let firing: BTreeSet<Key> = self
            .alerts
            .iter()
            .filter(|alert| alert.phase != Phase::Pending)
            .map(|alert| alert.condition.key.clone())
            .collect();
        let mut alerts = std::mem::take(&mut self.alerts);
        let mut notes = Vec::new();
        for alert in alerts.iter_mut().filter(|alert| alert.phase == Phase::Firing) {
            let key = alert.condition.key.clone();
            if alert.changed == now {
                self.flapping(&key, now).fired.push(now);
            }
            let is_consequence = alert.condition.parents.iter().any(|parent| firing.contains(parent));
            if is_consequence || self.is_silent(&key) {
                continue;
            }
            notes.extend(self.of_one(alert, &key, now).map(|what| alert.note(what)));
        }
        self.alerts = alerts;
        notes
    }

    fn of_one(&mut self, alert: &mut Alert, key: &Key, now: Timestamp) -> Option<What> {
        let severity = alert.condition.severity;
        if alert.told.is_some() && alert.told_as.is_some_and(|before| before < severity) {
            // Worse than what somebody knows of.
            (alert.told, alert.told_as, alert.acknowledged_until) = (Some(now), Some(severity), None);
            return Some(What::Fires);
        }
        if alert.acknowledged_until.is_some_and(|until| until > now) {
            // Whoever knows of it is told of its end.
            alert.told.get_or_insert(now);
            alert.told_as.get_or_insert(severity);
            return None;
        }
        // The worst that somebody has heard.
        alert.told_as = alert.told_as.max(Some(severity));
        let flapping = self.flapping(key, now);
        if flapping.fired.len() >= FLAPS {
            let is_due = flapping.told.is_none_or(|told| now.duration_since(told) >= HOUR);
            if !is_due {
                // Whoever knows that it flaps knows of this one.
                alert.told.get_or_insert(now);
                return None;
            }
            flapping.told = Some(now);
            alert.told = Some(now);
            return Some(What::Flaps);
        }
        let Some(told) = alert.told else {
            alert.told = Some(now);
            return Some(What::Fires);
        };
        let is_due = severity.again().is_some_and(|again| now.duration_since(told) >= again);
        if !is_due {
            return None;
        }
        alert.told = Some(now);
        Some(What::Lasts)
    }

    fn flapping(&mut self, key: &Key, now: Timestamp) -> &mut Flapping {
        let place = self.flaps.iter().position(|(known, _)| known == key).unwrap_or_else(|| {
            self.flaps.push((key.clone(), Flapping::default()));
            self.flaps.len() - 1
        });
        let flapping = &mut self.flaps[place].1;
        flapping.fired.retain(|at| now.duration_since(*at) < HOUR);
        flapping
    }

    fn is_silent(&self, key: &Key) -> bool {
        let is_of = |silence: &Silence| {
            silence.rule == key.rule && silence.subject.as_ref().is_none_or(|subject| *subject == key.subject)
        };
        self.silences.iter().any(is_of)
    }
}

/// Takes up a condition that holds.
fn holds(known: &mut BTreeMap<Key, Alert>, condition: &Condition, now: Timestamp) {
    let new = || Alert {
        condition: condition.clone(),
        phase: Phase::Pending,
        since: now,
        changed: now,
        told: None,
        told_as: None,
        acknowledged_until: None,
    };
    let alert = known.entry(condition.key.clone()).or_insert_with(new);
    alert.condition = condition.clone();
    match alert.phase {
        Phase::Pending if passed(alert.since, condition.hold_s, now) => {
            (alert.phase, alert.changed) = (Phase::Firing, now);
        }
        // It was never over, so nobody was told that it was.
        Phase::Recovering => alert.phase = Phase::Firing,
        _ => {}
    }
}

fn passed(since: Timestamp, seconds: i64, now: Timestamp) -> bool {
    now.duration_since(since) >= SignedDuration::from_secs(seconds)
}

impl Alert {
    /// Whether it is remembered although its condition does not hold; goes on to the next phase.
    fn still_stands(&mut self, now: Timestamp) -> bool {
        match self.phase {
            Phase::Pending => false,
            Phase::Firing => {
                (self.phase, self.changed) = (Phase::Recovering, now);
                !passed(now, self.condition.keep_s, now)
            }
            Phase::Recovering => !passed(self.changed, self.condition.keep_s, now),
        }
    }

    fn note(&self, what: What) -> Note {
        Note {
            what,
            key: self.condition.key.clone(),
            // Whoever heard that it was critical hears of its end.
            severity: self.told_as.map_or(self.condition.severity, |told| told.max(self.condition.severity)),
            summary: self.condition.summary.clone(),
            remedy: self.condition.remedy.clone(),
            since: self.since,
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
