//! Getting images: pulled from a registry, or built.

use super::convert::tag_of;
use super::{CLIENT_LIMIT_S, Engine, QUICK, SOCKET, credentials, drain};
use crate::host::build::{self, context_stream};
use crate::host::docker::*;
use anyhow::{Context, Result};
use bollard::auth::DockerCredentials;
use bollard::errors::Error as ApiError;
use bollard::models::{BuildInfo, BuildInfoAux, CreateImageInfo};
use bollard::query_parameters::*;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// The engine API since which there is BuildKit in it.
const BUILDKIT: (usize, usize) = (1, 39);
/// How many of a build's lines wait.
const QUEUE: usize = 64;
/// Between two reports of how far a pull is.
const REPORT: Duration = Duration::from_secs(1);

impl Engine {
    pub(super) async fn tag_time(&self, image: &str) -> Result<Option<jiff::Timestamp>> {
        match self.call("inspect the image", QUICK, |api| api.inspect_image(image)).await {
            Ok(found) => {
                let tagged = found.metadata.and_then(|metadata| metadata.last_tag_time);
                Ok(tagged.and_then(|time| jiff::Timestamp::from_second(time.unix_timestamp()).ok()))
            }
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn list_built(&self, project: &str) -> Result<Vec<BuiltImage>> {
        let labels = vec![LABEL_COMMIT.to_owned(), format!("{LABEL_PROJECT}={project}")];
        let options = ListImagesOptions {
            filters: Some(std::collections::HashMap::from([("label".to_owned(), labels)])),
            ..Default::default()
        };
        let listed = self.call("list images", QUICK, |api| api.list_images(Some(options))).await?;
        let built = listed.into_iter().map(|image| BuiltImage {
            id: image.id,
            names: image.repo_tags.into_iter().filter(|name| name != "<none>:<none>").collect(),
            commit: image.labels.get(LABEL_COMMIT).cloned().unwrap_or_default(),
            size: u64::try_from(image.size).unwrap_or_default(),
        });
        Ok(built.collect())
    }

    pub(super) async fn pull_image(&self, image: &str, progress: Progress<'_>) -> Result<()> {
        let by_digest = image.contains('@');
        let tag = (!by_digest).then(|| tag_of(image).to_owned());
        let options = CreateImageOptions { from_image: Some(image.to_owned()), tag, ..Default::default() };
        let login = credentials::for_registry(credentials::registry_of(image)).await?;
        let stream = self.client().await?.create_image(Some(options), None, login);
        let mut layers = Layers::default();
        let pulled = drain("pull", stream, |info| {
            if let Some(line) = layers.note(info) {
                progress(&line);
            }
            Ok(())
        });
        pulled.await.with_context(|| format!("could not pull {image}"))
    }

    pub(super) async fn build_image(&self, request: BuildRequest, progress: Progress<'_>) -> Result<()> {
        let client = self.client().await?;
        let version = client.client_version();
        let with_buildkit = (version.major_version, version.minor_version) >= BUILDKIT;
        let mut options = BuildImageOptions {
            dockerfile: match request.inline {
                Some(_) => build::INLINE.to_owned(),
                None => request.dockerfile.clone(),
            },
            t: Some(request.tag.clone()),
            buildargs: Some(request.args.clone().into_iter().collect()),
            labels: Some(request.labels.clone().into_iter().collect()),
            target: request.target.clone(),
            networkmode: request.network.clone(),
            cachefrom: Some(request.cache_from.clone()).filter(|list| !list.is_empty()),
            nocache: request.no_cache,
            pull: request.pull.then(|| "1".to_owned()),
            shmsize: request.shm_size.and_then(|size| i32::try_from(size).ok()),
            extrahosts: Some(request.extra_hosts.join(",")).filter(|hosts| !hosts.is_empty()),
            rm: true,
            forcerm: true,
            ..Default::default()
        };
        if with_buildkit {
            options.version = BuilderVersion::BuilderBuildKit;
            // One session for one build; a tag is built by one process at a time, since it holds the lock.
            options.session =
                Some(format!("appliance-{}-{}", std::process::id(), request.tag.replace(['/', ':'], "-")));
        }
        let context = match request.is_directory {
            true => build::directory_stream(&request.context)?.boxed(),
            false => match &request.inline {
                Some(text) => build::inline_stream(&request.context, text, &request.contexts)?.boxed(),
                None => context_stream(&request.context, &request.dockerfile, &request.contexts)?.boxed(),
            },
        };
        let logins = Some(credentials::all().await?).filter(|all| !all.is_empty());
        let stream = build_apart(version, options, logins, context);
        let (mut last, mut steps) = (String::new(), BTreeSet::new());
        let built = drain("build", stream, |info| {
            if let Some(failed) = info.error_detail {
                let said = failed.message.unwrap_or_default();
                return Err(DockerError::Refused(format!("{said}{}", after(&last))).into());
            }
            let mut tell = |text: &str| {
                for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
                    last = line.to_owned();
                    progress(line);
                }
            };
            if let Some(text) = &info.stream {
                tell(text);
            }
            if let Some(BuildInfoAux::BuildKit(status)) = info.aux {
                // A step is told when it begins; a quick one has ended by then.
                for step in status.vertexes.iter().filter(|step| step.started.is_some()) {
                    if steps.insert(step.digest.clone()) {
                        tell(&if step.cached { format!("{} (known)", step.name) } else { step.name.clone() });
                    }
                }
                for log in &status.logs {
                    tell(&String::from_utf8_lossy(&log.msg));
                }
            }
            Ok(())
        });
        built.await.with_context(|| format!("could not build {}", request.tag))
    }
}

/// What a build tells, made on a thread and a runtime of its own that end with it: bollard leaves the build's session to a task that nobody
/// can end, and Docker asks it again and again whether it is there.
fn build_apart(
    version: bollard::ClientVersion,
    options: BuildImageOptions,
    logins: Option<HashMap<String, DockerCredentials>>,
    context: BoxStream<'static, std::io::Result<bytes::Bytes>>,
) -> impl futures_util::Stream<Item = std::result::Result<BuildInfo, ApiError>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(QUEUE);
    let failed = |error: std::io::Error| Err(ApiError::IOError { err: error });
    std::thread::spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            // Nobody listens any more, or it is told.
            Err(error) => return drop(sender.blocking_send(Some(failed(error)))),
        };
        runtime.block_on(async {
            let client = match bollard::Docker::connect_with_socket(SOCKET, CLIENT_LIMIT_S, &version) {
                Ok(client) => client,
                Err(error) => return drop(sender.send(Some(Err(error))).await),
            };
            let mut told = client.build_image(options, logins, Some(bollard::body_try_stream(context)));
            loop {
                let next = tokio::select! {
                    next = told.next() => next,
                    // Whoever wanted it has given up.
                    () = sender.closed() => None,
                };
                let is_end = next.is_none();
                if sender.send(next).await.is_err() || is_end {
                    return;
                }
            }
        });
    });
    // A thread that died has told no end, and has built nothing.
    futures_util::stream::unfold(Some(receiver), move |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(told) => told.map(|item| (item, Some(receiver))),
            None => Some((failed(std::io::Error::other("the build was given up")), None)),
        }
    })
}

