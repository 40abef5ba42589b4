//! The watch: a process of its own that lives while the app is failed, in standby or stopped. It looks at how things stand (`facts.rs`), what
//! is wrong (`rules.rs`), and tells the receivers (`courier.rs`). It decides nothing about the app.

mod alive;
mod courier;
mod facts;
mod rules;
mod trend;
#[cfg(test)]
mod week_tests;

use crate::alert::{self, AWAY, Channel, Event, HOME, INBOX, Queue, Recipient, Spool, What};
use crate::env::Envs;
use crate::host::watch::Watch;
use crate::host::{Dir, Host, notify};
use crate::source;
use crate::state::status::DIRECTORY as STATUS_OF_APPS;
use crate::state::{RUN, history};
use crate::value::{RuleLimits, Secret, Severity};
use alive::Alive;
use anyhow::Result;
use facts::{BETWEEN_SLOW, Slow};
use futures_util::future::join_all;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use trend::Trend;

/// How often everything is looked at, where nothing tells of a change before.
const BETWEEN: Duration = Duration::from_secs(15);
/// After so many looks an env that could not be read is read again.
const READ_AGAIN: u32 = 20;
/// So long further changes are waited for, once there was one.
const QUIET: Duration = Duration::from_millis(300);

/// Whom to tell, by an env.
struct Wanted {
    envs: Option<Envs>,
    /// There may be an env that could not be read this time.
    is_lost: bool,
    /// The env's text: another one means that everything is read again.
    text: Vec<u8>,
    channels: Vec<Channel>,
    names: Vec<String>,
    recipients: Vec<Recipient>,
    limits: RuleLimits,
    alive: Option<Secret>,
    domain: String,
}

/// What is found out beside the looks, at its own pace.
#[derive(Clone, Copy)]
struct Beside<'a> {
    slow: &'a Mutex<Slow>,
    alive: &'a Alive,
    whole: &'a watch::Sender<u64>,
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks for ever at what asks others: whoever does not answer keeps no alert from being told.
async fn keep_looking(envs: Option<&Envs>, slow: &Mutex<Slow>, host: &Host) {
    loop {
        let mut next = locked(slow).clone();
        next.look(envs, host).await;
        *locked(slow) = next;
        tokio::time::sleep(BETWEEN_SLOW).await;
    }
}

impl Wanted {
    fn read(host: &Host) -> Wanted {
        // Read first: an env that is activated meanwhile is another one than this.
        let text = active(host);
        let mut is_lost = false;
        let found = source::last_good(host).unwrap_or_else(|error| {
            tracing::warn!("no env.yml says who is to be told: {error:#}");
            is_lost = true;
            None
        });
        let channels = found.as_ref().map(|found| Channel::all(found.envs.host())).unwrap_or_default();
        let recipient = |channel: &Channel| Recipient {
            name: channel.name().to_owned(),
            least: channel.audience().least.unwrap_or(Severity::Warning),
            quiet: channel.audience().quiet,
        };
        let alert = found.as_ref().map(|found| found.envs.host().appliance.alert.clone()).unwrap_or_default();
        Wanted {
            is_lost,
            recipients: channels.iter().map(recipient).collect(),
            limits: alert.rules,
            alive: alert.alive,
            names: channels.iter().map(|channel| channel.name().to_owned()).collect(),
            channels,
            text,
            domain: found.as_ref().map(|found| found.envs.host().host_domain.as_str().to_owned()).unwrap_or_default(),
            envs: found.map(|found| found.envs),
        }
    }
}

/// The text of the active env; nothing where there is none.
fn active(host: &Host) -> Vec<u8> {
    host.read(history::ACTIVE, crate::env::MAX_BYTES).ok().flatten().unwrap_or_default()
}

