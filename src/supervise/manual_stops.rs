//! Who stopped a container: `docker stop` by hand wins until the next start. Docker tells it by events alone: a signal is sent, the
//! container dies, and only then it says that this was a stop. Pure: time is handed in.

use crate::host::docker::DockerEvent;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// How long after a death that followed a signal its reason is waited for.
const REASON: Duration = Duration::from_secs(2);
/// A daemon that goes down stops its containers like a hand would: stops so shortly before it was lost are its own. Docker gives
/// containers 15 s then.
const LAST_BREATH: Duration = Duration::from_secs(30);
/// What Docker takes beyond the longest grace period of a container when it goes down.
const BEYOND_GRACE: Duration = Duration::from_secs(15);
const SIGKILL: i32 = 9;

/// Containers that somebody stopped, or may have.
#[derive(Debug, Default)]
pub struct ManualStops {
    /// Containers that were sent a signal which may be a stop's; the time is set when they were seen dead.
    signalled: BTreeMap<String, Option<Instant>>,
    /// Containers that were stopped, and since when, as far as that was seen.
    stopped: BTreeMap<String, Option<Instant>>,
    /// Containers that the supervisor itself is stopping: what Docker tells of that is no hand's.
    own: BTreeSet<String>,
}

impl ManualStops {
    /// With what an earlier supervisor knew.
    pub fn new(stopped: BTreeSet<String>) -> ManualStops {
        ManualStops { stopped: stopped.into_iter().map(|id| (id, None)).collect(), ..ManualStops::default() }
    }

    /// Takes up an event.
    pub fn note(&mut self, event: &DockerEvent, now: Instant) {
        let id = event.container_id.as_str();
        match event.action.as_str() {
            // A SIGKILL of its own is `docker kill`, or the end of a stop that was noted before.
            "kill" if self.own.contains(id) => {}
            "stop" if self.own.remove(id) => {}
            "kill" if event.signal != Some(SIGKILL) => drop(self.signalled.entry(id.to_owned()).or_default()),
            "stop" => {
                self.signalled.remove(id);
                // When it was, and not when somebody got to hear of it.
                self.stopped.insert(id.to_owned(), Some(now.checked_sub(event.age).unwrap_or(now)));
            }
            "start" | "destroy" => {
                self.own.remove(id);
                self.signalled.remove(id);
                self.stopped.remove(id);
            }
            _ => {}
        }
    }

    /// The supervisor is about to stop this one.
    pub fn stops(&mut self, id: &str) {
        self.own.insert(id.to_owned());
    }

    /// A container runs: whoever stopped it, it was started since.
    pub fn runs(&mut self, id: &str) {
        self.stopped.remove(id);
    }

    /// Docker was lost: what it stopped shortly before was not stopped by hand.
    ///
    /// `grace` is the longest that any container gets to end: Docker waits for all of them.
    pub fn docker_lost(&mut self, now: Instant, grace: Duration) {
        let last_breath = LAST_BREATH.max(grace + BEYOND_GRACE);
        self.signalled.clear();
        self.own.clear();
        self.stopped.retain(|_, since| since.is_none_or(|since| now.duration_since(since) >= last_breath));
    }

    /// Whether a dead container was stopped by hand.
    pub fn stopped(&self, id: &str) -> bool {
        self.stopped.contains_key(id)
    }

    /// Until when it is open why a dead container died.
    pub fn open_until(&mut self, id: &str, now: Instant) -> Option<Instant> {
        let seen_dead = self.signalled.get_mut(id)?;
        let end = *seen_dead.get_or_insert(now) + REASON;
        if now < end {
            return Some(end);
        }
        self.signalled.remove(id);
        None
    }

    /// The containers that were stopped by hand, to be remembered.
    pub fn all(&self) -> BTreeSet<String> {
        self.stopped.keys().cloned().collect()
    }

    /// Forgets containers that are not there any more.
    pub fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.stopped.retain(|id, _| is_there(id));
        self.signalled.retain(|id, _| is_there(id));
        self.own.retain(|id| is_there(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, signal: Option<i32>) -> DockerEvent {
        DockerEvent { action: action.to_owned(), container_id: "c".to_owned(), signal, age: Duration::ZERO }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_is_told_from_a_crash_and_from_a_kill() {
        let now = Instant::now();
        let mut manual = ManualStops::default();
        assert_eq!(manual.open_until("c", now), None, "a crash is answered at once");
        manual.note(&event("kill", Some(9)), now);
        assert_eq!(manual.open_until("c", now), None, "so is a SIGKILL");
        manual.note(&event("kill", Some(15)), now);
        assert_eq!(manual.open_until("c", now), Some(now + REASON), "a stop may be under way");
        manual.note(&event("stop", None), now);
        assert!(manual.stopped("c") && manual.open_until("c", now).is_none());
        manual.note(&event("start", None), now);
        assert!(!manual.stopped("c"), "a start by hand takes it back");
    }

    #[tokio::test(start_paused = true)]
    async fn the_supervisors_own_stop_is_no_hand() {
        let now = Instant::now();
        let mut manual = ManualStops::default();
        manual.stops("c");
        manual.note(&event("kill", Some(15)), now);
        assert_eq!(manual.open_until("c", now), None);
        manual.note(&event("stop", None), now);
        assert!(!manual.stopped("c"), "also if the start behind it fails");
        manual.note(&event("kill", Some(15)), now);
        manual.note(&event("stop", None), now);
        assert!(manual.stopped("c"), "the next one is a hand's again");
        manual.stops("c");
        manual.note(&event("start", None), now);
        manual.note(&event("stop", None), now);
        assert!(manual.stopped("c"), "one that was dead already told of no stop");
        manual.runs("c");
        assert!(!manual.stopped("c"), "it was started while nobody listened");
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_that_was_no_stop_holds_nothing_up_for_long() {
        let mut manual = ManualStops::default();
        manual.note(&event("kill", Some(15)), Instant::now());
        tokio::time::advance(Duration::from_secs(3600)).await;
        let died = Instant::now();
        assert!(manual.open_until("c", died).is_some());
        tokio::time::advance(REASON).await;
        assert_eq!(manual.open_until("c", Instant::now()), None);
        assert!(!manual.stopped("c"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_goes_down_is_no_hand() {
        let mut manual = ManualStops::new(BTreeSet::from(["known".to_owned()]));
        manual.note(&event("stop", None), Instant::now());
        tokio::time::advance(LAST_BREATH).await;
        manual.note(&DockerEvent { container_id: "late".to_owned(), ..event("stop", None) }, Instant::now());
        tokio::time::advance(Duration::from_secs(5)).await;
        // One that was heard of late, since the supervisor was busy.
        let (id, age) = ("heard late".to_owned(), Duration::from_secs(31));
        manual.note(&DockerEvent { container_id: id, age, ..event("stop", None) }, Instant::now());
        manual.docker_lost(Instant::now(), Duration::from_secs(10));
        assert_eq!(manual.all(), BTreeSet::from(["c".to_owned(), "known".to_owned(), "heard late".to_owned()]));
        // It waits for one that gets a minute, and tells of the others long before.
        manual.docker_lost(Instant::now(), Duration::from_secs(60));
        assert_eq!(manual.all(), BTreeSet::from(["known".to_owned()]));
    }
}
