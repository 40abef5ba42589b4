//! The stack as the compose file asks for it, checked and resolved. Reading it is `compose/`.

mod networks;
mod written;

pub use networks::{Joined, Network, Pool, StackNetwork, StackVolume};
pub use written::{Form, Forms, Written};

use super::options::Options;
use crate::env::{Allow, Limits};
use crate::value::{AppName, ServiceName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// All of a compose file.
#[derive(Debug, Clone, PartialEq)]
pub struct Stack {
    pub project: AppName,
    /// Whether other apps of the host may build images of the same names.
    pub shares_host: bool,
    /// What all of its containers may use together.
    pub limits: Option<Limits>,
    /// The compose files, the main one first, and its directory.
    pub files: Vec<String>,
    pub directory: String,
    /// In the order of the file; those of profiles that are not asked for are left out.
    pub services: Vec<Service>,
    /// Networks that services join.
    pub networks: Vec<StackNetwork>,
    /// Named volumes that services use.
    pub volumes: Vec<StackVolume>,
    /// Values of variables that were put into the file, and of env files: they may be secrets and are not shown.
    pub hidden: BTreeSet<String>,
    /// What asks for a newer engine than the oldest that the appliance runs with.
    pub needs: Vec<Need>,
    /// What it may ask of the host; looked at again when Docker is asked.
    pub allow: Allow,
    /// The users' own keys (`x-`), for printing alone; and the variables that secrets and configs get their text from, by `secrets.NAME` or
    /// `configs.NAME`.
    pub extensions: BTreeMap<String, serde_json::Value>,
    pub variables: BTreeMap<String, String>,
}

/// A key that only a newer engine carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The engine API's version.
    pub api: (u32, u32),
    pub key: String,
    /// `FILE:LINE:COLUMN`.
    pub at: String,
}

/// One service.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub name: ServiceName,
    pub image: Option<String>,
    pub build: Option<Build>,
    pub pull: Pull,
    pub command: Option<Vec<String>>,
    /// Values may be secrets: they go to the API and nowhere else.
    pub environment: BTreeMap<String, String>,
    /// Variables that the container does not have, whatever an env file or its image says: named without a value, and not set outside.
    pub unset: BTreeSet<String>,
    /// Files whose variables stand below `environment`; read into it by `env_file.rs`.
    pub env_files: Vec<EnvFile>,
    pub labels: BTreeMap<String, String>,
    pub ports: Vec<Port>,
    /// `PORT/PROTOCOL`.
    pub expose: Vec<String>,
    pub mounts: Vec<Mount>,
    /// Secrets and configs.
    pub grants: Vec<Grant>,
    pub links: Vec<Link>,
    pub depends_on: Vec<Dependency>,
    pub healthcheck: Option<Healthcheck>,
    pub network: Network,
    /// In bytes.
    pub mem_limit: Option<i64>,
    pub restart: Restart,
    /// Whether the file says so; what nobody said is decided by what the service is for.
    pub restart_is_said: bool,
    pub options: Options,
    pub stop_grace: Duration,
    /// `container_name`: a service with a name of its own has one container.
    pub container_name: Option<String>,
    /// How many containers.
    pub replicas: u16,
    pub rolling: Rolling,
    /// Profiles that it belongs to; none means that it always runs.
    pub profiles: Vec<String>,
    pub written: Written,
}

/// An env file, absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFile {
    pub path: String,
    pub required: bool,
    /// `format: raw`: values are taken as they are, without quotes or variables.
    pub raw: bool,
}

/// How to build a service's image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Build {
    /// Absolute.
    pub context: String,
    pub dockerfile: String,
    /// The Dockerfile's text, where it stands in the compose file.
    pub inline: Option<String>,
    pub args: BTreeMap<String, String>,
    pub target: String,
    pub labels: BTreeMap<String, String>,
    pub cache_from: Vec<String>,
    pub network: Option<String>,
    /// Names that the image gets beside its own.
    pub tags: Vec<String>,
    /// Nothing is taken from earlier builds.
    pub no_cache: bool,
    /// Images that the Dockerfile begins with are got anew.
    pub pull: bool,
    /// In bytes.
    pub shm_size: Option<i64>,
    /// `NAME:ADDRESS`.
    pub extra_hosts: Vec<String>,
    /// By their names, lower case: what the Dockerfile may call images.
    pub contexts: BTreeMap<String, NamedContext>,
}

