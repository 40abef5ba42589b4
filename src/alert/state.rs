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
    /// Rules that could not be looked at: what is known of them stays as it is.
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
            let is_unknown = round.unknown.contains(&key.rule);
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minutes * 60).expect("a time")
    }

    fn key(rule: &str) -> Key {
        Key { rule: rule.to_owned(), subject: "/data".to_owned() }
    }

    fn condition(rule: &str) -> Condition {
        Condition {
            key: key(rule),
            severity: Severity::Critical,
            summary: format!("{rule} holds"),
            remedy: "free some space".to_owned(),
            hold_s: 300,
            keep_s: 300,
            parents: Vec::new(),
        }
    }

    fn round(conditions: &[&Condition]) -> Round {
        Round { conditions: conditions.iter().map(|one| (*one).clone()).collect(), ..Round::default() }
    }

    fn whats(notes: &[Note]) -> Vec<(What, &str)> {
        notes.iter().map(|note| (note.what, note.key.rule.as_str())).collect()
    }

    #[test]
    fn a_rule_that_is_switched_off_is_forgotten_without_a_word() {
        let (mut state, disk) = (State::default(), Condition { hold_s: 0, ..condition("disk") });
        assert_eq!(whats(&state.round(&round(&[&disk]), at(0))), [(What::Fires, "disk")]);
        let off = Round { off: ["disk".to_owned()].into(), ..round(&[&disk]) };
        assert_eq!((state.round(&off, at(1)), state.alerts().len()), (Vec::new(), 0));
        assert_eq!(whats(&state.round(&round(&[&disk]), at(2))), [(What::Fires, "disk")]);
    }

    #[test]
    fn whoever_heard_that_it_was_critical_hears_of_its_end() {
        let (mut state, disk) = (State::default(), Condition { hold_s: 0, keep_s: 0, ..condition("disk") });
        state.round(&round(&[&disk]), at(0));
        let less = Condition { severity: Severity::Warning, ..disk };
        assert_eq!(state.round(&round(&[&less]), at(1)), []);
        let mut notes = state.round(&Round::default(), at(2));
        notes.extend(state.round(&Round::default(), at(3)));
        assert_eq!(
            notes.iter().map(|note| (note.what, note.severity)).collect::<Vec<_>>(),
            [(What::Over, Severity::Critical)]
        );
    }

    #[test]
    fn what_holds_for_long_enough_is_told_once_and_then_that_it_is_over() {
        let (mut state, disk) = (State::default(), condition("disk"));
        assert_eq!(state.round(&round(&[&disk]), at(0)), []);
        assert_eq!(state.round(&round(&[&disk]), at(4)), []);
        assert_eq!(whats(&state.round(&round(&[&disk]), at(5))), [(What::Fires, "disk")]);
        // As after a restart: what is kept on disk is what is known.
        let text = format!("{state:?}");
        assert_eq!(state.round(&round(&[&disk]), at(6)), []);
        assert_ne!(text, "");
        // It goes away for a moment, and comes back.
        assert_eq!(state.round(&round(&[]), at(7)), []);
        assert_eq!(state.round(&round(&[&disk]), at(8)), []);
        assert_eq!(state.round(&round(&[]), at(9)), []);
        assert_eq!(whats(&state.round(&round(&[]), at(14))), [(What::Over, "disk")]);
        assert_eq!(state.alerts(), []);
        // One that never held for long enough is nobody's business.
        state.round(&round(&[&disk]), at(20));
        assert_eq!(state.round(&round(&[]), at(21)), []);
        assert_eq!(state.alerts(), []);
    }

    #[test]
    fn it_is_told_again_until_somebody_knows() {
        let (mut state, disk) = (State::default(), Condition { hold_s: 0, ..condition("disk") });
        assert_eq!(whats(&state.round(&round(&[&disk]), at(0))), [(What::Fires, "disk")]);
        assert_eq!(state.round(&round(&[&disk]), at(239)), []);
        assert_eq!(whats(&state.round(&round(&[&disk]), at(240))), [(What::Lasts, "disk")]);
        assert!(state.acknowledge(&key("disk"), at(1000)) && !state.acknowledge(&key("other"), at(1000)));
        assert_eq!(state.round(&round(&[&disk]), at(999)), []);
        assert_eq!(whats(&state.round(&round(&[&disk]), at(1001))), [(What::Lasts, "disk")]);
        let warning = Condition { severity: Severity::Warning, hold_s: 0, ..condition("minor") };
        state.round(&round(&[&warning]), at(1002));
        assert_eq!(whats(&state.round(&round(&[&warning]), at(100_000))), [(What::Over, "disk")]);
    }

    #[test]
    fn consequences_silences_and_what_could_not_be_looked_at() {
        let mut state = State::default();
        let disk = Condition { hold_s: 0, ..condition("disk") };
        let down = Condition { hold_s: 0, parents: vec![key("disk")], ..condition("down") };
        assert_eq!(whats(&state.round(&round(&[&down, &disk]), at(0))), [(What::Fires, "disk")]);
        // The parent is over, and this one still holds: now it is told.
        state.round(&round(&[&down]), at(1));
        let notes = state.round(&round(&[&down]), at(7));
        assert_eq!(whats(&notes), [(What::Fires, "down"), (What::Over, "disk")]);
        // A rule that cannot be looked at says neither that it holds nor that it is over.
        let unknown = Round { unknown: ["down".to_owned()].into(), ..Round::default() };
        assert_eq!(state.round(&unknown, at(100)), []);
        assert_eq!(state.alerts().len(), 1);
        let why = "a new disk is ordered".to_owned();
        state.silences.push(Silence { rule: "full".to_owned(), subject: None, until: at(300), why });
        let full = Condition { hold_s: 0, ..condition("full") };
        let both = Round { conditions: vec![full.clone()], unknown: ["down".to_owned()].into(), ..Round::default() };
        assert_eq!(state.round(&both, at(200)), []);
        assert_eq!(whats(&state.round(&both, at(301))), [(What::Lasts, "down"), (What::Fires, "full")]);
    }

    #[test]
    fn what_comes_and_goes_is_told_as_such() {
        let (mut state, disk) = (State::default(), Condition { hold_s: 0, keep_s: 0, ..condition("disk") });
        let mut told = Vec::new();
        for minute in 0..30 {
            let holds: &[&Condition] = if minute % 2 == 0 { &[&disk] } else { &[] };
            told.extend(state.round(&round(holds), at(minute)).iter().map(|note| note.what));
        }
        use What::{Fires, Flaps, Over};
        assert_eq!(told, [Fires, Over, Fires, Over, Fires, Over, Flaps]);
    }

    #[test]
    fn what_gets_worse_is_told_although_somebody_knows_and_a_clock_that_was_ahead_holds_nothing_back() {
        let (mut state, disk) = (State::default(), Condition { hold_s: 300, ..condition("disk") });
        let minor = Condition { severity: Severity::Error, ..disk.clone() };
        // The clock is a day ahead, and then set.
        state.round(&round(&[&minor]), at(1440));
        assert_eq!(state.round(&round(&[&minor]), at(0)), []);
        assert_eq!(whats(&state.round(&round(&[&minor]), at(5))), [(What::Fires, "disk")]);
        assert!(state.acknowledge(&key("disk"), at(10_000)));
        assert_eq!(state.round(&round(&[&minor]), at(6)), []);
        assert_eq!(whats(&state.round(&round(&[&disk]), at(7))), [(What::Fires, "disk")]);
        assert_eq!(state.round(&round(&[&disk]), at(8)), []);
        // Silenced meanwhile: whoever was told of it is told of its end.
        let silence = Silence { rule: "disk".to_owned(), subject: None, until: at(10_000), why: String::new() };
        state.silences.push(silence);
        state.round(&round(&[]), at(9));
        assert_eq!(whats(&state.round(&round(&[]), at(14))), [(What::Over, "disk")]);
    }

    proptest! {
        #[test]
        fn each_that_was_told_is_told_to_be_over_and_none_twice(holds in prop::collection::vec(any::<bool>(), 1..200), hold_s in 0_i64..600, keep_s in 0_i64..600) {
            let (mut state, disk) = (State::default(), Condition { hold_s, keep_s, ..condition("disk") });
            let mut open = false;
            // Ten minutes apart, so that it never flaps for long; and at the end it is over for good.
            for (n, holds) in holds.iter().copied().chain([false; 3]).enumerate() {
                let now = at(i64::try_from(n).unwrap_or(0) * 30);
                let conditions: &[&Condition] = if holds { &[&disk] } else { &[] };
                for note in state.round(&round(conditions), now) {
                    match note.what {
                        What::Fires => { prop_assert!(!open); open = true; }
                        What::Lasts | What::Flaps => prop_assert!(open || note.what == What::Flaps),
                        What::Over => { prop_assert!(open); open = false; }
                        What::Said => prop_assert!(false),
                    }
                }
            }
            prop_assert!(!open);
            prop_assert!(state.alerts().is_empty());
        }
    }
}
