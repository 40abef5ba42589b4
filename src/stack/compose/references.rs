//! What the parts of a compose project say of each other: every name that is used stands somewhere, and no services wait for
//! each other.

use crate::env::document::{Node, Place};
use crate::env::reader::Reading;
use crate::stack::model::*;
use crate::value::ServiceName;

pub struct Parts<'a> {
    pub reading: &'a Reading,
    /// The mapping of services, for places.
    pub node: &'a Node,
    /// Those that are to run.
    pub services: &'a [Service],
    /// Those that the files have, whatever their profiles.
    pub known: &'a [ServiceName],
    pub networks: &'a [(StackNetwork, Place)],
    pub volumes: &'a [(StackVolume, Place)],
}

pub fn check(parts: &Parts) {
    for service in parts.services {
        check_services(parts, service);
        check_joined(parts, service);
        check_contexts(parts, service);
        for mount in &service.mounts {
            if let Source::Volume(name) = &mount.source
                && !parts.volumes.iter().any(|(volume, _)| &volume.key == name)
            {
                let text = format!("the service {} uses the volume {name}, which is not under 'volumes'", service.name);
                parts.error(service, text);
            }
        }
        let same = |other: &&Service| other.name < service.name && other.container_name == service.container_name;
        if let Some(other) = parts.services.iter().find(same).filter(|_| service.container_name.is_some()) {
            parts.error(service, format!("the services {} and {} have one container_name", other.name, service.name));
        }
    }
    check_circles(parts);
}

impl Parts<'_> {
    fn error(&self, service: &Service, text: String) {
        let entry = self.node.entries().iter().find(|(key, _)| key.text == service.name.as_str());
        self.reading.error(entry.map_or(self.node.place, |(key, _)| key.place), text);
    }

    fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.iter().find(|service| &service.name == name)
    }
}

/// A service whose image another one's build begins with is one that runs, and is built or pulled itself.
fn check_contexts(parts: &Parts, service: &Service) {
    let contexts = service.build.iter().flat_map(|build| build.contexts.iter());
    for (name, context) in contexts {
        let NamedContext::Service(other) = context else { continue };
        if parts.service(other).is_none() || other == &service.name {
            let text = format!("the build context {name} of the service {} needs the service {other}", service.name);
            parts.error(service, format!("{text}, which is not there"));
        }
    }
}

fn check_services(parts: &Parts, service: &Service) {
    let optional = |name: &ServiceName| {
        let mut named = service.depends_on.iter().filter(|needed| &needed.service == name);
        named.next().is_some_and(|needed| !needed.required)
            && !service.links.iter().any(|link| &link.service == name)
            && service.shared().all(|shared| shared != name)
    };
    for name in service.dependencies().filter(|name| !optional(name)) {
        if !parts.known.contains(name) {
            parts.error(service, format!("the service {} depends on {name}, which is not in the file", service.name));
        } else if parts.service(name).is_none() {
            let text = "which belongs to a profile that is not asked for; see COMPOSE_PROFILES";
            parts.error(service, format!("the service {} depends on {name}, {text}", service.name));
        }
    }
    for name in service.shared() {
        if parts.service(name).is_some_and(|other| other.replicas != 1) {
            let text =
                format!("the service {} shares a namespace of {name}, which does not have one container", service.name);
            parts.error(service, text);
        }
    }
    for needed in service.depends_on.iter().filter(|needed| needed.condition == Condition::Healthy) {
        let disabled = |check: &Healthcheck| check.test.first().is_some_and(|word| word == "NONE");
        let other = parts.service(&needed.service);
        if other.and_then(|other| other.healthcheck.as_ref()).is_some_and(disabled) {
            let text = format!(
                "the service {} waits for {} to be healthy, but its health check is disabled",
                service.name, needed.service
            );
            parts.error(service, text);
        }
    }
}

fn check_joined(parts: &Parts, service: &Service) {
    for joined in service.joined() {
        let Some((network, _)) = parts.networks.iter().find(|(network, _)| network.key == joined.network) else {
            let text = format!(
                "the service {} joins the network {}, which is not under 'networks'",
                service.name, joined.network
            );
            parts.error(service, text);
            continue;
        };
        let has_address = joined.ipv4.is_some() || joined.ipv6.is_some();
        if has_address && service.replicas > 1 {
            let text = format!("the service {} has {} containers, but one address", service.name, service.replicas);
            parts.error(service, text);
        }
        if has_address && !network.external && !network.pools.iter().any(|pool| pool.subnet.is_some()) {
            let text = format!(
                "the service {} has an address in the network {}, which has no subnet under 'ipam.config'",
                service.name, joined.network
            );
            parts.error(service, text);
        }
    }
}

/// Takes away services without open dependencies until none is left; what remains is in a circle.
fn check_circles(parts: &Parts) {
    let mut open: Vec<&Service> = parts.services.iter().collect();
    loop {
        let names: Vec<ServiceName> = open.iter().map(|service| service.name.clone()).collect();
        let before = open.len();
        open.retain(|service| service.dependencies().any(|name| names.contains(name)));
        if open.len() == before {
            break;
        }
    }
    if let Some(service) = open.first() {
        let names: Vec<&str> = open.iter().map(|service| service.name.as_str()).collect();
        parts.error(service, format!("these services wait for each other: {}", names.join(", ")));
    }
}
