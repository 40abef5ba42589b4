//! Carrying out the difference: containers, in dependency order.

use super::actions::{Action, Occasion, Present, Wanted, actions};
use super::create::{Around, Image, Role, container};
use super::images::{Images, look_up};
use super::manner::{self, Beside};
use super::model::{Condition, Network, Service, Source, Stack};
use super::{grants, mounts, slice, stopped, surroundings, wait};
use crate::env::{Allow, Binds};
use crate::host::Host;
use crate::host::docker::{Container, LABEL_CONFIG, LABEL_CONFIG_HASH, Look, NewContainer, OneOff, is_id_held};
use anyhow::{Context, Result, bail};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Told what is happening.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

/// How many containers are worked at once; Docker itself does not get faster with more.
const AT_ONCE: usize = 16;

/// What there is to do, and what to do it with.
pub struct Pending {
    wanted: BTreeMap<String, NewContainer>,
    pub actions: Vec<Action>,
    /// Names of containers that somebody stopped by hand, and that stay down.
    stopped: BTreeSet<String>,
    occasion: Occasion,
    allow: Allow,
}

impl Pending {
    fn concerns(&self, service: &str) -> bool {
        self.actions.iter().any(|action| action.service() == Some(service))
    }

    /// A container that an action is about.
    pub(super) fn wanted(&self, container: &str) -> Result<NewContainer> {
        self.wanted.get(container).cloned().context("an action without its container")
    }

    fn stopped_by_hand(&self, stack: &Stack, service: &crate::value::ServiceName) -> bool {
        let service = stack.service(service.as_str());
        service.is_some_and(|service| stack.container_names(service).any(|name| self.stopped.contains(&name)))
    }
}

/// Compares the wanted stack with what Docker has. Nothing is made.
///
/// # Errors
/// An image of the release that is not there any more, or a key that the engine is too old for.
pub async fn pending(stack: &Stack, images: &Images, host: &Host, occasion: Occasion) -> Result<Pending> {
    compare(stack, images, host, occasion, surroundings::look(stack, host).await?).await
}

pub(super) async fn compare(
    stack: &Stack,
    images: &Images,
    host: &Host,
    occasion: Occasion,
    networks: BTreeMap<String, String>,
) -> Result<Pending> {
    check_engine(stack, host).await?;
    let containers = host.docker().containers(stack.project.as_str(), Look::Quick).await?;
    let found = look_up(images, &containers, host).await?;
    let parent = slice::parent(stack, host).await?;
    let (mut all, mut wanted) = (BTreeMap::new(), Vec::new());
    for service in stack.levels().into_iter().flatten() {
        let image = image_of(service, &found)?;
        mounts::check(stack, service, host)?;
        let granted = grants::look(stack, service, host)?;
        for number in 1..=service.replicas {
            let around = Around { grants: &granted, parent: parent.as_deref() };
            let new = container(stack, service, image, around, Role::Service(number));
            wanted.push(want(stack, service, &new));
            all.insert(new.name.clone(), new);
        }
    }
    let present = Present {
        containers,
        networks,
        stopped: stopped::read(host, &stack.project)?,
        given_up: stopped::given_up(host, &stack.project)?,
    };
    let actions = actions(&wanted, &present, occasion);
    let stays_down = |container: &&Container| {
        present.stopped.contains(&container.id) && !actions.iter().any(|action| action.container() == container.name)
    };
    let stopped = present.containers.iter().filter(stays_down).map(|container| container.name.clone()).collect();
    Ok(Pending { wanted: all, actions, stopped, occasion, allow: stack.allow })
}

