//! Docker as the rest of the crate sees it: the verbs, their types, their errors. The API client is `engine.rs`.

use super::{Host, Pending, What};
use anyhow::Result;
use bollard::models::{ContainerCreateBody, EndpointSettings, NetworkCreateRequest, VolumeCreateRequest};
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// What a caller branches on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DockerError {
    /// The daemon cannot be reached; it may come back.
    #[error("Docker cannot be reached ({0}); see: systemctl status docker")]
    Away(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Refused(String),
    #[error("Docker did not {verb} within {seconds} s")]
    TooSlow {
        verb: &'static str,
        seconds: u64,
        /// It is work of the app's own that may take hours, and not an answer that Docker owes.
        is_long: bool,
    },
}

/// Whether a container cannot be started since containerd still holds one of its id, from before Docker was killed: Docker will not get
/// rid of that, and only another container helps.
pub fn is_id_held(error: &anyhow::Error) -> bool {
    let held = |said: &str| {
        said.contains("id already in use")
            || said.contains("failed to start shim: mkdir") && said.contains("file exists")
    };
    matches!(error.downcast_ref(), Some(DockerError::Refused(said)) if held(said))
}

/// Whether an error means that the daemon is away, or so slow that it might as well be: it is waited for.
pub fn is_away(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(DockerError::Away(_) | DockerError::TooSlow { is_long: false, .. }))
}

/// Whether an error means that the thing asked for does not exist.
pub fn is_missing(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(DockerError::NotFound(_)))
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    Created,
    Running,
    Paused,
    Restarting,
    Exited,
    Dead,
}

/// What its health check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Starting,
    Healthy,
    Unhealthy,
}

/// A container as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub labels: HashMap<String, String>,
    pub image_id: String,
    pub state: ContainerState,
    /// `None`: it has no health check.
    pub health: Option<Health>,
    pub exit_code: i64,
    pub oom_killed: bool,
    /// The networks that it is connected to: name to id; the id is empty where it never ran.
    pub networks: BTreeMap<String, String>,
    /// As Docker tells it; with `container:`, the id of the one whose network it uses.
    pub network_mode: String,
    /// Where it answers in its networks, as seen from the host.
    pub addresses: Vec<IpAddr>,
}

/// How closely Docker is asked. Its list is one call for all, but tells what was just before: a death is in the events before it is
/// in the list. Asked for one container, it waits until that one's change is done.
#[derive(Debug, Clone, Copy)]
pub enum Look<'a> {
    /// Every container is asked for.
    Close,
    /// The list, and those that events have named since.
    After(&'a BTreeSet<String>),
    /// The list.
    Quick,
}

/// A container to be created.
#[derive(Debug, Clone)]
pub struct NewContainer {
    pub name: String,
    pub body: ContainerCreateBody,
    /// Networks beside the one in the body: an engine before API 1.44 takes only one when it creates.
    pub further: Vec<(String, EndpointSettings)>,
}

impl Container {
    /// The compose service, by the standard label.
    pub fn service(&self) -> &str {
        self.labels.get(LABEL_SERVICE).map_or("", String::as_str)
    }

    pub fn is_running(&self) -> bool {
        self.state == ContainerState::Running
    }

    /// The service, and which of its containers if it is not the first.
    pub fn title(&self) -> String {
        match self.label(LABEL_NUMBER) {
            Some(number) if number != "1" => format!("{}.{number}", self.service()),
            _ => self.service().to_owned(),
        }
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }
}

/// The standard labels (docs/stack.md).
pub const LABEL_PROJECT: &str = "com.docker.compose.project";
pub const LABEL_SERVICE: &str = "com.docker.compose.service";
pub const LABEL_NUMBER: &str = "com.docker.compose.container-number";
pub const LABEL_ONEOFF: &str = "com.docker.compose.oneoff";
pub const LABEL_CONFIG_HASH: &str = "com.docker.compose.config-hash";
/// The commit that an image was built from.
pub const LABEL_COMMIT: &str = "appliance.commit";
/// What the container was made of, for telling what changed: ours, not compose's.
pub const LABEL_CONFIG: &str = "appliance.config";
pub const LABEL_NETWORK: &str = "com.docker.compose.network";
pub const LABEL_VOLUME: &str = "com.docker.compose.volume";

/// An event of one of the project's containers, or of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerEvent {
    /// `die`, `start`, `destroy`, `health_status: healthy` …; of networks `disconnect` and `destroy`.
    pub action: String,
    /// The container's; empty where a network was removed.
    pub container_id: String,
    /// With `kill`: which.
    pub signal: Option<i32>,
    /// How long ago it was when it was taken up: whoever is busy gets to it later.
    pub age: Duration,
}

