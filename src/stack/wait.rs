//! Waiting for containers: woken by Docker's events, bounded by a deadline.

use super::actions::Occasion;
use super::manner::Beside;
use super::model::{Condition, Dependency, Service, Stack};
use crate::host::Host;
use crate::host::docker::{Container, DockerError, Health, Look};
use anyhow::{Context, Result, bail};
use futures_util::{FutureExt, StreamExt};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// How long a service may take that others wait for to be done: as long as a migration.
const COMPLETION: Duration = Duration::from_secs(24 * 3600);

/// Waits until what a service depends on is as it asks for.
///
/// # Errors
/// It ends before, or does not become so in its time.
pub async fn wait_for(
    stack: &Stack,
    needed: &Dependency,
    occasion: Occasion,
    beside: &Beside,
    host: &Host,
) -> Result<()> {
    let Some(service) = stack.service(needed.service.as_str()) else { return Ok(()) };
    let (deadline, what) = match needed.condition {
        // What was started before is started: levels come one after the other.
        Condition::Started => return Ok(()),
        Condition::Healthy => (service.health_deadline(), "become healthy"),
        Condition::Completed => (COMPLETION, "complete"),
    };
    let names: Vec<String> = stack.container_names(service).map(|name| beside.of(&name).to_owned()).collect();
    let check = |containers: &[Container]| {
        let mut all = names.iter().map(|name| {
            let container = containers.iter().find(|container| &container.name == name);
            match container {
                Some(container) => is_as_needed(service, container, needed.condition),
                // It had run before, and was cleaned away.
                None if needed.condition == Condition::Completed && occasion == Occasion::Mend => Ok(true),
                None => bail!("the container {name} was removed while others waited for it"),
            }
        });
        all.try_fold(true, |good, one| one.map(|one| good && one))
    };
    wait_until(stack.project.as_str(), deadline, host, check)
        .await?
        .with_context(|| format!("the service {} did not {what} within {} s", service.name, deadline.as_secs()))
}

fn is_as_needed(service: &Service, container: &Container, condition: Condition) -> Result<bool> {
    let name = &service.name;
    use crate::host::docker::ContainerState::{Created, Paused};
    let ended = !container.is_running() && ![Created, Paused].contains(&container.state);
    match (condition, container.health) {
        (Condition::Completed, _) if ended && container.exit_code == 0 => Ok(true),
        (Condition::Completed, _) if ended => {
            bail!(
                "the service {name} ended with {}, but others need it to succeed; see: appliance logs {name}",
                container.exit_code
            )
        }
        (Condition::Completed, _) => Ok(false),
        (_, Some(Health::Healthy)) => Ok(true),
        // Without a health check it counts once it runs.
        (_, None) if container.is_running() => Ok(true),
        _ if ended => bail!("the service {name} ended with {} before it was healthy", container.exit_code),
        _ => Ok(false),
    }
}

/// Looks at the containers at every event until `check` says true; `None` when the deadline passes.
pub async fn wait_until(
    project: &str,
    deadline: Duration,
    host: &Host,
    check: impl Fn(&[Container]) -> Result<bool>,
) -> Result<Option<()>> {
    let end = Instant::now() + deadline;
    // Subscribed before the first look, so that nothing is missed in between.
    let mut events = host.docker().events(project).await?;
    let mut containers = host.docker().containers(project, Look::Close).await?;
    loop {
        if check(&containers)? {
            return Ok(Some(()));
        }
        let mut named = BTreeSet::new();
        match tokio::time::timeout_at(end, events.next()).await {
            Err(_) => return Ok(None),
            Ok(Some(event)) => drop(named.insert(event?.container_id)),
            Ok(None) => return Err(DockerError::Away("it ended its events".to_owned()).into()),
        }
        // Events come in swarms; one look serves all that have come.
        while let Some(Some(event)) = events.next().now_or_never() {
            named.insert(event?.container_id);
        }
        containers = host.docker().containers(project, Look::After(&named)).await?;
    }
}
