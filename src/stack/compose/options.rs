//! The options of a service (Compose Specification, "Services top-level elements"): each key with its forms, checked before
//! Docker sees it.

use super::Context;
use super::values::{pairs, read_command, texts};
use crate::env::document::{self, Kind, Node};
use crate::env::reader::{Fields, Unknown};
use crate::stack::options::{Device, Logging, Options};
use crate::stack::ports;
use crate::value::{ServiceName, amount};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Reads them all; what is wrong is reported.
#[expect(clippy::too_many_lines, reason = "one key after the other")]
pub fn read(fields: &Fields, context: &Context) -> Options {
    let place = |key| fields.value(key).map_or(fields.place(), |node| node.place);
    let wrong = |key: &'static str, text: &str, right: &str| {
        let path = fields.path(key);
        fields.error(place(key), format!("'{path}' is '{}', but must be {right}", document::shown(text)));
    };
    let each = |key: &'static str, is_good: &dyn Fn(&str) -> bool, right: &str| -> Vec<String> {
        let all = texts(fields, key);
        all.iter().filter(|text| !is_good(text)).for_each(|text| wrong(key, text, right));
        all
    };
    let word = |key: &'static str, is_good: &dyn Fn(&str) -> bool, right: &str| -> Option<String> {
        // What a variable leaves empty is not set.
        let text = fields.text(key).filter(|text| !text.is_empty())?;
        if !is_good(&text) {
            wrong(key, &text, right);
        }
        Some(text)
    };
    let size = |key: &'static str| {
        let text = fields.text(key)?;
        amount::size_limit(&text)
            .map_err(|problem| fields.error(place(key), format!("'{}': {problem}", fields.path(key))))
            .ok()?
    };
    let number = |key: &'static str, low: i64, high: i64| {
        fields.get(key, |reading, node, path| reading.number(node, path, i64::MIN..=i64::MAX)).filter(|number| {
            let good = (low..=high).contains(number);
            if !good {
                wrong(key, &number.to_string(), &format!("a whole number from {low} to {high}"));
            }
            good
        })
    };
    let plain = |text: &str| !text.is_empty() && text.len() <= 4096 && !text.chars().any(char::is_control);
    let capability = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !text.is_empty();
    let address = |text: &str| text.parse::<IpAddr>().is_ok();
    let is_name = |text: &str| {
        (1..=253).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    let one_of = |list: &'static [&'static str]| move |text: &str| list.contains(&text);
    let memswap = match fields.text("memswap_limit").as_deref() {
        None => None,
        Some("-1") => Some(-1),
        Some(_) => size("memswap_limit"),
    };
    Options {
        entrypoint: read_command(fields, "entrypoint"),
        user: word("user", &plain, "a user, with or without a group"),
        working_dir: word("working_dir", &|text| text.starts_with('/'), "an absolute path"),
        hostname: word("hostname", &is_name, "a host name"),
        domainname: word("domainname", &is_name, "a domain name"),
        stop_signal: word("stop_signal", &capability, "a signal like SIGTERM"),
        tty: fields.boolean("tty").unwrap_or(false),
        stdin_open: fields.boolean("stdin_open").unwrap_or(false),
        init: fields.boolean("init"),
        privileged: fields.boolean("privileged").unwrap_or(false),
        read_only: fields.boolean("read_only").unwrap_or(false),
        cap_add: each("cap_add", &capability, "a capability like NET_ADMIN"),
        cap_drop: each("cap_drop", &capability, "a capability like NET_ADMIN"),
        security_opt: each(
            "security_opt",
            &is_security_option,
            "an option like no-new-privileges:true; profiles in files are not supported",
        ),
        group_add: each("group_add", &plain, "a group"),
        devices: read_devices(fields),
        device_cgroup_rules: each("device_cgroup_rules", &plain, "a rule like 'c 1:3 mr'"),
        dns: each("dns", &address, "an IP address"),
        dns_opt: each("dns_opt", &plain, "an option of resolv.conf"),
        dns_search: each("dns_search", &|text| text == "." || is_name(text), "a domain"),
        extra_hosts: read_extra_hosts(fields),
        ipc: word(
            "ipc",
            &|text| ["host", "private", "shareable", "none"].contains(&text) || is_foreign(text),
            "host, private, shareable, none, service:NAME or container:NAME",
        )
        .filter(|text| !text.starts_with(SERVICE)),
        pid: word("pid", &|text| text == "host" || is_foreign(text), "host, service:NAME or container:NAME")
            .filter(|text| !text.starts_with(SERVICE)),
        ipc_service: service_of(fields, "ipc"),
        pid_service: service_of(fields, "pid"),
        uts: word("uts", &one_of(&["host"]), "host"),
        userns_mode: word("userns_mode", &one_of(&["host"]), "host"),
        cgroup_parent: word("cgroup_parent", &plain, "a control group"),
        runtime: word("runtime", &is_name, "a runtime's name"),
        sysctls: pairs(fields, "sysctls", context),
        tmpfs: texts(fields, "tmpfs")
            .iter()
            .map(|text| {
                let (path, options) = text.split_once(':').unwrap_or((text, ""));
                if !path.starts_with('/') {
                    wrong("tmpfs", text, "an absolute path, with options behind a colon or without");
                }
                (path.to_owned(), options.to_owned())
            })
            .collect(),
        ulimits: read_ulimits(fields),
        logging: read_logging(fields, context),
        shm_size: size("shm_size"),
        mem_reservation: size("mem_reservation"),
        memswap_limit: memswap,
        mem_swappiness: number("mem_swappiness", 0, 100),
        nano_cpus: fields.text("cpus").and_then(|text| {
            let cpus = amount::nano_cpus(&text);
            if cpus.is_none() {
                wrong("cpus", &text, "a number of CPUs like 0.5");
            }
            cpus.filter(|cpus| *cpus > 0)
        }),
        cpu_shares: number("cpu_shares", 0, 262_144).filter(|shares| *shares > 0),
        cpu_period: number("cpu_period", 0, 1_000_000).filter(|period| *period > 0),
        cpu_quota: number("cpu_quota", -1, i64::MAX),
        cpuset: word(
            "cpuset",
            &|text| text.bytes().all(|b| b.is_ascii_digit() || b",-".contains(&b)),
            "CPUs like 0-2,4",
        ),
        pids_limit: number("pids_limit", -1, 4_194_304),
        oom_score_adj: number("oom_score_adj", -1000, 1000),
        oom_kill_disable: fields.boolean("oom_kill_disable"),
    }
}