/// A network as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkState {
    pub id: String,
    pub name: String,
    pub labels: HashMap<String, String>,
    /// In CIDR notation.
    pub subnets: Vec<String>,
    /// Its containers are only reached through the host: a bridge that hides them, as Docker makes one unless it is told otherwise.
    pub is_hidden: bool,
    /// The same for its IPv6 addresses.
    pub is_hidden6: bool,
}

/// A volume as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeState {
    pub name: String,
    pub labels: HashMap<String, String>,
    pub driver: String,
    /// What the driver was told when it was made.
    pub options: HashMap<String, String>,
    /// Where its files are on this host.
    pub mountpoint: String,
}

/// The default bridge: where containers reach the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    pub gateway: Ipv4Addr,
    pub subnet: String,
}

/// Who makes the control groups of containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// systemd does: containers are scopes in its slices.
    Systemd,
    /// Docker itself does, as directories.
    Cgroupfs,
}

/// An image that was built here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltImage {
    pub id: String,
    /// Its names with their tags; none is left where another image took the last one.
    pub names: Vec<String>,
    /// The commit that it was built from.
    pub commit: String,
    /// In bytes, with the layers that it shares with others.
    pub size: u64,
}

/// An image to build.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    pub context: PathBuf,
    /// Relative to the context.
    pub dockerfile: String,
    pub tag: String,
    pub args: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub target: String,
    pub network: Option<String>,
    pub cache_from: Vec<String>,
    /// Names in the Dockerfile, and the images that they stand for.
    pub contexts: BTreeMap<String, String>,
    /// The Dockerfile's text, where it is none of the context's files.
    pub inline: Option<String>,
    pub no_cache: bool,
    pub pull: bool,
    /// In bytes.
    pub shm_size: Option<i64>,
    /// `NAME:ADDRESS`.
    pub extra_hosts: Vec<String>,
    /// There is no Dockerfile: the image is the directory itself.
    pub is_directory: bool,
}

/// A command to be run inside a running container.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    pub command: Vec<String>,
    pub tty: bool,
    pub user: Option<String>,
    pub directory: Option<String>,
    /// `NAME=VALUE`.
    pub environment: Vec<String>,
}

/// What a container uses. Sizes are in bytes, counted since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// Of one CPU: two that are busy make 200.
    pub cpu_percent: f64,
    /// Without the files that the kernel keeps for it and could drop.
    pub memory: u64,
    pub memory_limit: u64,
    pub received: u64,
    pub sent: u64,
    pub read: u64,
    pub written: u64,
    pub processes: u64,
}

/// Titles of columns, and rows.
pub type Processes = (Vec<String>, Vec<Vec<String>>);

/// A command inside a running container.
pub struct ExecSession {
    pub id: String,
    pub output: BoxStream<'static, std::result::Result<bollard::container::LogOutput, bollard::errors::Error>>,
    pub input: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
}

/// What a one-off container left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOff {
    pub exit_code: i64,
    /// The last lines it wrote.
    pub tail: String,
}

/// A line of progress goes here.
pub type Progress<'a> = &'a mut (dyn FnMut(&str) + Send);

