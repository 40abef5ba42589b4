//! What a start waits for, however long it takes: Docker, and volumes.

use super::board::Board;
use crate::env::Env;
use crate::host::docker::is_away;
use crate::host::watch::{Mounts, Watch};
use crate::host::{Host, UnitState};
use crate::prepare;
use crate::value::Event;
use anyhow::Result;
use std::time::Duration;
use tokio::time::Instant;

/// Docker's unit.
pub(super) const DOCKER: &str = "docker.service";
/// How long a daemon may answer with errors, as it does while it comes up.
const LONGEST_ERROR: Duration = Duration::from_secs(600);
/// Between two looks for a daemon that is away; it is not at rest then.
const BETWEEN: Duration = Duration::from_secs(1);
/// Between two starts of a daemon that systemd gave up.
const BETWEEN_STARTS: Duration = Duration::from_secs(30);

/// Waits until Docker answers, however long that takes. One that somebody stopped stays stopped; one that systemd gave up, since it
/// died too often, is started again. One that answers with an error is not done with its start.
pub async fn wait_for_docker(host: &Host, board: &Board) -> Result<()> {
    let mut told = false;
    let mut answers: Option<Instant> = None;
    let mut started: Option<Instant> = None;
    loop {
        match host.docker().ping().await {
            Ok(()) => return Ok(()),
            Err(error) => {
                match is_away(&error) {
                    true => answers = None,
                    false if answers.get_or_insert_with(Instant::now).elapsed() >= LONGEST_ERROR => return Err(error),
                    false => {}
                }
                if !told {
                    tracing::warn!("{error:#}");
                    board.event(Event::StartBegins("waiting for Docker".to_owned()));
                    told = true;
                }
                // While its directory moves, it must not run.
                if started.is_none_or(|at| at.elapsed() >= BETWEEN_STARTS)
                    && !prepare::is_moving(host)
                    && host.unit_state(DOCKER).await.is_ok_and(|state| state == UnitState::Failed)
                {
                    started = Some(Instant::now());
                    if let Err(error) = host.start_unit(DOCKER).await {
                        tracing::warn!("{error:#}");
                    }
                }
                tokio::time::sleep(BETWEEN).await;
                crate::host::notify::watchdog();
            }
        }
    }
}

/// Ends this process in order to be started anew: once it has told systemd that it waits, a start would stand under the watchdog.
#[derive(Debug)]
pub struct Again;

impl std::fmt::Display for Again {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the volumes are there; starting anew")
    }
}

impl std::error::Error for Again {}

/// Waits until every volume is mounted. The host's boot is done meanwhile.
pub(super) async fn wait_for_volumes(mounts: &mut Mounts, devices: &mut Watch, env: &Env, host: &Host) -> Result<()> {
    crate::host::notify::ready();
    let between = crate::host::notify::watchdog_interval().map_or(BETWEEN_BEATS, |interval| interval / 2);
    let mut beats = tokio::time::interval(between);
    loop {
        tokio::select! {
            changed = mounts.changed() => changed?,
            changed = devices.changed() => changed?,
            _ = beats.tick() => {
                crate::host::notify::watchdog();
                continue;
            }
        }
        if prepare::missing_volumes(env, host).await?.is_none() || prepare::can_be_mounted(env, host).await {
            return Ok(());
        }
    }
}

/// Where there is no watchdog, nobody listens.
const BETWEEN_BEATS: Duration = Duration::from_secs(3600);
