//! The project as it was read, in compose's own form: what `docker compose config` prints, for those who write compose files. It can be read
//! again, so a `$` stands doubled. Pure.

use super::print_parts::{build, network, volume};
use super::print_values::{Entries, cpus, doubled, duration, list, pairs};
use crate::stack::model::*;
use serde_json::{Map, Value, json};

/// The whole project.
pub fn project(stack: &Stack) -> Value {
    let mut whole = Entries::default();
    whole.add("name", stack.project.as_str());
    let named = |items: Vec<(String, Value)>| Value::from(items.into_iter().collect::<Map<_, _>>());
    let services = stack.services.iter().map(|one| (one.name.as_str().to_owned(), service(one)));
    whole.add("services", named(services.collect()));
    whole.add("networks", named(stack.networks.iter().map(|one| (one.key.clone(), network(one))).collect()));
    whole.add("volumes", named(stack.volumes.iter().map(|one| (one.key.clone(), volume(one))).collect()));
    for (key, is_secret) in [("secrets", true), ("configs", false)] {
        let grants = stack.services.iter().flat_map(|service| &service.grants);
        let mut all = Map::new();
        for grant in grants.filter(|grant| grant.is_secret == is_secret) {
            let content = match &grant.content {
                Content::Text(_) if stack.variables.contains_key(&format!("{key}.{}", grant.name)) => {
                    let variable = &stack.variables[&format!("{key}.{}", grant.name)];
                    json!({"name": format!("{}_{}", stack.project, grant.name), "environment": variable})
                }
                Content::File(path) => json!({"name": format!("{}_{}", stack.project, grant.name), "file": path}),
                // What it holds is nobody's concern who looks at the file.
                Content::Text(_) if is_secret => json!({"name": format!("{}_{}", stack.project, grant.name)}),
                Content::Text(text) => {
                    json!({"name": format!("{}_{}", stack.project, grant.name), "content": doubled(text)})
                }
            };
            all.insert(grant.name.clone(), content);
        }
        whole.add(key, all);
    }
    whole.0.extend(stack.extensions.clone());
    whole.0.into()
}

