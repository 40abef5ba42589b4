//! The loop: an event only wakes it, the truth is read again, and what follows from it is done.

use super::board::Board;
use super::restarts::{Memory, Seen, Verdict};
use super::start::{Running, wait_for_docker};
use crate::error::Halt;
use crate::host::docker::{Container, ContainerEvent, ContainerState, Health, is_away};
use crate::host::{Host, notify};
use crate::stack::apply;
use crate::state::{Lock, ServiceStatus};
use crate::value::Event;
use anyhow::{Result, anyhow};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// How long the loop waits for another command that holds the lock, before it looks again.
const PATIENCE: Duration = Duration::from_secs(600);
type Events = BoxStream<'static, Result<ContainerEvent>>;

/// Supervises until the stack fails.
///
/// # Errors
/// [`Halt`] with failed.
pub async fn follow(host: &Host, board: &Board, running: &Running) -> Result<()> {
    let project = running.stack.project.as_str();
    let mut memories: BTreeMap<String, Memory> = BTreeMap::new();
    let mut events = host.docker().events(project).await?;
    let mut watchdog = notify::watchdog_interval().map(|interval| {
        let mut ticks = tokio::time::interval(interval / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    });
    let mut stumbles = 0;
    loop {
        let looked = async {
            let wake = look_and_act(host, board, running, &mut memories).await?;
            wait(&mut events, wake, &mut watchdog).await
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
        if !is_away(&error) {
            let _busy = notify::Busy::begin();
            tokio::time::sleep(LONGEST_PAUSE.min(Duration::from_secs(1 << stumbles.min(6)))).await;
        }
        stumbles += 1;
        events = recover_docker(host, board, running).await?;
    }
}

/// The longest pause after Docker stumbled.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often bringing the stack up again is tried before it counts as failed.
const MAX_TRIES: u32 = 6;

/// Docker was away: once it is back, what is missing is started in order. Its containers' deaths were not theirs.
async fn recover_docker(host: &Host, board: &Board, running: &Running) -> Result<Events> {
    let _busy = notify::Busy::begin();
    let mut tries = 0;
    loop {
        wait_for_docker(host, board).await?;
        let again = async {
            let _lock = Lock::take(host, "run", PATIENCE).await?;
            apply::up(&running.stack, &running.release.images, host, &|_| ()).await?;
            host.docker().events(running.stack.project.as_str()).await
        };
        match again.await {
            Ok(events) => {
                board.event(Event::Up);
                return Ok(events);
            }
            Err(error) if is_away(&error) => tracing::warn!("{error:#}; waiting for it"),
            Err(error) if tries < MAX_TRIES => {
                tracing::warn!("{error:#}; trying again");
                tokio::time::sleep(LONGEST_PAUSE.min(Duration::from_secs(1 << tries))).await;
                tries += 1;
            }
            Err(error) => return Err(Halt::failed("The app did not come up again", format!("{error:#}")).into()),
        }
    }
}

/// Sleeps until something happens that asks for a look.
async fn wait(events: &mut Events, wake: Option<Instant>, watchdog: &mut Option<tokio::time::Interval>) -> Result<()> {
    loop {
        tokio::select! {
            event = events.next() => return match event {
                Some(Ok(_)) => Ok(()),
                Some(Err(error)) => Err(error),
                None => Err(anyhow!("Docker ended its events")),
            },
            () = until(wake) => return Ok(()),
            () = tick(watchdog) => notify::watchdog(),
        }
    }
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn tick(watchdog: &mut Option<tokio::time::Interval>) {
    match watchdog {
        Some(ticks) => drop(ticks.tick().await),
        None => std::future::pending().await,
    }
}

fn seen(container: &Container) -> Seen {
    match (container.state, container.health) {
        (ContainerState::Running, Some(Health::Unhealthy)) => Seen::Unhealthy,
        // Paused by hand is left alone; restarting is Docker's word for a policy that our containers do not have.
        (ContainerState::Running | ContainerState::Paused | ContainerState::Restarting, _) => Seen::Good,
        _ => Seen::Ended { exit_code: container.exit_code },
    }
}

/// One look at all services, and what follows. Gives back when to look again without being woken.
async fn look_and_act(
    host: &Host,
    board: &Board,
    running: &Running,
    memories: &mut BTreeMap<String, Memory>,
) -> Result<Option<Instant>> {
    let _busy = notify::Busy::begin();
    let stack = &running.stack;
    let containers = host.docker().containers(stack.project.as_str()).await?;
    let now = Instant::now();
    let (mut wake, mut restarts, mut missing) = (None::<Instant>, Vec::new(), false);
    let mut sooner = |at: Instant| wake = Some(wake.map_or(at, |wake| wake.min(at)));
    // In dependency order: a link to a container that is down cannot be started.
    for service in stack.levels().into_iter().flatten() {
        let name = stack.container_name(service);
        let Some(container) = containers.iter().find(|container| container.name == name) else {
            missing = true;
            continue;
        };
        let memory = memories.entry(service.name.as_str().to_owned()).or_default();
        match memory.judge(seen(container), service.restart, now) {
            Verdict::Fine { look_again } => look_again.into_iter().for_each(&mut sooner),
            Verdict::Wait(due) => sooner(due),
            Verdict::Restart => restarts.push((service, container)),
        }
    }
    let looping: Vec<String> =
        memories.iter().filter(|(_, memory)| memory.loops()).map(|(name, _)| name.clone()).collect();
    if let Some(fatal) = looping.iter().find(|name| is_critical(running, name)) {
        let text = format!("the service {fatal} died more than 5 times in 5 minutes; see: appliance logs {fatal}");
        return Err(Halt::failed("The app keeps dying", text).into());
    }
    if missing || !restarts.is_empty() {
        // Whoever holds the lock is changing the stack; what is left to do is seen when it is done.
        let _lock = Lock::take(host, "run", PATIENCE).await?;
        for (service, container) in &restarts {
            let why = match seen(container) {
                Seen::Unhealthy => "it is unhealthy".to_owned(),
                _ if container.oom_killed => "it ran out of memory".to_owned(),
                _ => format!("it ended with {}", container.exit_code),
            };
            tracing::warn!("restarting {}: {why}", service.name);
            if container.is_running() {
                host.docker().stop(&container.id, service.stop_grace).await?;
            }
            if let Err(error) = host.docker().start(&container.id).await {
                if is_away(&error) {
                    return Err(error);
                }
                // The next look sees that it does not run and tries again, later each time.
                tracing::warn!("could not restart {}: {error:#}", service.name);
                sooner(now + Duration::from_millis(100));
            }
        }
        if missing {
            tracing::warn!("a container is missing and is made again");
            apply::up(stack, &running.release.images, host, &|_| ()).await?;
        }
    }
    board.services(describe(running, &containers, memories));
    board.event(if looping.is_empty() { Event::Up } else { Event::Degraded(looping) });
    Ok(wake)
}

/// Whose crash loop fails the stack: services with a route, and those that the env names.
fn is_critical(running: &Running, service: &str) -> bool {
    running.release.routes.iter().any(|route| route.service == service)
        || running.env.app.critical.iter().any(|name| name.as_str() == service)
}

fn describe(running: &Running, containers: &[Container], memories: &BTreeMap<String, Memory>) -> Vec<ServiceStatus> {
    let describe = |service: &crate::stack::Service| {
        let name = running.stack.container_name(service);
        let container = containers.iter().find(|container| container.name == name);
        let memory = memories.get(service.name.as_str());
        ServiceStatus {
            service: service.name.as_str().to_owned(),
            state: container.map_or("missing".to_owned(), |container| format!("{:?}", container.state).to_lowercase()),
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
    running.stack.services.iter().map(describe).collect()
}
