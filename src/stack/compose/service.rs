//! One service of a compose file: its keys, each with its forms.

use super::grants::{self, Kinds};
use super::values::{named_pairs, pairs, read_command, said, texts};
use super::{Context, build, deploy, mounts, networks, options, written};
use crate::env::document::{self, Kind, Node};
use crate::env::reader::{Fields, Reading, Unknown};
use crate::stack::model::*;
use crate::stack::ports;
use crate::value::{ServiceName, amount};
use std::time::Duration;

/// Reads one service; `None` means an error was reported.
#[expect(clippy::too_many_lines, reason = "one key after the other")]
pub fn read(reading: &Reading, name: ServiceName, node: &Node, context: &Context) -> Option<Service> {
    let path = format!("services.{name}");
    let fields = Fields::of(reading, Some(node), &path);
    let image = fields.text("image").filter(|image| {
        let good = is_image(image);
        if !good {
            fields.error(node.place, format!("'{path}.image' is not an image's name"));
        }
        good
    });
    check_platform(&fields);
    // They say something to `docker compose up` and `watch` on somebody's terminal.
    for key in ["attach", "develop"] {
        fields.value(key);
    }
    let build = build::read(&fields, context);
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
    let (mounts, memory, forms) = mounts::read(&fields, context);
    let mut links = Vec::new();
    let links_cell = std::cell::RefCell::new(&mut links);
    with("links", &|text| link(text).map(|link| links_cell.borrow_mut().push(link)));
    let mut ports = read_ports(&fields);
    let mut expose = Vec::new();
    for text in texts(&fields, "expose") {
        match ports::exposed(&text) {
            Some(ports) => expose.extend(ports),
            None => {
                let place = fields.value("expose").map_or(node.place, |node| node.place);
                fields.error(place, format!("'{path}.expose': '{}' is not PORT[/PROTOCOL]", document::shown(&text)));
            }
        }
    }
    expose.sort();
    expose.dedup();
    let network = networks::read_of_service(&fields);
    if network == Network::Host && !ports.is_empty() {
        let place = fields.value("ports").map_or(node.place, |node| node.place);
        fields.warning(
            place,
            format!("'{path}.ports' has no effect: with 'network_mode: host' the container has the host's own ports"),
        );
        ports.clear();
    }
    let has_own = matches!(network, Network::Joined(_) | Network::Bridge);
    if !(has_own || ports.is_empty() && links.is_empty()) {
        let text = format!("'{path}' has ports or links, which its network_mode cannot have");
        fields.error(fields.value("network_mode").map_or(node.place, |node| node.place), text);
    }
    let deploy = deploy::read(&fields);
    let restart = match said(&fields, "restart").as_deref().map(|text| text.split_once(':').unwrap_or((text, ""))) {
        None => None,
        Some(("always" | "unless-stopped", "")) => Some(Restart::Always),
        Some(("no", "")) => Some(Restart::No),
        Some(("on-failure", "")) => Some(Restart::OnFailure(None)),
        Some(("on-failure", count)) if count.parse::<u32>().is_ok() => {
            Some(Restart::OnFailure(count.parse().ok().filter(|count| *count > 0)))
        }
        Some((other, _)) => {
            let other = document::shown(other);
            fields.error(
                node.place,
                format!("'{path}.restart' is '{other}', but must be no, always, on-failure[:COUNT] or unless-stopped"),
            );
            None
        }
    };
    let container_name = said(&fields, "container_name").filter(|name| {
        let good = ports::is_volume_name(name);
        if !good {
            fields.error(
                node.place,
                format!("'{path}.container_name' is '{}', which Docker does not take", document::shown(name)),
            );
        }
        good
    });
    let scale = fields.get("scale", |reading, node, path| reading.number(node, path, 0..=1000));
    let scale = scale.and_then(|count| u16::try_from(count).ok());
    if scale.is_some() && deploy.replicas.is_some() && scale != deploy.replicas {
        fields.error(node.place, format!("'{path}.scale' and '{path}.deploy.replicas' conflict"));
    }
    let replicas = scale.or(deploy.replicas).unwrap_or(1);
    if replicas > 1 && container_name.is_some() {
        fields.error(node.place, format!("'{path}' cannot have {replicas} containers of one container_name"));
    }
    if let Some(port) = ports.iter().find(|port| replicas > 1 && matches!(port.published, Published::Fixed(_))) {
        let text =
            format!("'{path}' has {replicas} containers, but only one can publish {}; give a range", port.target);
        fields.error(fields.value("ports").map_or(node.place, |node| node.place), text);
    }
    let parsed = |key: &'static str| fields.text(key).map(|text| (key, text));
    let report = |key: &str, problem: String| fields.error(node.place, format!("'{path}.{key}': {problem}"));
    let stop_grace =
        parsed("stop_grace_period").and_then(|(key, text)| ports::duration(&text).map_err(|p| report(key, p)).ok());
    let mem_limit =
        parsed("mem_limit").and_then(|(key, text)| amount::size_limit(&text).map_err(|p| report(key, p)).ok()?);
    let mut options = options::read(&fields, context);
    options.tmpfs.extend(memory);
    // Said twice, it must be the same.
    let once = |key: &str, own: Option<i64>, deployed: Option<i64>| {
        if own.is_some() && deployed.is_some() && own != deployed {
            fields.error(node.place, format!("'{path}.{key}' and '{path}.deploy.resources' conflict"));
        }
        own.or(deployed)
    };
    let mem_limit = once("mem_limit", mem_limit, deploy.memory);
    options.mem_reservation = once("mem_reservation", options.mem_reservation, deploy.memory_reservation);
    options.cpu_shares = options.cpu_shares.or(deploy.cpu_shares);
    options.nano_cpus = once("cpus", options.nano_cpus, deploy.nano_cpus);
    options.pids_limit = once("pids_limit", options.pids_limit, deploy.pids);
    let mut grants = grants::read(&fields, Kinds::Secrets, context);
    grants.extend(grants::read(&fields, Kinds::Configs, context));
    let environment = named_pairs(&fields, "environment", context);
    let service = Service {
        unset: environment.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name.clone()).collect(),
        image,
        build,
        pull: read_pull(&fields),
        command: read_command(&fields, "command"),
        environment: environment.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        env_files: read_env_files(&fields, context),
        labels: pairs(&fields, "labels", context),
        ports,
        expose,
        mounts,
        grants,
        links,
        depends_on: read_depends_on(&fields),
        healthcheck: read_healthcheck(&fields, context),
        network,
        mem_limit,
        // What it is without the key, the whole file tells.
        restart: deploy.restart.or(restart).unwrap_or(Restart::Always),
        restart_is_said: deploy.restart.is_some() || restart.is_some(),
        options,
        stop_grace: stop_grace.unwrap_or(Duration::from_secs(10)),
        container_name,
        replicas,
        rolling: deploy.rolling,
        profiles: read_profiles(&fields),
        written: written::read(&fields, forms),
        name,
    };
    fields.finish(Unknown::Refuse);
    Some(service)
}

