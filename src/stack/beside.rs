//! Starting a release's containers beside those that they will replace, and their taking the old ones' places. How each is replaced is
//! `manner.rs`; when that is done, and what sends visitors to them, is `update/`.

use super::actions::{Action, Occasion};
use super::apply::{self, Pending, Progress};
use super::images::Images;
use super::manner::{BRIDGE, Beside, Manner, NEXT, is_beside, manner};
use super::model::{Service, Stack};
use super::surroundings;
use crate::host::Host;
use crate::host::docker::{Container, Look, NewContainer};
use crate::value::{BRIDGE_ADDRESS, bridge_of};
use anyhow::{Context, Result};
use futures_util::future::try_join_all;

/// Starts what the stack needs and does not have, in dependency order: beside what runs where that can be, else in its place. What
/// is not wanted any more stays. Whatever a killed run left beside is made anew.
///
/// # Errors
/// As [`apply::up`].
pub async fn start(stack: &Stack, images: &Images, host: &Host, progress: Progress<'_>) -> Result<Beside> {
    drop_all(stack, host).await?;
    let networks = surroundings::ensure(stack, host).await?;
    let pending = apply::compare(stack, images, host, Occasion::Mend, networks).await?;
    let mut beside = Beside::default();
    for level in stack.levels() {
        let mut work = Vec::new();
        for service in level {
            let of_service = |action: &&Action| action.service() == Some(service.name.as_str());
            let actions: Vec<&Action> = pending.actions.iter().filter(of_service).collect();
            if !actions.is_empty() {
                progress(service.name.as_str());
                work.push(one(stack, service, actions, &pending, &beside, host, progress));
            }
        }
        for names in try_join_all(work).await? {
            beside.0.extend(names);
        }
    }
    Ok(beside)
}

/// One service's containers; gives back those that stand beside.
async fn one(
    stack: &Stack,
    service: &Service,
    actions: Vec<&Action>,
    pending: &Pending,
    beside: &Beside,
    host: &Host,
    progress: Progress<'_>,
) -> Result<Vec<(String, String)>> {
    apply::wait_for_needed(stack, service, pending, beside, host, progress).await?;
    let manner = manner(stack, service);
    let mut names = Vec::new();
    for action in actions {
        let Action::Recreate { container, container_id, .. } = action else {
            apply::carry_out(service, action, pending, host).await?;
            continue;
        };
        let has_data = !host.docker().anonymous_volumes(container_id).await?.is_empty();
        if matches!(manner, Manner::InPlace(_)) || has_data {
            apply::carry_out(service, action, pending, host).await?;
            continue;
        }
        let new = pending.wanted(container)?;
        let new = if manner == Manner::Bridge { as_bridge(new) } else { as_next(new) };
        host.note_container(&new.name, action.words());
        let name = new.name.clone();
        let id = host.docker().create(new).await?;
        let started = host.start_container(&id).await;
        started.with_context(|| format!("could not start the service {}", service.name))?;
        names.push((container.clone(), name));
    }
    Ok(names)
}

fn as_next(new: NewContainer) -> NewContainer {
    NewContainer { name: format!("{}{NEXT}", new.name), ..new }
}

/// With other ports, and unknown to its neighbours: it lives shortly, and what they began with it would break off.
fn as_bridge(mut new: NewContainer) -> NewContainer {
    new.name = format!("{}{BRIDGE}", new.name);
    let bindings = new.body.host_config.as_mut().and_then(|config| config.port_bindings.as_mut());
    for binding in bindings.into_iter().flat_map(|bindings| bindings.values_mut()).flatten().flatten() {
        let own = binding.host_ip.as_deref().and_then(|address| address.parse().ok());
        binding.host_ip = Some(own.map_or(BRIDGE_ADDRESS, bridge_of).to_string());
    }
    let first = new.body.networking_config.as_mut().and_then(|config| config.endpoints_config.as_mut());
    let first = first.into_iter().flat_map(|endpoints| endpoints.values_mut());
    for endpoint in first.chain(new.further.iter_mut().map(|(_, endpoint)| endpoint)) {
        endpoint.aliases = None;
    }
    new
}

/// Those that stand beside, as Docker has them.
async fn standing(stack: &Stack, host: &Host) -> Result<Vec<Container>> {
    let containers = host.docker().containers(stack.project.as_str(), Look::Quick).await?;
    Ok(containers.into_iter().filter(|container| is_beside(&container.name)).collect())
}

async fn take_down(stack: &Stack, container: &Container, host: &Host) -> Result<()> {
    let service = stack.service(container.service());
    let grace = service.map_or(super::stop::DEFAULT_GRACE, |service| service.stop_grace);
    host.note_container(&container.name, "stop and remove");
    host.docker().stop(&container.id, grace).await?;
    host.docker().remove_with_volumes(&container.id).await
}

/// Takes away what stands beside; each gets its time to end what it has begun.
pub async fn drop_all(stack: &Stack, host: &Host) -> Result<()> {
    let standing = standing(stack, host).await?;
    try_join_all(standing.iter().map(|container| take_down(stack, container, host))).await.map(drop)
}

/// Lets those that can take the places of the old ones; what is a bridge stays.
pub async fn take_places(stack: &Stack, host: &Host) -> Result<()> {
    let containers = host.docker().containers(stack.project.as_str(), Look::Quick).await?;
    let places = containers.iter().filter_map(|next| Some((next, next.name.strip_suffix(NEXT)?)));
    let places = places.map(|(next, name)| async {
        let service = stack.service(next.service());
        let grace = service.map_or(super::stop::DEFAULT_GRACE, |service| service.stop_grace);
        // A killed run may have removed it already.
        if let Some(old) = containers.iter().find(|old| old.name == *name) {
            host.note_container(name, "replaced by the one beside it");
            host.docker().stop(&old.id, grace).await?;
            host.docker().remove(&old.id).await?;
        }
        host.docker().rename(&next.id, name).await
    });
    try_join_all(places).await.map(drop)
}

/// Whether a release's service is held by a bridge that runs.
pub async fn running_bridges(stack: &Stack, host: &Host) -> Result<Vec<String>> {
    let standing = standing(stack, host).await?;
    let running = standing.iter().filter(|container| container.is_running() && container.name.ends_with(BRIDGE));
    Ok(running.map(|container| container.service().to_owned()).collect())
}
