//! A compose file's text into the model. A key that is not carried out is an error that names it.

use super::interpolate::interpolate;
use super::model::*;
use super::ports;
use crate::env::Report;
use crate::env::document::{self, Kind, Node};
use crate::env::reader::{Fields, Reading, Unknown};
use crate::value::{AppName, ServiceName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

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
    let report = reading.into_report();
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
            Ok(name) => services.extend(read_service(reading, name, value, &directory, variables)),
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

fn read_service(
    reading: &Reading,
    name: ServiceName,
    node: &Node,
    directory: &str,
    variables: &BTreeMap<String, String>,
) -> Option<Service> {
    let path = format!("services.{name}");
    let fields = Fields::of(reading, Some(node), &path);
    let image = fields.text("image").filter(|image| {
        let good = is_image(image);
        if !good {
            fields.error(node.place, format!("'{path}.image' is not an image's name"));
        }
        good
    });
    let build = read_build(&fields, directory, variables);
    if image.is_none() && build.is_none() && fields.value("image").is_none() && fields.value("build").is_none() {
        fields.error(node.place, format!("'{path}' has neither 'image' nor 'build'"));
    }
    let with = |key: &'static str, read: &dyn Fn(&str) -> Result<(), String>| {
        for text in texts(&fields, key) {
            if let Err(problem) = read(&text) {
                fields.error(
                    fields.value(key).map_or(node.place, |node| node.place),
                    format!("'{path}.{key}': {problem}"),
                );
            }
        }
    };
    let mut mounts = Vec::new();
    let mounts_cell = std::cell::RefCell::new(&mut mounts);
    with("volumes", &|text| ports::mount(text, directory).map(|mount| mounts_cell.borrow_mut().push(mount)));
    let mut links = Vec::new();
    let links_cell = std::cell::RefCell::new(&mut links);
    with("links", &|text| link(text).map(|link| links_cell.borrow_mut().push(link)));
    let ports = read_ports(&fields);
    let expose =
        texts(&fields, "expose").into_iter().map(|port| if port.contains('/') { port } else { format!("{port}/tcp") });
    let network = match fields.text("network_mode").as_deref() {
        None => Network::Default,
        Some("bridge") => Network::Bridge,
        Some(other) => {
            let other = document::shown(other);
            fields.error(
                node.place,
                format!("'{path}.network_mode: {other}' is not carried out by the appliance; only bridge is"),
            );
            Network::Default
        }
    };
    let restart = match fields.text("restart").as_deref() {
        None | Some("always" | "unless-stopped") => Restart::Always,
        Some("no") => Restart::No,
        Some("on-failure") => Restart::OnFailure,
        Some(other) => {
            let other = document::shown(other);
            fields.error(
                node.place,
                format!("'{path}.restart' is '{other}', but must be no, always, on-failure or unless-stopped"),
            );
            Restart::Always
        }
    };
    let parsed = |key: &'static str| fields.text(key).map(|text| (key, text));
    let report = |key: &str, problem: String| fields.error(node.place, format!("'{path}.{key}': {problem}"));
    let stop_grace =
        parsed("stop_grace_period").and_then(|(key, text)| ports::duration(&text).map_err(|p| report(key, p)).ok());
    let mem_limit = parsed("mem_limit").and_then(|(key, text)| ports::bytes(&text).map_err(|p| report(key, p)).ok());
    let service = Service {
        image,
        build,
        command: read_command(&fields, "command"),
        environment: pairs(&fields, "environment", variables),
        env_files: texts(&fields, "env_file"),
        labels: pairs(&fields, "labels", variables),
        ports,
        expose: expose.collect(),
        mounts,
        links,
        depends_on: read_depends_on(&fields),
        healthcheck: read_healthcheck(&fields),
        network,
        mem_limit,
        restart,
        stop_grace: stop_grace.unwrap_or(Duration::from_secs(10)),
        name,
    };
    fields.finish(Unknown::Refuse);
    Some(service)
}

fn is_image(text: &str) -> bool {
    !text.is_empty() && text.len() <= 512 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b))
}

fn link(text: &str) -> Result<Link, String> {
    let (service, alias) = text.split_once(':').unwrap_or((text, text));
    let name: ServiceName = service.parse().map_err(|_| format!("'{text}' is not service[:alias]"))?;
    let alias: ServiceName = alias.parse().map_err(|_| format!("'{text}' is not service[:alias]"))?;
    Ok(Link { service: name, alias: alias.as_str().to_owned() })
}

/// A text or a list of texts.
fn texts(fields: &Fields, key: &'static str) -> Vec<String> {
    match fields.value(key).map(|node| &*node.kind) {
        None => Vec::new(),
        Some(Kind::Scalar { text, .. }) => vec![text.clone()],
        Some(_) => fields.list(key, |reading, node, path| reading.text(node, path)).unwrap_or_default(),
    }
}

/// `NAME: value` or `- NAME=value`; a name without a value takes the variable of that name, if it is set.
fn pairs(fields: &Fields, key: &'static str, variables: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let Some(node) = fields.value(key) else { return BTreeMap::new() };
    let path = fields.path(key);
    let mut all = BTreeMap::new();
    let from_outside = |name: &str| variables.get(name).cloned();
    match &*node.kind {
        Kind::Mapping(entries) => {
            for (name, value) in entries {
                let value = if value.is_null() { from_outside(&name.text) } else { fields.reading.text(value, &path) };
                all.extend(value.map(|value| (name.text.clone(), value)));
            }
        }
        Kind::Sequence(items) => {
            for item in items {
                let Some(text) = fields.reading.text(item, &path) else { continue };
                match text.split_once('=') {
                    Some((name, value)) => drop(all.insert(name.to_owned(), value.to_owned())),
                    None => all.extend(from_outside(&text).map(|value| (text, value))),
                }
            }
        }
        Kind::Scalar { .. } => fields.error(node.place, format!("'{path}' must be a mapping or a list, not a text")),
    }
    all
}