#[expect(clippy::too_many_lines, reason = "one key after the other")]
fn service(service: &Service) -> Value {
    let mut all = Entries::default();
    let options = &service.options;
    all.add("build", service.build.as_ref().map_or(Value::Null, build));
    for (key, texts) in [
        ("cap_add", &options.cap_add),
        ("cap_drop", &options.cap_drop),
        ("device_cgroup_rules", &options.device_cgroup_rules),
        ("dns", &options.dns),
        ("dns_opt", &options.dns_opt),
        ("dns_search", &options.dns_search),
        ("group_add", &options.group_add),
        ("profiles", &service.profiles),
        ("security_opt", &options.security_opt),
    ] {
        all.add(key, list(texts));
    }
    let mut hosts = options.extra_hosts.iter().map(|host| host.replacen(':', "=", 1)).collect::<Vec<_>>();
    hosts.sort();
    all.add("extra_hosts", hosts);
    for (key, text) in [
        ("cgroup_parent", options.cgroup_parent.as_deref()),
        ("container_name", service.container_name.as_deref()),
        ("cpuset", options.cpuset.as_deref()),
        ("domainname", options.domainname.as_deref()),
        ("hostname", options.hostname.as_deref()),
        ("image", service.image.as_deref()),
        ("runtime", options.runtime.as_deref()),
        ("stop_signal", options.stop_signal.as_deref()),
        ("user", options.user.as_deref()),
        ("userns_mode", options.userns_mode.as_deref()),
        ("uts", options.uts.as_deref()),
        ("working_dir", options.working_dir.as_deref()),
    ] {
        all.add(key, text.map(doubled));
    }
    let shared = |own: &Option<String>, of: &Option<crate::value::ServiceName>| {
        of.as_ref().map(|service| format!("service:{service}")).or_else(|| own.clone())
    };
    all.add("ipc", shared(&options.ipc, &options.ipc_service));
    all.add("pid", shared(&options.pid, &options.pid_service));
    for (key, is_set) in [
        ("init", options.init == Some(true)),
        ("privileged", options.privileged),
        ("read_only", options.read_only),
        ("stdin_open", options.stdin_open),
        ("tty", options.tty),
        ("oom_kill_disable", options.oom_kill_disable == Some(true)),
    ] {
        all.add(key, is_set);
    }
    // What `deploy` says stands there.
    let said = |key: &str, limit: Option<i64>| limit.filter(|_| service.written.said.contains(key));
    let deploy = service.written.keys.get("deploy");
    let of_deploy = deploy.is_some_and(|deploy| !deploy["resources"]["reservations"]["cpus"].is_null());
    for (key, number) in [
        ("cpu_period", options.cpu_period),
        ("cpu_quota", options.cpu_quota),
        ("cpu_shares", options.cpu_shares.filter(|_| !of_deploy)),
        ("mem_swappiness", options.mem_swappiness),
        ("oom_score_adj", options.oom_score_adj),
        ("pids_limit", said("pids_limit", options.pids_limit)),
    ] {
        all.add(key, number);
    }
    all.add("cpus", said("cpus", options.nano_cpus).map(cpus));
    all.size("mem_limit", said("mem_limit", service.mem_limit));
    all.size("mem_reservation", said("mem_reservation", options.mem_reservation));
    all.size("memswap_limit", options.memswap_limit);
    all.size("shm_size", options.shm_size);
    all.add("labels", pairs(&service.labels));
    all.add("sysctls", pairs(&options.sysctls));
    let devices = options.devices.iter();
    let devices =
        devices.map(|one| json!({"source": one.host, "target": one.container, "permissions": one.permissions}));
    all.add("devices", devices.collect::<Vec<_>>());
    connections(service, &mut all);
    running(service, &mut all);
    // Compose prints both, whether they say something or not.
    all.0.insert("command".to_owned(), service.command.as_deref().map_or(Value::Null, list));
    all.0.insert("entrypoint".to_owned(), options.entrypoint.as_deref().map_or(Value::Null, list));
    let written = &service.written;
    all.0.extend(written.keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    all.0.extend(written.extensions.clone());
    if let Some(deploy) = all.0.get_mut("deploy").filter(|_| written.said.contains("scale")) {
        deploy["replicas"] = service.replicas.into();
    }
    all.0.into()
}

/// Networks, ports, mounts, secrets and configs.
fn connections(service: &Service, all: &mut Entries) {
    match &service.network {
        Network::Joined(joined) => {
            let joined = joined.iter().map(|one| {
                let mut entries = Entries::default();
                entries.add("aliases", list(&one.aliases));
                entries.add("ipv4_address", one.ipv4.map(|address| address.to_string()));
                entries.add("ipv6_address", one.ipv6.map(|address| address.to_string()));
                entries.add("link_local_ips", one.link_local.iter().map(ToString::to_string).collect::<Vec<_>>());
                let written = service.written.networks.get(&one.network);
                entries.add("priority", written.copied().flatten());
                (
                    one.network.clone(),
                    if entries.0.is_empty() && written.is_none() { Value::Null } else { entries.0.into() },
                )
            });
            all.add("networks", joined.collect::<Map<_, _>>());
        }
        Network::Bridge => all.add("network_mode", "bridge"),
        Network::Host => all.add("network_mode", "host"),
        Network::None => all.add("network_mode", "none"),
        Network::Service(name) => all.add("network_mode", format!("service:{name}")),
        Network::Container(name) => all.add("network_mode", format!("container:{name}")),
    }
    let ports = service.ports.iter().map(|port| {
        let mut entries = Entries::default();
        entries.add("mode", "ingress");
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        for (key, word) in service.written.ports.get(&(port.target, protocol.to_owned())).into_iter().flatten() {
            entries.add(key, word.as_str());
        }
        entries.add("host_ip", port.address.map(|address| address.to_string()));
        entries.add("target", port.target);
        entries.add(
            "published",
            match port.published {
                Published::Any => None,
                Published::Fixed(number) => Some(number.to_string()),
                Published::Range(first, last) => Some(format!("{first}-{last}")),
            },
        );
        entries.add("protocol", protocol);
        Value::from(entries.0)
    });
    all.add("ports", ports.collect::<Vec<_>>());
    let forms = &service.written.mounts;
    let mut volumes: Vec<Value> = service.mounts.iter().map(|one| mount(one, forms.of.get(&one.target))).collect();
    for (index, (before, target, size, mode)) in forms.memory.iter().enumerate() {
        let mut tmpfs = Entries::default();
        tmpfs.add("size", size.as_deref());
        tmpfs.add("mode", *mode);
        let mut entries = Entries::default();
        entries.add("type", "tmpfs");
        entries.add("target", doubled(target));
        entries.add("tmpfs", tmpfs.0);
        volumes.insert((before + index).min(volumes.len()), entries.0.into());
    }
    all.add("volumes", volumes);
    for (key, is_secret) in [("secrets", true), ("configs", false)] {
        let grants = service.grants.iter().filter(|grant| grant.is_secret == is_secret).map(|grant| {
            let mut entries = Entries::default();
            entries.add("source", grant.name.as_str());
            entries.add("target", service.written.targets.get(&format!("{key}.{}", grant.name)).map(String::as_str));
            entries.add("uid", grant.uid.map(|id| id.to_string()));
            entries.add("gid", grant.gid.map(|id| id.to_string()));
            entries.add("mode", grant.mode.map(|mode| format!("{mode:04o}")));
            Value::from(entries.0)
        });
        all.add(key, grants.collect::<Vec<_>>());
    }
}

fn mount(mount: &Mount, form: Option<&Form>) -> Value {
    let mut entries = Entries::default();
    let form = form.cloned().unwrap_or_default();
    let (kind, source) = match &mount.source {
        Source::Path(path) => ("bind", Some(doubled(form.source.as_ref().unwrap_or(path)))),
        Source::Volume(name) => ("volume", Some(name.clone())),
        Source::Anonymous => ("volume", None),
    };
    entries.add("type", kind);
    entries.add("source", source);
    entries.add("target", doubled(&mount.target));
    entries.add("read_only", mount.read_only);
    let (mut bind, mut volume) = (Entries::default(), Entries::default());
    bind.add("create_host_path", kind == "bind" && form.creates);
    if mount.must_exist {
        // Without it, it would be true when it is read again.
        bind.0.insert("create_host_path".to_owned(), false.into());
    }
    bind.add("propagation", mount.propagation.as_deref());
    bind.add("selinux", mount.selinux.map(String::from));
    volume.add("nocopy", mount.no_copy);
    volume.add("subpath", mount.subpath.as_deref());
    entries.add("bind", bind.0);
    let is_said = !volume.0.is_empty() || form.is_short && kind == "volume";
    if is_said {
        entries.0.insert("volume".to_owned(), volume.0.into());
    }
    entries.0.into()
}

/// What it is started with, and when.
fn running(service: &Service, all: &mut Entries) {
    let mut environment: Map<String, Value> =
        service.environment.iter().map(|(name, value)| (name.clone(), doubled(value).into())).collect();
    environment.extend(service.unset.iter().map(|name| (name.clone(), Value::Null)));
    all.add("environment", environment);
    let needed = service.depends_on.iter().map(|needed| {
        let mut entries = Entries::default();
        entries.add(
            "condition",
            match needed.condition {
                Condition::Started => "service_started",
                Condition::Healthy => "service_healthy",
                Condition::Completed => "service_completed_successfully",
            },
        );
        entries.0.insert("required".to_owned(), needed.required.into());
        entries.add("restart", needed.restart);
        (needed.service.as_str().to_owned(), Value::from(entries.0))
    });
    let mut needed = needed.collect::<Map<_, _>>();
    // As compose follows from what ties the service to another one's container.
    for name in service.links.iter().map(|link| &link.service).chain(service.shared()) {
        let tied = || json!({ "condition": "service_started", "required": true, "restart": true });
        needed.entry(name.as_str()).or_insert_with(tied);
    }
    all.add("depends_on", needed);
    if service.written.said.contains("scale") && service.replicas != 1 {
        all.add("scale", service.replicas);
    }
    if service.written.said.contains("stop_grace_period") {
        all.add("stop_grace_period", duration(service.stop_grace));
    }
}
