//! What the loop sleeps for: events of Docker, a time, another command.

use super::manual_stops::ManualStops;
use super::releases::{Change, Releases};
use crate::host::docker::{DockerError, DockerEvent};
use crate::host::notify;
use anyhow::Result;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

pub(super) type Events = BoxStream<'static, Result<DockerEvent>>;

/// What woke the loop.
pub(super) enum Woken {
    /// Something happened to these.
    Containers(BTreeSet<String>),
    /// Another command wrote the ledger, or gave up its lock.
    Others(Change),
}

/// Sleeps until something happens that asks for a look, and takes up all that has happened by then. Gives back the containers that
/// it happened to.
pub(super) async fn wait(
    events: &mut Events,
    wake: Option<Instant>,
    watchdog: &mut Option<tokio::time::Interval>,
    manual_stops: &mut ManualStops,
    releases: &mut Releases,
) -> Result<Woken> {
    loop {
        tokio::select! {
            event = events.next() => {
                let event = event.ok_or_else(|| DockerError::Away("it ended its events".to_owned()))??;
                return swarm(event, events, manual_stops).await.map(Woken::Containers);
            }
            () = until(wake) => return Ok(Woken::Containers(BTreeSet::new())),
            changed = releases.changed() => return changed.map(Woken::Others),
            () = tick(watchdog) => notify::watchdog(),
        }
    }
}

/// How long there are no more events before all that have happened are taken to be known.
const QUIET: Duration = Duration::from_millis(5);
/// The most events that one look serves.
const MAX_SWARM: usize = 1000;

/// Takes up an event and all that follow it at once: one look serves them all. While something was mended many have gathered, and they come
/// one by one: a look before the last of them would see a container that is dead, and not know that it was stopped by hand.
async fn swarm(first: DockerEvent, events: &mut Events, manual_stops: &mut ManualStops) -> Result<BTreeSet<String>> {
    let (mut event, mut named) = (first, BTreeSet::new());
    for _ in 0..MAX_SWARM {
        manual_stops.note(&event, Instant::now());
        named.insert(event.container_id);
        match tokio::time::timeout(QUIET, events.next()).await {
            Ok(Some(next)) => event = next?,
            Ok(None) | Err(_) => return Ok(named),
        }
    }
    manual_stops.note(&event, Instant::now());
    named.insert(event.container_id);
    Ok(named)
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

pub(super) async fn tick(watchdog: &mut Option<tokio::time::Interval>) {
    match watchdog {
        Some(ticks) => drop(ticks.tick().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_that_come_one_by_one_are_taken_up_before_a_look() {
        let event = |action: &str, id: &str| DockerEvent {
            action: action.to_owned(),
            container_id: id.to_owned(),
            signal: (action == "kill").then_some(15),
            age: Duration::ZERO,
        };
        let all = [("start", "a"), ("start", "b"), ("kill", "b"), ("die", "b"), ("stop", "b")];
        // As from a connection: each is handed over by another task, which has to run first.
        let later = futures_util::stream::iter(all.map(|(action, id)| event(action, id))).then(async |event| {
            tokio::task::yield_now().await;
            Ok(event)
        });
        let mut events: Events = Box::pin(later.chain(futures_util::stream::pending()));
        let mut manual_stops = ManualStops::default();
        let first = events.next().await.expect("there are some").expect("it is one");
        let named = swarm(first, &mut events, &mut manual_stops).await.expect("nothing fails");
        assert_eq!(named, ["a", "b"].map(str::to_owned).into());
        assert!(manual_stops.stopped("b"), "it was stopped by hand while something else was done");
    }
}