fn want(stack: &Stack, service: &Service, new: &NewContainer) -> Wanted {
    let label = |name| new.body.labels.as_ref().and_then(|labels| labels.get(name)).cloned().unwrap_or_default();
    let names = |names: Vec<&crate::value::ServiceName>| names.iter().map(|name| name.as_str().to_owned()).collect();
    let mut ties: Vec<_> = service.shared().collect();
    if service.network == Network::Bridge {
        ties.extend(service.links.iter().map(|link| &link.service));
    }
    let mut follows: Vec<_> = service.shared().collect();
    follows.extend(service.depends_on.iter().filter(|needed| needed.restart).map(|needed| &needed.service));
    Wanted {
        service: service.name.as_str().to_owned(),
        container: new.name.clone(),
        config_hash: label(LABEL_CONFIG_HASH),
        config: label(LABEL_CONFIG),
        ties: names(ties),
        follows: names(follows),
        shares: match &service.network {
            Network::Service(name) => Some(stack.first_container(name)),
            _ => None,
        },
        networks: service.joined().iter().map(|joined| stack.network_name(&joined.network)).collect(),
        restart: service.restart,
        once: stack.is_one_shot(&service.name),
    }
}

fn image_of<'a>(service: &Service, images: &'a BTreeMap<String, Image>) -> Result<&'a Image> {
    let name = service.name.as_str();
    images.get(name).with_context(|| format!("the release has no image for the service {name}"))
}

/// An old engine would ignore what it does not know.
async fn check_engine(stack: &Stack, host: &Host) -> Result<()> {
    if stack.needs.is_empty() {
        return Ok(());
    }
    let has = host.docker().api_version().await?;
    let lacking = stack.needs.iter().filter(|need| need.api > has).map(|need| {
        format!(
            "{}: error: '{}' needs Docker's API {}.{}, this engine has {}.{}",
            need.at, need.key, need.api.0, need.api.1, has.0, has.1
        )
    });
    let lacking: Vec<String> = lacking.collect();
    if lacking.is_empty() { Ok(()) } else { bail!("{}", lacking.join("\n")) }
}

/// How a release's changed services will be replaced, in words: service and why not without a gap.
pub fn gaps(stack: &Stack) -> Vec<(String, String)> {
    let gap = |service: &Service| match manner::manner(stack, service) {
        manner::Manner::InPlace(why) => Some((service.name.as_str().to_owned(), why)),
        _ => None,
    };
    stack.services.iter().filter_map(gap).collect()
}

/// Notes what would be done, for `plan`.
pub async fn plan(stack: &Stack, images: &Images, host: &Host, occasion: Occasion) -> Result<()> {
    surroundings::ensure(stack, host).await?;
    for action in pending(stack, images, host, occasion).await?.actions {
        host.note_container(action.container(), action.words());
    }
    Ok(())
}

/// Brings the stack to what is wanted. Run again, it does nothing.
///
/// # Errors
/// What is external and missing, a service that others wait for in vain, or whatever Docker refuses.
pub async fn up(stack: &Stack, images: &Images, host: &Host, occasion: Occasion, progress: Progress<'_>) -> Result<()> {
    let networks = surroundings::ensure(stack, host).await?;
    finish_replacements(stack, host).await?;
    let pending = compare(stack, images, host, occasion, networks).await?;
    let removals = pending.actions.iter().filter(|action| matches!(action, Action::Remove { .. }));
    let removals = removals.map(|action| remove(stack, action, host));
    stream::iter(removals).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    for level in stack.levels() {
        let names: Vec<&str> =
            level.iter().map(|service| service.name.as_str()).filter(|name| pending.concerns(name)).collect();
        if !names.is_empty() {
            progress(&names.join(", "));
        }
        let work = level.into_iter().filter_map(|service| {
            let of_service = |action: &&Action| action.service() == Some(service.name.as_str());
            let actions: Vec<&Action> = pending.actions.iter().filter(of_service).collect();
            (!actions.is_empty()).then(|| bring_up(stack, service, actions, &pending, host, progress))
        });
        stream::iter(work).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    }
    Ok(())
}