/// Watches until the process is ended.
///
/// # Errors
/// Nothing can be kept: neither on the disk nor in memory.
pub async fn run(host: &Host) -> Result<()> {
    let spool = Spool(host);
    host.ensure_dir(RUN, &Dir::plain())?;
    spool.open(&Queue::directories(&[]))?;
    notify::ready();
    let slow = Mutex::new(Slow::unknown());
    let mut trend = Trend::default();
    loop {
        let wanted = Wanted::read(host);
        spool.open(&Queue::directories(&wanted.names))?;
        match wanted.names.as_slice() {
            [] => {
                tracing::warn!("nobody is told of alerts: env.yml names no channel (appliance.alert, appliance.sentry)")
            }
            names => tracing::info!("alerts are told by: {}", names.join(", ")),
        }
        let (wake, woken) = watch::channel(0_u64);
        // Only a look that was whole says that the watch is alive.
        let (whole, looked) = watch::channel(0_u64);
        let couriers = wanted.channels.iter().map(|channel| {
            courier::keep_running(
                channel,
                Queue { spool, channel: channel.name() },
                &wanted.domain,
                woken.clone(),
                host,
            )
        });
        let alive = Alive::default();
        let asked = alive::keep_asking(wanted.alive.as_ref(), &alive, looked.clone(), host);
        tokio::select! {
            ended = watch_until_changed(&wanted, &wake, &mut trend, Beside { slow: &slow, alive: &alive, whole: &whole }, spool, host) => ended?,
            // These do not end.
            () = asked => {}
            () = keep_looking(wanted.envs.as_ref(), &slow, host) => {}
            _ = join_all(couriers), if !wanted.channels.is_empty() => {}
        }
    }
}

/// Looks again and again, until the env is another one.
async fn watch_until_changed(
    wanted: &Wanted,
    wake: &watch::Sender<u64>,
    trend: &mut Trend,
    beside: Beside<'_>,
    spool: Spool<'_>,
    host: &Host,
) -> Result<()> {
    let is_there = host.is_directory(&format!("{HOME}/{INBOX}"));
    let mut inbox = host.watch(&format!("{}/{INBOX}", if is_there { HOME } else { AWAY }), &[])?;
    let mut status = host.watch(RUN, &["status.json", "status"])?;
    let mut of_apps: Option<Watch> = None;
    let mut looks = 0;
    while active(host) == wanted.text {
        looks += 1;
        if wanted.is_lost && looks > READ_AGAIN {
            return Ok(());
        }
        if let Err(error) = look(wanted, trend, beside, spool, host).await {
            // What cannot be read or written now may be the next time; the couriers go on.
            tracing::error!("what is wrong could not be found out or kept: {error:#}");
        } else {
            beside.whole.send_modify(|round| *round += 1);
        }
        wake.send_modify(|round| *round += 1);
        notify::watchdog();
        if of_apps.is_none() && host.is_directory(STATUS_OF_APPS) {
            of_apps = Some(host.watch(STATUS_OF_APPS, &[])?);
        }
        tokio::select! {
            changed = inbox.changed() => changed?,
            changed = status.changed() => { changed?; tokio::time::sleep(QUIET).await }
            changed = of_apps_changed(&mut of_apps) => {
                if changed.is_err() {
                    // The directory is gone; another one may come.
                    of_apps = None;
                }
                tokio::time::sleep(QUIET).await;
            }
            () = tokio::time::sleep(BETWEEN) => {}
        }
    }
    Ok(())
}

/// One round.
async fn look(wanted: &Wanted, trend: &mut Trend, beside: Beside<'_>, spool: Spool<'_>, host: &Host) -> Result<()> {
    let envs = wanted.envs.as_ref();
    let mut facts = facts::gather(envs, &wanted.names, trend, spool, host);
    facts.slow = locked(beside.slow).clone();
    facts.alive = wanted.alive.as_ref().map(|_| beside.alive.last());
    let told = alert::round(&rules::judge(&facts, &wanted.limits, host.now()), spool, host).await?;
    told.iter().for_each(log);
    alert::distribute(envs.map(|_| wanted.recipients.as_slice()), spool, host.now())
}

async fn of_apps_changed(watch: &mut Option<Watch>) -> Result<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// The journal has it, whoever else is told. Not as a warning: that would be a report to Sentry beside the alert.
fn log(event: &Event) {
    let kind = if event.what == What::Over { "" } else { "alert: " };
    tracing::info!("{kind}{} ({})", event.subject(), event.key);
}
