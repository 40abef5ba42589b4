//! Docker: containers, images, networks and volumes in maps. What it has no state for is refused.

use super::{Faults, locked};
use crate::host::Pending;
use crate::host::docker::*;
use anyhow::Result;
use bollard::models::{ContainerCreateBody, NetworkCreateRequest, VolumeCreateRequest};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::broadcast;

/// What a one-off container does, by its name and image.
type OneOffs = Box<dyn Fn(&str, &str) -> OneOff + Send>;

pub struct FakeDocker {
    faults: Arc<Faults>,
    pub containers: Mutex<BTreeMap<String, Container>>,
    /// Name, or tag, to id.
    pub images: Mutex<BTreeMap<String, String>>,
    pub networks: Mutex<Vec<NetworkState>>,
    pub volumes: Mutex<Vec<VolumeState>>,
    /// How often the start of a container of that name is refused, since containerd holds its id; another one of the name has another id.
    pub held: Mutex<BTreeMap<String, usize>>,
    /// Images whose containers answer with 500.
    pub sick: Mutex<BTreeSet<String>>,
    /// The verbs that changed something, in order, and the names of what they changed.
    pub log: Mutex<Vec<String>>,
    pub one_offs: Mutex<Option<OneOffs>>,
    /// Tag to the commit that it was built from.
    built: Mutex<BTreeMap<String, String>>,
    /// Container to the addresses that it publishes.
    published: Mutex<BTreeMap<String, Vec<SocketAddr>>>,
    made: Mutex<usize>,
    events: broadcast::Sender<DockerEvent>,
}

/// How many events are kept for one that does not take them up.
const KEPT: usize = 1000;

impl FakeDocker {
    pub(super) fn new(faults: Arc<Faults>) -> FakeDocker {
        FakeDocker {
            faults,
            containers: Mutex::default(),
            images: Mutex::default(),
            networks: Mutex::default(),
            volumes: Mutex::default(),
            held: Mutex::default(),
            sick: Mutex::default(),
            log: Mutex::default(),
            one_offs: Mutex::default(),
            built: Mutex::default(),
            published: Mutex::default(),
            made: Mutex::default(),
            events: broadcast::channel(KEPT).0,
        }
    }

    /// All but what one-offs do, which is another machine's.
    pub(super) fn take_state_of(&self, other: &FakeDocker) {
        *locked(&self.containers) = locked(&other.containers).clone();
        *locked(&self.images) = locked(&other.images).clone();
        *locked(&self.networks) = locked(&other.networks).clone();
        *locked(&self.volumes) = locked(&other.volumes).clone();
        *locked(&self.built) = locked(&other.built).clone();
        *locked(&self.published) = locked(&other.published).clone();
        *locked(&self.sick) = locked(&other.sick).clone();
        *locked(&self.made) = *locked(&other.made);
    }

    /// The status that whoever publishes an address answers with.
    pub fn answer(&self, address: SocketAddr) -> Option<u16> {
        let container = self.publisher(address)?;
        Some(if locked(&self.sick).contains(&container.image_id) { 500 } else { 200 })
    }

    /// The running container that publishes an address.
    pub fn publisher(&self, address: SocketAddr) -> Option<Container> {
        let published = locked(&self.published);
        let running =
            |id: &String| locked(&self.containers).get(id).filter(|container| container.is_running()).cloned();
        published.iter().filter(|(_, all)| all.contains(&address)).find_map(|(id, _)| running(id))
    }

    /// A container ends by itself.
    pub fn die(&self, name: &str) {
        let container = self.find(name).expect("the container is there");
        self.change(&container, |container| (container.state, container.exit_code) = (ContainerState::Exited, 1));
        self.tell(&container.id, "die");
    }

    /// All that runs ends, with the daemon: nothing is told.
    pub(super) fn end_all(&self) {
        let mut containers = locked(&self.containers);
        containers.values_mut().filter(|container| container.is_running()).for_each(|container| {
            container.state = ContainerState::Exited;
        });
    }

