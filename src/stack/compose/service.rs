//! One service of a compose file: its keys, each with its forms.

use super::{deploy, mounts, options};
use crate::env::document::{self, Kind, Node};
use crate::env::reader::{Fields, Reading, Unknown};
use crate::stack::model::*;
use crate::stack::ports;
use crate::value::ServiceName;
use std::collections::BTreeMap;
use std::time::Duration;

/// Reads one service; `None` means an error was reported.
pub fn read(
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
    let (mounts, memory) = mounts::read(&fields, directory);
    let mut links = Vec::new();
    let links_cell = std::cell::RefCell::new(&mut links);
    with("links", &|text| link(text).map(|link| links_cell.borrow_mut().push(link)));
    let ports = read_ports(&fields);
    let expose =
        texts(&fields, "expose").into_iter().map(|port| if port.contains('/') { port } else { format!("{port}/tcp") });
    let network = match fields.text("network_mode").as_deref() {
        None => Network::Default,
        Some("bridge") => Network::Bridge,
        Some("host") => Network::Host,
        Some("none") => Network::None,
        Some(other) => {
            let other = document::shown(other);
            fields.error(
                node.place,
                format!(
                    "'{path}.network_mode: {other}' is not carried out by the appliance; bridge, host and none are"
                ),
            );
            Network::Default
        }
    };
    if matches!(network, Network::Host | Network::None) && !(ports.is_empty() && links.is_empty()) {
        let text = format!("'{path}' has ports or links, which its network_mode cannot have");
        fields.error(fields.value("network_mode").map_or(node.place, |node| node.place), text);
    }
    let deploy = deploy::read(&fields);
    let restart = match fields.text("restart").as_deref() {
        None => deploy.restart.unwrap_or(Restart::Always),
        Some("always" | "unless-stopped") => Restart::Always,
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
    let mut options = options::read(&fields, variables);
    options.tmpfs.extend(memory);
    // Said twice, it must be the same.
    let once = |key: &str, own: Option<i64>, deployed: Option<i64>| {
        if own.is_some() && deployed.is_some() && own != deployed {
            fields.error(node.place, format!("'{path}.{key}' and '{path}.deploy.resources' say different things"));
        }
        own.or(deployed)
    };
    let mem_limit = once("mem_limit", mem_limit, deploy.memory);
    options.mem_reservation = once("mem_reservation", options.mem_reservation, deploy.memory_reservation);
    options.nano_cpus = once("cpus", options.nano_cpus, deploy.nano_cpus);
    options.pids_limit = once("pids_limit", options.pids_limit, deploy.pids);
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
        options,
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
pub(super) fn texts(fields: &Fields, key: &'static str) -> Vec<String> {
    match fields.value(key).map(|node| &*node.kind) {
        None => Vec::new(),
        Some(Kind::Scalar { text, .. }) => vec![text.clone()],
        Some(_) => fields.list(key, |reading, node, path| reading.text(node, path)).unwrap_or_default(),
    }
}

/// `NAME: value` or `- NAME=value`; a name without a value takes the variable of that name, if it is set.
pub(super) fn pairs(
    fields: &Fields,
    key: &'static str,
    variables: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
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
pub(super) fn read_command(fields: &Fields, key: &'static str) -> Option<Vec<String>> {
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