/// What was said last before a failure.
fn after(last: &str) -> String {
    if last.is_empty() { String::new() } else { format!("; the last it said: {last}") }
}

/// How far the layers of an image are.
#[derive(Default)]
struct Layers {
    /// Bytes got, and in all; `None` where nothing was told yet.
    known: BTreeMap<String, (i64, i64, bool)>,
    reported: Option<Instant>,
}

impl Layers {
    /// Takes up what Docker told; gives a line when it is time for one.
    fn note(&mut self, info: CreateImageInfo) -> Option<String> {
        let status = info.status.unwrap_or_default();
        let Some(layer) = info.id.filter(|_| !status.starts_with("Pulling from")) else {
            // What it is, its digest, whether it was new.
            return Some(status).filter(|status| !status.is_empty());
        };
        let entry = self.known.entry(layer).or_default();
        match status.as_str() {
            "Downloading" => {
                if let Some(detail) = info.progress_detail {
                    entry.0 = detail.current.unwrap_or_default();
                    entry.1 = detail.total.unwrap_or_default();
                }
            }
            "Download complete" => entry.0 = entry.1,
            "Pull complete" | "Already exists" => entry.2 = true,
            _ => {}
        }
        let now = Instant::now();
        let done = self.known.values().filter(|layer| layer.2).count();
        if self.reported.is_some_and(|last| now.duration_since(last) < REPORT) && done < self.known.len() {
            return None;
        }
        self.reported = Some(now);
        let sum = |part: fn(&(i64, i64, bool)) -> i64| self.known.values().map(part).sum::<i64>() / 1_000_000;
        Some(format!("{done} of {} layers, {} of {} MB", self.known.len(), sum(|layer| layer.0), sum(|layer| layer.1)))
    }
}
