//! The loop: an event only wakes it, the truth is read again, and what follows from it is done.

use super::board::Board;
use super::judge::{Due, Judge};
use super::manual_stops::ManualStops;
use super::releases::{self, Change, Releases, Running};
use super::restarts::Memory;
use super::waiting::wait_for_docker;
use super::wake::{Events, Woken, tick, wait};
use crate::error::Halt;
use crate::host::docker::{Container, Look, is_away};
use crate::host::{Host, notify};
use crate::stack::actions::Occasion;
use crate::stack::{Service, apply, stopped, surroundings};
use crate::state::{ServiceStatus, StackLock};
use crate::value::Event;
use anyhow::Result;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// How long the loop waits for another command that holds the lock, before it looks again.
const PATIENCE: Duration = Duration::from_secs(600);
/// Supervises until the stack fails.
///
/// # Errors
/// [`Halt`] with failed.
pub async fn follow(host: &Host, board: &Board, mut running: Running) -> Result<()> {
    let project = running.stack.project.clone();
    let mut releases = Releases::watch(host, &running.env.app.name)?;
    let mut judge = Judge::new(
        ManualStops::new(stopped::read(host, &running.env.app.name)?),
        stopped::given_up(host, &running.env.app.name)?,
    );
    // None: still to be asked for, before the next look.
    let mut events: Option<Events> = None;
    let mut watchdog = notify::watchdog_interval().map(|interval| {
        let mut ticks = tokio::time::interval(interval / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    });
    let mut stumbles = 0;
    let mut named: Option<BTreeSet<String>> = None;
    // What was written before the watch began is seen by a look.
    let mut change = Some(Change::Written);
    loop {
        let looked = async {
            if let Some(change) = change.take() {
                let _busy = notify::Busy::begin();
                if releases::take_up(host, board, &mut running, change).await? {
                    // What its containers went through while they were replaced was no death of theirs.
                    judge = Judge::new(
                        ManualStops::new(stopped::read(host, &running.env.app.name)?),
                        stopped::given_up(host, &running.env.app.name)?,
                    );
                }
            }
            if releases::is_outdated(host, &running)? {
                // Events are ignored while another command changes the containers.
                change = Some(wait_for_others(&mut releases, &mut watchdog).await?);
                (named, events) = (None, None);
                return Ok(());
            }
            let events = match &mut events {
                Some(events) => events,
                // Before the look, so that nothing is missed in between.
                none => none.insert(host.docker().events(project.as_str()).await?),
            };
            // What was missed before the events began is seen by a close look.
            let look = named.as_ref().map_or(Look::Close, Look::After);
            let Some(wake) = look_and_act(host, board, &running, &mut judge, look).await? else {
                change = Some(Change::Closed);
                return Ok(());
            };
            match wait(events, wake, &mut watchdog, &mut judge.manual_stops, &mut releases).await? {
                Woken::Containers(which) => named = Some(which),
                Woken::Others(what) => (named, change) = (None, Some(what)),
            }
            anyhow::Ok(())
        };
        let error = match looked.await {
            Ok(()) => {
                stumbles = 0;
                continue;
            }
            Err(error) if error.downcast_ref::<Halt>().is_some() => return Err(error),
            Err(error) => error,
        };
        // Docker is away, or stumbled over one call. Neither is the app's failure: the truth is read again, later each time.
        tracing::warn!("{error:#}; looking again");
        // One that only stumbled has stopped nothing.
        if is_away(&error) {
            judge.manual_stops.docker_lost(Instant::now(), longest_grace(&running));
        }
        named = None;
        // Also one that goes away again and again, and is there whenever it is asked.
        if !is_away(&error) || stumbles > 0 {
            let _busy = notify::Busy::begin();
            tokio::time::sleep(LONGEST_PAUSE.min(Duration::from_secs(1 << stumbles.min(6)))).await;
        }
        stumbles += 1;
        change = Some(Change::Written);
        events = recover_docker(host, board, &running, &mut judge.manual_stops).await?;
    }
}

/// The longest pause after Docker stumbled.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often bringing the stack up again is tried before it counts as failed.
const MAX_TRIES: u32 = 6;

fn longest_grace(running: &Running) -> Duration {
    running.stack.services.iter().map(|service| service.stop_grace).max().unwrap_or_default()
}

/// Docker was away: once it is back, what is missing is started in order. Its containers' deaths were not theirs. Gives back the events, if
/// they could be asked for.
async fn recover_docker(
    host: &Host,
    board: &Board,
    running: &Running,
    manual_stops: &mut ManualStops,
) -> Result<Option<Events>> {
    let _busy = notify::Busy::begin();
    let mut tries = 0;
    loop {
        // A daemon that goes down stumbles first.
        if host.docker().ping().await.is_err_and(|error| is_away(&error)) {
            manual_stops.docker_lost(Instant::now(), longest_grace(running));
        }
        wait_for_docker(host, board).await?;
        // What starts what is missing goes by the file. During an update, what stops is that one's doing.
        if !releases::is_outdated(host, running).unwrap_or(true)
            && let Err(error) = stopped::write(&manual_stops.all(), host, &running.env.app.name)
        {
            tracing::warn!("{error:#}");
        }
        let project = running.stack.project.as_str();
        let again = async {
            // What is to run is known once another command is done with it.
            if releases::is_outdated(host, running)? {
                return Ok((false, host.docker().events(project).await?));
            }
            let _lock = StackLock::take_of(host, &running.env.app.name, "run", PATIENCE).await?;
            let outdated = releases::is_outdated(host, running)?;
            if !outdated {
                apply::up(&running.stack, &running.release.images, host, Occasion::Mend, &|_| ()).await?;
            }
            anyhow::Ok((!outdated, host.docker().events(project).await?))
        };
        match again.await {
            Ok((is_up, events)) => {
                if is_up {
                    board.event(Event::Up);
                }
                return Ok(Some(events));
            }
            Err(error) if is_away(&error) => {
                tracing::warn!("{error:#}; waiting for it");
                manual_stops.docker_lost(Instant::now(), longest_grace(running));
            }
            Err(error) if tries < MAX_TRIES => {
                tracing::warn!("{error:#}; trying again");
                tokio::time::sleep(LONGEST_PAUSE.min(Duration::from_secs(1 << tries))).await;
                tries += 1;
            }
            Err(error) => match serves(host, running).await {
                // What serves visitors goes on; the loop tries the rest again, later each time.
                Ok(true) => {
                    tracing::error!("a part of the app did not come up again: {error:#}");
                    return Ok(None);
                }
                Ok(false) => {
                    return Err(Halt::failed("The app did not come up again", format!("{error:#}")).into());
                }
                // Docker does not say; the watchdog ends a supervisor that it keeps waiting for half an hour.
                Err(unknown) => {
                    tracing::warn!("{unknown:#}; looking again in {} s", LONGEST_PAUSE.as_secs());
                    tokio::time::sleep(LONGEST_PAUSE).await;
                }
            },
        }
    }
}

/// Whether every service that may fail the app runs.
async fn serves(host: &Host, running: &Running) -> Result<bool> {
    let stack = &running.stack;
    let containers = host.docker().containers(stack.project.as_str(), Look::Close).await?;
    let vital = stack.services.iter().filter(|service| is_critical(running, service.name.as_str()));
    let mut names = vital.flat_map(|service| stack.container_names(service));
    Ok(names.all(|name| containers.iter().any(|container| container.name == name && container.is_running())))
}

/// Waits until another command has written the ledger, or given up a lock.
async fn wait_for_others(releases: &mut Releases, watchdog: &mut Option<tokio::time::Interval>) -> Result<Change> {
    loop {
        tokio::select! {
            changed = releases.changed() => return changed,
            () = tick(watchdog) => notify::watchdog(),
        }
    }
}

/// One look at all containers, and what follows. Gives back when to look again without being woken; nothing if another command is
/// changing what runs.
async fn look_and_act(
    host: &Host,
    board: &Board,
    running: &Running,
    judge: &mut Judge,
    look: Look<'_>,
) -> Result<Option<Option<Instant>>> {
    let _busy = notify::Busy::begin();
    let stack = &running.stack;
    let containers = host.docker().containers(stack.project.as_str(), look).await?;
    let networks = surroundings::look(stack, host).await?;
    let now = Instant::now();
    // After Docker was asked: what it said is not of an update's making then.
    if releases::is_outdated(host, running)? {
        return Ok(None);
    }
    let decision = judge.decide(stack, &containers, &networks, now);
    stopped::write(&judge.manual_stops.all(), host, &running.env.app.name)?;
    stopped::give_up(&judge.given_up, host, &running.env.app.name)?;
    if let Some(fatal) = decision.looping.iter().find(|name| is_critical(running, name)) {
        let text = format!("the service {fatal} died more than 5 times in 5 minutes; see: appliance logs {fatal}");
        return Err(Halt::failed("The app keeps dying", text).into());
    }
    let mut wake = decision.wake;
    if decision.mend.is_some() || !decision.restarts.is_empty() {
        // Whoever holds the lock is changing the stack; what is left to do is seen when it is done.
        let Some(_lock) = StackLock::try_take_of(host, &running.env.app.name, "run")? else {
            if releases::is_outdated(host, running)? {
                return Ok(None);
            }
            drop(StackLock::take_of(host, &running.env.app.name, "run", PATIENCE).await?);
            // What was seen is old by now.
            return Ok(Some(Some(Instant::now())));
        };
        if releases::is_outdated(host, running)? {
            return Ok(None);
        }
        for due in &decision.restarts {
            if due.container.is_running() {
                judge.manual_stops.stops(&due.container.id);
            }
            if !restart(due, running, host).await? {
                let soon = now + Duration::from_millis(100);
                wake = Some(wake.map_or(soon, |wake| wake.min(soon)));
            }
        }
        if let Some(why) = &decision.mend {
            tracing::warn!("{why}; mending");
            apply::up(stack, &running.release.images, host, Occasion::Mend, &|_| ()).await?;
        }
    }
    board.services(describe(running, &containers, judge));
    board.event(if decision.looping.is_empty() { Event::Up } else { Event::Degraded(decision.looping) });
    Ok(Some(wake))
}

/// Whether it was started; if not, the next look sees that it does not run and tries again, later each time.
async fn restart(due: &Due, running: &Running, host: &Host) -> Result<bool> {
    tracing::warn!("restarting {}: {}", due.container.name, due.why);
    if due.container.is_running() {
        let service = running.stack.service(&due.service);
        let grace = service.map_or(crate::stack::stop::DEFAULT_GRACE, |service| service.stop_grace);
        match host.docker().stop(&due.container.id, grace).await {
            Err(error) if is_away(&error) => return Err(error),
            // The start says what is wrong.
            Err(error) => tracing::warn!("could not stop {}: {error:#}", due.container.name),
            Ok(()) => {}
        }
    }
    match apply::start_again(&running.stack, &running.release.images, &due.service, &due.container, host).await {
        Ok(()) => Ok(true),
        Err(error) if is_away(&error) => Err(error),
        Err(error) => {
            tracing::warn!("could not restart {}: {error:#}", due.container.name);
            Ok(false)
        }
    }
}

/// Whose crash loop fails the stack: services with a route, and those that the env names.
fn is_critical(running: &Running, service: &str) -> bool {
    running.release.vital(&running.env.app.critical).contains(&service)
}

fn describe(running: &Running, containers: &[Container], judge: &Judge) -> Vec<ServiceStatus> {
    let describe = |service: &Service, name: String| {
        let container = containers.iter().find(|container| container.name == name);
        let memory = judge.memory(&name);
        let by_hand =
            container.is_some_and(|container| !container.is_running() && judge.manual_stops.stopped(&container.id));
        ServiceStatus {
            service: service.name.as_str().to_owned(),
            state: match container {
                None => "missing".to_owned(),
                Some(_) if by_hand => "stopped by hand".to_owned(),
                Some(container) => format!("{:?}", container.state).to_lowercase(),
            },
            health: match container.map(|container| (container.health, container.is_running())) {
                Some((Some(health), _)) => format!("{health:?}").to_lowercase(),
                Some((None, true)) => "running".to_owned(),
                _ => "down".to_owned(),
            },
            restarts: memory.map_or(0, Memory::restarts),
            degraded: memory.is_some_and(Memory::loops),
            container: name,
        }
    };
    let stack = &running.stack;
    let each =
        stack.services.iter().flat_map(|service| stack.container_names(service).map(move |name| (service, name)));
    each.map(|(service, name)| describe(service, name)).collect()
}
