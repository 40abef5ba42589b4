//! The stack as the compose file asks for it, checked and resolved. Reading it is `compose.rs`.

use super::options::Options;
use crate::value::{AppName, ServiceName};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// All of a compose file.
#[derive(Debug, Clone)]
pub struct Stack {
    pub project: AppName,
    /// The compose file, and its directory, from which relative paths count.
    pub file: String,
    pub directory: String,
    /// In the order of the file.
    pub services: Vec<Service>,
    /// Named volumes that services use.
    pub volumes: Vec<String>,
}

/// One service.
#[derive(Debug, Clone)]
pub struct Service {
    pub name: ServiceName,
    pub image: Option<String>,
    pub build: Option<Build>,
    pub command: Option<Vec<String>>,
    /// Values may be secrets: they go to the API and nowhere else.
    pub environment: BTreeMap<String, String>,
    /// Files whose variables stand below `environment`; read into it by `env_file.rs`.
    pub env_files: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub ports: Vec<Port>,
    /// `PORT/PROTOCOL`.
    pub expose: Vec<String>,
    pub mounts: Vec<Mount>,
    pub links: Vec<Link>,
    pub depends_on: Vec<(ServiceName, Condition)>,
    pub healthcheck: Option<Healthcheck>,
    pub network: Network,
    /// In bytes.
    pub mem_limit: Option<i64>,
    pub restart: Restart,
    pub options: Options,
    pub stop_grace: Duration,
}

/// How to build a service's image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Absolute.
    pub context: String,
    pub dockerfile: String,
    pub args: BTreeMap<String, String>,
    pub target: String,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub address: Option<IpAddr>,
    /// `None`: Docker chooses one.
    pub published: Option<u16>,
    pub target: u16,
    pub udp: bool,
}

/// A bind mount or a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub source: Source,
    pub target: String,
    pub read_only: bool,
    /// A new volume stays empty: what the image has at this place is not copied into it.
    pub no_copy: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Path(String),
    Volume(String),
    Anonymous,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub service: ServiceName,
    pub alias: String,
}

/// What a dependent waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Started,
    Healthy,
}

/// Docker's health check; `test` empty means the image's own, `["NONE"]` none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Healthcheck {
    pub test: Vec<String>,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub start_period: Option<Duration>,
    pub retries: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The project's own network.
    Default,
    /// Docker's default bridge.
    Bridge,
    /// The host's own.
    Host,
    /// Nothing but loopback.
    None,
}

/// What the supervisor does when the service's container ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    No,
    OnFailure,
    /// `always` and `unless-stopped`: a stop by hand is honoured by nobody else here, so they are one.
    Always,
}

impl Stack {
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name.as_str() == name)
    }

    pub fn container_name(&self, service: &Service) -> String {
        format!("{}_{}_1", self.project, service.name)
    }

    pub fn network_name(&self) -> String {
        format!("{}_default", self.project)
    }

    pub fn needs_network(&self) -> bool {
        self.services.iter().any(|service| service.network == Network::Default)
    }

    /// Services by level: those of one level depend only on earlier ones. The file was checked to have no circle.
    pub fn levels(&self) -> Vec<Vec<&Service>> {
        let mut levels: Vec<Vec<&Service>> = Vec::new();
        let mut placed: Vec<&ServiceName> = Vec::new();
        while placed.len() < self.services.len() {
            let ready = |service: &&Service| {
                !placed.contains(&&service.name) && service.dependencies().all(|name| placed.contains(&name))
            };
            let level: Vec<&Service> = self.services.iter().filter(ready).collect();
            if level.is_empty() {
                // A circle, which the reader refuses; the rest comes last rather than never.
                let rest = |service: &&Service| !placed.contains(&&service.name);
                levels.push(self.services.iter().filter(rest).collect());
                break;
            }
            placed.extend(level.iter().map(|service| &service.name));
            levels.push(level);
        }
        levels
    }
}

impl Service {
    /// What must be there before this service: `depends_on` and `links`.
    pub fn dependencies(&self) -> impl Iterator<Item = &ServiceName> {
        self.depends_on.iter().map(|(name, _)| name).chain(self.links.iter().map(|link| &link.service))
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
