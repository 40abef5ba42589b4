//! A service as Docker's API wants it, and the hash that tells whether a container still is what the file asks for.

use super::model::{Network, Service, Source, Stack};
use crate::env::hex;
use crate::host::docker::{LABEL_CONFIG_HASH, LABEL_NUMBER, LABEL_ONEOFF, LABEL_PROJECT, LABEL_SERVICE};
use bollard::models::{
    ContainerCreateBody, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig, NetworkingConfig,
    PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Where logs go unless `logging:` says otherwise.
const JOURNALD: &str = "journald";

/// What a container is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Service,
    /// Runs once and is removed: no ports, no links, no health check.
    OneOff,
}

/// The body of the create call, labels and hash included. `image` is the reference and `image_id` what it stands for now.
pub fn body(stack: &Stack, service: &Service, image: &str, image_id: &str, role: Role) -> ContainerCreateBody {
    let alone = role == Role::OneOff;
    let mut body = ContainerCreateBody {
        image: Some(image.to_owned()),
        cmd: service.command.clone(),
        env: Some(service.environment.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        healthcheck: if alone { Some(no_health()) } else { health(service) },
        networking_config: networking(stack, service, alone),
        stop_timeout: Some(whole_seconds(service.stop_grace)),
        ..Default::default()
    };
    let anonymous = service.mounts.iter().filter(|mount| mount.source == Source::Anonymous);
    body.volumes = Some(anonymous.map(|mount| mount.target.clone()).collect()).filter(|all: &Vec<_>| !all.is_empty());
    let mut host = host_config(stack, service, alone);
    service.options.apply(&mut body, &mut host);
    if let Some(config) = host.log_config.as_mut().filter(|config| config.typ.as_deref() == Some(JOURNALD)) {
        // `appliance logs` finds a service's lines by these.
        let labels = || format!("{LABEL_PROJECT},{LABEL_SERVICE}");
        config.config.get_or_insert_default().entry("labels".to_owned()).or_insert_with(labels);
    }
    body.host_config = Some(host);
    if !alone {
        let published = service.ports.iter().map(|port| port_name(port.target, port.udp));
        let mut exposed: Vec<String> = published.chain(service.expose.iter().cloned()).collect();
        exposed.sort();
        exposed.dedup();
        body.exposed_ports = Some(exposed);
    }
    let mut labels: HashMap<String, String> = service.labels.clone().into_iter().collect();
    let own = [
        (LABEL_PROJECT, stack.project.as_str()),
        (LABEL_SERVICE, service.name.as_str()),
        (LABEL_NUMBER, "1"),
        (LABEL_ONEOFF, if alone { "True" } else { "False" }),
        ("com.docker.compose.project.working_dir", &stack.directory),
        ("com.docker.compose.project.config_files", &stack.file),
        ("com.docker.compose.version", concat!("appliance-", env!("CARGO_PKG_VERSION"))),
    ];
    labels.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    // The version must not count: a new appliance leaves the containers alone.
    let counted: BTreeMap<&String, &String> =
        labels.iter().filter(|(name, _)| *name != "com.docker.compose.version").collect();
    let hash = config_hash(&body, &counted, image_id);
    labels.insert(LABEL_CONFIG_HASH.to_owned(), hash);
    body.labels = Some(labels);
    body
}

fn config_hash(body: &ContainerCreateBody, labels: &BTreeMap<&String, &String>, image_id: &str) -> String {
    // Maps inside the body have no order of their own; as a JSON value they get one.
    let value = serde_json::to_value(body).unwrap_or_default();
    let labels = serde_json::to_value(labels).unwrap_or_default();
    hex(&Sha256::digest(format!("{value}\n{labels}\n{image_id}")))
}

fn whole_seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn port_name(port: u16, udp: bool) -> String {
    format!("{port}/{}", if udp { "udp" } else { "tcp" })
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
        retries: check.retries,
        ..Default::default()
    })
}

fn host_config(stack: &Stack, service: &Service, alone: bool) -> HostConfig {
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in service.ports.iter().filter(|_| !alone) {
        let binding = PortBinding {
            host_ip: port.address.map(|address| address.to_string()),
            host_port: port.published.map(|port| port.to_string()),
        };
        bindings.entry(port_name(port.target, port.udp)).or_default().get_or_insert_default().push(binding);
    }
    let binds = service.mounts.iter().filter_map(|mount| {
        let mode = if mount.read_only { "ro" } else { "rw" }.to_owned() + if mount.no_copy { ",nocopy" } else { "" };
        match &mount.source {
            Source::Path(path) => Some(format!("{path}:{}:{mode}", mount.target)),
            Source::Volume(name) => Some(format!("{}_{name}:{}:{mode}", stack.project, mount.target)),
            Source::Anonymous => None,
        }
    });
    let links = service.links.iter().map(|link| format!("{}_{}_1:{}", stack.project, link.service, link.alias));
    HostConfig {
        binds: Some(binds.collect()),
        port_bindings: Some(bindings),
        links: Some(links.collect()).filter(|_| !alone && service.network == Network::Bridge),
        network_mode: Some(match service.network {
            Network::Default => stack.network_name(),
            Network::Bridge => "bridge".to_owned(),
            Network::Host => "host".to_owned(),
            Network::None => "none".to_owned(),
        }),
        memory: service.mem_limit,
        // Docker must start nothing before the host is prepared; the supervisor carries out `restart:` itself.
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        log_config: Some(HostConfigLogConfig { typ: Some(JOURNALD.to_owned()), config: None }),
        ..Default::default()
    }
}

fn networking(stack: &Stack, service: &Service, alone: bool) -> Option<NetworkingConfig> {
    if service.network != Network::Default {
        return None;
    }
    let links = service.links.iter().map(|link| format!("{}_{}_1:{}", stack.project, link.service, link.alias));
    let endpoint = EndpointSettings {
        // A one-off must not answer for its service.
        aliases: Some(vec![service.name.as_str().to_owned()]).filter(|_| !alone),
        links: Some(links.collect::<Vec<_>>()).filter(|links| !alone && !links.is_empty()),
        ..Default::default()
    };
    Some(NetworkingConfig { endpoints_config: Some(HashMap::from([(stack.network_name(), endpoint)])) })
}
