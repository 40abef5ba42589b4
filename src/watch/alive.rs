//! The dead man's switch: somebody elsewhere is asked again and again, and tells people once he is not asked any more. So he also tells of a
//! machine that is off, and of a watch that does not look.

use crate::host::Host;
use crate::host::post::{Post, Posted};
use crate::value::Secret;
use jiff::Timestamp;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::watch;

/// Between two requests.
const BETWEEN: Duration = Duration::from_secs(300);
/// After one that failed.
const AGAIN: Duration = Duration::from_secs(60);
/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the last request gave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Answered {
    /// None was made yet.
    #[default]
    NotYet,
    Well,
    /// There has been no good answer since then.
    NotSince(Timestamp),
}

/// The same, for whoever looks at it meanwhile.
#[derive(Debug, Default)]
pub struct Alive(Mutex<Answered>);

impl Alive {
    pub fn last(&self) -> Answered {
        *super::locked(&self.0)
    }

    /// Takes up an answer; gives back whether that is something new.
    fn answered(&self, is_good: bool, now: Timestamp) -> bool {
        let mut last = super::locked(&self.0);
        let next = match (*last, is_good) {
            (_, true) => Answered::Well,
            (Answered::NotSince(since), false) => Answered::NotSince(since),
            (_, false) => Answered::NotSince(now),
        };
        let is_new = *last != next;
        *last = next;
        is_new
    }
}

/// Asks for ever, each time after a look of the watch: one that hangs is to be missed.
pub async fn keep_asking(url: Option<&Secret>, alive: &Alive, mut looks: watch::Receiver<u64>, host: &Host) {
    let Some(url) = url else { return std::future::pending().await };
    loop {
        if looks.changed().await.is_err() {
            // The watch begins anew, and this with it.
            return std::future::pending().await;
        }
        let answer = host.post(Post { url, headers: &[], body: None, deadline: DEADLINE }).await;
        let why = why(answer);
        if alive.answered(why.is_none(), host.now()) {
            match &why {
                Some(why) => tracing::info!("the dead man's switch did not answer: {why}"),
                None => tracing::info!("the dead man's switch answers again"),
            }
        }
        tokio::time::sleep(if why.is_none() { BETWEEN } else { AGAIN }).await;
    }
}

/// Why an answer is none; only 2xx says that somebody has taken note.
fn why(answer: anyhow::Result<Posted>) -> Option<String> {
    match answer {
        Ok(posted) if (200..=299).contains(&posted.status) => None,
        Ok(posted) => Some(format!("HTTP {}", posted.status)),
        Err(error) => Some(format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_2xx_is_an_answer_and_the_first_failure_counts() {
        let posted = |status| Ok(Posted { status, retry_after: None, said: String::new() });
        let judged = [200, 204, 302, 404, 500].map(|status| why(posted(status)).is_none());
        assert_eq!(judged, [true, true, false, false, false]);
        assert!(why(Err(anyhow::anyhow!("refused"))).is_some());
        let (alive, at) = (Alive::default(), |second| Timestamp::from_second(second).expect("a time"));
        assert_eq!(alive.last(), Answered::NotYet);
        assert!(alive.answered(true, at(1)) && alive.answered(false, at(2)) && !alive.answered(false, at(3)));
        assert_eq!(alive.last(), Answered::NotSince(at(2)));
        assert!(alive.answered(true, at(4)) && !alive.answered(true, at(5)));
        assert_eq!(alive.last(), Answered::Well);
    }
}
