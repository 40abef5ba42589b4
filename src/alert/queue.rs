//! What each channel still has to tell: a directory of events for each, the oldest first. An event leaves it when its receiver has said yes,
//! which is written down before; so one that is killed in between tells nothing twice.

use super::event::Event;
use super::spool::Spool;
use super::state::What;
use crate::value::{QuietHours, Severity};
use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// What somebody wants to be told lies here until it is in each channel's queue.
pub const INBOX: &str = "inbox";
/// The most reports that wait to be put into a queue.
const MAX_REPORTS: usize = 50;
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

/// Hands a report over, where there is room for it: alerts need what there is in memory and in the reserve.
///
/// # Errors
/// It cannot be written, or many wait already.
pub fn report(event: &Event, spool: Spool<'_>) -> Result<()> {
    if spool.names(INBOX)?.iter().filter(|name| is_report(name)).count() >= MAX_REPORTS {
        bail!("{MAX_REPORTS} wait already; does the watch run?");
    }
    let contents = serde_json::to_vec(event).context("the report cannot be rendered")?;
    spool.put_on_disk(&format!("{INBOX}/{}", file_name(event)), &contents)
}

fn is_report(name: &str) -> bool {
    name.ends_with("-report.json")
}

/// Which of those that wait is given up first: the oldest report, or else the oldest that is not critical, or else the oldest.
fn least(names: &[String]) -> Option<&String> {
    let is_of_less = |name: &&String| !name.ends_with("-critical.json");
    names.iter().find(|name| is_report(name)).or(names.iter().find(is_of_less)).or(names.first())
}

/// Puts what was handed over into the queues of the channels that it is for. Where nobody says yet who is to be told (`None`), it waits.
///
/// # Errors
/// Files cannot be read or written.
pub fn distribute(recipients: Option<&[Recipient]>, spool: Spool<'_>, now: Timestamp) -> Result<()> {
    let mut names = spool.names(INBOX)?;
    let Some(recipients) = recipients else {
        while let Some(out) = least(&names).filter(|_| names.len() > MAX_WAITING).cloned() {
            spool.discard(&format!("{INBOX}/{out}"))?;
            names.retain(|name| *name != out);
        }
        return Ok(());
    };
    for name in names {
        let path = format!("{INBOX}/{name}");
        let contents = match spool.get(&path) {
            Ok(Some(contents)) => contents,
            Ok(None) => continue,
            // Those behind it are told all the same.
            Err(error) => {
                tracing::error!("what was handed over cannot be read: {error:#}");
                continue;
            }
        };
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

/// How much waits to be put into queues, reports left out.
///
/// # Errors
/// It cannot be listed.
pub fn handed_over(spool: Spool<'_>) -> Result<usize> {
    spool.names(INBOX).map(|names| names.iter().filter(|name| !is_report(name)).count())
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
        if waiting.len() >= MAX_WAITING
            && let Some(out) = least(&waiting)
        {
            self.give_up(out)?;
        }
        let path = format!("queue/{}/{}", self.channel, file_name(event));
        match &event.report {
            Some(_) => self.spool.put_on_disk(&path, contents),
            None => self.spool.put(&path, contents),
        }
    }

    /// Takes back what waits of an alert that is over; gives back whether nobody has heard of its beginning.
    fn take_back(&self, over: &Event) -> Result<bool> {
        let mut waiting = Vec::new();
        for name in self.names()? {
            let path = format!("queue/{}/{name}", self.channel);
            let Some(contents) = self.spool.get(&path)? else { continue };
            let Ok(event) = serde_json::from_slice::<Event>(&contents) else { continue };
            if event.key == over.key && event.what != What::Said {
                waiting.push((path, event));
            }
        }
        // Where a part of it was told, or is told at night, people must hear of its end.
        let is_critical = |event: &Event| event.severity == Severity::Critical;
        let began_here = waiting.first().is_some_and(|(_, first)| first.what == What::Fires);
        if !began_here || is_critical(over) || waiting.iter().any(|(_, event)| is_critical(event)) {
            return Ok(false);
        }
        waiting.iter().try_for_each(|(path, _)| self.spool.discard(path))?;
        Ok(true)
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
        // Only after a try of this process: a machine that was off for a week has not tried for a week.
        let is_failing = refused.is_some() && failing_since.is_some_and(is_long);
        let (reports, alerts): (Vec<String>, Vec<String>) =
            behind.into_iter().chain(before).partition(|name| is_report(name));
        let is_waiting =
            |name: &String| is_quiet && !["-critical.json", "-test.json"].iter().any(|end| name.ends_with(end));
        for name in tests.into_iter().chain(alerts).chain(reports) {
            // It waits until the day begins.
            if is_waiting(&name) {
                continue;
            }
            let path = format!("queue/{}/{name}", self.channel);
            let Some(contents) = self.spool.get(&path)? else { continue };
            match serde_json::from_slice::<Event>(&contents) {
                Ok(event) if told.contains(&event.id) => self.spool.discard(&path)?,
                Ok(event) if is_failing && is_long(event.at) => self.give_up(&name)?,
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
        let is_older_left = !item.event.is_test()
            && self.names()?.iter().any(|name| *name < item.name && !name.ends_with("-test.json"));
        self.amend(|health| {
            health.last_success = Some(now);
            // One that is older and still refused goes on failing, whatever its receiver takes beside.
            if !is_older_left {
                health.failing_since = None;
            }
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
#[path = "queue_tests.rs"]
mod tests;
