//! A service as Docker's API wants it. What tells whether a container still is what the file asks for is `parts.rs`.

use super::grants::Granted;
use super::model::{Joined, Mount, Network, Protocol, Published, Service, Source, Stack};
use super::parts;
use crate::host::docker::{
    LABEL_CONFIG, LABEL_CONFIG_HASH, LABEL_NUMBER, LABEL_ONEOFF, LABEL_PROJECT, LABEL_SERVICE, NewContainer,
};
use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig,
    MountBindOptions, MountType, MountVolumeOptions, NetworkingConfig, PortBinding, RestartPolicy,
    RestartPolicyNameEnum,
};
use std::collections::HashMap;
use std::time::Duration;

/// Where logs go unless `logging:` says otherwise.
const JOURNALD: &str = "journald";

/// What a container is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// One of a service's containers, counted from 1.
    Service(u16),
    /// Runs once and is removed: no ports, no links, no health check, no addresses of its own.
    OneOff,
}

/// A service's image: the reference, and the id of the one that is meant.
#[derive(Debug, Clone)]
pub struct Image {
    pub reference: String,
    pub id: String,
    /// The reference leads to that one now.
    pub is_current: bool,
}

/// What a container has from outside of its stack.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    pub grants: &'a [Granted],
    /// The control group that its own lies below.
    pub parent: Option<&'a str>,
}

/// What to create, labels and hash included.
pub fn container(stack: &Stack, service: &Service, image: &Image, around: Around<'_>, role: Role) -> NewContainer {
    let alone = role == Role::OneOff;
    let mut body = ContainerCreateBody {
        image: Some(image.reference.clone()),
        cmd: service.command.clone(),
        env: Some(environment(service)),
        healthcheck: if alone { Some(no_health()) } else { health(service) },
        stop_timeout: Some(whole_seconds(service.stop_grace)),
        ..Default::default()
    };
    let anonymous = service.mounts.iter().filter(|mount| mount.source == Source::Anonymous);
    body.volumes = Some(anonymous.map(|mount| mount.target.clone()).collect()).filter(|all: &Vec<_>| !all.is_empty());
    let mut host = host_config(stack, service, around.grants, alone);
    service.options.apply(&mut body, &mut host);
    host.cgroup_parent = around.parent.map(str::to_owned).or(host.cgroup_parent);
    share_namespaces(stack, service, &mut host);
    if let Some(config) = host.log_config.as_mut().filter(|config| config.typ.as_deref() == Some(JOURNALD)) {
        // `appliance logs` finds a service's lines by these.
        let labels = || format!("{LABEL_PROJECT},{LABEL_SERVICE},{LABEL_NUMBER}");
        config.config.get_or_insert_default().entry("labels".to_owned()).or_insert_with(labels);
    }
    body.host_config = Some(host);
    if !alone {
        let published = service.ports.iter().map(|port| port_name(port.target, port.protocol));
        let mut exposed: Vec<String> = published.chain(service.expose.iter().cloned()).collect();
        exposed.sort();
        exposed.dedup();
        body.exposed_ports = Some(exposed);
    }
    let number = match role {
        Role::Service(number) => number,
        Role::OneOff => 1,
    };
    let mut labels: HashMap<String, String> = service.labels.clone().into_iter().collect();
    let own = [
        (LABEL_PROJECT, stack.project.as_str()),
        (LABEL_SERVICE, service.name.as_str()),
        (LABEL_NUMBER, &number.to_string()),
        (LABEL_ONEOFF, if alone { "True" } else { "False" }),
    ];
    labels.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    body.labels = Some(labels);
    // The first network decides on the default route; an engine before API 1.44 takes only that one when it creates.
    let mut endpoints = endpoints(stack, service, alone);
    let further = endpoints.split_off(endpoints.len().min(1));
    body.networking_config = Some(endpoints.into_iter().collect::<HashMap<_, _>>())
        .filter(|endpoints| !endpoints.is_empty())
        .map(|endpoints| NetworkingConfig { endpoints_config: Some(endpoints) });
    let parts = parts::of(&body, &further, around.grants, &image.id, &stack.hidden);
    let labels = body.labels.get_or_insert_default();
    labels.insert(LABEL_CONFIG_HASH.to_owned(), parts.digest());
    labels.insert(LABEL_CONFIG.to_owned(), parts.label());
    // They do not count: a new appliance, or one file more, leaves the containers alone.
    let about = [
        ("com.docker.compose.version", concat!("appliance-", env!("CARGO_PKG_VERSION")).to_owned()),
        ("com.docker.compose.project.working_dir", stack.directory.clone()),
        ("com.docker.compose.project.config_files", stack.files.join(",")),
    ];
    labels.extend(about.map(|(name, value)| (name.to_owned(), value)));
    if !image.is_current {
        // Not before: by what name Docker is asked for the same image makes no other container.
        body.image = Some(image.id.clone());
    }
    NewContainer { name: stack.container_name(service, number), body, further }
}

