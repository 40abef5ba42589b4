//! Docker's API through bollard, on the local socket.

mod convert;

use super::Pending;
use super::build::context_stream;
use super::docker::*;
use anyhow::{Context, Result, anyhow};
use bollard::errors::Error as ApiError;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{ContainerCreateBody, NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::*;
use convert::{by_label, container, docker_error, first_address, network, tag_of};
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;
use tokio::sync::OnceCell;

const SOCKET: &str = "/var/run/docker.sock";
/// How long a verb that should be quick may take.
const QUICK: Duration = Duration::from_secs(60);
/// How long building or pulling one image may take. Slow networks and slow disks are allowed for; a hang is not.
const LONG: Duration = Duration::from_secs(3 * 3600);
/// The client's own limit for the head of an answer; the verbs' deadlines are shorter.
const CLIENT_LIMIT_S: u64 = 4 * 3600;

/// The local engine. Connects at first use, so that a daemon that is away is an error of the verb.
pub struct Engine {
    client: OnceCell<bollard::Docker>,
}

impl Engine {
    pub fn local() -> Engine {
        Engine { client: OnceCell::new() }
    }

    async fn client(&self) -> Result<&bollard::Docker> {
        self.client
            .get_or_try_init(|| async {
                let connect =
                    bollard::Docker::connect_with_socket(SOCKET, CLIENT_LIMIT_S, bollard::API_DEFAULT_VERSION);
                let negotiate = connect.map_err(docker_error)?.negotiate_version();
                match tokio::time::timeout(QUICK, negotiate).await {
                    Ok(client) => client.map_err(docker_error),
                    Err(_) => Err(too_slow("answer", QUICK)),
                }
            })
            .await
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
            Ok(result) => result.map_err(docker_error),
            Err(_) => Err(too_slow(verb, deadline)),
        }
    }
}

fn too_slow(verb: &'static str, deadline: Duration) -> anyhow::Error {
    DockerError::TooSlow { verb, seconds: deadline.as_secs() }.into()
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
        Err(_) => Err(too_slow(verb, LONG)),
    }
}

impl Engine {
    async fn list(&self, project: &str) -> Result<Vec<Container>> {
        let options =
            ListContainersOptions { all: true, filters: by_label(LABEL_PROJECT, project), ..Default::default() };
        let found = self.call("list containers", QUICK, |api| api.list_containers(Some(options))).await?;
        let ids: Vec<String> = found.into_iter().filter_map(|summary| summary.id).collect();
        let inspects = futures_util::stream::iter(ids).map(|id| async move {
            match self.call("inspect", QUICK, |api| api.inspect_container(&id, None)).await {
                Ok(inspected) => Ok(Some(container(inspected))),
                // Gone between the two calls.
                Err(error) if is_missing(&error) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let mut all: Vec<Container> =
            inspects.buffered(16).try_filter_map(|container| async move { Ok(container) }).try_collect().await?;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    async fn wait_for_end(&self, id: &str, deadline: Duration) -> Result<OneOff> {
        self.call("start", QUICK, |api| api.start_container(id, None)).await?;
        let client = self.client().await?;
        let ended = tokio::time::timeout(deadline, client.wait_container(id, None).next()).await;
        let exit_code = match ended.map_err(|_| too_slow("finish the container", deadline))? {
            Some(Ok(end)) => end.status_code,
            Some(Err(ApiError::DockerContainerWaitError { code, .. })) => code,
            Some(Err(other)) => return Err(docker_error(other)),
            None => return Err(anyhow!("Docker ended the wait for the container without an answer")),
        };
        let options = LogsOptions { stdout: true, stderr: true, tail: "20".to_owned(), ..Default::default() };
        let read = client
            .logs(id, Some(options))
            .take(200)
            .try_fold(String::new(), |all, line| async move { Ok(all + &line.to_string()) });
        let tail = match tokio::time::timeout(Duration::from_secs(10), read).await {
            Ok(Ok(tail)) => tail,
            // The exit code is what counts; its last words are a help only.
            Ok(Err(error)) => format!("(its last lines could not be read: {error})"),
            Err(_) => "(its last lines could not be read in time)".to_owned(),
        };
        Ok(OneOff { exit_code, tail })
    }

    async fn open_exec(&self, id: &str, command: Vec<String>, tty: bool) -> Result<ExecSession> {
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(tty),
            cmd: Some(command),
            ..Default::default()
        };
        let exec = self.call("prepare the command", QUICK, |api| api.create_exec(id, options)).await?;
        let start = Some(StartExecOptions { detach: false, tty, output_capacity: Some(64 * 1024) });
        match self.call("start the command", QUICK, |api| api.start_exec(&exec.id, start)).await? {
            StartExecResults::Attached { output, input } => Ok(ExecSession { id: exec.id, output, input }),
            StartExecResults::Detached => Err(anyhow!("Docker started the command without its streams")),
        }
    }

    async fn event_stream(&self, project: &str) -> Result<BoxStream<'static, Result<ContainerEvent>>> {
        let client = self.client().await?;
        let mut filters = by_label(LABEL_PROJECT, project).unwrap_or_default();
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        // Health checks' exec events are many and change nothing; they are not asked for.
        let wanted = ["die", "start", "destroy", "oom", "health_status", "pause", "unpause"];
        filters.insert("event".to_owned(), wanted.map(str::to_owned).to_vec());
        // The request is only sent when the stream is first polled: what happened since is replayed from here.
        let now = super::now();
        let since = Some(format!("{}.{:09}", now.as_second(), now.subsec_nanosecond()));
        let options = EventsOptions { since, filters: Some(filters), ..Default::default() };
        let stream = client.events(Some(options));
        let events = stream.map(|item| {
            let message = item.map_err(docker_error)?;
            let actor = message.actor.unwrap_or_default();
            Ok(ContainerEvent {
                action: message.action.unwrap_or_default(),
                container_id: actor.id.unwrap_or_default(),
                service: actor.attributes.unwrap_or_default().remove(LABEL_SERVICE).unwrap_or_default(),
            })
        });
        Ok(events.boxed())
    }
}

impl Docker for Engine {
    fn ping<'a>(&'a self) -> Pending<'a, Result<()>> {
        Box::pin(async move { self.call("answer", QUICK, |api| api.ping()).await.map(|_| ()) })
    }

