//! The state of all alerts, kept. What is to be told is written down together with the state that says that it was told, and handed over
//! after that: whoever is killed in between finds it there, so that nothing is lost and nothing is told twice.

use super::event::Event;
use super::queue::announce;
use super::spool::Spool;
use super::state::{Key, Round, Silence, State};
use crate::host::Host;
use crate::state::AlertLock;
use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

const FILE: &str = "state.json";
/// How long another process that changes the state is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    state: State,
    /// What is to be handed over.
    outbox: Vec<Event>,
}

impl Known {
    fn read(spool: Spool<'_>) -> Result<Known> {
        let Some(contents) = spool.get(FILE)? else { return Ok(Known::default()) };
        serde_json::from_slice(&contents).or_else(|error| {
            // Beginning anew tells again what still holds; that is better than telling nothing.
            tracing::error!("what was known of alerts is broken and forgotten: {error}");
            Ok(Known::default())
        })
    }

    fn write(&self, spool: Spool<'_>) -> Result<()> {
        let contents = serde_json::to_vec(self).context("the state of the alerts cannot be rendered")?;
        spool.put(FILE, &contents)
    }

    fn hand_over(&mut self, spool: Spool<'_>) -> Result<()> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        self.outbox.iter().try_for_each(|event| announce(event, spool))?;
        self.outbox.clear();
        self.write(spool)
    }
}

/// The alerts that are known.
///
/// # Errors
/// They cannot be read.
pub fn known(spool: Spool<'_>) -> Result<State> {
    Known::read(spool).map(|known| known.state)
}

/// Takes up what the rules found, and hands over what is to be told of it; gives that back.
///
/// # Errors
/// The state cannot be read or written.
pub async fn round(found: &Round, spool: Spool<'_>, host: &Host) -> Result<Vec<Event>> {
    let _lock = AlertLock::take(host, "watch", PATIENCE).await?;
    // With the lock: an older state must not be put over one that is written meanwhile.
    spool.settle()?;
    let mut known = Known::read(spool)?;
    known.hand_over(spool)?;
    let before = known.clone();
    let notes = known.state.round(found, host.now());
    known.outbox = notes.into_iter().map(|note| Event::of_note(note, host)).collect::<Result<_>>()?;
    if known != before {
        known.write(spool)?;
    }
    let events = known.outbox.clone();
    known.hand_over(spool)?;
    Ok(events)
}

/// Somebody knows of an alert: it is not told again until then. Gives back whether there is such an alert.
///
/// # Errors
/// The state cannot be read or written.
pub async fn acknowledge(key: &Key, until: Timestamp, spool: Spool<'_>, host: &Host) -> Result<bool> {
    let _lock = AlertLock::take(host, "alert ack", PATIENCE).await?;
    let mut known = Known::read(spool)?;
    let is_there = known.state.acknowledge(key, until);
    known.write(spool)?;
    Ok(is_there)
}

/// What is said of a rule, or of one thing that it is about, is not told for a while.
///
/// # Errors
/// The state cannot be read or written.
pub async fn silence(silence: Silence, spool: Spool<'_>, host: &Host) -> Result<()> {
    let _lock = AlertLock::take(host, "alert silence", PATIENCE).await?;
    let mut known = Known::read(spool)?;
    known.state.silences.retain(|other| (&other.rule, &other.subject) != (&silence.rule, &silence.subject));
    known.state.silences.push(silence);
    known.write(spool)
}

/// Ends a silence. Gives back whether there was one.
///
/// # Errors
/// The state cannot be read or written.
pub async fn unsilence(key: &Key, spool: Spool<'_>, host: &Host) -> Result<bool> {
    let _lock = AlertLock::take(host, "alert unsilence", PATIENCE).await?;
    let mut known = Known::read(spool)?;
    let now = host.now();
    let is_there = known.state.silences.iter().any(|silence| silence.until > now && silence.key() == *key);
    known.state.silences.retain(|silence| silence.key() != *key);
    known.write(spool)?;
    Ok(is_there)
}

