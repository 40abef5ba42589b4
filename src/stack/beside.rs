//! The containers of a new release beside those that they will replace: which can stand beside, starting them, and their taking the
//! old ones' places. When that is done, and what sends visitors to them, is `update/`.

use super::actions::{Action, Occasion};
use super::apply::{self, Images, Pending, Progress};
use super::model::{Network, Order, Published, Service, Source, Stack};
use super::surroundings;
use crate::host::Host;
use crate::host::docker::{Container, Look, NewContainer};
use crate::value::{BRIDGE_ADDRESS, Route};
use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How a container is called that takes the old one's place as it is.
const NEXT: &str = ".next";
/// How a container is called that serves while the one whose place it holds is replaced: it has other ports than that one.
const BRIDGE: &str = ".bridge";

/// How a service's containers are replaced without a gap, if they can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    /// The new one starts beside the old one and takes its name.
    Next,
    /// Its ports cannot be had twice: one with other ports holds its place meanwhile.
    Bridge,
    /// The old one is stopped first; why.
    InPlace(String),
}

/// How a service is replaced. Pure.
pub fn manner(stack: &Stack, service: &Service) -> Manner {
    let in_place = |why: &str| Manner::InPlace(why.to_owned());
    let name = &service.name;
    if service.rolling.order == Some(Order::StopFirst) {
        return in_place("its update_config.order is stop-first");
    }
    if service.container_name.is_some() {
        return in_place("it has a container_name");
    }
    match &service.network {
        Network::Host => return in_place("it lives in the host's network"),
        Network::Service(_) | Network::Container(_) => return in_place("it lives in another container's network"),
        Network::Joined(joined) if joined.iter().any(|joined| joined.ipv4.is_some() || joined.ipv6.is_some()) => {
            return in_place("it has an address of its own");
        }
        _ => {}
    }
    let tied = |other: &&Service| {
        let links = other.network == Network::Bridge && other.links.iter().any(|link| &link.service == name);
        links || other.shared().any(|shared| shared == name)
    };
    if service.shared().next().is_some() || stack.services.iter().any(|other| tied(&other)) {
        return in_place("it is tied to another container");
    }
    if stack.is_one_shot(name) {
        return in_place("it does its work once");
    }
    let is_fixed = |published: Published| published != Published::Any;
    let loopback = |address: Option<IpAddr>| address.is_some_and(|address| address.is_loopback());
    if service.ports.iter().any(|port| is_fixed(port.published) && !loopback(port.address)) {
        return in_place("it publishes a port on other than loopback");
    }
    let writes = |mount: &super::model::Mount| !mount.read_only && mount.source != Source::Anonymous;
    if service.rolling.order.is_none() && !is_own(stack, service) && service.mounts.iter().any(writes) {
        // Two databases on one directory would be its end. What the app builds itself is taken to know that it is updated.
        return in_place(
            "it is not the app's own image and writes to a volume; update_config.order can say start-first",
        );
    }
    match service.ports.iter().any(|port| is_fixed(port.published)) {
        true => Manner::Bridge,
        false => Manner::Next,
    }
}

/// Whether the service's image is built from the app's repository.
pub fn is_own(stack: &Stack, service: &Service) -> bool {
    let same = |other: &Service| other.build.is_some() && other.image.is_some() && other.image == service.image;
    service.build.is_some() || stack.services.iter().any(same)
}

/// The containers that stand for a service's own for now: by the names that they will have, or whose place they hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beside(BTreeMap<String, String>);

impl Beside {
    /// What the container of that name is called now.
    pub fn of<'a>(&'a self, name: &'a str) -> &'a str {
        self.0.get(name).map_or(name, String::as_str)
    }

    /// Whether a service is held by a bridge.
    pub fn bridges(&self, stack: &Stack, service: &str) -> bool {
        let service = stack.service(service);
        service.is_some_and(|service| stack.container_names(service).any(|name| self.of(&name).ends_with(BRIDGE)))
    }

    /// Where the routes lead while the new containers stand beside.
    pub fn routes(&self, stack: &Stack, routes: &[Route]) -> Vec<Route> {
        let moved = |route: &Route| match self.bridges(stack, &route.service) {
            true => Route { upstream: route.bridge(), ..route.clone() },
            false => route.clone(),
        };
        routes.iter().map(moved).collect()
    }
}

/// Whether a container stands beside, by its name.
pub fn is_beside(name: &str) -> bool {
    name.ends_with(NEXT) || name.ends_with(BRIDGE)
}

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
        let started = host.docker().start(&id).await;
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
        binding.host_ip = Some(BRIDGE_ADDRESS.to_string());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::compose;

    fn of(service: &str, more: &str) -> Manner {
        let project = "shop".parse().expect("the name is valid");
        let text = format!(
            "services:\n  a: {service}\n{more}networks: {{n: {{ipam: {{config: [{{subnet: 10.9.0.0/24}}]}}}}}}\nvolumes: {{v: }}\n"
        );
        let (stack, report) = compose::of_text(&text, &project, "/c.yml", &BTreeMap::new());
        let stack = stack.unwrap_or_else(|| panic!("{}", report.render("c")));
        manner(&stack, stack.service("a").expect("the service is there"))
    }

    #[test]
    fn what_cannot_stand_beside_is_replaced_in_its_place_and_says_why() {
        for (service, more, expected) in [
            ("{build: ., deploy: {update_config: {order: stop-first}}}", "", "stop-first"),
            ("{build: ., container_name: one}", "", "container_name"),
            ("{build: ., network_mode: host}", "", "host's network"),
            ("{build: ., network_mode: 'service:b'}", "  b: {image: x}\n", "another container's network"),
            ("{build: .}", "  b: {image: x, network_mode: 'service:a'}\n", "tied"),
            ("{build: .}", "  b: {image: x, pid: 'service:a'}\n", "tied"),
            ("{build: ., network_mode: bridge}", "  b: {image: x, network_mode: bridge, links: [a]}\n", "tied"),
            ("{build: ., networks: {n: {ipv4_address: 10.9.0.5}}}", "", "address of its own"),
            ("{build: .}", "  b: {image: x, depends_on: {a: {condition: service_completed_successfully}}}\n", "once"),
            ("{build: ., ports: ['80:80']}", "", "other than loopback"),
            ("{build: ., ports: ['127.0.0.1:80:80', '8000-8001:81']}", "", "other than loopback"),
            ("{image: postgres, volumes: ['v:/data']}", "", "writes to a volume"),
            ("{image: postgres, volumes: ['/srv/x:/data']}", "", "writes to a volume"),
        ] {
            match of(service, more) {
                Manner::InPlace(why) => assert!(why.contains(expected), "{service}: {why}"),
                other => panic!("{service}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_can_stand_beside_does_so_by_its_own_name_or_as_a_bridge() {
        for (service, more, expected) in [
            ("{build: .}", "", Manner::Next),
            ("{build: ., ports: ['80']}", "", Manner::Next),
            ("{build: ., volumes: ['v:/media']}", "", Manner::Next),
            ("{image: own, volumes: ['v:/media']}", "  b: {build: ., image: own}\n", Manner::Next),
            ("{image: x, volumes: ['v:/data:ro']}", "", Manner::Next),
            ("{image: x, volumes: ['v:/data'], deploy: {update_config: {order: start-first}}}", "", Manner::Next),
            ("{build: ., ports: ['127.0.0.1:80:80']}", "", Manner::Bridge),
            ("{build: ., ports: ['[::1]:80:80']}", "", Manner::Bridge),
        ] {
            assert_eq!(of(service, more), expected, "{service}");
        }
    }
}