/// What a name in a Dockerfile stands for, beside stages and images (`additional_contexts`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// Absolute.
    Directory(String),
    Image(String),
    /// What another service builds or runs.
    Service(ServiceName),
}

/// When an image is pulled (Compose Specification, "pull_policy").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pull {
    /// For a new release, if it is not there: the key's default.
    #[default]
    Missing,
    /// For every new release.
    Always,
    Never,
    /// Not pulled but built.
    Build,
    /// For a new release, if it is older than this, in seconds.
    Older(u64),
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub address: Option<IpAddr>,
    pub published: Published,
    pub target: u16,
    pub protocol: Protocol,
}

/// The host's side of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// Docker chooses one.
    Any,
    Fixed(u16),
    /// Docker chooses one of these.
    Range(u16, u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A bind mount or a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub source: Source,
    pub target: String,
    pub read_only: bool,
    /// A new volume stays empty: what the image has at this place is not copied into it.
    pub no_copy: bool,
    /// A directory inside the volume.
    pub subpath: Option<String>,
    /// How mounts travel between host and container: `rslave` and so on.
    pub propagation: Option<String>,
    /// `z` or `Z`: the label for SELinux.
    pub selinux: Option<char>,
    /// A missing directory on the host is an error, not made.
    pub must_exist: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Path(String),
    /// By its key in the file.
    Volume(String),
    Anonymous,
}

impl Mount {
    /// With nothing special.
    pub fn plain(source: Source, target: &str, read_only: bool) -> Mount {
        Mount {
            source,
            target: target.to_owned(),
            read_only,
            no_copy: false,
            subpath: None,
            propagation: None,
            selinux: None,
            must_exist: false,
        }
    }
}

/// A secret or config that a service sees as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// A secret, or else a config.
    pub is_secret: bool,
    /// Its key in the file.
    pub name: String,
    /// Absolute, in the container.
    pub target: String,
    pub content: Content,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mode: Option<u32>,
}

/// Where its content is.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// Absolute, on the host.
    File(String),
    Text(String),
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Content::File(path) => write!(f, "File({path})"),
            Content::Text(_) => f.write_str("Text(…)"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub service: ServiceName,
    pub alias: String,
}

/// What must be before a service starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    pub service: ServiceName,
    pub condition: Condition,
    /// Whether the service cannot do without it.
    pub required: bool,
    /// Whether the service is restarted when this one was.
    pub restart: bool,
}

/// What a dependent waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Started,
    Healthy,
    Completed,
}

/// Docker's health check; `test` empty means the image's own, `["NONE"]` none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Healthcheck {
    pub test: Vec<String>,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub start_period: Option<Duration>,
    pub start_interval: Option<Duration>,
    pub retries: Option<i64>,
}

/// What the supervisor does when the service's container ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    No,
    /// After a failure, at most so often if that is said.
    OnFailure(Option<u32>),
    /// `always` and `unless-stopped`: a stop by hand is honoured until the next start in both.
    #[default]
    Always,
}

impl Restart {
    /// Whether a container that has ended so stays down, after so many restarts.
    pub fn is_over(self, exit_code: i64, restarts: u32) -> bool {
        match self {
            Restart::No => true,
            Restart::OnFailure(most) => exit_code == 0 || most.is_some_and(|most| restarts >= most),
            Restart::Always => false,
        }
    }
}

/// How several containers of one service are replaced (`deploy.update_config`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rolling {
    /// How many at a time; 0 means all.
    pub parallelism: u16,
    /// Between two such groups.
    pub delay: Duration,
    /// What comes first when a release replaces the service; the appliance decides where nothing is said.
    pub order: Option<Order>,
}

/// What comes first when a container is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    StopFirst,
    StartFirst,
}

impl Default for Rolling {
    fn default() -> Self {
        Rolling { parallelism: 1, delay: Duration::ZERO, order: None }
    }
}

