//! Several apps under one supervisor: each comes up, is kept up and fails for itself. What ends one ends no other.

use super::board::Board;
use super::waiting::Again;
use super::{end, halt_of, live_with, start, stop};
use crate::env::Env;
use crate::error::Halt;
use crate::host::watch::Watch;
use crate::host::{Changed, Dir, Host, notify};
use crate::prepare::nginx;
use crate::source::Found;
use crate::state::flags::{self, Flag};
use crate::state::{HostLock, RUN};
use crate::value::{AppName, Event};
use anyhow::Result;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// How long an app that is not to run waits for whoever changes the host, before its page is shown.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Where there is no watchdog, nobody listens.
const BETWEEN_BEATS: Duration = Duration::from_secs(3600);

/// How each app stands, for the host's own status.
struct Standings<'a> {
    board: &'a Board,
    /// Whether each that has been brought up, or cannot be, serves.
    known: Mutex<BTreeMap<AppName, bool>>,
    /// All that are to be known before systemd is told that the start is done.
    all: BTreeSet<AppName>,
}

impl Standings<'_> {
    /// An app came up, or is known not to.
    fn settle(&self, app: &AppName, serves: bool) {
        // The guarded code only inserts.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(app.clone(), serves);
        let down: BTreeSet<String> =
            known.iter().filter(|(_, serves)| !**serves).map(|(app, _)| app.as_str().to_owned()).collect();
        if known.len() == self.all.len() {
            self.board.event(if down.is_empty() { Event::Up } else { Event::Degraded(down.into_iter().collect()) });
            notify::ready();
        }
    }
}

/// Lives until the volumes come back from being away: then everything is begun anew.
///
/// # Errors
/// [`Again`]; or what apps need cannot be watched.
pub(super) async fn live(host: &Host, found: &Found, board: &Board) -> Result<()> {
    host.ensure_dir(RUN, &Dir::plain())?;
    host.ensure_dir(flags::DIRECTORY, &Dir::plain())?;
    let all = found.envs.iter().map(|env| env.app.name.clone()).collect();
    let standings = Standings { board, known: Mutex::default(), all };
    let mut apps: FuturesUnordered<_> = found.envs.iter().map(|env| keep_up(host, found, env, &standings)).collect();
    let strangers = async {
        // Their data stay; `appliance status` says that something is left of them.
        if let Err(error) = stop::stop_strangers(&found.envs, host).await {
            tracing::warn!("{error:#}");
        }
        std::future::pending::<()>().await;
    };
    let beats = async {
        let between = notify::watchdog_interval().map_or(BETWEEN_BEATS, |interval| interval / 2);
        let mut ticks = tokio::time::interval(between);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            notify::watchdog();
        }
    };
    tokio::select! {
        Some(ended) = apps.next() => ended,
        () = strangers => Ok(()),
        () = beats => Ok(()),
    }
}

/// Keeps one app up, for ever: one that failed waits until somebody takes its flag away.
///
/// # Errors
/// [`Again`]; or its flag cannot be watched.
async fn keep_up(host: &Host, found: &Found, env: &Env, standings: &Standings<'_>) -> Result<()> {
    let app = &env.app.name;
    let board = Board::of(host, &env.tenant);
    board.describe(|status| {
        start::describe(env, status);
        status.source = Some(found.origin.clone());
    });
    // Watched before it is looked at, so that no change falls in between.
    let mut flag = host.watch(flags::DIRECTORY, &[app.as_str()])?;
    loop {
        let ended = match Flag::from(&env.tenant).failed(host)? {
            Some(reason) => Err(had_failed(app, &reason).into()),
            None if !env.app.is_enabled => Err(Halt::standby(
                "the app is not enabled",
                "set 'enabled: true' in env.yml, then run: appliance apply",
            )
            .into()),
            None => live_with(host, found, env, &board, || standings.settle(app, true)).await,
        };
        let Err(error) = ended else { continue };
        if error.is::<Again>() {
            return Err(error);
        }
        match halt_of(error, &board) {
            Ok(halt) => {
                end(&halt, host, Some(env), &board).await;
                if !env.app.is_enabled
                    && let Err(error) = take_down(env, host).await
                {
                    tracing::warn!("{app}: {error:#}");
                }
            }
            Err(broken) => tracing::error!("{app}: {broken}"),
        }
        standings.settle(app, !env.app.is_enabled);
        wait_for_another_try(env, host, &mut flag).await?;
    }
}

fn had_failed(app: &AppName, reason: &str) -> Halt {
    let text = format!("{reason}\nMend it, then run: appliance recover --app {app} --start");
    Halt::failed("The app had failed before", text)
}

/// An app that is not to run is stopped, and its names show its page.
async fn take_down(env: &Env, host: &Host) -> Result<()> {
    stop::stop_app(env, host).await?;
    let _lock = HostLock::take(host, "run", PATIENCE).await?;
    crate::prepare::page::prepare(&env.tenant, host).await?;
    crate::prepare::tls::prepare(env, host).await?;
    nginx::prepare(env, host, Changed::No).await
}

/// Until the flag of one that failed is gone; an app without one waits for the next start of the supervisor.
async fn wait_for_another_try(env: &Env, host: &Host, flag: &mut Watch) -> Result<()> {
    let had_failed = Flag::from(&env.tenant).failed(host)?.is_some();
    loop {
        flag.changed().await?;
        if had_failed && Flag::from(&env.tenant).failed(host)?.is_none() {
            return Ok(());
        }
    }
}