/// `NAME=value`; a name alone takes a variable of the image away.
fn environment(service: &Service) -> Vec<String> {
    let set = service.environment.iter().map(|(name, value)| format!("{name}={value}"));
    set.chain(service.unset.iter().cloned()).collect()
}

fn whole_seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn port_name(port: u16, protocol: Protocol) -> String {
    let name = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    format!("{port}/{name}")
}

fn no_health() -> HealthConfig {
    HealthConfig { test: Some(vec!["NONE".to_owned()]), ..Default::default() }
}

fn health(service: &Service) -> Option<HealthConfig> {
    let check = service.healthcheck.as_ref()?;
    let nanos = |duration: Option<Duration>| duration.and_then(|duration| i64::try_from(duration.as_nanos()).ok());
    Some(HealthConfig {
        test: Some(check.test.clone()).filter(|test| !test.is_empty()),
        interval: nanos(check.interval),
        timeout: nanos(check.timeout),
        start_period: nanos(check.start_period),
        start_interval: nanos(check.start_interval),
        retries: check.retries,
    })
}

fn host_config(stack: &Stack, service: &Service, grants: &[Granted], alone: bool) -> HostConfig {
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in service.ports.iter().filter(|_| !alone) {
        let binding = PortBinding {
            host_ip: port.address.map(|address| address.to_string()),
            host_port: match port.published {
                Published::Any => None,
                Published::Fixed(port) => Some(port.to_string()),
                Published::Range(first, last) => Some(format!("{first}-{last}")),
            },
        };
        bindings.entry(port_name(port.target, port.protocol)).or_default().get_or_insert_default().push(binding);
    }
    let mut binds: Vec<String> =
        service.mounts.iter().filter(|mount| !is_special(mount)).filter_map(|mount| bind(stack, mount)).collect();
    binds.extend(grants.iter().map(|grant| format!("{}:{}:ro", grant.source, grant.target)));
    let special = service.mounts.iter().filter(|mount| is_special(mount)).map(|mount| special_mount(stack, mount));
    HostConfig {
        binds: Some(binds),
        mounts: Some(special.collect()).filter(|mounts: &Vec<_>| !mounts.is_empty()),
        port_bindings: Some(bindings),
        links: Some(links(stack, service)).filter(|_| !alone && service.network == Network::Bridge),
        network_mode: Some(network_mode(stack, service)),
        memory: service.mem_limit,
        // Docker must start nothing before the host is prepared; the supervisor carries out `restart:` itself.
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        log_config: Some(HostConfigLogConfig { typ: Some(JOURNALD.to_owned()), config: None }),
        ..Default::default()
    }
}

fn links(stack: &Stack, service: &Service) -> Vec<String> {
    service.links.iter().map(|link| format!("{}:{}", stack.first_container(&link.service), link.alias)).collect()
}

