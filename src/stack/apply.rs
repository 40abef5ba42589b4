//! Carrying out the difference: networks, volumes, containers, in dependency order; and taking all of it down.

use super::actions::{Action, Wanted, actions};
use super::create::{Role, body};
use super::model::{Condition, Network, Service, Stack};
use crate::host::Host;
use crate::host::docker::{
    Container, Health, LABEL_CONFIG_HASH, LABEL_NETWORK, LABEL_PROJECT, LABEL_VOLUME, OneOff, is_missing,
};
use anyhow::{Context, Result, bail};
use bollard::models::ContainerCreateBody;
use futures_util::StreamExt;
use futures_util::future::{join_all, try_join_all};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// Service to image reference, as a release holds them.
pub type Images = BTreeMap<String, String>;

/// Told what is happening.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

/// What there is to do, and the bodies to do it with.
pub struct Pending {
    bodies: BTreeMap<String, ContainerCreateBody>,
    pub actions: Vec<Action>,
}

/// Compares the wanted stack with what Docker has.
///
/// # Errors
/// An image of the release that is not there any more.
pub async fn pending(stack: &Stack, images: &Images, host: &Host) -> Result<Pending> {
    let (mut bodies, mut wanted) = (BTreeMap::new(), Vec::new());
    for service in stack.levels().into_iter().flatten() {
        let body = service_body(stack, service, images, host, Role::Service).await?;
        let labels = body.labels.as_ref();
        wanted.push(Wanted {
            service: service.name.as_str().to_owned(),
            container: stack.container_name(service),
            config_hash: labels.and_then(|labels| labels.get(LABEL_CONFIG_HASH)).cloned().unwrap_or_default(),
            links: match service.network {
                Network::Bridge => service.links.iter().map(|link| link.service.as_str().to_owned()).collect(),
                Network::Default | Network::Host | Network::None => Vec::new(),
            },
        });
        bodies.insert(service.name.as_str().to_owned(), body);
    }
    let running = host.docker().containers(stack.project.as_str()).await?;
    Ok(Pending { bodies, actions: actions(&wanted, &running) })
}

async fn service_body(
    stack: &Stack,
    service: &Service,
    images: &Images,
    host: &Host,
    role: Role,
) -> Result<ContainerCreateBody> {
    let name = service.name.as_str();
    let image = images.get(name).with_context(|| format!("the release has no image for the service {name}"))?;
    let id = host.docker().image_id(image).await?;
    let id = id.with_context(|| format!("the image {image} of the service {name} is missing"))?;
    Ok(body(stack, service, image, &id, role))
}

/// Notes what would be done, for `plan`.
pub async fn plan(stack: &Stack, images: &Images, host: &Host) -> Result<()> {
    for action in pending(stack, images, host).await?.actions {
        note(stack, &action, host);
    }
    Ok(())
}

fn note(stack: &Stack, action: &Action, host: &Host) {
    let name = |service: &str| format!("{}_{service}_1", stack.project);
    match action {
        Action::Create { service } => host.note_container(&name(service), "create"),
        Action::Recreate { service, why, .. } => host.note_container(&name(service), format!("recreate: {why}")),
        Action::Start { service, .. } => host.note_container(&name(service), "start"),
        Action::Remove { container, why, .. } => host.note_container(container, format!("remove: {why}")),
    }
}

/// Makes the project's network and volumes.
pub async fn ensure_surroundings(stack: &Stack, host: &Host) -> Result<()> {
    let project = stack.project.as_str();
    let labels = |kind: &str, name: &str| {
        HashMap::from([(LABEL_PROJECT.to_owned(), project.to_owned()), (kind.to_owned(), name.to_owned())])
    };
    if stack.needs_network() {
        host.ensure_network(project, &stack.network_name(), labels(LABEL_NETWORK, "default")).await?;
    }
    for volume in &stack.volumes {
        // Docker gives back the volume that is there, so this can be repeated.
        host.docker().create_volume(&format!("{project}_{volume}"), labels(LABEL_VOLUME, volume)).await?;
    }
    Ok(())
}

/// Brings the stack to what is wanted. Run again, it does nothing.
pub async fn up(stack: &Stack, images: &Images, host: &Host, progress: Progress<'_>) -> Result<()> {
    ensure_surroundings(stack, host).await?;
    let pending = pending(stack, images, host).await?;
    for action in &pending.actions {
        if let Action::Remove { container_id, .. } = action {
            note(stack, action, host);
            host.docker().remove(container_id).await?;
        }
    }
    for level in stack.levels() {
        let work = level.iter().filter_map(|service| {
            let action = pending.actions.iter().find(|action| is_for(action, service.name.as_str()))?;
            Some(bring_up(stack, service, action, &pending, host, progress))
        });
        try_join_all(work).await?;
    }
    Ok(())
}

fn is_for(action: &Action, name: &str) -> bool {
    match action {
        Action::Create { service } | Action::Recreate { service, .. } | Action::Start { service, .. } => {
            service == name
        }
        Action::Remove { .. } => false,
    }
}

