//! What is told of what holds, and when.

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
fn what_could_not_be_looked_at_holds_up_no_other_of_its_rule() {
    let disk = |subject: &str| {
        let key = Key { rule: "disk".to_owned(), subject: subject.to_owned() };
        Condition { key, hold_s: 0, keep_s: 0, ..condition("disk") }
    };
    let mut state = State::default();
    state.round(&round(&[&disk("/a"), &disk("/b")]), at(0));
    let unknown = Round { unknown: ["disk:/a".to_owned()].into(), ..Round::default() };
    let over: Vec<Note> = (1..4).flat_map(|minute| state.round(&unknown, at(minute))).collect();
    assert_eq!(
        over.iter().map(|note| (note.what, note.key.subject.as_str())).collect::<Vec<_>>(),
        [(What::Over, "/b")]
    );
    assert_eq!(state.alerts().len(), 1);
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
