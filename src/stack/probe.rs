//! The default gate: every service healthy, and every route answering below 500.

use super::manner::Beside;
use super::model::{Restart, Service, Stack};
use super::wait::wait_until;
use crate::host::Host;
use crate::host::docker::{Container, Health, Look};
use crate::value::Route;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// How long a service without a health check must run before it counts (docs/updates.md).
const SETTLED: Duration = Duration::from_secs(10);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(10);
/// Between two requests to a route that does not answer yet.
const BETWEEN: Duration = Duration::from_millis(200);

/// How sure one wants to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rigour {
    /// A release that was good before: its services must run and be healthy.
    Known,
    /// A new release: what has no health check must have run for a while.
    New,
    /// A release that passed as a new one, in its last place: all of its services must run and be healthy.
    Placed,
}

/// What is asked of a stack before it counts as up.
pub struct Gate<'a> {
    pub stack: &'a Stack,
    pub routes: &'a [Route],
    /// The public name that routes are asked by.
    pub domain: &'a str,
    /// Services that must be good even in a known release: those with a route, and those that the env calls critical.
    pub vital: &'a [&'a str],
    pub rigour: Rigour,
    /// Ids of containers that somebody stopped by hand: they are not waited for.
    pub stopped: &'a BTreeSet<String>,
    /// Those that stand beside the ones that they will replace: they are asked instead.
    pub beside: &'a Beside,
}

impl Gate<'_> {
    /// The services that are waited for. In a known release the others are the supervisor's loop's concern: one that
    /// keeps dying degrades the app, it does not keep it from serving.
    fn services(&self) -> impl Iterator<Item = &Service> {
        let counts = |service: &&Service| self.rigour != Rigour::Known || self.vital.contains(&service.name.as_str());
        self.stack.services.iter().filter(counts)
    }

    /// The containers that are waited for, by name, and as they are.
    fn containers<'c>(
        &'c self,
        present: &'c [Container],
    ) -> impl Iterator<Item = (&'c Service, Option<&'c Container>)> {
        self.services()
            .flat_map(move |service| {
                let of_name = |name: String| present.iter().find(|container| container.name == self.beside.of(&name));
                self.stack.container_names(service).map(move |name| (service, of_name(name)))
            })
            .filter(|(_, container)| {
                let by_hand = |container: &&Container| !container.is_running() && self.stopped.contains(&container.id);
                !container.as_ref().is_some_and(by_hand)
            })
    }

    fn all_good(&self, present: &[Container]) -> Result<bool> {
        for (service, container) in self.containers(present) {
            if let Some(container) = container
                && !container.is_running()
                && !may_end(service, container)
            {
                bail!(
                    "the service {} ended with {}; see: appliance logs {}",
                    service.name,
                    container.exit_code,
                    service.name
                );
            }
        }
        Ok(self.not_yet(present).is_empty())
    }

    /// Services that are not good yet, with what they are.
    fn not_yet(&self, present: &[Container]) -> Vec<String> {
        let state = |service: &Service, container: Option<&Container>| match container {
            // It did its work once, and was cleaned away.
            None if self.stack.is_one_shot(&service.name) => None,
            None => Some("missing"),
            Some(container) if !container.is_running() => None,
            Some(container) => match container.health {
                None | Some(Health::Healthy) => None,
                Some(Health::Starting) => Some("starting"),
                Some(Health::Unhealthy) => Some("unhealthy"),
            },
        };
        self.containers(present)
            .filter_map(|(service, container)| {
                state(service, container).map(|state| format!("{} is {state}", service.name))
            })
            .collect()
    }
}

/// Whether `restart:` says that this end is a good one.
fn may_end(service: &Service, container: &Container) -> bool {
    match service.restart {
        Restart::No | Restart::OnFailure(_) => container.exit_code == 0,
        Restart::Always => false,
    }
}

/// Waits until the stack is good.
///
/// # Errors
/// A container ends, a route answers 500 or more until the deadline, or something is not ready by then.
pub async fn wait_until_good(gate: &Gate<'_>, host: &Host) -> Result<()> {
    let started = Instant::now();
    let project = gate.stack.project.as_str();
    let deadline = gate.services().map(Service::health_deadline).max().unwrap_or_default();
    let deadline = deadline.max(Duration::from_secs(300));
    let good = wait_until(project, deadline, host, |containers| gate.all_good(containers)).await?;
    if good.is_none() {
        let containers = host.docker().containers(project, Look::Close).await?;
        bail!("not healthy within {} s: {}", deadline.as_secs(), gate.not_yet(&containers).join(", "));
    }
    let present = host.docker().containers(project, Look::Close).await?;
    let by_hand = |name: &str| {
        present.iter().any(|container| {
            container.service() == name && !container.is_running() && gate.stopped.contains(&container.id)
        })
    };
    for route in gate.beside.routes(gate.stack, gate.routes).iter().filter(|route| !by_hand(&route.service)) {
        answers(gate, route, started + deadline, host).await?;
    }
    let unchecked = |containers: &[Container]| containers.iter().any(|container| container.health.is_none());
    if gate.rigour == Rigour::New && unchecked(&host.docker().containers(project, Look::Close).await?) {
        // Whoever dies in this time ends the wait with an error; the deadline passing is what is hoped for.
        let settled = SETTLED.saturating_sub(started.elapsed());
        let died = wait_until(project, settled, host, |containers| gate.all_good(containers).map(|good| !good)).await?;
        if died.is_some() {
            bail!("a service did not stay up for {} s", SETTLED.as_secs());
        }
    }
    Ok(())
}

async fn answers(gate: &Gate<'_>, route: &Route, end: Instant, host: &Host) -> Result<()> {
    let domain = gate.domain;
    loop {
        let answer = host.probe(route.upstream, &route.path, domain, REQUEST).await;
        match answer {
            Ok(status) if status < 500 => return Ok(()),
            Ok(status) if Instant::now() >= end => {
                bail!("the service {} answers {} with {status}", route.service, route.path)
            }
            // An app that answers 500 has started: it gets a while to come to itself, not all the time there is.
            Ok(status) => give_it_a_while(route, status, domain, end, host).await?,
            Err(error) if Instant::now() >= end => {
                return Err(error)
                    .with_context(|| format!("the service {} does not answer {}", route.service, route.path));
            }
            // What has ended meanwhile, by a killed Docker too, never will.
            Err(_) => {
                gate.all_good(&host.docker().containers(gate.stack.project.as_str(), Look::Close).await?)?;
            }
        }
        tokio::time::sleep(BETWEEN).await;
    }
}

/// How long an app may answer 500 after it first answered.
const WARM_UP: Duration = Duration::from_secs(30);

async fn give_it_a_while(route: &Route, first: u16, domain: &str, end: Instant, host: &Host) -> Result<()> {
    let end = end.min(Instant::now() + WARM_UP);
    let mut last = first;
    while Instant::now() < end {
        tokio::time::sleep(BETWEEN).await;
        match host.probe(route.upstream, &route.path, domain, REQUEST).await {
            Ok(status) if status < 500 => return Ok(()),
            Ok(status) => last = status,
            // It stopped answering: back to waiting for an answer.
            Err(_) => return Ok(()),
        }
    }
    bail!("the service {} answers {} with {last}", route.service, route.path)
}
