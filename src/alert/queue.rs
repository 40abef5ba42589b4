//! What each channel still has to tell: a directory of events for each, the oldest first. An event leaves it when its receiver has said yes,
//! which is written down before; so one that is killed in between tells nothing twice.

use super::event::Event;
use super::spool::Spool;
use super::state::What;
use crate::value::{QuietHours, Severity};
use anyhow::{Context, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// What somebody wants to be told lies here until it is in each channel's queue.
pub const INBOX: &str = "inbox";
/// The most that waits in a queue; of more, the oldest report is given up, or else the oldest that is not critical.
const MAX_WAITING: usize = 500;
/// So many of those that were told last are known, so that none is told again.
const MAX_TOLD: usize = 100;
/// The last answers that are kept.
const MAX_ANSWERS: usize = 20;

/// After so many seconds of nothing but failures an event is given up.
const GIVEN_UP_S: i64 = 7 * 24 * 3600;

/// A channel's queue.
#[derive(Clone, Copy)]
pub struct Queue<'a> {
    pub spool: Spool<'a>,
    pub channel: &'a str,
}

/// A channel, the least severe that it tells, and when only what is critical.
#[derive(Debug, Clone)]
pub struct Recipient {
    pub name: String,
    pub least: Severity,
    pub quiet: Option<QuietHours>,
}

/// Whether these are quiet hours, by the host's time zone.
pub fn is_quiet(quiet: Option<QuietHours>, now: Timestamp) -> bool {
    let local = now.to_zoned(TimeZone::system());
    let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
    quiet.is_some_and(|quiet| quiet.covers(minute))
}

impl Recipient {
    fn wants(&self, event: &Event) -> bool {
        match &event.only {
            Some(only) => *only == self.name,
            None => event.severity >= self.least,
        }
    }
}

/// An event that waits, and the name of its file.
#[derive(Debug)]
pub struct Item {
    pub event: Event,
    name: String,
}

impl Item {
    /// By which the queue knows its place.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// How a channel does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub last_success: Option<Timestamp>,
    /// Since when every try has failed.
    pub failing_since: Option<Timestamp>,
    /// Why the last try failed, or what was answered to it.
    pub answers: Vec<Answer>,
    /// So many were given up untold.
    pub given_up: u64,
    /// The identifiers of those that were told last.
    told: Vec<String>,
}

/// What a receiver said to one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub id: String,
    pub at: Timestamp,
    pub is_success: bool,
    pub text: String,
}

/// The name of an event's file: when, which, and how it is dealt with.
fn file_name(event: &Event) -> String {
    let kind = match event.severity {
        _ if event.report.is_some() => "report",
        _ if event.is_test() => "test",
        Severity::Critical => "critical",
        _ => "other",
    };
    format!("{:015}-{}-{kind}.json", event.at.as_millisecond().max(0), event.id)
}

/// Hands something over to be told: it is on the disk when this returns.
///
/// # Errors
/// It cannot be written.
pub fn announce(event: &Event, spool: Spool<'_>) -> Result<()> {
    let contents = serde_json::to_vec(event).context("the event cannot be rendered")?;
    spool.put(&format!("{INBOX}/{}", file_name(event)), &contents)
}

