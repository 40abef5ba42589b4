//! What the compose file may ask of the host (`app.allow`). Without it, whoever may change the repository is root: one line mounts `/`, or
//! asks for `privileged`. What is not known to be harmless is refused. Pure; links on the way of paths are `mounts.rs`, what Docker has
//! already is `surroundings.rs`.

use super::by_its_own_name;
use super::model::{Build, Content, EnvFile, Mount, NamedContext, Network, Pool, Service, Source, Stack};
use super::model::{StackNetwork, StackVolume};
use super::options::{Logging, Options};
use crate::env::Binds;
use crate::value::{AppName, ServiceName};
use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// Capabilities that Docker gives every container.
const USUAL: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Log drivers that write on this host, where Docker or journald says.
const LOG_DRIVERS: [&str; 4] = ["journald", "json-file", "local", "none"];
/// Options of a bridge that change nothing for others.
const BRIDGE_OPTIONS: [&str; 2] = ["com.docker.network.driver.mtu", "com.docker.network.bridge.enable_icc"];
/// Options of a memory file system.
const TMPFS_OPTIONS: [&str; 10] =
    ["size", "mode", "uid", "gid", "nr_inodes", "nosuid", "nodev", "noexec", "noatime", "rw"];

/// Checks a stack, whose main file is the one that root has named.
///
/// # Errors
/// Everything that is asked for and not allowed, each with its service and key.
pub fn check(stack: &Stack, main: &str) -> Result<()> {
    let allow = stack.allow;
    let mut refused: Vec<String> = Vec::new();
    for service in &stack.services {
        let place = |what: String| format!("services.{}.{what}", service.name);
        if !allow.privileged {
            refused.extend(privileges(service, stack).into_iter().map(place));
        }
        if allow.binds == Binds::Own {
            refused.extend(foreign(service, stack, main).into_iter().map(place));
        }
    }
    if !allow.privileged {
        let networks = stack.networks.iter();
        refused.extend(networks.filter_map(|network| {
            Some(format!("networks.{}.{}", network.key, foreign_network(network, &stack.project)?))
        }));
    }
    if allow.binds == Binds::Own {
        let volumes = stack.volumes.iter();
        refused.extend(
            volumes.filter_map(|volume| {
                Some(format!("volumes.{}.{}", volume.key, foreign_volume(volume, &stack.project)?))
            }),
        );
    }
    if refused.is_empty() {
        return Ok(());
    }
    bail!("the env does not let the app have: {}; app.allow says what it may ask for", refused.join(", "))
}

/// What leads out of a container, or lets it see more of the host than its own.
fn privileges(service: &Service, stack: &Stack) -> Vec<String> {
    // Docker would take another container of that name.
    let leads_elsewhere = |to: &ServiceName| stack.service(to.as_str()).is_none_or(|to| to.replicas == 0);
    let mut found = privileged_options(&service.options);
    for (key, is_there) in [
        ("network_mode", matches!(service.network, Network::Host | Network::Container(_))),
        ("networks.link_local_ips", service.joined().iter().any(|joined| !joined.link_local.is_empty())),
        ("build.network", service.build.as_ref().is_some_and(has_foreign_network)),
        ("links", service.links.iter().any(|link| leads_elsewhere(&link.service))),
    ] {
        if is_there {
            found.push(key.to_owned());
        }
    }
    found
}

/// Every option is named here, so that a new one is judged.
fn privileged_options(options: &Options) -> Vec<String> {
    let Options {
        privileged,
        cap_add,
        security_opt,
        devices,
        device_cgroup_rules,
        ipc,
        pid,
        uts,
        userns_mode,
        cgroup_parent,
        runtime,
        logging,
        oom_score_adj,
        oom_kill_disable,
        // They change what is in the container, or take something from it.
        entrypoint: _,
        user: _,
        working_dir: _,
        hostname: _,
        domainname: _,
        stop_signal: _,
        tty: _,
        stdin_open: _,
        init: _,
        read_only: _,
        cap_drop: _,
        group_add: _,
        dns: _,
        dns_opt: _,
        dns_search: _,
        extra_hosts: _,
        tmpfs: _,
        ulimits: _,
        // Those of services of this stack.
        ipc_service: _,
        pid_service: _,
        // Docker takes only those that belong to the container's own namespaces, where it does not have the host's.
        sysctls: _,
        shm_size: _,
        mem_reservation: _,
        memswap_limit: _,
        mem_swappiness: _,
        nano_cpus: _,
        cpu_shares: _,
        cpu_period: _,
        cpu_quota: _,
        cpuset: _,
        pids_limit: _,
    } = options;
    let capability = |name: &&String| {
        let name = name.to_ascii_uppercase();
        !USUAL.contains(&name.strip_prefix("CAP_").unwrap_or(&name))
    };
    let mut found: Vec<String> = cap_add.iter().filter(capability).map(|name| format!("cap_add: {name}")).collect();
    let is_lax = |text: &&String| !["no-new-privileges", "no-new-privileges:true"].contains(&text.as_str());
    found.extend(security_opt.iter().filter(is_lax).map(|text| format!("security_opt: {text}")));
    found.extend(devices.iter().map(|device| format!("devices: {}", device.host)));
    let is_own_ipc = |mode: &str| ["private", "shareable", "none"].contains(&mode);
    let is_plain_log = |logging: &Logging| LOG_DRIVERS.contains(&logging.driver.as_str());
    for (key, is_there) in [
        ("privileged", *privileged),
        ("device_cgroup_rules", !device_cgroup_rules.is_empty()),
        ("ipc", !ipc.as_deref().is_none_or(is_own_ipc)),
        ("pid", pid.is_some()),
        ("uts", uts.is_some()),
        ("userns_mode", userns_mode.is_some()),
        ("cgroup_parent", cgroup_parent.is_some()),
        ("runtime", runtime.is_some()),
        ("logging.driver", !logging.as_ref().is_none_or(is_plain_log)),
        ("oom_score_adj", oom_score_adj.is_some_and(|adjustment| adjustment < 0)),
        ("oom_kill_disable", *oom_kill_disable == Some(true)),
    ] {
        if is_there {
            found.push(key.to_owned());
        }
    }
    found
}

