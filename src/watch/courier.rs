//! One channel's courier: tells its receiver what waits, one after the other, and tries again for as long as it takes.

use crate::alert::{Channel, Item, Queue, is_quiet};
use crate::host::Host;
use anyhow::Result;
use std::time::Duration;
use tokio::sync::watch;

/// The pauses after so many failures in a row, in seconds; the last one counts for all further ones.
const PAUSES_S: [u64; 7] = [10, 30, 60, 120, 300, 600, 900];
/// The longest pause that a receiver may ask for.
const LONGEST: Duration = Duration::from_secs(3600);
/// The most that is kept of an answer, in characters.
const MAX_ANSWER: usize = 300;
/// Between two events: a receiver that was away is not run over.
const BETWEEN: Duration = Duration::from_millis(100);

/// How long to wait after a failure.
fn pause(failures: usize, retry_after: Option<Duration>) -> Duration {
    let usual = PAUSES_S[failures.clamp(1, PAUSES_S.len()) - 1];
    Duration::from_secs(usual).max(retry_after.unwrap_or_default().min(LONGEST))
}

/// As [`run`], for ever: what cannot be read or written now is tried again, and keeps no other channel from its work.
pub async fn keep_running(channel: &Channel, queue: Queue<'_>, domain: &str, woken: watch::Receiver<u64>, host: &Host) {
    while let Err(error) = run(channel, queue, domain, woken.clone(), host).await {
        tracing::error!("the alerts of {} could not be read or kept: {error:#}", channel.name());
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

/// Tells what is in the queue, now and whenever it is woken.
///
/// # Errors
/// The queue can be neither read nor written.
async fn run(
    channel: &Channel,
    queue: Queue<'_>,
    domain: &str,
    mut woken: watch::Receiver<u64>,
    host: &Host,
) -> Result<()> {
    let mut failures = 0;
    // One that its receiver refuses keeps no other from being told: those behind it come first.
    let mut refused: Option<String> = None;
    loop {
        // What comes while the queue is read wakes it again; so does each round of the watch, so that no end of quiet hours is missed.
        woken.borrow_and_update();
        let Some(item) = queue.next(refused.as_deref(), is_quiet(channel.audience().quiet, host.now()), host.now())?
        else {
            woken.changed().await?;
            continue;
        };
        match channel.tell(&item.event, domain, host).await {
            Ok(answer) => {
                failures = 0;
                queue.told(&item, plain(&answer), host.now())?;
                tokio::time::sleep(BETWEEN).await;
            }
            Err(untold) => {
                failures += 1;
                let why = plain(&untold.why);
                note(failures, &item, channel, &why);
                refused = Some(item.name().to_owned());
                queue.failed(&item, why, host.now())?;
                let pause = pause(failures, untold.retry_after);
                wait(pause, queue, &mut woken).await?;
            }
        }
    }
}

/// What a receiver says, as a line of bounded length.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_ANSWER).collect()
}

/// Each first failure is for the journal; the others are in `appliance alert channels`.
fn note(failures: usize, item: &Item, channel: &Channel, why: &str) {
    if failures == 1 {
        tracing::info!("{} could not be told of {}: {why}", channel.name(), item.event.key);
    }
}

/// Waits; a test that comes meanwhile is tried at once.
async fn wait(pause: Duration, queue: Queue<'_>, woken: &mut watch::Receiver<u64>) -> Result<()> {
    let end = tokio::time::Instant::now() + pause;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(end) => return Ok(()),
            changed = woken.changed() => {
                changed?;
                if queue.has_test()? {
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_quarter_of_an_hour_and_a_receiver_may_ask_for_more() {
        let seconds = |failures, asked: Option<u64>| pause(failures, asked.map(Duration::from_secs)).as_secs();
        assert_eq!([1, 2, 7, 100].map(|failures| seconds(failures, None)), [10, 30, 900, 900]);
        assert_eq!([seconds(1, Some(5)), seconds(1, Some(50)), seconds(1, Some(99_999))], [10, 50, 3600]);
    }
}