/// Puts what was handed over into the queues of the channels that it is for. Where nobody says yet who is to be told (`None`), it waits.
///
/// # Errors
/// Files cannot be read or written.
pub fn distribute(recipients: Option<&[Recipient]>, spool: Spool<'_>, now: Timestamp) -> Result<()> {
    let names = spool.names(INBOX)?;
    let Some(recipients) = recipients else {
        let over = names.len().saturating_sub(MAX_WAITING);
        return names[..over].iter().try_for_each(|name| spool.discard(&format!("{INBOX}/{name}")));
    };
    for name in names {
        let path = format!("{INBOX}/{name}");
        let Some(contents) = spool.get(&path)? else { continue };
        match serde_json::from_slice::<Event>(&contents) {
            Ok(event) => {
                if event.what == What::Said && event.report.is_none() {
                    tracing::info!("{}", event.subject());
                }
                for recipient in recipients.iter().filter(|recipient| recipient.wants(&event)) {
                    let queue = Queue { spool, channel: &recipient.name };
                    // In the morning people hear of what still holds.
                    let is_late =
                        event.what == What::Over && is_quiet(recipient.quiet, now) && queue.take_back(&event)?;
                    if !is_late {
                        queue.push(&event, &contents)?;
                    }
                }
            }
            Err(error) => tracing::warn!("{path} is no event and is not told: {error}"),
        }
        spool.discard(&path)?;
    }
    Ok(())
}

/// How much waits to be put into queues.
///
/// # Errors
/// It cannot be listed.
pub fn handed_over(spool: Spool<'_>) -> Result<usize> {
    spool.names(INBOX).map(|names| names.len())
}

/// How a channel does.
///
/// # Errors
/// It cannot be read.
pub fn health(channel: &str, spool: Spool<'_>) -> Result<Health> {
    let Some(contents) = spool.get(&format!("channels/{channel}.json"))? else { return Ok(Health::default()) };
    Ok(serde_json::from_slice(&contents).unwrap_or_else(|error| {
        tracing::warn!("what was known of the channel {channel} is broken and forgotten: {error}");
        Health::default()
    }))
}

/// Since when the oldest of a channel's events waits.
///
/// # Errors
/// The queue cannot be listed.
pub fn oldest(channel: &str, spool: Spool<'_>) -> Result<Option<Timestamp>> {
    let names = Queue { spool, channel }.names()?;
    let at = |name: &String| name.split('-').next()?.parse().ok().and_then(|at| Timestamp::from_millisecond(at).ok());
    Ok(names.iter().find(|name| !name.ends_with("-test.json")).and_then(at))
}