fn has_foreign_network(build: &Build) -> bool {
    build.network.as_deref().is_some_and(|network| !["", "default", "none"].contains(&network))
}

/// What is not a bridge of the app's own.
fn foreign_network(network: &StackNetwork, app: &AppName) -> Option<&'static str> {
    let is_default = |driver: &Option<String>, name: &str| driver.as_deref().is_none_or(|driver| driver == name);
    let is_private = |pool: &Pool| {
        [&pool.subnet, &pool.gateway, &pool.range].into_iter().flatten().all(|text| is_private(text))
            && pool.reserved.values().all(|text| is_private(text))
    };
    let faults = [
        ("external", network.external),
        ("name", !is_named(&network.name, app)),
        ("driver", !is_default(&network.driver, "bridge")),
        ("driver_opts", network.driver_opts.keys().any(|key| !BRIDGE_OPTIONS.contains(&key.as_str()))),
        ("ipam.driver", !is_default(&network.ipam_driver, "default") || !network.ipam_options.is_empty()),
        ("ipam.config", !network.pools.iter().all(is_private)),
    ];
    faults.into_iter().find_map(|(key, is_fault)| is_fault.then_some(key))
}

/// Whether Docker's name of a network or volume is one that only this project has.
fn is_named(name: &str, app: &AppName) -> bool {
    name.strip_prefix(app.as_str()).is_some_and(|rest| rest.starts_with('_'))
}

/// An address or subnet that nobody outside can have (RFC 1918, RFC 6598, RFC 4193): not the link-local ones, where clouds hand out
/// credentials.
fn is_private(text: &str) -> bool {
    let (address, length) = text.split_once('/').unwrap_or((text, "128"));
    let Ok(length) = length.parse::<u8>() else { return false };
    match address.parse() {
        Ok(std::net::IpAddr::V4(address)) => {
            let first = u32::from(address);
            let nets: [(u32, u8); 4] = [(0x0a00_0000, 8), (0xac10_0000, 12), (0xc0a8_0000, 16), (0x6440_0000, 10)];
            nets.iter().any(|(net, bits)| length >= *bits && (first ^ net) >> (32 - bits) == 0)
        }
        // Of fd00:ec2::/32 a cloud hands out credentials, too.
        Ok(std::net::IpAddr::V6(address)) => {
            let segments = address.segments();
            length >= 32 && address.octets()[0] == 0xfd && segments[..2] != [0xfd00, 0x0ec2]
        }
        Err(_) => false,
    }
}

/// Files and directories of the host that are not the app's.
fn foreign(service: &Service, stack: &Stack, main: &str) -> Vec<String> {
    let app = &stack.project;
    let mut found = Vec::new();
    for Mount { source, read_only, .. } in &service.mounts {
        let Source::Path(path) = source else { continue };
        let own = by_its_own_name(path);
        if !is_own(&own, app) {
            found.push(format!("volumes: {path}"));
        } else if !read_only && is_operators(&own, app) {
            found.push(format!("volumes: {path} (only with :ro, since root reads what lies there)"));
        } else if let Some(above) = above(path, stack) {
            found.push(format!("volumes: {path} (below {above}, which a container writes)"));
        }
    }
    for grant in &service.grants {
        if let Content::File(path) = &grant.content {
            let key = if grant.is_secret { "secrets" } else { "configs" };
            if !is_own(path, app) || above(path, stack).is_some() {
                found.push(format!("{key}: {path}"));
            }
        }
    }
    for EnvFile { path, .. } in &service.env_files {
        if !is_readable(path, main, app) {
            found.push(format!("env_file: {path}"));
        }
    }
    if let Some(build) = &service.build {
        found.extend(foreign_context(build, app));
    }
    found
}

