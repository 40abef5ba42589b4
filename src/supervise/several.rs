//! Several apps under one supervisor: each comes up, is kept up and fails for itself. What ends one ends no other.

use super::board::Board;
use super::waiting::Again;
use super::{end, halt_of, live_with, start, stop};
use crate::env::Env;
use crate::error::Halt;
use crate::host::{Changed, Cmd, Dir, Host, What, notify};
use crate::prepare::nginx;
use crate::source::Found;
use crate::state::flags::{self, Flag};
use crate::state::{HostLock, RUN, app_directory, halted};
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
    /// What the status warns of beside them.
    warnings: Vec<String>,
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
        let down = known.iter().filter(|(_, serves)| !**serves).map(|(app, _)| app);
        let down = down.map(|app| format!("the app {app} does not serve; see: appliance status --app {app}"));
        let warnings = self.warnings.iter().cloned().chain(down).collect();
        self.board.describe(|status| status.warnings = warnings);
        if known.len() == self.all.len() {
            self.board.event(Event::Up);
            notify::ready();
        }
    }
}

/// Lives until the volumes come back from being away: then everything is begun anew.
///
/// # Errors
/// [`Again`]; or the directory of the flags cannot be made.
pub(super) async fn live(host: &Host, found: &Found, board: &Board) -> Result<()> {
    host.ensure_dir(RUN, &Dir::plain())?;
    host.ensure_dir(flags::DIRECTORY, &Dir::plain())?;
    raise_watches(host).await;
    let all = found.envs.iter().map(|env| env.app.name.clone()).collect();
    let mut warnings = Vec::new();
    board.describe(|status| warnings.clone_from(&status.warnings));
    let standings = Standings { board, warnings, known: Mutex::default(), all };
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

/// How many watches root's programs may have: each app takes some, and the kernel's 128 are gone with two dozen apps.
const WATCHES: u32 = 1024;

/// Makes room for the watches of many apps. A host that does not allow it, as a container may not, runs as many as there is room for.
async fn raise_watches(host: &Host) {
    const SETTING: &str = "/proc/sys/fs/inotify/max_user_instances";
    let known = host.read_text(SETTING, 64).ok().flatten().and_then(|text| text.trim().parse::<u32>().ok());
    if known.is_none_or(|known| known >= WATCHES) {
        return;
    }
    let set = Cmd::new("sysctl", ["-q", "-w", &format!("fs.inotify.max_user_instances={WATCHES}")]);
    if let Err(error) = host.act(What::Setting, "fs.inotify.max_user_instances", "raise", set).await {
        tracing::warn!("{error:#}");
    }
}

/// Keeps one app up, for ever: one that failed waits until somebody takes its flag away, one that was stopped until it is started.
///
/// # Errors
/// [`Again`].
async fn keep_up(host: &Host, found: &Found, env: &Env, standings: &Standings<'_>) -> Result<()> {
    let app = &env.app.name;
    loop {
        // A new one for each try: what failed stays so on a board.
        let board = Board::of(host, &env.tenant);
        board.describe(|status| {
            start::describe(env, status);
            status.source = Some(found.origin.clone());
        });
        let was_halted = halted::is_halted(host, app);
        let ended = match (Flag::from(&env.tenant).failed(host), why_not(env, host)) {
            // This app's trouble alone.
            (Err(error), _) => Err(error),
            (Ok(Some(reason)), _) => Err(had_failed(app, &reason).into()),
            (Ok(None), Some(halt)) => Err(halt.into()),
            (Ok(None), None) => live_with(host, found, env, &board, || standings.settle(app, true)).await,
        };
        // It was stopped meanwhile; why is found at the next look.
        let Err(error) = ended else { continue };
        if error.is::<Again>() {
            return Err(error);
        }
        match halt_of(error, &board) {
            Ok(halt) => {
                end(&halt, host, Some(env), &board).await;
                let stays_down = why_not(env, host).is_some();
                if stays_down && let Err(error) = take_down(env, host).await {
                    tracing::warn!("{app}: {error:#}");
                }
            }
            Err(broken) => tracing::error!("{app}: {broken}"),
        }
        standings.settle(app, why_not(env, host).is_some());
        tokio::select! {
            () = another_try(env, host) => {}
            () = until_told(host, app, was_halted) => {}
        }
    }
}

/// Why an app is not to run, if it is not.
fn why_not(env: &Env, host: &Host) -> Option<Halt> {
    if !env.app.is_enabled {
        return Some(Halt::standby(
            "the app is not enabled",
            "set 'enabled: true' in env.yml, then run: appliance apply",
        ));
    }
    let name = &env.app.name;
    let text = || format!("start it with: appliance app start {name}");
    halted::is_halted(host, name).then(|| Halt::standby("the app was stopped", text()))
}

/// Until somebody stops one of several apps for longer. An app that has the host to itself is stopped with the appliance.
pub(super) async fn until_halted(host: &Host, env: &Env) {
    let app = &env.app.name;
    let watched = async {
        let mut changes = host.watch(&app_directory(app), &[halted::NAME])?;
        while env.tenant.is_alone() || !halted::is_halted(host, app) {
            changes.changed().await?;
        }
        anyhow::Ok(())
    };
    if let Err(error) = watched.await {
        tracing::error!("{app}: it can only be stopped with the appliance: {error:#}");
        std::future::pending::<()>().await;
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

/// Until somebody stops or starts an app that does not run. On a host whose volumes are away nobody can.
async fn until_told(host: &Host, app: &AppName, was_halted: bool) {
    let Ok(mut changes) = host.watch(&app_directory(app), &[halted::NAME]) else { return std::future::pending().await };
    // What was told before the watch began.
    if halted::is_halted(host, app) == was_halted && changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Until the flag of one that failed is gone; one without waits for somebody to start it.
async fn another_try(env: &Env, host: &Host) {
    let watched = async {
        let mut changes = host.watch(flags::DIRECTORY, &[env.app.name.as_str()])?;
        let flag = Flag::from(&env.tenant);
        // Not there although it failed: the disk would not take it.
        if flag.failed(host)?.is_none() {
            std::future::pending::<()>().await;
        }
        while flag.failed(host)?.is_some() {
            changes.changed().await?;
        }
        anyhow::Ok(())
    };
    if let Err(error) = watched.await {
        tracing::error!("{}: it waits for a restart of the supervisor: {error:#}", env.app.name);
        std::future::pending::<()>().await;
    }
}