impl Queue<'_> {
    /// The directories that a channel needs.
    pub fn directories(channels: &[String]) -> Vec<String> {
        let fixed = [INBOX, "channels", "queue"].map(str::to_owned);
        fixed.into_iter().chain(channels.iter().map(|channel| format!("queue/{channel}"))).collect()
    }

    fn names(&self) -> Result<Vec<String>> {
        self.spool.names(&format!("queue/{}", self.channel))
    }

    fn push(&self, event: &Event, contents: &[u8]) -> Result<()> {
        if health(self.channel, self.spool)?.told.contains(&event.id) {
            return Ok(());
        }
        let waiting = self.names()?;
        if waiting.len() >= MAX_WAITING {
            let is_report = |name: &&String| name.ends_with("-report.json");
            let is_of_less = |name: &&String| !name.ends_with("-critical.json");
            let out = waiting.iter().find(is_report).or(waiting.iter().find(is_of_less)).or(waiting.first());
            if let Some(out) = out {
                self.give_up(out)?;
            }
        }
        self.spool.put(&format!("queue/{}/{}", self.channel, file_name(event)), contents)
    }

    /// Takes back what waits of an alert that is over; gives back whether nobody has heard of its beginning.
    fn take_back(&self, over: &Event) -> Result<bool> {
        let mut has_begun_unheard = false;
        for name in self.names()? {
            let path = format!("queue/{}/{name}", self.channel);
            let Some(contents) = self.spool.get(&path)? else { continue };
            let Ok(event) = serde_json::from_slice::<Event>(&contents) else { continue };
            if event.key == over.key && event.severity < Severity::Critical && event.what != What::Said {
                has_begun_unheard |= event.what == What::Fires;
                self.spool.discard(&path)?;
            }
        }
        Ok(has_begun_unheard)
    }

    fn give_up(&self, name: &str) -> Result<()> {
        self.amend(|health| health.given_up += 1)?;
        self.spool.discard(&format!("queue/{}/{name}", self.channel))
    }

    /// Whether a test waits.
    ///
    /// # Errors
    /// The queue cannot be listed.
    pub fn has_test(&self) -> Result<bool> {
        Ok(self.names()?.iter().any(|name| name.ends_with("-test.json")))
    }

    /// What is to be told next: a test that somebody waits for, or else the oldest behind the one that was refused last, if there is one. What
    /// its channel could not be told for seven days is given up.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub fn next(&self, refused: Option<&str>, is_quiet: bool, now: Timestamp) -> Result<Option<Item>> {
        let names = self.names()?;
        let (tests, others): (Vec<String>, Vec<String>) =
            names.into_iter().partition(|name| name.ends_with("-test.json"));
        let (before, behind): (Vec<String>, Vec<String>) =
            others.into_iter().partition(|name| refused.is_some_and(|refused| name.as_str() <= refused));
        let Health { told, failing_since, .. } = health(self.channel, self.spool)?;
        // By the event's time alone, a clock that is set would take everything away.
        let is_long = |since: Timestamp| now.as_second() - since.as_second() > GIVEN_UP_S;
        let is_failing = failing_since.is_some_and(is_long);
        for name in tests.into_iter().chain(behind).chain(before) {
            let path = format!("queue/{}/{name}", self.channel);
            let Some(contents) = self.spool.get(&path)? else { continue };
            match serde_json::from_slice::<Event>(&contents) {
                Ok(event) if told.contains(&event.id) => self.spool.discard(&path)?,
                Ok(event) if is_failing && is_long(event.at) => self.give_up(&name)?,
                // It waits until the day begins.
                Ok(event) if is_quiet && event.severity < Severity::Critical && !event.is_test() => {}
                Ok(event) => return Ok(Some(Item { event, name })),
                Err(error) => {
                    tracing::warn!("{path} is no event and is not told: {error}");
                    self.give_up(&name)?;
                }
            }
        }
        Ok(None)
    }

    /// The receiver has it.
    ///
    /// # Errors
    /// That cannot be written down.
    pub fn told(&self, item: &Item, answer: String, now: Timestamp) -> Result<()> {
        self.amend(|health| {
            (health.last_success, health.failing_since) = (Some(now), None);
            health.told.push(item.event.id.clone());
            let over = health.told.len().saturating_sub(MAX_TOLD);
            health.told.drain(..over);
            health.answer(Answer { id: item.event.id.clone(), at: now, is_success: true, text: answer });
        })?;
        self.spool.discard(&format!("queue/{}/{}", self.channel, item.name))
    }

    /// The receiver does not have it; a test is not tried again.
    ///
    /// # Errors
    /// That cannot be written down.
    pub fn failed(&self, item: &Item, why: String, now: Timestamp) -> Result<()> {
        self.amend(|health| {
            health.failing_since.get_or_insert(now);
            health.answer(Answer { id: item.event.id.clone(), at: now, is_success: false, text: why });
        })?;
        match item.event.is_test() {
            true => self.spool.discard(&format!("queue/{}/{}", self.channel, item.name)),
            false => Ok(()),
        }
    }

    fn amend(&self, change: impl FnOnce(&mut Health)) -> Result<()> {
        let mut known = health(self.channel, self.spool)?;
        change(&mut known);
        let contents = serde_json::to_vec(&known).context("the channel's state cannot be rendered")?;
        self.spool.put(&format!("channels/{}.json", self.channel), &contents)
    }
}

impl Health {
    fn answer(&mut self, answer: Answer) {
        self.answers.push(answer);
        let over = self.answers.len().saturating_sub(MAX_ANSWERS);
        self.answers.drain(..over);
    }
}

#[cfg(test)]
mod tests {
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
            announce(&Event::of_note(note, &test.host).expect("it is one"), Spool(&test.host))
                .expect("it can be written");
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
}