    /// Somebody beside the appliance stops a container, or starts one.
    pub fn stop_by_hand(&self, name: &str) {
        let container = self.find(name).expect("the container is there");
        self.halt(&container);
    }

    pub fn start_by_hand(&self, name: &str) {
        let container = self.find(name).expect("the container is there");
        self.change(&container, |container| container.state = ContainerState::Running);
        self.tell(&container.id, "start");
    }

    fn halt(&self, container: &Container) {
        if container.is_running() {
            self.change(container, |container| container.state = ContainerState::Exited);
            ["kill", "die", "stop"].iter().for_each(|action| self.tell(&container.id, action));
        }
    }

    fn tell(&self, id: &str, action: &str) {
        let signal = (action == "kill").then_some(15);
        let event = DockerEvent { action: action.to_owned(), container_id: id.to_owned(), signal, age: Duration::ZERO };
        // Nobody need listen.
        drop(self.events.send(event));
    }

    fn did(&self, verb: &str, what: &str) {
        locked(&self.log).push(format!("{verb} {what}"));
    }

    /// A container by its name or id.
    pub fn find(&self, name: &str) -> Result<Container> {
        let containers = locked(&self.containers);
        let found = containers.get(name).or_else(|| containers.values().find(|container| container.name == name));
        Ok(found.cloned().ok_or_else(|| DockerError::NotFound(format!("no container {name}")))?)
    }

    fn change(&self, container: &Container, change: impl FnOnce(&mut Container)) {
        locked(&self.containers).entry(container.id.clone()).and_modify(change);
    }

    /// An image's id, by a name or by the id.
    fn image(&self, name: &str) -> Option<String> {
        let images = locked(&self.images);
        images.get(name).or_else(|| images.values().find(|id| *id == name)).cloned()
    }

    async fn before(&self, verb: &str, what: &str) -> Result<()> {
        self.faults.before_docker(&format!("docker {verb} {what}")).await
    }

    fn refuse_taken_port(&self, container: &Container) -> Result<()> {
        let wanted = locked(&self.published).get(&container.id).cloned().unwrap_or_default();
        for address in wanted {
            if self.publisher(address).is_some_and(|other| other.id != container.id) {
                let error = format!("Bind for {address} failed: port is already allocated");
                return Err(DockerError::Refused(error).into());
            }
        }
        Ok(())
    }
}

fn refused<'a, T: Send + 'a>(what: &str) -> Pending<'a, Result<T>> {
    let error = DockerError::Refused(format!("the fake has no {what}"));
    Box::pin(async move { Err(error.into()) })
}

/// The addresses that a container is to publish.
fn addresses(body: &ContainerCreateBody) -> Vec<SocketAddr> {
    let bindings = body.host_config.as_ref().and_then(|config| config.port_bindings.as_ref());
    let bindings = bindings.into_iter().flat_map(|all| all.values()).flatten().flatten();
    let address = |ip: &Option<String>| ip.as_ref().map_or(Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), |ip| ip.parse());
    bindings
        .filter_map(|binding| {
            Some(SocketAddr::new(address(&binding.host_ip).ok()?, binding.host_port.as_ref()?.parse().ok()?))
        })
        .collect()
}