const SERVICE: &str = "service:";

/// The service that a namespace is shared with.
pub(super) fn service_of(fields: &Fields, key: &'static str) -> Option<ServiceName> {
    fields.text(key)?.strip_prefix(SERVICE)?.parse().ok()
}

/// Somebody else's namespace.
fn is_foreign(text: &str) -> bool {
    match text.split_once(':') {
        Some(("service", name)) => name.parse::<ServiceName>().is_ok(),
        Some(("container", name)) => ports::is_volume_name(name),
        _ => false,
    }
}

/// Docker takes a seccomp profile's text, not its path; that is not supported.
fn is_security_option(text: &str) -> bool {
    let (name, value) = text.split_once([':', '=']).unwrap_or((text, ""));
    match name {
        "no-new-privileges" => ["", "true", "false"].contains(&value),
        "seccomp" => value == "unconfined",
        "apparmor" | "label" => !value.is_empty() && !value.chars().any(char::is_control),
        "systempaths" => value == "unconfined",
        _ => false,
    }
}

/// `HOST[:CONTAINER[:rwm]]`, or `source`, `target` and `permissions`.
fn read_devices(fields: &Fields) -> Vec<Device> {
    let Some(node) = fields.value("devices") else { return Vec::new() };
    let path = fields.path("devices");
    let Kind::Sequence(items) = &*node.kind else {
        fields.error(node.place, format!("'{path}' must be a list"));
        return Vec::new();
    };
    let mut all: Vec<Device> = Vec::new();
    for item in items {
        let (host, container, permissions, rest) = if let Kind::Mapping(_) = &*item.kind {
            let inner = Fields::of(fields.reading, Some(item), &path);
            let parts = (inner.text("source"), inner.text("target"), inner.text("permissions"), None);
            inner.finish(Unknown::Refuse);
            parts
        } else {
            let Some(text) = fields.reading.text(item, &path) else { continue };
            let mut parts = text.split(':').map(str::to_owned);
            (parts.next(), parts.next(), parts.next(), parts.next())
        };
        let host = host.unwrap_or_default();
        let container = container.unwrap_or_else(|| host.clone());
        let permissions = permissions.unwrap_or_else(|| "rwm".to_owned());
        let is_good = host.starts_with('/')
            && container.starts_with('/')
            && !permissions.is_empty()
            && permissions.bytes().all(|b| b"rwm".contains(&b))
            && rest.is_none();
        if !is_good {
            let shown = document::shown(&format!("{host}:{container}:{permissions}"));
            fields.error(item.place, format!("'{path}': '{shown}' is not /dev/HOST[:/dev/CONTAINER[:rwm]]"));
        }
        // The later of two at one place wins.
        all.retain(|device| device.container != container);
        all.push(Device { host, container, permissions });
    }
    all
}