/// What can be asked of Docker. Every verb has a deadline; `Away` means the daemon is not there.
pub trait Docker: Send + Sync {
    fn ping<'a>(&'a self) -> Pending<'a, Result<()>>;
    /// All containers of a project, stopped ones included, one-offs too.
    fn containers<'a>(&'a self, project: &'a str, look: Look<'a>) -> Pending<'a, Result<Vec<Container>>>;
    /// Creates a container with all its networks; gives back its id.
    fn create<'a>(&'a self, container: NewContainer) -> Pending<'a, Result<String>>;
    /// When a container was last started: RFC 3339, as Docker prints it.
    fn started_at<'a>(&'a self, id: &'a str) -> Pending<'a, Result<String>>;
    /// Starts it; others go through [`Host::start_container`].
    fn start<'a>(&'a self, id: &'a str) -> Pending<'a, Result<()>>;
    /// Stops with a grace period, then kills. Stopped already is fine.
    fn stop<'a>(&'a self, id: &'a str, grace: Duration) -> Pending<'a, Result<()>>;
    /// Removes a container; a missing one is fine. Its anonymous volumes stay.
    fn remove<'a>(&'a self, id: &'a str) -> Pending<'a, Result<()>>;
    /// Removes a container with its anonymous volumes: one whose data nobody needs.
    fn remove_with_volumes<'a>(&'a self, id: &'a str) -> Pending<'a, Result<()>>;
    fn rename<'a>(&'a self, id: &'a str, name: &'a str) -> Pending<'a, Result<()>>;
    /// A container's anonymous volumes: where they are mounted, and their names.
    fn anonymous_volumes<'a>(&'a self, id: &'a str) -> Pending<'a, Result<Vec<(String, String)>>>;
    /// Ids of the containers that run in a network, whoever made them.
    fn members<'a>(&'a self, network: &'a str) -> Pending<'a, Result<Vec<String>>>;
    /// Whether a running container, whoever made it, publishes a port of the host under this address, or under all.
    fn publishes<'a>(&'a self, address: SocketAddr) -> Pending<'a, Result<bool>>;
    /// Starts a created container, waits for its end and reads its last lines.
    fn run_to_end<'a>(&'a self, id: &'a str, deadline: Duration) -> Pending<'a, Result<OneOff>>;
    /// An image's id, if it is there.
    fn image_id<'a>(&'a self, image: &'a str) -> Pending<'a, Result<Option<String>>>;
    /// When an image got its tag on this host, if it is there.
    fn image_tagged_at<'a>(&'a self, image: &'a str) -> Pending<'a, Result<Option<jiff::Timestamp>>>;
    /// Pulls with the credentials of Docker's own configuration.
    fn pull<'a>(&'a self, image: &'a str, progress: Progress<'a>) -> Pending<'a, Result<()>>;
    /// Images that were built for a project.
    fn built_images<'a>(&'a self, project: &'a str) -> Pending<'a, Result<Vec<BuiltImage>>>;
    /// Removes a name of an image, or one without a name; the image goes with its last name. A missing one is fine.
    ///
    /// # Errors
    /// A container is made of it.
    fn remove_image<'a>(&'a self, image: &'a str) -> Pending<'a, Result<()>>;
    fn tag<'a>(&'a self, image: &'a str, repository: &'a str, tag: &'a str) -> Pending<'a, Result<()>>;
    fn build<'a>(&'a self, request: BuildRequest, progress: Progress<'a>) -> Pending<'a, Result<()>>;
    fn networks<'a>(&'a self, project: &'a str) -> Pending<'a, Result<Vec<NetworkState>>>;
    /// Those of all projects.
    fn project_networks<'a>(&'a self) -> Pending<'a, Result<Vec<NetworkState>>>;
    /// The id of a network by its name, whoever made it.
    fn network_id<'a>(&'a self, name: &'a str) -> Pending<'a, Result<Option<String>>>;
    fn create_network<'a>(&'a self, network: NetworkCreateRequest) -> Pending<'a, Result<()>>;
    /// Removes a network; a missing one is fine.
    fn remove_network<'a>(&'a self, name: &'a str) -> Pending<'a, Result<()>>;
    fn volumes<'a>(&'a self, project: &'a str) -> Pending<'a, Result<Vec<VolumeState>>>;
    /// The volume of this name, whoever made it.
    fn volume<'a>(&'a self, name: &'a str) -> Pending<'a, Result<Option<VolumeState>>>;
    /// Removes a volume, with what is in it; a missing one is fine.
    fn remove_volume<'a>(&'a self, name: &'a str) -> Pending<'a, Result<()>>;
    fn create_volume<'a>(&'a self, volume: VolumeCreateRequest) -> Pending<'a, Result<()>>;
    /// The version of the engine's API.
    fn api_version<'a>(&'a self) -> Pending<'a, Result<(u32, u32)>>;
    fn bridge<'a>(&'a self) -> Pending<'a, Result<Bridge>>;
    /// How it makes control groups; nothing: it has none.
    fn cgroup_driver<'a>(&'a self) -> Pending<'a, Result<Option<CgroupDriver>>>;
    /// The events that matter of a project's containers and of networks, from now on.
    fn events<'a>(&'a self, project: &'a str) -> Pending<'a, Result<BoxStream<'static, Result<DockerEvent>>>>;
    fn exec<'a>(&'a self, id: &'a str, request: ExecRequest) -> Pending<'a, Result<ExecSession>>;
    /// Measures for a second.
    fn usage<'a>(&'a self, id: &'a str) -> Pending<'a, Result<Usage>>;
    fn processes<'a>(&'a self, id: &'a str) -> Pending<'a, Result<Processes>>;
    fn exec_exit_code<'a>(&'a self, exec: &'a str) -> Pending<'a, Result<i64>>;
    fn exec_resize<'a>(&'a self, exec: &'a str, rows: u16, columns: u16) -> Pending<'a, Result<()>>;
}

impl Host {
    /// Notes what happens to a container; the caller then does it, if [`Host::applies`].
    pub fn note_container(&self, name: &str, how: impl Into<String>) {
        self.note(What::Container, name, how);
    }

    /// Notes what happens to the app's release; the caller then does it, if [`Host::applies`].
    pub fn note_release(&self, app: &str, how: impl Into<String>) {
        self.note(What::Release, app, how);
    }

    /// Notes what happens to a volume; the caller then does it, if [`Host::applies`].
    pub fn note_volume(&self, name: &str, how: impl Into<String>) {
        self.note(What::Volume, name, how);
    }

    /// Notes what happens to a network; the caller then does it, if [`Host::applies`].
    pub fn note_network(&self, name: &str, how: impl Into<String>) {
        self.note(What::Network, name, how);
    }
}