/// One service's containers: those that are replaced by so many at a time as `update_config` says, the others all at once.
async fn bring_up(
    stack: &Stack,
    service: &Service,
    actions: Vec<&Action>,
    pending: &Pending,
    host: &Host,
    progress: Progress<'_>,
) -> Result<()> {
    wait_for_needed(stack, service, pending, &Beside::default(), host, progress).await?;
    let (replaced, others): (Vec<&Action>, Vec<&Action>) =
        actions.into_iter().partition(|action| matches!(action, Action::Recreate { .. }));
    let at_once = match usize::from(service.rolling.parallelism) {
        0 => replaced.len().max(1),
        some => some,
    };
    let one = |action| carry_out(service, action, pending, host);
    stream::iter(others.into_iter().map(one)).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    for (index, group) in replaced.chunks(at_once).enumerate() {
        if index > 0 {
            tokio::time::sleep(service.rolling.delay).await;
        }
        stream::iter(group.iter().copied().map(one)).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    }
    Ok(())
}

/// Waits until what a service depends on is as it asks for.
pub(super) async fn wait_for_needed(
    stack: &Stack,
    service: &Service,
    pending: &Pending,
    beside: &Beside,
    host: &Host,
    progress: Progress<'_>,
) -> Result<()> {
    for needed in service.depends_on.iter().filter(|needed| needed.condition != Condition::Started) {
        progress(&format!("{} waits for {}", service.name, needed.service));
        match wait::wait_for(stack, needed, pending.occasion, beside, host).await {
            Err(error) if pending.stopped_by_hand(stack, &needed.service) => {
                tracing::warn!("{error:#}; {} starts without it, since it was stopped by hand", service.name);
            }
            Err(error) if !needed.required => {
                tracing::warn!("{error:#}; {} starts without it, since it is not required", service.name);
            }
            other => other?,
        }
    }
    Ok(())
}

pub(super) async fn carry_out(service: &Service, action: &Action, pending: &Pending, host: &Host) -> Result<()> {
    host.note_container(action.container(), action.words());
    let docker = host.docker();
    let id = match action {
        Action::Remove { .. } => return Ok(()),
        Action::Start { container_id, .. } => container_id.clone(),
        Action::Restart { container_id, .. } => {
            docker.stop(container_id, service.stop_grace).await?;
            container_id.clone()
        }
        Action::Create { container, .. } => docker.create(pending.wanted(container)?).await?,
        Action::Recreate { container, container_id, .. } => {
            replace(service, container_id, pending.wanted(container)?, pending.allow, host).await?
        }
    };
    let started = match start(&id, host).await {
        Err(error) if is_id_held(&error) => make_anew(service, action.container(), &id, &error, pending, host).await,
        started => started,
    };
    started.with_context(|| format!("could not start the service {}", service.name))
}

/// Starts a container that has died, as [`up`] would.
pub async fn start_again(
    stack: &Stack,
    images: &Images,
    service: &str,
    container: &Container,
    host: &Host,
) -> Result<()> {
    if let Some(service) = stack.service(service) {
        // It may have put a link in the way of its own next start.
        mounts::check(stack, service, host)?;
    }
    match (start(&container.id, host).await, stack.service(service)) {
        (Err(error), Some(service)) if is_id_held(&error) => {
            let pending = pending(stack, images, host, Occasion::Mend).await?;
            make_anew(service, &container.name, &container.id, &error, &pending, host).await
        }
        (started, _) => started,
    }
}

async fn make_anew(
    service: &Service,
    name: &str,
    id: &str,
    why: &anyhow::Error,
    pending: &Pending,
    host: &Host,
) -> Result<()> {
    tracing::warn!("{name}: {why:#}; it is made anew");
    let new = replace(service, id, pending.wanted(name)?, pending.allow, host).await?;
    host.start_container(&new).await
}

/// How long containerd may take to give up what it holds of a container that Docker lost, and how often it is asked. What a
/// container keeps in itself goes with it, so it is not made anew any sooner.
const GIVING_UP: Duration = Duration::from_secs(10);
const BETWEEN: Duration = Duration::from_millis(500);