async fn bring_up(
    stack: &Stack,
    service: &Service,
    action: &Action,
    pending: &Pending,
    host: &Host,
    progress: Progress<'_>,
) -> Result<()> {
    for (name, condition) in &service.depends_on {
        if *condition == Condition::Healthy {
            let deadline = stack.service(name.as_str()).map_or(Duration::ZERO, Service::health_deadline);
            progress(&format!("{} waits for {name}", service.name));
            wait_healthy(stack, name.as_str(), deadline, host).await?;
        }
    }
    progress(service.name.as_str());
    note(stack, action, host);
    let docker = host.docker();
    let id = match action {
        Action::Start { container_id, .. } => container_id.clone(),
        Action::Remove { .. } => return Ok(()),
        Action::Create { .. } | Action::Recreate { .. } => {
            if let Action::Recreate { container_id, .. } = action {
                docker.stop(container_id, service.stop_grace).await?;
                docker.remove(container_id).await?;
            }
            let body = pending.bodies.get(service.name.as_str()).context("an action without its service")?.clone();
            docker.create(&stack.container_name(service), body).await?
        }
    };
    docker.start(&id).await.with_context(|| format!("could not start the service {}", service.name))
}

/// Waits until a service reports healthy.
///
/// # Errors
/// It ends, or does not become healthy in its time.
pub async fn wait_healthy(stack: &Stack, name: &str, deadline: Duration, host: &Host) -> Result<()> {
    let container_name = format!("{}_{name}_1", stack.project);
    let check = |containers: &[Container]| {
        let Some(container) = containers.iter().find(|container| container.name == container_name) else {
            return Ok(false);
        };
        match container.health {
            Some(Health::Healthy) => Ok(true),
            // Without a health check it counts once it runs.
            None if container.is_running() => Ok(true),
            _ if !container.is_running() => {
                bail!("the service {name} ended with {} before it was healthy", container.exit_code)
            }
            _ => Ok(false),
        }
    };
    wait_until(stack.project.as_str(), deadline, host, check)
        .await?
        .with_context(|| format!("the service {name} did not become healthy within {} s", deadline.as_secs()))
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
    loop {
        if check(&host.docker().containers(project).await?)? {
            return Ok(Some(()));
        }
        match tokio::time::timeout_at(end, events.next()).await {
            Err(_) => return Ok(None),
            Ok(Some(event)) => drop(event?),
            Ok(None) => bail!("Docker ended its events"),
        }
    }
}

/// Runs a command in a one-off container of a service, to its end; the container is removed.
pub async fn run_once(
    stack: &Stack,
    service: &Service,
    images: &Images,
    purpose: &str,
    command: &[String],
    deadline: Duration,
    host: &Host,
) -> Result<OneOff> {
    let name = format!("{}_{purpose}_1", stack.project);
    let mut body = service_body(stack, service, images, host, Role::OneOff).await?;
    body.cmd = Some(command.to_vec());
    let docker = host.docker();
    // A killed run left its own behind.
    docker.remove(&name).await?;
    host.note_container(&name, format!("run {purpose} of {}", service.name));
    let id = docker.create(&name, body).await?;
    let ended = docker.run_to_end(&id, deadline).await;
    docker.remove(&id).await?;
    ended
}

/// How long stopping the stack may take in all, unless a service asks for more (spec/stack.md, "Stop").
pub const STOP_BUDGET: Duration = Duration::from_secs(45);

/// Stops the stack in reverse dependency order. Services that the stack does not know are stopped first.
///
/// Each level gets what is left of the budget, less a second for each level still to come, so that the last one has
/// its turn too.
pub async fn stop(stack: Option<&Stack>, project: &str, host: &Host) -> Result<()> {
    let running: Vec<Container> = host.docker().containers(project).await?.into_iter().filter(is_alive).collect();
    let mut levels: Vec<Vec<(Container, Duration)>> = Vec::new();
    let mut known: Vec<String> = Vec::new();
    for level in stack.map(Stack::levels).unwrap_or_default().into_iter().rev() {
        let mut containers = Vec::new();
        for service in level {
            let name = stack.map(|stack| stack.container_name(service)).unwrap_or_default();
            containers.extend(
                running
                    .iter()
                    .find(|container| container.name == name)
                    .map(|found| (found.clone(), service.stop_grace)),
            );
            known.push(name);
        }
        levels.push(containers);
    }
    let strangers = running.iter().filter(|container| !known.contains(&container.name));
    levels.insert(0, strangers.map(|container| (container.clone(), Duration::from_secs(10))).collect());
    levels.retain(|level| !level.is_empty());

    let longest = levels.iter().flatten().map(|(_, grace)| *grace).max().unwrap_or_default();
    let end = Instant::now() + STOP_BUDGET.max(longest + Duration::from_secs(5)) - Duration::from_secs(3);
    let mut failed = Vec::new();
    for (index, level) in levels.iter().enumerate() {
        let to_come = Duration::from_secs((levels.len() - index - 1) as u64);
        let left = end.saturating_duration_since(Instant::now()).saturating_sub(to_come);
        let stops = level.iter().map(|(container, grace)| async move {
            host.note_container(&container.name, "stop");
            host.docker().stop(&container.id, (*grace).min(left)).await
        });
        failed.extend(join_all(stops).await.into_iter().filter_map(Result::err).filter(|error| !is_missing(error)));
    }
    match failed.into_iter().next() {
        Some(error) => Err(error).context("could not stop the whole stack"),
        None => Ok(()),
    }
}

fn is_alive(container: &Container) -> bool {
    use crate::host::docker::ContainerState::{Paused, Restarting, Running};
    matches!(container.state, Running | Paused | Restarting)
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