/// `NAME:ADDRESS`, `NAME=ADDRESS`, or a mapping with one address or several.
pub(super) fn read_extra_hosts(fields: &Fields) -> Vec<String> {
    let Some(node) = fields.value("extra_hosts") else { return Vec::new() };
    let path = fields.path("extra_hosts");
    let mut all = Vec::new();
    let mut add = |place, name: &str, address: &str| {
        let address = address.trim().trim_start_matches('[').trim_end_matches(']');
        if name.trim().is_empty() || !(address == "host-gateway" || address.parse::<IpAddr>().is_ok()) {
            fields.error(
                place,
                format!("'{path}': '{}' is not a name with its address", document::shown(&format!("{name}:{address}"))),
            );
        }
        all.push(format!("{}:{address}", name.trim()));
    };
    match &*node.kind {
        Kind::Mapping(entries) => {
            for (name, value) in entries {
                match &*value.kind {
                    Kind::Sequence(items) => {
                        items
                            .iter()
                            .filter_map(|item| fields.reading.text(item, &path))
                            .for_each(|text| add(value.place, &name.text, &text));
                    }
                    _ => {
                        if let Some(text) = fields.reading.text(value, &path) {
                            add(value.place, &name.text, &text);
                        }
                    }
                }
            }
        }
        _ => {
            for text in texts(fields, "extra_hosts") {
                let (name, address) = text.split_once('=').or_else(|| text.split_once(':')).unwrap_or((&text, ""));
                add(node.place, name, address);
            }
        }
    }
    all
}

/// `NAME: LIMIT`, or `soft` and `hard`.
fn read_ulimits(fields: &Fields) -> BTreeMap<String, (i64, i64)> {
    let Some(node) = fields.value("ulimits") else { return BTreeMap::new() };
    let mut all = BTreeMap::new();
    for (name, value) in node.entries() {
        let path = format!("{}.{}", fields.path("ulimits"), document::shown(&name.text));
        if !name.text.bytes().all(|b| b.is_ascii_lowercase()) {
            fields.error(name.place, format!("'{path}' is not a limit's name like nofile"));
        }
        let number = |node: &Node, path: &str| fields.reading.number(node, path, -1..=i64::MAX);
        let limits = match &*value.kind {
            Kind::Mapping(_) => {
                let inner = Fields::of(fields.reading, Some(value), &path);
                let read = |key| inner.get(key, |reading, node, path| reading.number(node, path, -1..=i64::MAX));
                let (soft, hard) = (read("soft"), read("hard"));
                if soft.is_none() || hard.is_none() {
                    fields.error(value.place, format!("'{path}' needs both 'soft' and 'hard'"));
                }
                inner.finish(Unknown::Refuse);
                soft.zip(hard)
            }
            _ => number(value, &path).map(|limit| (limit, limit)),
        };
        all.extend(limits.map(|limits| (name.text.clone(), limits)));
    }
    all
}

fn read_logging(fields: &Fields, context: &Context) -> Option<Logging> {
    fields.value("logging")?;
    let inner = fields.fields("logging");
    let options = pairs(&inner, "options", context);
    // Docker's own default without the key would be what the daemon is set to; ours is the journal. Options that the journal does not
    // take are meant for Docker's own files.
    let journal = ["tag", "labels", "labels-regex", "env", "env-regex", "mode", "max-buffer-size"];
    let for_journal = options.keys().all(|name| journal.contains(&name.as_str()));
    let driver = inner.text("driver").unwrap_or_else(|| if for_journal { "journald" } else { "json-file" }.to_owned());
    inner.finish(Unknown::Refuse);
    Some(Logging { driver, options })
}
