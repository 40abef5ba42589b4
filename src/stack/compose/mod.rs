//! A compose file's text into the model. A key that is not carried out is an error that names it. One service is read
//! by `service.rs`; here is what concerns the whole file.

mod deploy;
mod mounts;
mod options;
mod service;

use super::interpolate::interpolate;
use super::model::*;
use crate::env::Report;
use crate::env::document::{self, Kind, Node};
use crate::env::reader::{Fields, Reading, Unknown};
use crate::value::{AppName, ServiceName};
use std::collections::{BTreeMap, BTreeSet};

/// The most services of one stack.
const MAX_SERVICES: usize = 500;

/// Reads a compose file. There is a stack only if there is no error.
pub fn read(
    bytes: &[u8],
    max: u64,
    project: &AppName,
    file: &str,
    variables: &BTreeMap<String, String>,
) -> (Option<Stack>, Report) {
    let mut report = Report::default();
    let root = match document::parse(bytes, max) {
        Ok(root) => root,
        Err(diagnostic) => {
            report.push(*diagnostic);
            return (None, report);
        }
    };
    let reading = Reading::default();
    let mut missing = BTreeSet::new();
    let root = filled_in(&root, variables, &reading, &mut missing);
    let stack = read_stack(&reading, &root, project, file, variables);
    for name in missing {
        reading.warning(root.place, format!("the variable {name} is not set and counts as empty"));
    }
    let report = reading.finish().report;
    if report.has_errors() { (None, report) } else { (stack, report) }
}

/// The tree with every value interpolated; keys stay as they are.
fn filled_in(
    node: &Node,
    variables: &BTreeMap<String, String>,
    reading: &Reading,
    missing: &mut BTreeSet<String>,
) -> Node {
    let kind = match &*node.kind {
        Kind::Scalar { text, plain } => match interpolate(text, variables, missing) {
            Ok(text) => Kind::Scalar { text, plain: *plain },
            Err(problem) => {
                reading.error(node.place, format!("this value {problem}"));
                Kind::Scalar { text: String::new(), plain: false }
            }
        },
        Kind::Sequence(items) => {
            Kind::Sequence(items.iter().map(|item| filled_in(item, variables, reading, missing)).collect())
        }
        Kind::Mapping(entries) => Kind::Mapping(
            entries.iter().map(|(key, value)| (key.clone(), filled_in(value, variables, reading, missing))).collect(),
        ),
    };
    node.with_kind(kind)
}

fn read_stack(
    reading: &Reading,
    root: &Node,
    project: &AppName,
    file: &str,
    variables: &BTreeMap<String, String>,
) -> Option<Stack> {
    let directory = file.rsplit_once('/').map_or("/", |(directory, _)| directory).to_owned();
    let fields = Fields::root(reading, root, "a mapping with the key 'services'")?;
    fields.text("version");
    // The project is called after the app, whatever the file says: paths and names follow from it.
    fields.text("name");
    let declared = read_volumes(&fields);
    let services_node = fields.value("services");
    let Some(node) = services_node.filter(|node| !node.entries().is_empty()) else {
        fields.error(root.place, "'services' is missing or empty; there is nothing to run");
        return None;
    };
    if node.entries().len() > MAX_SERVICES {
        fields.error(node.place, format!("there are more than {MAX_SERVICES} services"));
        return None;
    }
    let mut services = Vec::new();
    for (key, value) in node.entries() {
        match key.text.parse::<ServiceName>() {
            Ok(name) => services.extend(service::read(reading, name, value, &directory, variables)),
            Err(right) => reading.error(key.place, format!("a service's name must be {right}")),
        }
    }
    fields.finish(Unknown::Refuse);
    check_references(reading, node, &services, &declared);
    let volumes = services.iter().flat_map(|service| &service.mounts).filter_map(|mount| match &mount.source {
        Source::Volume(name) => Some(name.clone()),
        _ => None,
    });
    let volumes: BTreeSet<String> = volumes.collect();
    let volumes = volumes.into_iter().collect();
    Some(Stack { project: project.clone(), file: file.to_owned(), directory, services, volumes })
}

/// Top-level `volumes:`: names without options.
fn read_volumes(root: &Fields) -> Vec<String> {
    let Some(node) = root.value("volumes") else { return Vec::new() };
    for (key, value) in node.entries() {
        for (option, _) in value.entries() {
            root.error(
                option.place,
                format!("'volumes.{}.{}' is not carried out by the appliance", key.text, option.text),
            );
        }
    }
    node.entries().iter().map(|(key, _)| key.text.clone()).collect()
}

fn check_references(reading: &Reading, node: &Node, services: &[Service], declared: &[String]) {
    let place_of = |name: &ServiceName| {
        node.entries().iter().find(|(key, _)| key.text == name.as_str()).map_or(node.place, |(key, _)| key.place)
    };
    let known = |name: &ServiceName| services.iter().any(|service| &service.name == name);
    for service in services {
        for name in service.dependencies().filter(|name| !known(name)) {
            reading.error(
                place_of(&service.name),
                format!("the service {} depends on {name}, which is not in the file", service.name),
            );
        }
        for mount in &service.mounts {
            if let Source::Volume(name) = &mount.source
                && !declared.contains(name)
            {
                reading.error(
                    place_of(&service.name),
                    format!("the service {} uses the volume {name}, which is not under 'volumes'", service.name),
                );
            }
        }
        if let Some((name, _)) = service.depends_on.iter().find(|(name, condition)| {
            *condition == Condition::Healthy
                && services.iter().any(|other| {
                    &other.name == name && other.healthcheck.is_none() && other.build.is_none() && other.image.is_none()
                })
        }) {
            reading.error(
                place_of(&service.name),
                format!("the service {} waits for {name} to be healthy, but that has no health check", service.name),
            );
        }
    }
    // Take away services without open dependencies until none is left; what remains is in a circle.
    let mut open: Vec<&Service> = services.iter().collect();
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
        reading.error(place_of(&service.name), format!("these services wait for each other: {}", names.join(", ")));
    }
}

#[cfg(test)]
mod tests;