    fn containers<'a>(&'a self, project: &'a str) -> Pending<'a, Result<Vec<Container>>> {
        Box::pin(self.list(project))
    }

    fn create<'a>(&'a self, name: &'a str, body: ContainerCreateBody) -> Pending<'a, Result<String>> {
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..Default::default() };
        Box::pin(async move {
            let created =
                self.call("create the container", QUICK, |api| api.create_container(Some(options), body)).await;
            created.map(|container| container.id).with_context(|| format!("could not create the container {name}"))
        })
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
        let options = RemoveContainerOptions { v: true, force: true, ..Default::default() };
        Box::pin(async move {
            match self.call("remove the container", QUICK, |api| api.remove_container(id, Some(options))).await {
                Err(error) if is_missing(&error) => Ok(()),
                other => other,
            }
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

    fn pull<'a>(&'a self, image: &'a str, progress: Progress<'a>) -> Pending<'a, Result<()>> {
        let by_digest = image.contains('@');
        let tag = (!by_digest).then(|| tag_of(image).to_owned());
        let options = CreateImageOptions { from_image: Some(image.to_owned()), tag, ..Default::default() };
        Box::pin(async move {
            let stream = self.client().await?.create_image(Some(options), None, None);
            let pulled = drain("pull", stream, |info| {
                if let Some(status) = info.status.filter(|_| info.progress_detail.is_none_or(|p| p.current.is_none())) {
                    progress(&status);
                }
                Ok(())
            });
            pulled.await.with_context(|| format!("could not pull {image}"))
        })
    }

    fn tag<'a>(&'a self, image: &'a str, repository: &'a str, tag: &'a str) -> Pending<'a, Result<()>> {
        let options = TagImageOptions { repo: Some(repository.to_owned()), tag: Some(tag.to_owned()) };
        Box::pin(self.call("tag the image", QUICK, move |api| api.tag_image(image, Some(options))))
    }

    fn build<'a>(&'a self, request: BuildRequest, progress: Progress<'a>) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            let options = BuildImageOptions {
                dockerfile: request.dockerfile.clone(),
                t: Some(request.tag.clone()),
                buildargs: Some(request.args.clone().into_iter().collect()),
                labels: Some(request.labels.clone().into_iter().collect()),
                target: request.target.clone(),
                networkmode: request.network.clone(),
                cachefrom: Some(request.cache_from.clone()).filter(|list| !list.is_empty()),
                rm: true,
                forcerm: true,
                ..Default::default()
            };
            let context = context_stream(&request.context, &request.dockerfile)?;
            let stream = self.client().await?.build_image(options, None, Some(bollard::body_try_stream(context)));
            let built = drain("build", stream, |info| {
                if let Some(failed) = info.error_detail {
                    return Err(DockerError::Refused(failed.message.unwrap_or_default()).into());
                }
                if let Some(text) = info.stream.as_deref().map(str::trim_end).filter(|text| !text.is_empty()) {
                    progress(text);
                }
                Ok(())
            });
            built.await.with_context(|| format!("could not build {}", request.tag))
        })
    }

    fn networks<'a>(&'a self, project: &'a str) -> Pending<'a, Result<Vec<NetworkState>>> {
        let options = ListNetworksOptions { filters: by_label(LABEL_PROJECT, project) };
        Box::pin(async move {
            let found = self.call("list networks", QUICK, |api| api.list_networks(Some(options))).await?;
            Ok(found.into_iter().map(network).collect())
        })
    }

    fn create_network<'a>(&'a self, name: &'a str, labels: HashMap<String, String>) -> Pending<'a, Result<()>> {
        let request = NetworkCreateRequest { name: name.to_owned(), labels: Some(labels), ..Default::default() };
        Box::pin(
            async move { self.call("create the network", QUICK, |api| api.create_network(request)).await.map(|_| ()) },
        )
    }

    fn create_volume<'a>(&'a self, name: &'a str, labels: HashMap<String, String>) -> Pending<'a, Result<()>> {
        let request = VolumeCreateRequest { name: Some(name.to_owned()), labels: Some(labels), ..Default::default() };
        Box::pin(
            async move { self.call("create the volume", QUICK, |api| api.create_volume(request)).await.map(|_| ()) },
        )
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

    fn events<'a>(&'a self, project: &'a str) -> Pending<'a, Result<BoxStream<'static, Result<ContainerEvent>>>> {
        Box::pin(self.event_stream(project))
    }

    fn exec<'a>(&'a self, id: &'a str, command: Vec<String>, tty: bool) -> Pending<'a, Result<ExecSession>> {
        Box::pin(self.open_exec(id, command, tty))
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
