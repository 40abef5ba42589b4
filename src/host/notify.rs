//! Telling systemd how we are (sd_notify). Outside of a unit nobody listens, and that is fine.

use sd_notify::NotifyState;
use std::time::Duration;

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("systemd could not be told: {error}");
    }
}

/// The first outcome is known.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The line that `systemctl status` shows.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// Still alive.
pub fn watchdog() {
    tell(&[NotifyState::Watchdog]);
}

/// The process is about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Stopping takes at least this much longer. A reload of systemd (`daemon-reload`) takes it back: from then on the unit's own limit counts
/// again, from the beginning (systemd issue 43000), so that must be long enough by itself.
pub fn extend(by: Duration) {
    tell(&[NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))]);
}

/// How often systemd wants to hear from us, if it does.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Feeds the watchdog while one long piece of work runs that has a deadline of its own.
pub struct Busy(tokio::task::JoinHandle<()>);

/// How long most work takes at most: so long, and no longer, the watchdog is fed for it, so that a hang is still noticed.
const USUAL: Duration = Duration::from_secs(30 * 60);
/// Between two times of feeding; systemd wants to hear from us each minute.
const BETWEEN: Duration = Duration::from_secs(20);

impl Busy {
    pub fn begin() -> Busy {
        Busy::begin_for(USUAL)
    }

    /// For work that may take so long.
    pub fn begin_for(limit: Duration) -> Busy {
        Busy(tokio::spawn(async move {
            for _ in 0..limit.as_secs().div_ceil(BETWEEN.as_secs()) {
                watchdog();
                tokio::time::sleep(BETWEEN).await;
            }
        }))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.abort();
    }
}
