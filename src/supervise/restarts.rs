//! When a container that died is started again (docs/operating.md, "When a container dies"). Pure: time is handed in.

use crate::stack::Restart;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// The window in which restarts are counted, and the time of health after which the backoff begins anew.
pub const WINDOW: Duration = Duration::from_secs(300);
/// More restarts than this in the window are a crash loop.
pub const MAX_RESTARTS: usize = 5;
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// Before the second restart; each further one waits twice as long. Docker's own policy begins with the same.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// What is seen of a service's container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Good,
    Unhealthy,
    Ended { exit_code: i64 },
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to do; look again then, if ever.
    Fine { look_again: Option<Instant> },
    /// Start it again, or restart it if it still runs.
    Restart,
    /// Its turn comes then.
    Wait(Instant),
}

/// What is remembered of one service.
#[derive(Debug, Default)]
pub struct Memory {
    restarts: VecDeque<Instant>,
    /// Restarts since it was last well for a whole window.
    attempts: u32,
    due: Option<Instant>,
    good_since: Option<Instant>,
    down: bool,
}

impl Memory {
    /// Judges what is seen, and remembers the restart that it asks for.
    pub fn judge(&mut self, seen: Seen, policy: Restart, now: Instant) -> Verdict {
        while self.restarts.front().is_some_and(|first| now.duration_since(*first) >= WINDOW) {
            self.restarts.pop_front();
        }
        let stays_down = match seen {
            Seen::Good => false,
            Seen::Ended { exit_code } => policy.is_over(exit_code, self.attempts),
            // One that nobody would start again is not stopped for that either.
            Seen::Unhealthy => policy == Restart::No,
        };
        if seen == Seen::Good || stays_down {
            return if stays_down { self.over() } else { self.well(now) };
        }
        self.down = true;
        self.good_since = None;
        let delay = match self.attempts {
            0 => Duration::ZERO,
            attempts => LONGEST_DELAY.min(FIRST_DELAY * (1 << (attempts - 1).min(10))),
        };
        let due = *self.due.get_or_insert(now + delay);
        if now < due {
            return Verdict::Wait(due);
        }
        self.due = None;
        self.attempts += 1;
        self.restarts.push_back(now);
        self.down = false;
        Verdict::Restart
    }

    /// It ended for good.
    fn over(&mut self) -> Verdict {
        self.down = false;
        self.due = None;
        self.good_since = None;
        Verdict::Fine { look_again: self.restarts.front().map(|first| *first + WINDOW) }
    }

    fn well(&mut self, now: Instant) -> Verdict {
        self.down = false;
        self.due = None;
        let since = *self.good_since.get_or_insert(now);
        if now.duration_since(since) >= WINDOW {
            self.attempts = 0;
        }
        let forgets = self.restarts.front().map(|first| *first + WINDOW);
        let calms = (self.attempts > 0).then(|| since + WINDOW);
        Verdict::Fine { look_again: forgets.into_iter().chain(calms).min() }
    }

    /// Restarts in the window.
    pub fn restarts(&self) -> usize {
        self.restarts.len()
    }

    /// Whether it keeps dying: the restart that a death asks for counts, made or not.
    pub fn loops(&self) -> bool {
        self.restarts.len() + usize::from(self.down) > MAX_RESTARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: Seen = Seen::Ended { exit_code: 137 };

    #[tokio::test(start_paused = true)]
    async fn the_first_death_is_answered_at_once_then_with_doubling_delays() {
        let mut memory = Memory::default();
        assert_eq!(memory.judge(DEAD, Restart::Always, Instant::now()), Verdict::Restart);
        for expected in [100, 200, 400, 800] {
            assert!(matches!(memory.judge(Seen::Good, Restart::Always, Instant::now()), Verdict::Fine { .. }));
            let now = Instant::now();
            assert_eq!(memory.judge(DEAD, Restart::Always, now), Verdict::Wait(now + Duration::from_millis(expected)));
            tokio::time::advance(Duration::from_millis(expected)).await;
            assert_eq!(memory.judge(DEAD, Restart::Always, Instant::now()), Verdict::Restart);
        }
        assert!(!memory.loops());
        assert!(matches!(memory.judge(DEAD, Restart::Always, Instant::now()), Verdict::Wait(_)));
        assert!(memory.loops(), "the sixth death within the window");
    }

    #[tokio::test(start_paused = true)]
    async fn the_delay_has_a_ceiling_and_five_good_minutes_reset_it() {
        let mut memory = Memory::default();
        let mut delays = Vec::new();
        for _ in 0..20 {
            if let Verdict::Wait(due) = memory.judge(DEAD, Restart::Always, Instant::now()) {
                delays.push((due - Instant::now()).as_millis());
                tokio::time::advance(due - Instant::now()).await;
                assert_eq!(memory.judge(DEAD, Restart::Always, Instant::now()), Verdict::Restart);
            }
        }
        assert_eq!(delays[..12], [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]);
        let Verdict::Fine { look_again: Some(at) } = memory.judge(Seen::Good, Restart::Always, Instant::now()) else {
            panic!("a service with a past is looked at again")
        };
        assert!(at > Instant::now());
        tokio::time::advance(WINDOW).await;
        assert_eq!(memory.judge(Seen::Good, Restart::Always, Instant::now()), Verdict::Fine { look_again: None });
        assert!(!memory.loops());
        assert_eq!(memory.judge(DEAD, Restart::Always, Instant::now()), Verdict::Restart, "at once again");
    }

    #[tokio::test(start_paused = true)]
    async fn the_policy_decides_whether_an_end_is_a_death() {
        let fine = Verdict::Fine { look_again: None };
        assert_eq!(Memory::default().judge(DEAD, Restart::No, Instant::now()), fine);
        assert_eq!(
            Memory::default().judge(Seen::Ended { exit_code: 0 }, Restart::OnFailure(None), Instant::now()),
            fine
        );
        assert_eq!(Memory::default().judge(DEAD, Restart::OnFailure(None), Instant::now()), Verdict::Restart);
        let mut twice = Memory::default();
        for _ in 0..2 {
            assert!(!matches!(twice.judge(DEAD, Restart::OnFailure(Some(2)), Instant::now()), Verdict::Fine { .. }));
            tokio::time::advance(Duration::from_secs(1)).await;
            twice.judge(DEAD, Restart::OnFailure(Some(2)), Instant::now());
        }
        let given_up = twice.judge(DEAD, Restart::OnFailure(Some(2)), Instant::now());
        assert!(matches!(given_up, Verdict::Fine { .. }), "{given_up:?}");
        assert_eq!(Memory::default().judge(Seen::Unhealthy, Restart::No, Instant::now()), fine);
        assert_eq!(
            Memory::default().judge(Seen::Unhealthy, Restart::OnFailure(None), Instant::now()),
            Verdict::Restart
        );
    }
}
