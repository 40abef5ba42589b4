//! Fakes that keep state, for tests of steps on a temporary root. They know nothing of what the house wants.

use super::docker::*;
use super::units::UnitState;
use super::{Cmd, Exec, Host, Mode, Output, Pending, Units};
use anyhow::Result;
use bollard::models::{NetworkCreateRequest, VolumeCreateRequest};
use futures_util::stream::BoxStream;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A machine made of a temporary directory and fakes.
pub struct TestHost {
    pub host: Host,
    pub units: Arc<FakeUnits>,
    pub docker: Arc<FakeDocker>,
    directory: tempfile::TempDir,
}

impl Default for TestHost {
    fn default() -> Self {
        TestHost::new()
    }
}

impl TestHost {
    /// With `/etc/passwd` and `/etc/group` in which every name has the numbers of the user who runs the tests.
    pub fn new() -> TestHost {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let (units, docker) = (Arc::new(FakeUnits::default()), Arc::new(FakeDocker::default()));
        let exec = Arc::new(FakeExec);
        let host = Host::new(directory.path().to_owned(), Mode::Apply, exec, units.clone(), docker.clone());
        let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
        let names = ["root", "app", "postgres"];
        let passwd: String = names.iter().map(|name| format!("{name}:x:{uid}:{gid}::/{name}:/bin/sh\n")).collect();
        let group: String = names.iter().map(|name| format!("{name}:x:{gid}:\n")).collect();
        host.put("/etc/passwd", passwd.as_bytes(), 0o644).expect("the file can be written");
        host.put("/etc/group", group.as_bytes(), 0o644).expect("the file can be written");
        TestHost { host, units, docker, directory }
    }

    /// The same machine, as another process has it.
    pub fn another(&self) -> Host {
        let exec = Arc::new(FakeExec);
        Host::new(self.directory.path().to_owned(), Mode::Apply, exec, self.units.clone(), self.docker.clone())
    }
}

/// Every command succeeds and prints nothing.
pub struct FakeExec;

impl Exec for FakeExec {
    fn run<'a>(&'a self, _: &'a Cmd) -> Pending<'a, Result<Output>> {
        Box::pin(async { Ok(Output { code: Some(0), ..Output::default() }) })
    }
}

/// Units that are started stay started.
#[derive(Default)]
pub struct FakeUnits {
    active: Mutex<BTreeMap<String, bool>>,
    pub hostname: Mutex<String>,
    pub jobs: Mutex<Vec<String>>,
}

impl FakeUnits {
    fn job<'a>(&'a self, verb: &'a str, unit: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            self.active.lock().expect("no test panics here").insert(unit.to_owned(), true);
            self.jobs.lock().expect("no test panics here").push(format!("{verb} {unit}"));
            Ok(())
        })
    }
}

impl Units for FakeUnits {
    fn state<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<UnitState>> {
        let active = self.active.lock().expect("no test panics here").contains_key(unit);
        Box::pin(async move { Ok(if active { UnitState::Active } else { UnitState::Inactive }) })
    }
    fn start<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>> {
        self.job("start", unit)
    }
    fn reload<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>> {
        self.job("reload", unit)
    }
    fn restart<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>> {
        self.job("restart", unit)
    }
    fn stop<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>> {
        self.active.lock().expect("no test panics here").remove(unit);
        self.jobs.lock().expect("no test panics here").push(format!("stop {unit}"));
        Box::pin(async { Ok(()) })
    }
    fn reload_all<'a>(&'a self) -> Pending<'a, Result<()>> {
        self.jobs.lock().expect("no test panics here").push("reload all".to_owned());
        Box::pin(async { Ok(()) })
    }
    fn set_hostname<'a>(&'a self, name: &'a str) -> Pending<'a, Result<()>> {
        *self.hostname.lock().expect("no test panics here") = name.to_owned();
        Box::pin(async { Ok(()) })
    }
}

/// Containers, images and networks in maps. What it has no state for is refused.
#[derive(Default)]
pub struct FakeDocker {
    pub containers: Mutex<BTreeMap<String, Container>>,
    pub images: Mutex<BTreeMap<String, String>>,
    pub networks: Mutex<Vec<NetworkState>>,
    pub volumes: Mutex<Vec<VolumeState>>,
    /// How often the start of a container is refused, since containerd holds its id.
    pub held: Mutex<BTreeMap<String, usize>>,
    /// The verbs that changed something, in order.
    pub log: Mutex<Vec<String>>,
}

