//! Docker's API through bollard, on the local socket: the connection, deadlines, and which call each verb is. What a verb takes more
//! than one call for is in `containers.rs`, `images.rs` and `surroundings.rs`.

mod containers;
mod convert;
mod credentials;
mod images;
mod surroundings;
mod version;

use super::Pending;
use super::docker::*;
use anyhow::{Context, Result};
use bollard::errors::Error as ApiError;
use bollard::models::{NetworkCreateRequest, SystemInfoCgroupDriverEnum, VolumeCreateRequest};
use bollard::query_parameters::*;
use convert::{docker_error, first_address, is_of_another_version};
use futures_util::stream::{BoxStream, StreamExt};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::sync::Mutex;

const SOCKET: &str = "/var/run/docker.sock";
/// How long a verb that should be quick may take.
const QUICK: Duration = Duration::from_secs(60);
/// How long building or pulling one image may take. Slow networks and slow disks are allowed for; a hang is not.
const LONG: Duration = Duration::from_secs(3 * 3600);
/// The client's own limit for the head of an answer; the verbs' deadlines are shorter.
const CLIENT_LIMIT_S: u64 = 4 * 3600;

/// The local engine. Connects at first use, so that a daemon that is away is an error of the verb.
pub struct Engine {
    /// One for each version of the API that was agreed on: the daemon may be replaced by another one while this process lives. They are
    /// never freed, since verbs may still be at them; another version is a matter of years.
    client: Mutex<Option<&'static bollard::Docker>>,
}

impl Engine {
    pub fn local() -> Engine {
        Engine { client: Mutex::new(None) }
    }

    async fn client(&self) -> Result<&'static bollard::Docker> {
        let mut client = self.client.lock().await;
        if let Some(known) = *client {
            return Ok(known);
        }
        let ours = bollard::API_DEFAULT_VERSION;
        let connect =
            |version: &bollard::ClientVersion| bollard::Docker::connect_with_socket(SOCKET, CLIENT_LIMIT_S, version);
        let negotiate = async {
            match version::spoken(SOCKET).await? {
                Some(theirs) if theirs < *ours => connect(&theirs).map_err(docker_error),
                Some(_) => connect(ours).map_err(docker_error),
                None => connect(ours).map_err(docker_error)?.negotiate_version().await.map_err(docker_error),
            }
        };
        let made = tokio::time::timeout(QUICK, negotiate).await.unwrap_or_else(|_| Err(too_slow("answer", QUICK)))?;
        let made: &'static bollard::Docker = Box::leak(Box::new(made));
        *client = Some(made);
        Ok(made)
    }

    /// The daemon refuses the version that was agreed on: the next verb agrees on another one.
    async fn forget_version(&self, error: &ApiError) {
        if let ApiError::DockerResponseServerError { message, .. } = error
            && is_of_another_version(message)
        {
            *self.client.lock().await = None;
        }
    }

    /// One call with a deadline.
    async fn call<'a, T, F>(
        &'a self,
        verb: &'static str,
        deadline: Duration,
        call: impl FnOnce(&'a bollard::Docker) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, ApiError>>,
    {
        let client = self.client().await?;
        match tokio::time::timeout(deadline, call(client)).await {
            Ok(Err(error)) => {
                self.forget_version(&error).await;
                Err(docker_error(error))
            }
            Ok(Ok(done)) => Ok(done),
            Err(_) => Err(too_slow(verb, deadline)),
        }
    }
}

fn too_slow(verb: &'static str, deadline: Duration) -> anyhow::Error {
    DockerError::TooSlow { verb, seconds: deadline.as_secs(), is_long: false }.into()
}

fn too_long(verb: &'static str, deadline: Duration) -> anyhow::Error {
    DockerError::TooSlow { verb, seconds: deadline.as_secs(), is_long: true }.into()
}

