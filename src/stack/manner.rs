//! How a service's containers are replaced by those of a new release: beside them, by a bridge, or in their place; and what those that
//! stand beside are called. Pure; doing it is `beside.rs`.

use super::model::{Mount, Network, Order, Published, Service, Source, Stack};
use crate::value::Route;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How a container is called that takes the old one's place as it is.
pub(super) const NEXT: &str = ".next";
/// How a container is called that serves while the one whose place it holds is replaced: it has other ports than that one.
pub(super) const BRIDGE: &str = ".bridge";

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
    let writes = |mount: &Mount| !mount.read_only && mount.source != Source::Anonymous;
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
pub struct Beside(pub(super) BTreeMap<String, String>);

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