fn network_mode(stack: &Stack, service: &Service) -> String {
    match &service.network {
        Network::Joined(joined) => {
            joined.first().map_or("none".to_owned(), |joined| stack.network_name(&joined.network))
        }
        Network::Bridge => "bridge".to_owned(),
        Network::Host => "host".to_owned(),
        Network::None => "none".to_owned(),
        Network::Service(name) => format!("container:{}", stack.first_container(name)),
        Network::Container(name) => format!("container:{name}"),
    }
}

fn share_namespaces(stack: &Stack, service: &Service, host: &mut HostConfig) {
    let container = |name| format!("container:{}", stack.first_container(name));
    if let Some(name) = &service.options.ipc_service {
        host.ipc_mode = Some(container(name));
    }
    if let Some(name) = &service.options.pid_service {
        host.pid_mode = Some(container(name));
    }
}

/// What only the longer form of the API can say.
fn is_special(mount: &Mount) -> bool {
    mount.subpath.is_some() || mount.must_exist
}

fn bind(stack: &Stack, mount: &Mount) -> Option<String> {
    let mut mode = if mount.read_only { "ro" } else { "rw" }.to_owned();
    let words = [mount.no_copy.then_some("nocopy"), mount.propagation.as_deref()];
    words.into_iter().flatten().for_each(|word| mode = format!("{mode},{word}"));
    mode.extend(mount.selinux.into_iter().flat_map(|label| [',', label]));
    match &mount.source {
        Source::Path(path) => Some(format!("{path}:{}:{mode}", mount.target)),
        Source::Volume(name) => Some(format!("{}:{}:{mode}", stack.volume_name(name), mount.target)),
        Source::Anonymous => None,
    }
}

fn special_mount(stack: &Stack, mount: &Mount) -> bollard::models::Mount {
    let (typ, source) = match &mount.source {
        Source::Path(path) => (MountType::BIND, Some(path.clone())),
        Source::Volume(name) => (MountType::VOLUME, Some(stack.volume_name(name))),
        Source::Anonymous => (MountType::VOLUME, None),
    };
    let volume = MountVolumeOptions {
        no_copy: mount.no_copy.then_some(true),
        subpath: mount.subpath.clone(),
        ..Default::default()
    };
    bollard::models::Mount {
        target: Some(mount.target.clone()),
        source,
        typ: Some(typ),
        read_only: Some(mount.read_only),
        bind_options: (typ == MountType::BIND).then(|| MountBindOptions {
            propagation: mount.propagation.as_deref().and_then(|word| word.parse().ok()),
            ..Default::default()
        }),
        volume_options: (typ == MountType::VOLUME).then_some(volume),
        ..Default::default()
    }
}

fn endpoints(stack: &Stack, service: &Service, alone: bool) -> Vec<(String, EndpointSettings)> {
    let endpoint = |joined: &Joined| {
        // A one-off must not answer for its service, nor take its address.
        if alone {
            return EndpointSettings::default();
        }
        let mut aliases = vec![service.name.as_str().to_owned()];
        aliases.extend(joined.aliases.iter().filter(|alias| alias.as_str() != service.name.as_str()).cloned());
        let addresses = EndpointIpamConfig {
            ipv4_address: joined.ipv4.map(|address| address.to_string()),
            ipv6_address: joined.ipv6.map(|address| address.to_string()),
            link_local_ips: Some(joined.link_local.iter().map(ToString::to_string).collect())
                .filter(|all: &Vec<_>| !all.is_empty()),
        };
        EndpointSettings {
            aliases: Some(aliases),
            links: Some(links(stack, service)).filter(|links| !links.is_empty()),
            ipam_config: Some(addresses).filter(|addresses| *addresses != EndpointIpamConfig::default()),
            ..Default::default()
        }
    };
    service.joined().iter().map(|joined| (stack.network_name(&joined.network), endpoint(joined))).collect()
}