#[cfg(test)]
mod tests {
    use super::super::queue::{Queue, Recipient, distribute};
    use super::super::state::{Condition, What};
    use super::*;
    use crate::host::fake::{Fault, TestHost};
    use crate::value::Severity;

    fn full() -> Round {
        let condition = Condition {
            key: "disk.full:/data".parse().unwrap_or_else(|never| match never {}),
            severity: Severity::Critical,
            summary: "/data is full".to_owned(),
            remedy: String::new(),
            hold_s: 0,
            keep_s: 0,
            parents: Vec::new(),
        };
        Round { conditions: vec![condition], ..Round::default() }
    }

    /// A round of the watch, with a receiver that takes everything.
    async fn look(test: &TestHost, found: &Round, taken: &mut Vec<(String, What)>) -> Result<()> {
        let (spool, channels) = (Spool(&test.host), ["ops".to_owned()]);
        spool.open(&Queue::directories(&channels))?;
        round(found, spool, &test.host).await?;
        let to = [Recipient { name: "ops".to_owned(), least: Severity::Warning, quiet: None }];
        distribute(Some(&to), spool, test.host.now())?;
        let queue = Queue { spool, channel: "ops" };
        while let Some(item) = queue.next(None, false, test.host.now())? {
            taken.push((item.event.id.clone(), item.event.what));
            queue.told(&item, "yes".to_owned(), test.host.now())?;
        }
        Ok(())
    }

    /// Every change of a file fails once, and is once the last thing that the process does; the next rounds finish.
    #[tokio::test]
    async fn whatever_is_cut_off_an_alert_and_its_end_are_told_and_told_once() {
        let test = TestHost::new();
        // Counted from here on.
        test.faults.choose(None);
        look(&test, &full(), &mut Vec::new()).await.expect("it works");
        look(&test, &Round::default(), &mut Vec::new()).await.expect("it works");
        let effects = test.faults.effects();
        assert!(effects.len() > 10, "{effects:?}");
        for (number, effect) in effects.iter().enumerate() {
            for fault in [Fault::Refused, Fault::Killed] {
                let test = TestHost::new();
                let mut taken = Vec::new();
                test.faults.choose(Some((number, fault)));
                let mut cut = look(&test, &full(), &mut taken).await.is_err();
                if !cut {
                    cut = look(&test, &Round::default(), &mut taken).await.is_err();
                }
                test.faults.choose(None);
                for found in [full(), Round::default(), Round::default()] {
                    look(&test, &found, &mut taken).await.expect("whoever comes next finishes");
                }
                let name = format!("{fault:?} at effect {number}: {effect}");
                assert!(cut, "{name}");
                let mut seen: Vec<(String, What)> = Vec::new();
                for one in &taken {
                    // What was taken and could not be written down comes again, with its identifier.
                    match seen.contains(one) {
                        true => assert!(effect.contains("channels/ops.json"), "{name}: twice: {taken:?}"),
                        false => seen.push(one.clone()),
                    }
                }
                let whats: Vec<What> = seen.iter().map(|(_, what)| *what).collect();
                let (once, twice) = ([What::Fires, What::Over], [What::Fires, What::Over, What::Fires, What::Over]);
                // Where it was over before the fault, it fired anew.
                assert!(whats == once || whats == twice, "{name}: {whats:?}");
            }
        }
    }

    #[tokio::test]
    async fn who_sees_to_it_is_not_told_again_and_a_broken_state_is_no_end() {
        let test = TestHost::new();
        let spool = Spool(&test.host);
        look(&test, &full(), &mut Vec::new()).await.expect("it works");
        let key: Key = "disk.full:/data".parse().unwrap_or_else(|never| match never {});
        let later = test.host.now().checked_add(jiff::SignedDuration::from_hours(1)).expect("a time");
        assert!(acknowledge(&key, later, spool, &test.host).await.expect("it can be written"));
        assert_eq!(known(spool).expect("it can be read").alerts()[0].acknowledged_until, Some(later));
        spool.put(FILE, b"{").expect("it can be written");
        let mut taken = Vec::new();
        look(&test, &full(), &mut taken).await.expect("it begins anew");
        assert_eq!(taken.len(), 1);
    }
}