/// Hands a stream's lines on until it ends, with one deadline for all of it.
async fn drain<T, S>(verb: &'static str, stream: S, mut each: impl FnMut(T) -> Result<()>) -> Result<()>
where
    S: futures_util::Stream<Item = std::result::Result<T, ApiError>>,
{
    let work = async {
        futures_util::pin_mut!(stream);
        while let Some(item) = stream.next().await {
            each(item.map_err(docker_error)?)?;
        }
        Ok(())
    };
    match tokio::time::timeout(LONG, work).await {
        Ok(result) => result,
        Err(_) => Err(too_long(verb, LONG)),
    }
}

impl Docker for Engine {
    fn ping<'a>(&'a self) -> Pending<'a, Result<()>> {
        Box::pin(async move { self.call("answer", QUICK, |api| api.ping()).await.map(|_| ()) })
    }

    fn containers<'a>(&'a self, project: &'a str, look: Look<'a>) -> Pending<'a, Result<Vec<Container>>> {
        Box::pin(self.list(project, look))
    }

    fn create<'a>(&'a self, container: NewContainer) -> Pending<'a, Result<String>> {
        Box::pin(self.create_whole(container))
    }

    fn started_at<'a>(&'a self, id: &'a str) -> Pending<'a, Result<String>> {
        Box::pin(self.start_time(id))
    }

    fn start<'a>(&'a self, id: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(self.call("start the container", QUICK, |api| api.start_container(id, None)))
    }

    fn stop<'a>(&'a self, id: &'a str, grace: Duration) -> Pending<'a, Result<()>> {
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptions { t: Some(seconds), ..Default::default() };
        Box::pin(async move {
            match self.call("stop the container", grace + QUICK, |api| api.stop_container(id, Some(options))).await {
                Err(error) if is_missing(&error) => Ok(()),
                other => other,
            }
        })
    }

    fn remove<'a>(&'a self, id: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(self.remove_container(id, false))
    }

    fn remove_with_volumes<'a>(&'a self, id: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(self.remove_container(id, true))
    }

    fn rename<'a>(&'a self, id: &'a str, name: &'a str) -> Pending<'a, Result<()>> {
        let options = RenameContainerOptions { name: name.to_owned() };
        Box::pin(self.call("rename the container", QUICK, move |api| api.rename_container(id, options)))
    }

    fn anonymous_volumes<'a>(&'a self, id: &'a str) -> Pending<'a, Result<Vec<(String, String)>>> {
        Box::pin(self.find_anonymous_volumes(id))
    }

    fn members<'a>(&'a self, network: &'a str) -> Pending<'a, Result<Vec<String>>> {
        Box::pin(async move {
            match self.call("inspect the network", QUICK, |api| api.inspect_network(network, None)).await {
                Ok(found) => Ok(found.containers.unwrap_or_default().into_keys().collect()),
                Err(error) if is_missing(&error) => Ok(Vec::new()),
                Err(error) => Err(error),
            }
        })
    }

    fn publishes<'a>(&'a self, address: SocketAddr) -> Pending<'a, Result<bool>> {
        Box::pin(async move {
            let all = self.call("list the containers", QUICK, |api| api.list_containers(None)).await?;
            let mut ports = all.iter().flat_map(|container| container.ports.iter().flatten());
            Ok(ports.any(|published| {
                let ip = published.ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
                let meets =
                    ip.is_none_or(|ip| ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified());
                published.public_port == Some(address.port()) && meets
            }))
        })
    }

    fn run_to_end<'a>(&'a self, id: &'a str, deadline: Duration) -> Pending<'a, Result<OneOff>> {
        Box::pin(self.wait_for_end(id, deadline))
    }

    fn image_id<'a>(&'a self, image: &'a str) -> Pending<'a, Result<Option<String>>> {
        Box::pin(async move {
            match self.call("inspect the image", QUICK, |api| api.inspect_image(image)).await {
                Ok(inspected) => Ok(inspected.id),
                Err(error) if is_missing(&error) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    fn image_tagged_at<'a>(&'a self, image: &'a str) -> Pending<'a, Result<Option<jiff::Timestamp>>> {
        Box::pin(self.tag_time(image))
    }

    fn pull<'a>(&'a self, image: &'a str, progress: Progress<'a>) -> Pending<'a, Result<()>> {
        Box::pin(self.pull_image(image, progress))
    }

    fn built_images<'a>(&'a self, project: &'a str) -> Pending<'a, Result<Vec<BuiltImage>>> {
        Box::pin(self.list_built(project))
    }

    fn remove_image<'a>(&'a self, image: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            let options = Some(RemoveImageOptions::default());
            match self.call("remove the image", QUICK, |api| api.remove_image(image, options, None)).await {
                Err(error) if is_missing(&error) => Ok(()),
                other => other.map(drop),
            }
        })
    }

    fn tag<'a>(&'a self, image: &'a str, repository: &'a str, tag: &'a str) -> Pending<'a, Result<()>> {
        let options = TagImageOptions { repo: Some(repository.to_owned()), tag: Some(tag.to_owned()) };
        Box::pin(self.call("tag the image", QUICK, move |api| api.tag_image(image, Some(options))))
    }

    fn build<'a>(&'a self, request: BuildRequest, progress: Progress<'a>) -> Pending<'a, Result<()>> {
        Box::pin(self.build_image(request, progress))
    }

    fn project_networks<'a>(&'a self) -> Pending<'a, Result<Vec<NetworkState>>> {
        Box::pin(self.list_project_networks())
    }

    fn networks<'a>(&'a self, project: &'a str) -> Pending<'a, Result<Vec<NetworkState>>> {
        Box::pin(self.list_networks(project))
    }

    fn network_id<'a>(&'a self, name: &'a str) -> Pending<'a, Result<Option<String>>> {
        Box::pin(self.find_network(name))
    }

    fn create_network<'a>(&'a self, network: NetworkCreateRequest) -> Pending<'a, Result<()>> {
        Box::pin(
            async move { self.call("create the network", QUICK, |api| api.create_network(network)).await.map(|_| ()) },
        )
    }

    fn remove_network<'a>(&'a self, name: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            match self.call("remove the network", QUICK, |api| api.remove_network(name)).await {
                Err(error) if is_missing(&error) => Ok(()),
                other => other.with_context(|| format!("could not remove the network {name}")),
            }
        })
    }

    fn remove_volume<'a>(&'a self, name: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            let options = None::<bollard::query_parameters::RemoveVolumeOptions>;
            match self.call("remove the volume", QUICK, |api| api.remove_volume(name, options)).await {
                Err(error) if is_missing(&error) => Ok(()),
                other => other.with_context(|| format!("could not remove the volume {name}")),
            }
        })
    }

    fn volumes<'a>(&'a self, project: &'a str) -> Pending<'a, Result<Vec<VolumeState>>> {
        Box::pin(self.list_volumes(project))
    }

    fn volume<'a>(&'a self, name: &'a str) -> Pending<'a, Result<Option<VolumeState>>> {
        Box::pin(async move {
            match self.call("inspect the volume", QUICK, |api| api.inspect_volume(name)).await {
                Ok(found) => Ok(Some(convert::volume(found))),
                Err(error) if is_missing(&error) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    fn create_volume<'a>(&'a self, volume: VolumeCreateRequest) -> Pending<'a, Result<()>> {
        Box::pin(
            async move { self.call("create the volume", QUICK, |api| api.create_volume(volume)).await.map(|_| ()) },
        )
    }

    fn api_version<'a>(&'a self) -> Pending<'a, Result<(u32, u32)>> {
        Box::pin(async move {
            let version = self.client().await?.client_version();
            // Versions are small numbers.
            let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
            Ok((number(version.major_version), number(version.minor_version)))
        })
    }

    fn cgroup_driver<'a>(&'a self) -> Pending<'a, Result<Option<CgroupDriver>>> {
        Box::pin(async move {
            let info = self.call("tell about itself", QUICK, bollard::Docker::info).await?;
            Ok(match info.cgroup_driver {
                Some(SystemInfoCgroupDriverEnum::SYSTEMD) => Some(CgroupDriver::Systemd),
                Some(SystemInfoCgroupDriverEnum::CGROUPFS) => Some(CgroupDriver::Cgroupfs),
                _ => None,
            })
        })
    }

    fn bridge<'a>(&'a self) -> Pending<'a, Result<Bridge>> {
        Box::pin(async move {
            let inspected = self.call("inspect the bridge", QUICK, |api| api.inspect_network("bridge", None)).await?;
            let config =
                inspected.ipam.and_then(|ipam| ipam.config).unwrap_or_default().into_iter().next().unwrap_or_default();
            let subnet = config.subnet.context("Docker's bridge has no IPv4 subnet")?;
            let gateway = match config.gateway.and_then(|gateway| gateway.parse().ok()) {
                Some(gateway) => gateway,
                // Before its first container, an old engine names no gateway: it takes the subnet's first address.
                None => {
                    first_address(&subnet).with_context(|| format!("Docker's bridge has the odd subnet {subnet}"))?
                }
            };
            Ok(Bridge { gateway, subnet })
        })
    }

    fn events<'a>(&'a self, project: &'a str) -> Pending<'a, Result<BoxStream<'static, Result<DockerEvent>>>> {
        Box::pin(self.event_stream(project))
    }

    fn exec<'a>(&'a self, id: &'a str, request: ExecRequest) -> Pending<'a, Result<ExecSession>> {
        Box::pin(self.open_exec(id, request))
    }

    fn usage<'a>(&'a self, id: &'a str) -> Pending<'a, Result<Usage>> {
        Box::pin(self.measure(id))
    }

    fn processes<'a>(&'a self, id: &'a str) -> Pending<'a, Result<Processes>> {
        Box::pin(async move {
            let found = self.call("list processes", QUICK, |api| api.top_processes(id, None)).await?;
            Ok((found.titles.unwrap_or_default(), found.processes.unwrap_or_default()))
        })
    }

    fn exec_exit_code<'a>(&'a self, exec: &'a str) -> Pending<'a, Result<i64>> {
        Box::pin(async move {
            let inspected = self.call("inspect the command", QUICK, |api| api.inspect_exec(exec)).await?;
            inspected.exit_code.context("Docker does not know how the command ended")
        })
    }

    fn exec_resize<'a>(&'a self, exec: &'a str, rows: u16, columns: u16) -> Pending<'a, Result<()>> {
        let options = ResizeExecOptions { h: i32::from(rows), w: i32::from(columns) };
        Box::pin(self.call("resize the terminal", QUICK, move |api| api.resize_exec(exec, options)))
    }
}