/// A command as a list, or as a text that is split like a shell's words.
fn read_command(fields: &Fields, key: &'static str) -> Option<Vec<String>> {
    let node = fields.value(key)?;
    match &*node.kind {
        Kind::Scalar { text, .. } => {
            let words = crate::env::split_words(text);
            if words.is_none() {
                fields.error(node.place, format!("'{}' has a quote that is not closed", fields.path(key)));
            }
            words
        }
        _ => fields.list(key, |reading, node, path| reading.text(node, path)),
    }
}

fn read_build(service: &Fields, directory: &str, variables: &BTreeMap<String, String>) -> Option<Build> {
    let node = service.value("build")?;
    if let Kind::Scalar { text, .. } = &*node.kind {
        let context = ports::join(directory, text);
        return Some(Build {
            context,
            dockerfile: "Dockerfile".to_owned(),
            args: BTreeMap::new(),
            target: String::new(),
        });
    }
    let fields = service.fields("build");
    let build = Build {
        context: ports::join(directory, &fields.text("context").unwrap_or_else(|| ".".to_owned())),
        dockerfile: fields.text("dockerfile").unwrap_or_else(|| "Dockerfile".to_owned()),
        args: pairs(&fields, "args", variables),
        target: fields.text("target").unwrap_or_default(),
    };
    fields.finish(Unknown::Refuse);
    Some(build)
}

fn read_ports(fields: &Fields) -> Vec<Port> {
    let read = |reading: &Reading, node: &Node, path: &str| {
        if let Kind::Mapping(_) = &*node.kind {
            return read_long_port(reading, node, path);
        }
        let text = reading.text(node, path)?;
        ports::port(&text).map_err(|problem| reading.error(node.place, format!("'{path}': {problem}"))).ok()
    };
    fields.list("ports", read).unwrap_or_default()
}

fn read_long_port(reading: &Reading, node: &Node, path: &str) -> Option<Port> {
    let fields = Fields::of(reading, Some(node), path);
    let number = |key| {
        fields.get(key, |reading, node, path| reading.number(node, path, 1..=65535)).and_then(|n| u16::try_from(n).ok())
    };
    let (target, published) = (number("target"), number("published"));
    if target.is_none() && fields.value("target").is_none() {
        fields.error(node.place, format!("'{path}.target' is missing"));
    }
    let address = fields.text("host_ip").and_then(|text| {
        text.parse().map_err(|_| fields.error(node.place, format!("'{path}.host_ip' is not an IP address"))).ok()
    });
    let udp = match fields.text("protocol").as_deref() {
        None | Some("tcp") => false,
        Some("udp") => true,
        Some(_) => {
            fields.error(node.place, format!("'{path}.protocol' must be tcp or udp"));
            false
        }
    };
    fields.finish(Unknown::Refuse);
    Some(Port { address, published, target: target?, udp })
}

fn read_depends_on(service: &Fields) -> Vec<(ServiceName, Condition)> {
    let Some(node) = service.value("depends_on") else { return Vec::new() };
    if !matches!(&*node.kind, Kind::Mapping(_)) {
        let names = service.list("depends_on", |reading, node, path| reading.checked(node, path)).unwrap_or_default();
        return names.into_iter().map(|name| (name, Condition::Started)).collect();
    }
    let mut all = Vec::new();
    for (key, value) in node.entries() {
        let path = format!("{}.{}", service.path("depends_on"), document::shown(&key.text));
        let Ok(name) = key.text.parse::<ServiceName>() else {
            service.error(key.place, format!("'{path}' is not a service's name"));
            continue;
        };
        let fields = Fields::of(service.reading, Some(value), &path);
        let condition = match fields.text("condition").as_deref() {
            None | Some("service_started") => Condition::Started,
            Some("service_healthy") => Condition::Healthy,
            Some(other) => {
                let other = document::shown(other);
                service.error(
                    value.place,
                    format!("'{path}.condition: {other}' is not carried out; service_started and service_healthy are"),
                );
                Condition::Started
            }
        };
        fields.finish(Unknown::Refuse);
        all.push((name, condition));
    }
    all
}

fn read_healthcheck(service: &Fields) -> Option<Healthcheck> {
    let node = service.value("healthcheck")?;
    let fields = service.fields("healthcheck");
    let duration = |key: &'static str| {
        let text = fields.text(key)?;
        ports::duration(&text)
            .map_err(|problem| fields.error(node.place, format!("'{}': {problem}", fields.path(key))))
            .ok()
    };
    let test = match fields.value("test").map(|node| &*node.kind) {
        None => Vec::new(),
        Some(Kind::Scalar { text, .. }) => vec!["CMD-SHELL".to_owned(), text.clone()],
        Some(_) => fields.list("test", |reading, node, path| reading.text(node, path)).unwrap_or_default(),
    };
    if !test.is_empty() && !["CMD", "CMD-SHELL", "NONE"].contains(&test[0].as_str()) {
        fields.error(node.place, format!("'{}' must begin with CMD, CMD-SHELL or NONE", fields.path("test")));
    }
    let check = Healthcheck {
        interval: duration("interval"),
        timeout: duration("timeout"),
        start_period: duration("start_period"),
        retries: fields.get("retries", |reading, node, path| reading.number(node, path, 0..=10_000)),
        test: if fields.boolean("disable") == Some(true) { vec!["NONE".to_owned()] } else { test },
    };
    fields.finish(Unknown::Refuse);
    Some(check)
}

#[cfg(test)]
#[path = "compose_tests.rs"]
mod tests;