fn foreign_context(build: &Build, app: &AppName) -> Vec<String> {
    let is_source = |path: &str| in_place(path, app, &["/app"]) || is_operators(path, app);
    let mut found = Vec::new();
    if !is_source(&build.context) {
        found.push(format!("build.context: {}", build.context));
    }
    let leads_out = |path: &str| path.starts_with('/') || path.split('/').any(|part| part == "..");
    if build.inline.is_none() && leads_out(&build.dockerfile) {
        found.push(format!("build.dockerfile: {}", build.dockerfile));
    }
    for context in build.contexts.values() {
        match context {
            NamedContext::Directory(path) if !is_source(path) => {
                found.push(format!("build.additional_contexts: {path}"));
            }
            NamedContext::Directory(_) | NamedContext::Image(_) | NamedContext::Service(_) => {}
        }
    }
    found
}

/// The directory that a container may write and in which a path lies: it could exchange what lies there for a link while Docker mounts it.
fn above<'a>(path: &str, stack: &'a Stack) -> Option<&'a str> {
    let path = one_name(path, &stack.project);
    let mounts = stack.services.iter().flat_map(|service| &service.mounts).filter(|mount| !mount.read_only);
    let mut written = mounts.filter_map(|mount| match &mount.source {
        Source::Path(written) => Some(written.trim_end_matches('/')),
        _ => None,
    });
    written.find(|written| {
        let inside = path.strip_prefix(&one_name(written, &stack.project));
        inside.is_some_and(|rest| rest.starts_with('/') && rest.len() > 1)
    })
}

/// The app's directories have several names, by links of the appliance's own: one of them for each.
fn one_name(path: &str, app: &AppName) -> String {
    let path = by_its_own_name(path);
    match own_directory(&path, app).and_then(|own| Some((own.rsplit_once('/')?.1, &path[own.len()..]))) {
        Some((name, rest)) => format!("/data/{name}{rest}"),
        None => path.strip_prefix("/data/etc/").map_or_else(|| path.clone(), |rest| format!("/app/etc/{rest}")),
    }
}

/// What makes a volume more than a directory of Docker's own that only this project has.
fn foreign_volume(volume: &StackVolume, app: &AppName) -> Option<&'static str> {
    let is_local = volume.driver.as_deref().is_none_or(|driver| driver == "local");
    let faults = [
        ("external", volume.external),
        ("name", !is_named(&volume.name, app)),
        ("driver", !is_local),
        ("driver_opts", !is_plain(&volume.driver_opts)),
    ];
    faults.into_iter().find_map(|(key, is_fault)| is_fault.then_some(key))
}

/// Whether options of Docker's local driver make an ordinary volume, or one in memory; the driver hands all others to mount(2).
pub(super) fn is_plain<'a>(options: impl IntoIterator<Item = (&'a String, &'a String)>) -> bool {
    let mut options: BTreeMap<&str, &str> =
        options.into_iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    if options.is_empty() {
        return true;
    }
    let more = options.remove("o").unwrap_or_default();
    let is_known = |option: &str| {
        option.is_empty() || TMPFS_OPTIONS.contains(&option.split_once('=').map_or(option, |(name, _)| name))
    };
    options == BTreeMap::from([("type", "tmpfs"), ("device", "tmpfs")]) && more.split(',').all(is_known)
}

/// Whether a path lies in the app's checkout, in its directory for the operator's files, or in a directory of its data.
pub(super) fn is_own(path: &str, app: &AppName) -> bool {
    in_place(path, app, &["/app"]) || is_operators(path, app) || own_directory(path, app).is_some()
}

/// The directory of the app's data in which a path lies, or which it is.
pub(super) fn own_directory<'a>(path: &'a str, app: &AppName) -> Option<&'a str> {
    if !is_straight(path) {
        return None;
    }
    let base = ["/app/", "/data/", "/volatile/"].into_iter().find(|base| path.starts_with(base))?;
    let name = path[base.len()..].split('/').next()?;
    let is_named = name.strip_prefix(app.as_str()).is_some_and(|rest| rest.starts_with('-'));
    is_named.then(|| &path[..base.len() + name.len()])
}

/// Whether a path lies in `/app/etc/<name>`, where root reads.
fn is_operators(path: &str, app: &AppName) -> bool {
    in_place(path, app, &["/app/etc", "/data/etc"])
}

fn in_place(path: &str, app: &AppName, bases: &[&str]) -> bool {
    let inside = bases.iter().find_map(|base| path.strip_prefix(base)?.strip_prefix('/')?.strip_prefix(app.as_str()));
    is_straight(path) && inside.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_straight(path: &str) -> bool {
    path.starts_with('/') && !path.split('/').any(|part| part == ".." || part == ".") && !path.contains("//")
}

/// Whether a file may be read for the app: the compose file that root names and what lies beside it, and those of the checkout and of the
/// operator's. What a container may write is not among them.
pub(super) fn is_readable(path: &str, main: &str, app: &AppName) -> bool {
    let parent = |path: &str| path.rsplit_once('/').map(|(parent, _)| parent.to_owned());
    path == main
        || (is_straight(path) && parent(path) == parent(main) && !parent(main).is_none_or(|parent| parent.is_empty()))
        || in_place(path, app, &["/app"])
        || is_operators(path, app)
}

#[cfg(test)]
#[path = "allow_tests.rs"]
mod tests;