impl Stack {
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name.as_str() == name)
    }

    /// The name of one of a service's containers, counted from 1.
    pub fn container_name(&self, service: &Service, number: u16) -> String {
        match &service.container_name {
            Some(name) => name.clone(),
            None => format!("{}_{}_{number}", self.project, service.name),
        }
    }

    /// The names of all containers of a service.
    pub fn container_names<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = String> + 'a {
        (1..=service.replicas).map(|number| self.container_name(service, number))
    }

    /// The container that stands for a service where only one can: in links and shared namespaces.
    pub fn first_container(&self, service: &ServiceName) -> String {
        match self.service(service.as_str()) {
            Some(service) => self.container_name(service, 1),
            None => format!("{}_{service}_1", self.project),
        }
    }

    pub fn network(&self, key: &str) -> Option<&StackNetwork> {
        self.networks.iter().find(|network| network.key == key)
    }

    /// What Docker calls a network of the file.
    pub fn network_name(&self, key: &str) -> String {
        self.network(key).map_or_else(|| format!("{}_{key}", self.project), |network| network.name.clone())
    }

    /// What Docker calls a volume of the file.
    pub fn volume_name(&self, key: &str) -> String {
        let volume = self.volumes.iter().find(|volume| volume.key == key);
        volume.map_or_else(|| format!("{}_{key}", self.project), |volume| volume.name.clone())
    }

    /// Services by level: those of one level depend only on earlier ones. The file was checked to have no circle.
    pub fn levels(&self) -> Vec<Vec<&Service>> {
        let here = |name: &ServiceName| self.services.iter().any(|service| &service.name == name);
        let mut levels: Vec<Vec<&Service>> = Vec::new();
        let mut placed: BTreeSet<&str> = BTreeSet::new();
        while placed.len() < self.services.len() {
            let ready = |service: &&Service| {
                // What is not required may be missing.
                let mut open = service.dependencies().filter(|name| here(name));
                !placed.contains(service.name.as_str()) && open.all(|name| placed.contains(name.as_str()))
            };
            let level: Vec<&Service> = self.services.iter().filter(ready).collect();
            if level.is_empty() {
                // A circle, which the reader refuses; the rest comes last rather than never.
                let rest = |service: &&Service| !placed.contains(service.name.as_str());
                levels.push(self.services.iter().filter(rest).collect());
                break;
            }
            placed.extend(level.iter().map(|service| service.name.as_str()));
            levels.push(level);
        }
        levels
    }

    /// Whether another service waits for this one to have done its work: then it runs once.
    pub fn is_one_shot(&self, name: &ServiceName) -> bool {
        let waits = |needed: &Dependency| &needed.service == name && needed.condition == Condition::Completed;
        self.services.iter().any(|service| service.depends_on.iter().any(waits))
    }
}

impl Service {
    /// What must be there before this service: `depends_on`, `links`, and services whose namespaces it shares.
    pub fn dependencies(&self) -> impl Iterator<Item = &ServiceName> {
        let needed = self.depends_on.iter().map(|needed| &needed.service);
        needed.chain(self.links.iter().map(|link| &link.service)).chain(self.shared())
    }

    /// Services in whose containers' namespaces this one's run: Docker ties it to that very container.
    pub fn shared(&self) -> impl Iterator<Item = &ServiceName> {
        let network = match &self.network {
            Network::Service(name) => Some(name),
            _ => None,
        };
        network.into_iter().chain(&self.options.ipc_service).chain(&self.options.pid_service)
    }

    /// The networks that it joins.
    pub fn joined(&self) -> &[Joined] {
        match &self.network {
            Network::Joined(joined) => joined,
            _ => &[],
        }
    }

    /// How long its first healthy report may take: its own checks' worth, and a minute for a slow machine.
    pub fn health_deadline(&self) -> Duration {
        let check = self.healthcheck.clone().unwrap_or_default();
        let or_30 = |duration: Option<Duration>| duration.unwrap_or(Duration::from_secs(30));
        let once = or_30(check.interval) + or_30(check.timeout);
        let retries = u32::try_from(check.retries.unwrap_or(3)).unwrap_or(3);
        check.start_period.unwrap_or_default()
            + once.saturating_mul(retries.saturating_add(1))
            + Duration::from_secs(60)
    }
}
