//! What a channel tells, in which order, and what it gives up.

use super::*;
use crate::host::fake::TestHost;

fn recipients(all: &[(&str, Severity)]) -> Vec<Recipient> {
    all.iter().map(|(name, least)| Recipient { name: (*name).to_owned(), least: *least, quiet: None }).collect()
}

fn waiting(channel: &str, is_quiet: bool, test: &TestHost) -> Option<String> {
    let queue = Queue { spool: Spool(&test.host), channel };
    queue.next(None, is_quiet, test.host.now()).expect("it can be read").map(|item| item.event.summary)
}

fn opened(channels: &[&str]) -> TestHost {
    let test = TestHost::new();
    let names: Vec<String> = channels.iter().map(|name| (*name).to_owned()).collect();
    Spool(&test.host).open(&Queue::directories(&names)).expect("they can be made");
    test
}

fn say(severity: Severity, text: &str, only: Option<&str>, test: &TestHost) {
    let event = Event::said(severity, text.to_owned(), only.map(str::to_owned), &test.host).expect("it is one");
    announce(&event, Spool(&test.host)).expect("it can be written");
}

#[test]
fn a_channel_tells_what_is_bad_enough_and_at_night_what_is_critical() {
    let test = opened(&["all", "worst"]);
    say(Severity::Error, "a backup is late", None, &test);
    let to = recipients(&[("all", Severity::Warning), ("worst", Severity::Critical)]);
    distribute(Some(&to), Spool(&test.host), test.host.now()).expect("it can be handed out");
    assert_eq!(waiting("worst", false, &test), None);
    assert_eq!(waiting("all", true, &test), None);
    assert_eq!(waiting("all", false, &test).as_deref(), Some("a backup is late"));
    say(Severity::Critical, "the disk is full", None, &test);
    // A test is for whoever waits for its answer.
    say(Severity::Warning, "a test", Some("worst"), &test);
    distribute(Some(&to), Spool(&test.host), test.host.now()).expect("it can be handed out");
    assert_eq!(waiting("all", true, &test).as_deref(), Some("the disk is full"));
    assert_eq!(waiting("worst", true, &test).as_deref(), Some("a test"));
}

#[test]
fn what_began_and_ended_at_night_is_not_told_in_the_morning() {
    let test = opened(&["ops"]);
    let now = test.host.now();
    // All of the day but one minute that it is not.
    let (hour, minute) = if is_quiet("00:00-00:01".parse().ok(), now) { (12, 0) } else { (0, 0) };
    let quiet = format!("{hour:02}:{:02}-{hour:02}:{minute:02}", minute + 1).parse().ok();
    assert!(is_quiet(quiet, now));
    let to = [Recipient { name: "ops".to_owned(), least: Severity::Warning, quiet }];
    let tell = |what: What, rule: &str, severity: Severity| {
        let note = crate::alert::Note {
            what,
            key: rule.parse().unwrap_or_else(|never| match never {}),
            severity,
            summary: format!("{rule} {what:?}"),
            remedy: String::new(),
            since: now,
        };
        announce(&Event::of_note(note, &test.host).expect("it is one"), Spool(&test.host)).expect("it can be written");
        distribute(Some(&to), Spool(&test.host), now).expect("it can be handed out");
    };
    tell(What::Fires, "a", Severity::Error);
    tell(What::Fires, "b", Severity::Error);
    tell(What::Over, "a", Severity::Error);
    // Its beginning was told before the night.
    tell(What::Over, "c", Severity::Error);
    tell(What::Fires, "d", Severity::Critical);
    tell(What::Over, "d", Severity::Critical);
    let queue = Queue { spool: Spool(&test.host), channel: "ops" };
    let mut left = Vec::new();
    while let Some(item) = queue.next(None, false, now).expect("it can be read") {
        queue.told(&item, String::new(), now).expect("it can be written");
        left.push(item.event.summary);
    }
    left.sort();
    assert_eq!(left, ["b Fires", "c Over", "d Fires", "d Over"]);
}

/// Else the alert that something is refused, which is told, would be what ends it.
#[test]
fn what_is_refused_goes_on_failing_though_others_are_taken() {
    let test = opened(&["ops"]);
    let (spool, now) = (Spool(&test.host), test.host.now());
    let queue = Queue { spool, channel: "ops" };
    let failing = || health("ops", spool).expect("it can be read").failing_since;
    let at = |seconds: i64| Timestamp::from_second(now.as_second() + seconds).expect("a time");
    for (second, text) in [(0, "refused"), (1, "taken")] {
        let said = Event::said(Severity::Error, text.to_owned(), None, &test.host).expect("it is one");
        announce(&Event { at: at(second), ..said }, spool).expect("it can be written");
    }
    distribute(Some(&recipients(&[("ops", Severity::Warning)])), spool, now).expect("it can be handed out");
    let next = |refused: Option<&str>, now| queue.next(refused, false, now).expect("it can be read");
    let refused = next(None, now).expect("something waits");
    queue.failed(&refused, "HTTP 400".to_owned(), now).expect("it can be written");
    let taken = next(Some(refused.name()), now).expect("something waits");
    assert_eq!(taken.event.summary, "taken");
    queue.told(&taken, String::new(), now).expect("it can be written");
    assert_eq!(failing(), Some(now));
    // A week later it is given up, but not by a process that has not tried it.
    let later = at(8 * 24 * 3600);
    assert!(next(None, later).is_some());
    assert!(next(Some(refused.name()), later).is_none());
    assert_eq!(health("ops", spool).expect("it can be read").given_up, 1);
}

#[test]
fn a_report_is_for_sentry_alone_is_tried_again_and_gives_way_to_alerts() {
    let test = opened(&["sentry", "all"]);
    let spool = Spool(&test.host);
    let to = recipients(&[("sentry", Severity::Warning), ("all", Severity::Warning)]);
    for number in 0..MAX_WAITING + 1 {
        let id = format!("{number:032x}");
        let report = Event::reported(id, Severity::Error, format!("report {number}"), "{}".to_owned(), &test.host);
        announce(&report, spool).expect("it can be written");
        if number == 0 {
            say(Severity::Error, "a backup is late", None, &test);
        }
    }
    distribute(Some(&to), spool, test.host.now()).expect("it can be handed out");
    assert_eq!(waiting("all", false, &test).as_deref(), Some("a backup is late"));
    let queue = Queue { spool, channel: "sentry" };
    let names = queue.names().expect("it can be listed");
    assert_eq!(names.len(), MAX_WAITING);
    assert_eq!(names.iter().filter(|name| name.ends_with("-other.json")).count(), 1, "the alert is still there");
    let item = queue.next(None, false, test.host.now()).expect("it can be read").expect("something waits");
    queue.failed(&item, "refused".to_owned(), test.host.now()).expect("it can be written");
    assert_eq!(queue.names().expect("it can be listed").len(), MAX_WAITING, "it is tried again");
}
