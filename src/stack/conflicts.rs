//! What the compose files of two apps cannot both have on one host, or should not: container names, ports, networks, volumes, directories.
//! Pure.

use super::model::{Port, Published, Source, Stack};
use std::collections::{BTreeMap, BTreeSet};

/// What a stack has in common with that of another app.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Conflicts {
    /// The second of the two would not start, or would reach what is the other's.
    pub errors: Vec<String>,
    /// It works, and what one writes the other reads.
    pub warnings: Vec<String>,
}

impl Conflicts {
    /// Looks for what `stack` has in common with `other`.
    pub fn between(stack: &Stack, other: &Stack) -> Conflicts {
        let (app, mut found) = (&other.project, Conflicts::default());
        let names = container_names(other);
        for (name, service) in container_names(stack) {
            if let Some(theirs) = names.get(&name) {
                found.errors.push(format!(
                    "the service {service} and the service {theirs} of the app {app} are both called {name} (container_name)"
                ));
            }
        }
        let published = ports(other);
        for (port, service) in ports(stack) {
            let theirs = published.iter().find(|(theirs, _)| collide(port, theirs));
            if let Some((_, theirs)) = theirs {
                found.errors.push(format!(
                    "the service {service} and the service {theirs} of the app {app} both publish the port {}",
                    number(port)
                ));
            }
        }
        for network in &stack.networks {
            let Some(theirs) = other.networks.iter().find(|theirs| theirs.name == network.name) else { continue };
            let text =
                format!("the network {} is that of the app {app}, too, and reaches its containers", network.name);
            // One that both call somebody else's is meant to be shared.
            let is_meant = network.external && theirs.external;
            if is_meant { found.warnings.push(text) } else { found.errors.push(text) }
        }
        let volumes: BTreeSet<&str> = other.volumes.iter().map(|volume| volume.name.as_str()).collect();
        for volume in stack.volumes.iter().filter(|volume| volumes.contains(volume.name.as_str())) {
            found.warnings.push(format!("the volume {} is that of the app {app}, too", volume.name));
        }
        let theirs = written_directories(other);
        for directory in written_directories(stack) {
            if theirs.iter().any(|theirs| is_within(directory, theirs) || is_within(theirs, directory)) {
                found.warnings.push(format!(
                    "the containers of the app {app} get {directory}, too, and one of the two can write there"
                ));
            }
        }
        found
    }
}

fn container_names(stack: &Stack) -> BTreeMap<String, &str> {
    let of = |service: &'_ super::Service| stack.container_names(service).collect::<Vec<_>>();
    let each =
        stack.services.iter().flat_map(|service| of(service).into_iter().map(|name| (name, service.name.as_str())));
    each.collect()
}

fn ports(stack: &Stack) -> Vec<(&Port, &str)> {
    let each = stack.services.iter().flat_map(|service| service.ports.iter().map(|port| (port, service.name.as_str())));
    each.filter(|(port, _)| matches!(port.published, Published::Fixed(_))).collect()
}

fn number(port: &Port) -> u16 {
    match port.published {
        Published::Fixed(number) => number,
        _ => port.target,
    }
}

/// Whether Docker can publish only one of them: the same number at the same address, or at all addresses.
fn collide(one: &Port, other: &Port) -> bool {
    let is_everywhere = |port: &Port| port.address.is_none_or(|address| address.is_unspecified());
    (one.protocol, one.published) == (other.protocol, other.published)
        && (one.address == other.address || is_everywhere(one) || is_everywhere(other))
}

/// Directories and files of the host that a container can write; what all may read is nobody's in particular.
fn written_directories(stack: &Stack) -> BTreeSet<&str> {
    let mounts = stack.services.iter().flat_map(|service| &service.mounts).filter(|mount| !mount.read_only);
    mounts
        .filter_map(|mount| match &mount.source {
            Source::Path(path) => Some(path.as_str()),
            _ => None,
        })
        // Sockets and devices of the host.
        .filter(|path| !["/var/run/", "/run/", "/dev/"].iter().any(|own| path.starts_with(own)))
        .collect()
}

fn is_within(path: &str, directory: &str) -> bool {
    path == directory || path.strip_prefix(directory.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::compose;

    fn stack(app: &str, text: &str) -> Stack {
        let project = app.parse().expect("the name is valid");
        let (stack, report) = compose::of_text(text, &project, "/c.yml", &BTreeMap::new());
        stack.unwrap_or_else(|| panic!("{}", report.render("c")))
    }

    #[test]
    fn what_two_apps_cannot_both_have_is_told_and_what_is_not_in_the_way_is_not() {
        let service = |rest: &str| format!("services: {{web: {{image: x, {rest}}}}}\n");
        for (one, other, expected) in [
            ("container_name: shop", "container_name: shop", "are both called shop"),
            ("ports: ['8000:80']", "ports: ['10.0.0.1:8000:80']", "both publish the port 8000"),
            ("ports: ['10.0.0.1:8000:80']", "ports: ['10.0.0.1:8000:81']", "both publish the port 8000"),
            ("ports: ['10.0.0.1:8000:80']", "ports: ['10.0.0.2:8000:80']", ""),
            ("ports: ['53:53/udp']", "ports: ['53:53']", ""),
            ("volumes: ['/srv/x:/x']", "volumes: ['/srv/x/y:/y']", "get /srv/x/y, too"),
            ("volumes: ['/srv/x:/x:ro']", "volumes: ['/srv/x:/y:ro']", ""),
            ("volumes: ['/var/run/docker.sock:/s']", "volumes: ['/var/run/docker.sock:/s']", ""),
            ("volumes: ['/srv/x:/x']", "volumes: ['/srv/xy:/y']", ""),
        ] {
            let found = Conflicts::between(&stack("b", &service(other)), &stack("a", &service(one)));
            let said = [found.errors, found.warnings].concat().join("\n");
            assert!(
                if expected.is_empty() { said.is_empty() } else { said.contains(expected) },
                "{one}, {other}: {said}"
            );
        }
        let named = |name: &str| {
            format!(
                "services: {{web: {{image: x, networks: [n], volumes: ['v:/v']}}}}\nnetworks: {{n: {name}}}\nvolumes: {{v: {name}}}\n"
            )
        };
        let own = Conflicts::between(&stack("b", &named("{}")), &stack("a", &named("{}")));
        assert_eq!(own, Conflicts::default(), "each has its own by its project's name");
        let shared = Conflicts::between(&stack("b", &named("{name: x}")), &stack("a", &named("{name: x}")));
        assert_eq!((shared.errors.len(), shared.warnings.len()), (1, 1), "{shared:?}");
    }
}