impl Docker for FakeDocker {
    fn ping<'a>(&'a self) -> Pending<'a, Result<()>> {
        Box::pin(self.before("ping", ""))
    }
    fn containers<'a>(&'a self, project: &'a str, _: Look<'a>) -> Pending<'a, Result<Vec<Container>>> {
        Box::pin(async move {
            self.before("list", project).await?;
            let all = locked(&self.containers);
            let is_ours = |container: &&Container| container.label(LABEL_PROJECT) == Some(project);
            Ok(all.values().filter(is_ours).cloned().collect())
        })
    }
    fn create<'a>(&'a self, new: NewContainer) -> Pending<'a, Result<String>> {
        Box::pin(async move {
            let NewContainer { name, body, further } = new;
            self.before("create", &name).await?;
            if self.find(&name).is_ok() {
                return Err(DockerError::Refused(format!("the name {name} is already in use")).into());
            }
            self.did("create", &name);
            let published = addresses(&body);
            let first = body.networking_config.and_then(|config| config.endpoints_config).unwrap_or_default();
            let names = first.into_keys().chain(further.into_iter().map(|(name, _)| name));
            let image = body.image.unwrap_or_default();
            let made = {
                let mut made = locked(&self.made);
                *made += 1;
                *made
            };
            let container = Container {
                id: format!("id-{made}"),
                name: name.clone(),
                labels: body.labels.unwrap_or_default(),
                image_id: self.image(&image).unwrap_or(image),
                state: ContainerState::Created,
                health: None,
                exit_code: 0,
                oom_killed: false,
                network_mode: String::new(),
                addresses: Vec::new(),
                networks: names.map(|name| (name.clone(), format!("id-{name}"))).collect(),
            };
            locked(&self.published).insert(container.id.clone(), published);
            let id = container.id.clone();
            locked(&self.containers).insert(id.clone(), container);
            Ok(id)
        })
    }
    fn started_at<'a>(&'a self, _: &'a str) -> Pending<'a, Result<String>> {
        refused("clock")
    }
    fn start<'a>(&'a self, id: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            let container = self.find(id)?;
            self.before("start", &container.name).await?;
            self.did("start", &container.name);
            if let Some(left) = locked(&self.held).get_mut(&container.name).filter(|left| **left > 0) {
                *left -= 1;
                return Err(DockerError::Refused("id already in use".to_owned()).into());
            }
            self.refuse_taken_port(&container)?;
            self.change(&container, |container| container.state = ContainerState::Running);
            self.tell(&container.id, "start");
            Ok(())
        })
    }
    fn stop<'a>(&'a self, id: &'a str, _: Duration) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            let container = self.find(id)?;
            self.before("stop", &container.name).await?;
            self.did("stop", &container.name);
            self.halt(&container);
            Ok(())
        })
    }
    fn remove<'a>(&'a self, id: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            let found = self.find(id);
            let name = found.as_ref().map_or(id, |container| &container.name);
            self.before("remove", name).await?;
            self.did("remove", name);
            if let Ok(container) = found {
                locked(&self.containers).remove(&container.id);
                locked(&self.published).remove(&container.id);
                locked(&self.held).remove(&container.name);
                self.tell(&container.id, "destroy");
            }
            Ok(())
        })
    }
    fn remove_with_volumes<'a>(&'a self, id: &'a str) -> Pending<'a, Result<()>> {
        self.remove(id)
    }
    fn rename<'a>(&'a self, id: &'a str, name: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            let container = self.find(id)?;
            self.before("rename", &format!("{} {name}", container.name)).await?;
            if self.find(name).is_ok() {
                return Err(DockerError::Refused(format!("the name {name} is already in use")).into());
            }
            self.did("rename", &format!("{} {name}", container.name));
            self.change(&container, |container| container.name = name.to_owned());
            Ok(())
        })
    }
    fn anonymous_volumes<'a>(&'a self, _: &'a str) -> Pending<'a, Result<Vec<(String, String)>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn members<'a>(&'a self, _: &'a str) -> Pending<'a, Result<Vec<String>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn publishes<'a>(&'a self, address: SocketAddr) -> Pending<'a, Result<bool>> {
        Box::pin(async move { Ok(self.publisher(address).is_some()) })
    }
    fn run_to_end<'a>(&'a self, id: &'a str, _: Duration) -> Pending<'a, Result<OneOff>> {
        Box::pin(async move {
            let container = self.find(id)?;
            self.before("run", &container.name).await?;
            let ended = match &*locked(&self.one_offs) {
                Some(of) => of(&container.name, &container.image_id),
                None => OneOff { exit_code: 0, tail: String::new() },
            };
            self.change(&container, |container| {
                (container.state, container.exit_code) = (ContainerState::Exited, ended.exit_code);
            });
            Ok(ended)
        })
    }
    fn image_id<'a>(&'a self, image: &'a str) -> Pending<'a, Result<Option<String>>> {
        Box::pin(async move {
            self.before("inspect", image).await?;
            // An image is found by its id too, for as long as it is there.
            Ok(self.image(image))
        })
    }
    fn image_tagged_at<'a>(&'a self, _: &'a str) -> Pending<'a, Result<Option<jiff::Timestamp>>> {
        refused("clock")
    }
    fn pull<'a>(&'a self, _: &'a str, _: Progress<'a>) -> Pending<'a, Result<()>> {
        refused("registry")
    }
    fn tag<'a>(&'a self, image: &'a str, repository: &'a str, tag: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            self.before("tag", &format!("{image} {repository}:{tag}")).await?;
            let id = self.image(image).ok_or_else(|| DockerError::NotFound(format!("no image {image}")))?;
            locked(&self.images).insert(format!("{repository}:{tag}"), id);
            Ok(())
        })
    }
    fn built_images<'a>(&'a self, _: &'a str) -> Pending<'a, Result<Vec<BuiltImage>>> {
        Box::pin(async move {
            self.before("list", "images").await?;
            let (images, built) = (locked(&self.images), locked(&self.built));
            let mut by_id: BTreeMap<String, BuiltImage> = BTreeMap::new();
            for (tag, id) in images.iter() {
                let Some(commit) = built.get(id) else { continue };
                let image = || BuiltImage { id: id.clone(), names: Vec::new(), commit: commit.clone(), size: 1 };
                by_id.entry(id.clone()).or_insert_with(image).names.push(tag.clone());
            }
            Ok(by_id.into_values().collect())
        })
    }
    fn remove_image<'a>(&'a self, image: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            self.before("remove image", image).await?;
            let Some(id) = self.image(image) else { return Ok(()) };
            let mut images = locked(&self.images);
            let names = images.values().filter(|known| **known == id).count();
            if names == 1 && locked(&self.containers).values().any(|container| container.image_id == id) {
                return Err(DockerError::Refused(format!("{image} is used by a container")).into());
            }
            images.remove(image);
            Ok(())
        })
    }
    fn build<'a>(&'a self, request: BuildRequest, _: Progress<'a>) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            self.before("build", &request.tag).await?;
            let id = format!("sha-{}", request.tag);
            let commit = request.labels.get(LABEL_COMMIT).cloned().unwrap_or_default();
            locked(&self.images).insert(request.tag, id.clone());
            locked(&self.built).insert(id, commit);
            Ok(())
        })
    }
    fn project_networks<'a>(&'a self) -> Pending<'a, Result<Vec<NetworkState>>> {
        Box::pin(async move {
            self.before("list", "networks").await?;
            Ok(locked(&self.networks).clone())
        })
    }
    fn networks<'a>(&'a self, project: &'a str) -> Pending<'a, Result<Vec<NetworkState>>> {
        Box::pin(async move {
            self.before("list", "networks").await?;
            let all = locked(&self.networks);
            let is_ours =
                |network: &&NetworkState| network.labels.get(LABEL_PROJECT).is_some_and(|name| name == project);
            Ok(all.iter().filter(is_ours).cloned().collect())
        })
    }
    fn network_id<'a>(&'a self, name: &'a str) -> Pending<'a, Result<Option<String>>> {
        Box::pin(async move {
            self.before("inspect", name).await?;
            let all = locked(&self.networks);
            Ok(all.iter().find(|network| network.name == name).map(|network| network.id.clone()))
        })
    }
    fn create_network<'a>(&'a self, request: NetworkCreateRequest) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            self.before("network", &request.name).await?;
            self.did("network", &request.name);
            let network = NetworkState {
                id: format!("id-{}", request.name),
                name: request.name,
                labels: request.labels.unwrap_or_default(),
                subnets: vec!["172.18.0.0/16".to_owned()],
                is_hidden: true,
                is_hidden6: true,
            };
            locked(&self.networks).push(network);
            Ok(())
        })
    }
    fn remove_network<'a>(&'a self, name: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            self.before("remove network", name).await?;
            self.did("remove network", name);
            locked(&self.networks).retain(|network| network.name != name);
            Ok(())
        })
    }
    fn remove_volume<'a>(&'a self, name: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            self.before("remove volume", name).await?;
            self.did("remove volume", name);
            locked(&self.volumes).retain(|volume| volume.name != name);
            Ok(())
        })
    }
    fn volumes<'a>(&'a self, _: &'a str) -> Pending<'a, Result<Vec<VolumeState>>> {
        Box::pin(async move {
            self.before("list", "volumes").await?;
            Ok(locked(&self.volumes).clone())
        })
    }
    fn volume<'a>(&'a self, name: &'a str) -> Pending<'a, Result<Option<VolumeState>>> {
        Box::pin(async move {
            self.before("inspect", name).await?;
            Ok(locked(&self.volumes).iter().find(|volume| volume.name == name).cloned())
        })
    }
    fn create_volume<'a>(&'a self, request: VolumeCreateRequest) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            let name = request.name.unwrap_or_default();
            self.before("volume", &name).await?;
            self.did("volume", &name);
            let volume = VolumeState {
                mountpoint: format!("/var/lib/docker/volumes/{name}/_data"),
                name,
                labels: request.labels.unwrap_or_default(),
                driver: request.driver.unwrap_or_else(|| "local".to_owned()),
                options: request.driver_opts.unwrap_or_default(),
            };
            locked(&self.volumes).push(volume);
            Ok(())
        })
    }
    fn api_version<'a>(&'a self) -> Pending<'a, Result<(u32, u32)>> {
        Box::pin(async move {
            self.before("version", "").await?;
            Ok((1, 41))
        })
    }
    fn cgroup_driver<'a>(&'a self) -> Pending<'a, Result<Option<CgroupDriver>>> {
        Box::pin(async move {
            self.before("info", "").await?;
            Ok(Some(CgroupDriver::Systemd))
        })
    }
    fn bridge<'a>(&'a self) -> Pending<'a, Result<Bridge>> {
        Box::pin(async move {
            self.before("inspect", "bridge").await?;
            Ok(Bridge { gateway: [172, 17, 0, 1].into(), subnet: "172.17.0.0/16".to_owned() })
        })
    }
    fn events<'a>(&'a self, project: &'a str) -> Pending<'a, Result<BoxStream<'static, Result<DockerEvent>>>> {
        Box::pin(async move {
            self.before("events of", project).await?;
            let told = futures_util::stream::unfold(self.events.subscribe(), async |mut events| {
                let event = events.recv().await.map_err(anyhow::Error::from);
                Some((event, events))
            });
            Ok(told.boxed())
        })
    }
    fn exec<'a>(&'a self, _: &'a str, _: ExecRequest) -> Pending<'a, Result<ExecSession>> {
        refused("exec")
    }
    fn usage<'a>(&'a self, _: &'a str) -> Pending<'a, Result<Usage>> {
        refused("usage")
    }
    fn processes<'a>(&'a self, _: &'a str) -> Pending<'a, Result<Processes>> {
        refused("processes")
    }
    fn exec_exit_code<'a>(&'a self, _: &'a str) -> Pending<'a, Result<i64>> {
        refused("exec")
    }
    fn exec_resize<'a>(&'a self, _: &'a str, _: u16, _: u16) -> Pending<'a, Result<()>> {
        refused("exec")
    }
}