async fn start(id: &str, host: &Host) -> Result<()> {
    let end = Instant::now() + GIVING_UP;
    loop {
        match host.start_container(id).await {
            Err(error) if is_id_held(&error) && Instant::now() < end => tokio::time::sleep(BETWEEN).await,
            started => return started,
        }
    }
}

/// How a container is called until the one that it replaces is gone.
const BESIDE: &str = ".new";

/// Makes the new container before the old one is touched, so that what Docker refuses costs nothing; what the old one kept in
/// anonymous volumes goes on in the new one.
async fn replace(service: &Service, old: &str, mut new: NewContainer, allow: Allow, host: &Host) -> Result<String> {
    let docker = host.docker();
    let kept = docker.anonymous_volumes(old).await?;
    for (_, volume) in kept.iter().filter(|_| allow.binds == Binds::Own) {
        // A name that looks like one of Docker's own may have been given to something else, when more was allowed.
        docker.volume(volume).await?.map_or(Ok(()), |known| surroundings::refuse_foreign(&known))?;
    }
    let has_own =
        |target: &str| service.mounts.iter().any(|mount| mount.target == target && mount.source != Source::Anonymous);
    let config = new.body.host_config.get_or_insert_default();
    for (target, volume) in kept.into_iter().filter(|(target, _)| !has_own(target)) {
        config.binds.get_or_insert_default().push(format!("{volume}:{target}"));
    }
    let name = std::mem::take(&mut new.name);
    new.name = format!("{name}{BESIDE}");
    // One that a killed run left.
    docker.remove(&new.name).await?;
    let id = docker.create(new).await?;
    docker.stop(old, service.stop_grace).await?;
    docker.remove(old).await?;
    docker.rename(&id, &name).await?;
    Ok(id)
}

/// Finishes what a killed run left between the old container and the new one.
async fn finish_replacements(stack: &Stack, host: &Host) -> Result<()> {
    let containers = host.docker().containers(stack.project.as_str(), Look::Quick).await?;
    for container in &containers {
        let Some(name) = container.name.strip_suffix(BESIDE) else { continue };
        match containers.iter().any(|other| other.name == name) {
            true => host.docker().remove(&container.id).await?,
            false => host.docker().rename(&container.id, name).await?,
        }
    }
    Ok(())
}

/// Takes away what no service asks for; it gets its time to end.
async fn remove(stack: &Stack, action: &Action, host: &Host) -> Result<()> {
    let Action::Remove { service, container, container_id, .. } = action else { return Ok(()) };
    host.note_container(container, action.words());
    let grace = stack.service(service).map_or(super::stop::DEFAULT_GRACE, |service| service.stop_grace);
    host.docker().stop(container_id, grace).await?;
    host.docker().remove(container_id).await
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
    check_engine(stack, host).await?;
    let found = look_up(images, &[], host).await?;
    let could_not = || NotRun(format!("{purpose} of {}", service.name));
    mounts::check(stack, service, host).with_context(could_not)?;
    let granted = grants::look(stack, service, host).with_context(could_not)?;
    let parent = slice::parent(stack, host).await.with_context(could_not)?;
    let around = Around { grants: &granted, parent: parent.as_deref() };
    let mut new = container(stack, service, image_of(service, &found)?, around, Role::OneOff);
    new.name = name.clone();
    new.body.cmd = Some(command.to_vec());
    let docker = host.docker();
    // A killed run left its own behind.
    docker.remove_with_volumes(&name).await?;
    host.note_container(&name, format!("run {purpose} of {}", service.name));
    let id = docker.create(new).await.with_context(could_not)?;
    let ended = docker.run_to_end(&id, deadline).await.with_context(could_not);
    // What it did is done; the next look at the stack takes away what is left of it.
    if let Err(error) = docker.remove_with_volumes(&id).await {
        tracing::warn!("{error:#}");
    }
    ended
}

/// Docker does not run a command of the app's: there is no such program, or the container cannot be made.
#[derive(Debug)]
pub struct NotRun(pub String);

impl std::fmt::Display for NotRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "could not run {}", self.0)
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
