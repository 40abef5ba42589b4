//! Verbs about containers that take more than one call.

use super::convert::{by_label, docker_error, inspected, summary, usage};
use super::{Engine, QUICK, too_long, too_slow};
use crate::host::docker::*;
use anyhow::{Context, Result, anyhow};
use bollard::errors::Error as ApiError;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{EventMessage, EventMessageTypeEnum, NetworkConnectRequest};
use bollard::query_parameters::*;
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::time::Duration;

/// How many calls are under way at once where one is made for each container.
const AT_ONCE: usize = 16;
/// No event is taken to be older: a listener that is so late is one that was stopped.
const OLDEST: Duration = Duration::from_secs(600);

impl Engine {
    /// Those that ended are always asked for how.
    pub(super) async fn list(&self, project: &str, look: Look<'_>) -> Result<Vec<Container>> {
        let options =
            ListContainersOptions { all: true, filters: by_label(LABEL_PROJECT, project), ..Default::default() };
        let found = self.call("list containers", QUICK, |api| api.list_containers(Some(options))).await?;
        let known = futures_util::stream::iter(found.into_iter().map(summary)).map(|known| async move {
            let has_ended = known.state == ContainerState::Exited || known.state == ContainerState::Dead;
            let is_doubtful = match look {
                Look::Close => true,
                Look::After(named) => named.contains(&known.id),
                Look::Quick => false,
            };
            if !(has_ended || is_doubtful) {
                return Ok(Some(known));
            }
            match self.call("inspect", QUICK, |api| api.inspect_container(&known.id, None)).await {
                Ok(details) => Ok(Some(inspected(known.clone(), details))),
                // Gone between the two calls.
                Err(error) if is_missing(&error) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let mut all: Vec<Container> =
            known.buffered(AT_ONCE).try_filter_map(|container| async move { Ok(container) }).try_collect().await?;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    pub(super) async fn create_whole(&self, container: NewContainer) -> Result<String> {
        let NewContainer { name, body, further } = container;
        let options = CreateContainerOptions { name: Some(name.clone()), ..Default::default() };
        let created = self.call("create the container", QUICK, |api| api.create_container(Some(options), body)).await;
        let id = created.with_context(|| format!("could not create the container {name}"))?.id;
        for (network, endpoint) in further {
            let request = NetworkConnectRequest { container: id.clone(), endpoint_config: Some(endpoint) };
            let connected = self.call("connect", QUICK, |api| api.connect_network(&network, request)).await;
            connected.with_context(|| format!("could not connect {name} to the network {network}"))?;
        }
        Ok(id)
    }

    pub(super) async fn remove_container(&self, id: &str, with_volumes: bool) -> Result<()> {
        let options = RemoveContainerOptions { v: with_volumes, force: true, ..Default::default() };
        match self.call("remove the container", QUICK, |api| api.remove_container(id, Some(options))).await {
            Err(error) if is_missing(&error) => Ok(()),
            other => other,
        }
    }

    pub(super) async fn find_anonymous_volumes(&self, id: &str) -> Result<Vec<(String, String)>> {
        let details = self.call("inspect", QUICK, |api| api.inspect_container(id, None)).await?;
        let volumes = details.mounts.unwrap_or_default().into_iter().filter_map(|mount| {
            let name = mount.name?;
            // Docker gives them 64 hexadecimal digits for a name.
            let is_anonymous = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
            is_anonymous.then_some((mount.destination?, name))
        });
        Ok(volumes.collect())
    }

    pub(super) async fn start_time(&self, id: &str) -> Result<String> {
        let details = self.call("inspect", QUICK, |api| api.inspect_container(id, None)).await?;
        Ok(details.state.and_then(|state| state.started_at).unwrap_or_default())
    }

    pub(super) async fn wait_for_end(&self, id: &str, deadline: Duration) -> Result<OneOff> {
        self.call("start", QUICK, |api| api.start_container(id, None)).await?;
        let client = self.client().await?;
        let ended = tokio::time::timeout(deadline, client.wait_container(id, None).next()).await;
        let exit_code = match ended.map_err(|_| too_long("finish the container", deadline))? {
            Some(Ok(end)) => end.status_code,
            Some(Err(ApiError::DockerContainerWaitError { code, .. })) => code,
            Some(Err(other)) => return Err(docker_error(other)),
            None => {
                return Err(
                    DockerError::Away("it ended the wait for the container without an answer".to_owned()).into()
                );
            }
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

    pub(super) async fn measure(&self, id: &str) -> Result<Usage> {
        let options = StatsOptions { stream: false, one_shot: false };
        let client = self.client().await?;
        match tokio::time::timeout(QUICK, client.stats(id, Some(options)).next()).await {
            Ok(Some(found)) => Ok(usage(found.map_err(docker_error)?)),
            Ok(None) => Err(anyhow!("Docker told nothing of the container's use")),
            Err(_) => Err(too_slow("measure the container", QUICK)),
        }
    }

    pub(super) async fn open_exec(&self, id: &str, request: ExecRequest) -> Result<ExecSession> {
        let tty = request.tty;
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(tty),
            cmd: Some(request.command),
            user: request.user,
            working_dir: request.directory,
            env: Some(request.environment).filter(|all| !all.is_empty()),
            ..Default::default()
        };
        let exec = self.call("prepare the command", QUICK, |api| api.create_exec(id, options)).await?;
        let start = Some(StartExecOptions { detach: false, tty, output_capacity: Some(64 * 1024) });
        match self.call("start the command", QUICK, |api| api.start_exec(&exec.id, start)).await? {
            StartExecResults::Attached { output, input } => Ok(ExecSession { id: exec.id, output, input }),
            StartExecResults::Detached => Err(anyhow!("Docker started the command without its streams")),
        }
    }

    pub(super) async fn event_stream(&self, project: &str) -> Result<BoxStream<'static, Result<DockerEvent>>> {
        let client = self.client().await?;
        // The request is only sent when the stream is first polled: what happened since is replayed from here.
        let now = crate::host::now();
        let since = Some(format!("{}.{:09}", now.as_second(), now.subsec_nanosecond()));
        let of = |kind: &str, events: &[&str], mut filters: HashMap<String, Vec<String>>| {
            filters.insert("type".to_owned(), vec![kind.to_owned()]);
            filters.insert("event".to_owned(), events.iter().map(|event| (*event).to_owned()).collect());
            client.events(Some(EventsOptions { since: since.clone(), filters: Some(filters), ..Default::default() }))
        };
        // Health checks' exec events are many and change nothing; they are not asked for.
        let wanted = ["die", "start", "destroy", "oom", "health_status", "pause", "unpause", "kill", "stop"];
        let containers = of("container", &wanted, by_label(LABEL_PROJECT, project).unwrap_or_default());
        // Networks' events have no labels to ask by; they are few.
        let networks = of("network", &["disconnect", "destroy"], HashMap::new());
        Ok(futures_util::stream::select(containers.map(event), networks.map(event)).boxed())
    }
}

/// Docker's clock is this host's; one that was set meanwhile makes nothing older than it can be.
fn age(since: Option<i64>, now: jiff::Timestamp) -> Duration {
    let since = since.and_then(|nanos| jiff::Timestamp::from_nanosecond(nanos.into()).ok());
    let age = since.and_then(|since| Duration::try_from(now.duration_since(since)).ok());
    age.unwrap_or_default().min(OLDEST)
}

fn event(item: std::result::Result<EventMessage, ApiError>) -> Result<DockerEvent> {
    let message = item.map_err(docker_error)?;
    let actor = message.actor.unwrap_or_default();
    let mut attributes = actor.attributes.unwrap_or_default();
    let of_network = message.typ == Some(EventMessageTypeEnum::NETWORK);
    Ok(DockerEvent {
        action: message.action.unwrap_or_default(),
        container_id: if of_network { attributes.remove("container") } else { actor.id }.unwrap_or_default(),
        signal: attributes.get("signal").and_then(|signal| signal.parse().ok()),
        age: age(message.time_nano, crate::host::now()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_as_old_as_dockers_clock_says_within_reason() {
        let now: jiff::Timestamp = "2026-01-01T00:00:10Z".parse().expect("a time");
        let nanos =
            |text: &str| text.parse::<jiff::Timestamp>().ok().and_then(|at| i64::try_from(at.as_nanosecond()).ok());
        assert_eq!(age(nanos("2026-01-01T00:00:07.5Z"), now), Duration::from_millis(2500));
        assert_eq!(age(nanos("2026-01-01T00:01:00Z"), now), Duration::ZERO, "the clock was set back");
        assert_eq!(age(nanos("2020-01-01T00:00:00Z"), now), OLDEST, "or forward");
        assert_eq!(age(None, now), Duration::ZERO);
    }
}