impl FakeDocker {
    fn did(&self, verb: &str, what: &str) {
        self.log.lock().expect("no test panics here").push(format!("{verb} {what}"));
    }

    fn set_state(&self, id: &str, state: ContainerState) -> Result<()> {
        let mut containers = self.containers.lock().expect("no test panics here");
        let container = containers.get_mut(id).ok_or_else(|| DockerError::NotFound(format!("no container {id}")))?;
        container.state = state;
        Ok(())
    }
}

fn refused<'a, T: Send + 'a>(what: &str) -> Pending<'a, Result<T>> {
    let error = DockerError::Refused(format!("the fake has no {what}"));
    Box::pin(async move { Err(error.into()) })
}

impl Docker for FakeDocker {
    fn ping<'a>(&'a self) -> Pending<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
    fn containers<'a>(&'a self, project: &'a str, _: Look<'a>) -> Pending<'a, Result<Vec<Container>>> {
        let all = self.containers.lock().expect("no test panics here");
        let ours =
            all.values().filter(|container| container.labels.get(LABEL_PROJECT).is_some_and(|name| name == project));
        let found: Vec<Container> = ours.cloned().collect();
        Box::pin(async { Ok(found) })
    }
    fn create<'a>(&'a self, new: NewContainer) -> Pending<'a, Result<String>> {
        let NewContainer { name, body, further } = new;
        self.did("create", &name);
        let first = body.networking_config.and_then(|config| config.endpoints_config).unwrap_or_default();
        let names = first.into_keys().chain(further.into_iter().map(|(name, _)| name));
        let container = Container {
            id: name.clone(),
            name: name.clone(),
            labels: body.labels.unwrap_or_default(),
            image_id: body.image.unwrap_or_default(),
            state: ContainerState::Created,
            health: None,
            exit_code: 0,
            oom_killed: false,
            network_mode: String::new(),
            addresses: Vec::new(),
            networks: names.map(|name| (name.clone(), format!("id-{name}"))).collect(),
        };
        self.containers.lock().expect("no test panics here").insert(name.clone(), container);
        Box::pin(async move { Ok(name) })
    }
    fn started_at<'a>(&'a self, _: &'a str) -> Pending<'a, Result<String>> {
        refused("clock")
    }
    fn start<'a>(&'a self, id: &'a str) -> Pending<'a, Result<()>> {
        self.did("start", id);
        if let Some(left) = self.held.lock().expect("no test panics here").get_mut(id).filter(|left| **left > 0) {
            *left -= 1;
            return Box::pin(async { Err(DockerError::Refused("id already in use".to_owned()).into()) });
        }
        let done = self.set_state(id, ContainerState::Running);
        Box::pin(async { done })
    }
    fn stop<'a>(&'a self, id: &'a str, _: Duration) -> Pending<'a, Result<()>> {
        self.did("stop", id);
        let done = self.set_state(id, ContainerState::Exited);
        Box::pin(async { done })
    }
    fn remove<'a>(&'a self, id: &'a str) -> Pending<'a, Result<()>> {
        self.did("remove", id);
        self.containers.lock().expect("no test panics here").remove(id);
        Box::pin(async { Ok(()) })
    }
    fn remove_with_volumes<'a>(&'a self, id: &'a str) -> Pending<'a, Result<()>> {
        self.remove(id)
    }
    fn rename<'a>(&'a self, id: &'a str, name: &'a str) -> Pending<'a, Result<()>> {
        self.did("rename", &format!("{id} {name}"));
        // The fake's ids are its names.
        let mut containers = self.containers.lock().expect("no test panics here");
        if let Some(container) = containers.get_mut(id) {
            container.name = name.to_owned();
        }
        Box::pin(async { Ok(()) })
    }
    fn anonymous_volumes<'a>(&'a self, _: &'a str) -> Pending<'a, Result<Vec<(String, String)>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn members<'a>(&'a self, _: &'a str) -> Pending<'a, Result<Vec<String>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn publishes<'a>(&'a self, _: std::net::SocketAddr) -> Pending<'a, Result<bool>> {
        Box::pin(async { Ok(false) })
    }
    fn run_to_end<'a>(&'a self, id: &'a str, _: Duration) -> Pending<'a, Result<OneOff>> {
        let done = self.set_state(id, ContainerState::Exited);
        Box::pin(async { done.map(|()| OneOff { exit_code: 0, tail: String::new() }) })
    }
    fn image_id<'a>(&'a self, image: &'a str) -> Pending<'a, Result<Option<String>>> {
        let images = self.images.lock().expect("no test panics here");
        // An image is found by its id too, for as long as it is there.
        let id = images.get(image).or_else(|| images.values().find(|id| *id == image)).cloned();
        drop(images);
        Box::pin(async { Ok(id) })
    }
    fn image_tagged_at<'a>(&'a self, _: &'a str) -> Pending<'a, Result<Option<jiff::Timestamp>>> {
        refused("clock")
    }
    fn pull<'a>(&'a self, _: &'a str, _: Progress<'a>) -> Pending<'a, Result<()>> {
        refused("registry")
    }
    fn tag<'a>(&'a self, image: &'a str, repository: &'a str, tag: &'a str) -> Pending<'a, Result<()>> {
        let mut images = self.images.lock().expect("no test panics here");
        if let Some(id) = images.get(image).cloned() {
            images.insert(format!("{repository}:{tag}"), id);
        }
        Box::pin(async { Ok(()) })
    }
    fn built_images<'a>(&'a self, _: &'a str) -> Pending<'a, Result<Vec<BuiltImage>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn remove_image<'a>(&'a self, _: &'a str) -> Pending<'a, Result<()>> {
        refused("images to remove")
    }
    fn build<'a>(&'a self, _: BuildRequest, _: Progress<'a>) -> Pending<'a, Result<()>> {
        refused("builder")
    }
    fn networks<'a>(&'a self, project: &'a str) -> Pending<'a, Result<Vec<NetworkState>>> {
        let all = self.networks.lock().expect("no test panics here");
        let ours = all.iter().filter(|network| network.labels.get(LABEL_PROJECT).is_some_and(|name| name == project));
        let found: Vec<NetworkState> = ours.cloned().collect();
        Box::pin(async { Ok(found) })
    }
    fn network_id<'a>(&'a self, name: &'a str) -> Pending<'a, Result<Option<String>>> {
        let all = self.networks.lock().expect("no test panics here");
        let found = all.iter().find(|network| network.name == name).map(|network| network.id.clone());
        Box::pin(async { Ok(found) })
    }
    fn create_network<'a>(&'a self, request: NetworkCreateRequest) -> Pending<'a, Result<()>> {
        self.did("network", &request.name);
        let network = NetworkState {
            id: format!("id-{}", request.name),
            name: request.name,
            labels: request.labels.unwrap_or_default(),
            subnets: vec!["172.18.0.0/16".to_owned()],
            is_hidden: true,
            is_hidden6: true,
        };
        self.networks.lock().expect("no test panics here").push(network);
        Box::pin(async { Ok(()) })
    }
    fn remove_network<'a>(&'a self, name: &'a str) -> Pending<'a, Result<()>> {
        self.did("remove network", name);
        self.networks.lock().expect("no test panics here").retain(|network| network.name != name);
        Box::pin(async { Ok(()) })
    }
    fn volumes<'a>(&'a self, _: &'a str) -> Pending<'a, Result<Vec<VolumeState>>> {
        let found = self.volumes.lock().expect("no test panics here").clone();
        Box::pin(async { Ok(found) })
    }
    fn volume<'a>(&'a self, name: &'a str) -> Pending<'a, Result<Option<VolumeState>>> {
        let found =
            self.volumes.lock().expect("no test panics here").iter().find(|volume| volume.name == name).cloned();
        Box::pin(async move { Ok(found) })
    }
    fn create_volume<'a>(&'a self, request: VolumeCreateRequest) -> Pending<'a, Result<()>> {
        let name = request.name.unwrap_or_default();
        self.did("volume", &name);
        let volume = VolumeState {
            name,
            labels: request.labels.unwrap_or_default(),
            driver: request.driver.unwrap_or_else(|| "local".to_owned()),
            options: request.driver_opts.unwrap_or_default(),
        };
        self.volumes.lock().expect("no test panics here").push(volume);
        Box::pin(async { Ok(()) })
    }
    fn api_version<'a>(&'a self) -> Pending<'a, Result<(u32, u32)>> {
        Box::pin(async { Ok((1, 41)) })
    }
    fn bridge<'a>(&'a self) -> Pending<'a, Result<Bridge>> {
        Box::pin(async { Ok(Bridge { gateway: [172, 17, 0, 1].into(), subnet: "172.17.0.0/16".to_owned() }) })
    }
    fn events<'a>(&'a self, _: &'a str) -> Pending<'a, Result<BoxStream<'static, Result<DockerEvent>>>> {
        refused("events")
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
