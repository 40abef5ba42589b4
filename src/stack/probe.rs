//! The default gate: every service healthy, and every route answering below 500.

use super::apply::wait_until;
use super::model::Stack;
use crate::host::Host;
use crate::host::docker::{Container, Health};
use crate::value::Route;
use anyhow::{Context, Result, bail};
use std::time::Duration;
use tokio::time::Instant;

/// How long a service without a health check must run before it counts (spec/update.md, "gate").
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
}

/// Waits until the stack is good.
///
/// # Errors
/// A container ends, a route answers 500 or more until the deadline, or something is not ready by then.
pub async fn wait_until_good(stack: &Stack, routes: &[Route], domain: &str, rigour: Rigour, host: &Host) -> Result<()> {
    let started = Instant::now();
    let deadline = stack.services.iter().map(|service| service.health_deadline()).max().unwrap_or_default();
    let deadline = deadline.max(Duration::from_secs(300));
    let good = wait_until(stack.project.as_str(), deadline, host, |containers| all_good(stack, containers)).await?;
    if good.is_none() {
        let containers = host.docker().containers(stack.project.as_str()).await?;
        bail!("not healthy within {} s: {}", deadline.as_secs(), not_yet(stack, &containers).join(", "));
    }
    for route in routes {
        answers(route, domain, started + deadline, host).await?;
    }
    let unchecked = |containers: &[Container]| containers.iter().any(|container| container.health.is_none());
    if rigour == Rigour::New && unchecked(&host.docker().containers(stack.project.as_str()).await?) {
        // Whoever dies in this time ends the wait with an error; the deadline passing is what is hoped for.
        let settled = SETTLED.saturating_sub(started.elapsed());
        let died = wait_until(stack.project.as_str(), settled, host, |containers| {
            all_good(stack, containers).map(|good| !good)
        })
        .await?;
        if died.is_some() {
            bail!("a service did not stay up for {} s", SETTLED.as_secs());
        }
    }
    Ok(())
}

fn of<'a>(stack: &Stack, service: &super::model::Service, containers: &'a [Container]) -> Option<&'a Container> {
    let name = stack.container_name(service);
    containers.iter().find(|container| container.name == name)
}

fn all_good(stack: &Stack, containers: &[Container]) -> Result<bool> {
    for service in &stack.services {
        if let Some(container) = of(stack, service, containers)
            && !container.is_running()
        {
            bail!(
                "the service {} ended with {}; see: appliance logs {}",
                service.name,
                container.exit_code,
                service.name
            );
        }
    }
    Ok(not_yet(stack, containers).is_empty())
}

/// Services that are not good yet, with what they are.
fn not_yet(stack: &Stack, containers: &[Container]) -> Vec<String> {
    let state = |service| match of(stack, service, containers) {
        None => Some("missing"),
        Some(container) => match container.health {
            None | Some(Health::Healthy) => None,
            Some(Health::Starting) => Some("starting"),
            Some(Health::Unhealthy) => Some("unhealthy"),
        },
    };
    stack
        .services
        .iter()
        .filter_map(|service| state(service).map(|state| format!("{} is {state}", service.name)))
        .collect()
}

async fn answers(route: &Route, domain: &str, end: Instant, host: &Host) -> Result<()> {
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
            Err(_) => {}
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