/// An image of this host's own kind of processor is what it gets anyway; for another one it would have to emulate that.
fn check_platform(fields: &Fields) {
    let Some(platform) = said(fields, "platform") else { return };
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut parts = platform.split('/');
    let is_own = parts.next() == Some("linux") && parts.next().is_none_or(|kind| kind == own);
    if !is_own {
        let place = fields.value("platform").map_or(fields.place(), |node| node.place);
        let platform = document::shown(&platform);
        fields.error(place, format!("'{}' is '{platform}', but this host is linux/{own}", fields.path("platform")));
    }
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

/// The most published ports of one service.
const MAX_PORTS: usize = 2000;

fn read_ports(fields: &Fields) -> Vec<Port> {
    let read = |reading: &Reading, node: &Node, path: &str| {
        if let Kind::Mapping(_) = &*node.kind {
            return read_long_port(reading, node, path);
        }
        let text = reading.text(node, path)?;
        ports::port(&text).map_err(|problem| reading.error(node.place, format!("'{path}': {problem}"))).ok()
    };
    let mut all: Vec<Port> = Vec::new();
    for port in fields.list("ports", read).unwrap_or_default().into_iter().flatten() {
        if all.len() >= MAX_PORTS {
            let place = fields.value("ports").map_or(fields.place(), |node| node.place);
            fields.error(place, format!("'{}' come to more than {MAX_PORTS}", fields.path("ports")));
            break;
        }
        if !all.contains(&port) {
            all.push(port);
        }
    }
    all
}

fn read_long_port(reading: &Reading, node: &Node, path: &str) -> Option<Vec<Port>> {
    let fields = Fields::of(reading, Some(node), path);
    let range = |key| {
        let text = fields.text(key)?;
        let range = if key == "published" { ports::published_range(&text) } else { ports::range(&text) };
        if range.is_none() {
            fields.error(
                node.place,
                format!("'{path}.{key}' is '{}', but must be a port or a range", document::shown(&text)),
            );
        }
        range
    };
    let (target, published) = (range("target"), range("published"));
    if fields.value("target").is_none() {
        fields.error(node.place, format!("'{path}.target' is missing"));
    }
    let address = fields.text("host_ip").and_then(|text| {
        text.parse().map_err(|_| fields.error(node.place, format!("'{path}.host_ip' is not an IP address"))).ok()
    });
    let protocol = match fields.text("protocol").as_deref() {
        None => Protocol::Tcp,
        Some(name) => ports::protocol(name).unwrap_or_else(|| {
            fields.error(node.place, format!("'{path}.protocol' must be tcp, udp or sctp"));
            Protocol::Tcp
        }),
    };
    if let Some(mode) = fields.text("mode").filter(|mode| mode != "ingress" && mode != "host") {
        fields.error(node.place, format!("'{path}.mode' is '{}', but must be host or ingress", document::shown(&mode)));
    }
    // They are notes for people and for proxies.
    fields.text("name");
    fields.text("app_protocol");
    fields.finish(Unknown::Refuse);
    let (first, last) = target?;
    if first != last {
        reading.error(node.place, format!("'{path}.target' must be one port"));
    }
    let published = match published {
        None | Some((0, _)) => Published::Any,
        Some((first, last)) if first == last => Published::Fixed(first),
        Some((first, last)) => Published::Range(first, last),
    };
    Some(vec![Port { address, published, target: first, protocol }])
}

fn read_pull(fields: &Fields) -> Pull {
    let Some(text) = said(fields, "pull_policy") else { return Pull::Missing };
    let hours = |hours: u64| Pull::Older(hours * 3600);
    match text.as_str() {
        "missing" | "if_not_present" => Pull::Missing,
        "always" => Pull::Always,
        "never" => Pull::Never,
        "build" => Pull::Build,
        "daily" => hours(24),
        "weekly" => hours(7 * 24),
        other => match other.strip_prefix("every_").map(ports::long_duration) {
            Some(Ok(duration)) => Pull::Older(duration.as_secs()),
            _ => {
                let right = "always, never, missing, build, daily, weekly or every_<duration>";
                let place = fields.value("pull_policy").map_or(fields.place(), |node| node.place);
                fields.error(
                    place,
                    format!("'{}' is '{}', but must be {right}", fields.path("pull_policy"), document::shown(other)),
                );
                Pull::Missing
            }
        },
    }
}

/// A path, several, or mappings with `path`, `required` and `format`.
fn read_env_files(service: &Fields, context: &Context) -> Vec<EnvFile> {
    let Some(node) = service.value("env_file") else { return Vec::new() };
    let path = service.path("env_file");
    let items = match &*node.kind {
        Kind::Sequence(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let mut all = Vec::new();
    for item in items {
        let (text, required, raw) = match &*item.kind {
            Kind::Mapping(_) => {
                let fields = Fields::of(service.reading, Some(item), &path);
                let text = fields.text("path");
                if text.is_none() {
                    fields.error(item.place, format!("'{path}.path' is missing"));
                }
                let format = fields.text("format");
                if let Some(format) = format.as_deref().filter(|format| *format != "raw") {
                    fields.error(
                        item.place,
                        format!("'{path}.format' is '{}', but must be raw", document::shown(format)),
                    );
                }
                let required = fields.boolean("required").unwrap_or(true);
                fields.finish(Unknown::Refuse);
                (text, required, format.is_some())
            }
            _ => (service.reading.text(item, &path), true, false),
        };
        let absolute = |text: String| context.sources.absolute(item.place, &text);
        all.extend(text.map(|text| EnvFile { path: absolute(text), required, raw }));
    }
    all
}

fn read_profiles(fields: &Fields) -> Vec<String> {
    let profiles = texts(fields, "profiles");
    for profile in profiles.iter().filter(|profile| !ports::is_volume_name(profile)) {
        let place = fields.value("profiles").map_or(fields.place(), |node| node.place);
        fields.error(
            place,
            format!("'{}': '{}' is not a profile's name", fields.path("profiles"), document::shown(profile)),
        );
    }
    profiles
}

fn read_depends_on(service: &Fields) -> Vec<Dependency> {
    let Some(node) = service.value("depends_on") else { return Vec::new() };
    let plain = |service| Dependency { service, condition: Condition::Started, required: true, restart: false };
    if !matches!(&*node.kind, Kind::Mapping(_)) {
        let names: Option<Vec<ServiceName>> =
            service.list("depends_on", |reading, node, path| reading.checked(node, path));
        return names.unwrap_or_default().into_iter().map(plain).collect();
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
            Some("service_completed_successfully") => Condition::Completed,
            Some(other) => {
                let right = "service_started, service_healthy or service_completed_successfully";
                let other = document::shown(other);
                service.error(value.place, format!("'{path}.condition' is '{other}', but must be {right}"));
                Condition::Started
            }
        };
        let (required, restart) =
            (fields.boolean("required").unwrap_or(true), fields.boolean("restart").unwrap_or(false));
        fields.finish(Unknown::Refuse);
        all.push(Dependency { condition, required, restart, ..plain(name) });
    }
    all
}

fn read_healthcheck(service: &Fields, context: &Context) -> Option<Healthcheck> {
    let node = service.value("healthcheck")?;
    let fields = service.fields("healthcheck");
    let duration = |key: &'static str| {
        let text = fields.text(key)?;
        ports::duration(&text)
            .map_err(|problem| fields.error(node.place, format!("'{}': {problem}", fields.path(key))))
            .ok()
    };
    if let Some(node) = fields.value("start_interval") {
        context.need(node.place, &fields.path("start_interval"), (1, 44));
    }
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
        start_interval: duration("start_interval"),
        retries: fields.get("retries", |reading, node, path| reading.number(node, path, 0..=10_000)),
        test: if fields.boolean("disable") == Some(true) { vec!["NONE".to_owned()] } else { test },
    };
    fields.finish(Unknown::Refuse);
    Some(check)
}
