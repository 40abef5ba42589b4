//! The images of a release: built ones tagged by commit, others pulled as `pull_policy` says.

use super::blame::OfCommit;
use crate::host::Host;
use crate::host::build;
use crate::host::docker::{BuildRequest, DockerError, LABEL_COMMIT, LABEL_PROJECT};
use crate::stack::images::Images;
use crate::stack::{Build, NamedContext, Pull, Service, Stack, as_committed};
use crate::state::pulled;
use crate::value::{AppName, Commit, PinnedImage};
use anyhow::{Context, Result, anyhow, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Between tries to pull an image.
const AGAIN: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];

/// What images are wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// A new release: `pull_policy` decides.
    Release,
    /// A release that is known, and its images: what is missing is got, and nothing else.
    Known(&'a Images),
}

/// The reference of each service's image in a release. Pure.
///
/// # Errors
/// Two services that build different images under one name.
pub fn references(stack: &Stack, commit: &Commit) -> Result<Images> {
    let built = built(stack, commit)?;
    let reference = |service: &Service| match (&service.build, &service.image) {
        (Some(_), _) => Ok(tag_of(stack, &name_of(stack, service), commit)),
        // What a service builds under a name, another may use by that name.
        (None, Some(image)) => Ok(built.get(image).cloned().unwrap_or_else(|| image.clone())),
        (None, None) => bail!("the service {} has neither image nor build", service.name),
    };
    let image = |service: &Service| Ok((service.name.as_str().to_owned(), PinnedImage::unknown(reference(service)?)));
    stack.services.iter().map(image).collect()
}

/// The images that a stack refers to, each as the one that a release was tried with. Pure.
pub fn pinned(images: Images, known: &Images) -> Images {
    let pin = |(service, image): (String, PinnedImage)| {
        let was = known.get(&service).filter(|known| known.reference == image.reference);
        (service, was.cloned().unwrap_or(image))
    };
    images.into_iter().map(pin).collect()
}

/// Builds and pulls what the stack needs; the running containers are not touched.
///
/// # Errors
/// An image that can be had in no way.
pub async fn make(
    stack: &Stack,
    commit: &Commit,
    purpose: Purpose<'_>,
    host: &Host,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Images> {
    let mut images = references(stack, commit).map_err(OfCommit::from)?;
    if let Purpose::Known(known) = purpose {
        images = pinned(images, known);
    }
    for (service, build) in in_order(stack).map_err(OfCommit::from)? {
        let named = name_of(stack, service);
        let tag = tag_of(stack, &named, commit);
        if host.docker().image_id(&tag).await?.is_none() {
            build_one(stack, service, build, &images, commit, host, progress).await?;
        }
        // By its own name too, as people and old scripts know it.
        let repository = repository(&named);
        let name_tag = named.strip_prefix(repository).and_then(|rest| rest.strip_prefix(':')).unwrap_or("latest");
        host.docker().tag(&tag, repository, name_tag).await.map_err(OfCommit::from)?;
        for more in &build.tags {
            let name = self::repository(more);
            let version = more.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')).unwrap_or("latest");
            host.docker().tag(&tag, name, version).await.map_err(OfCommit::from)?;
        }
    }
    let mut seen = BTreeSet::new();
    for service in stack.services.iter().filter(|service| service.build.is_none()) {
        let reference = images.get(service.name.as_str()).context("a service without its image")?;
        // What was built here is not pulled.
        if service.image.as_ref() == Some(&reference.reference) && seen.insert(reference) {
            ensure_pulled(&stack.project, service, reference, purpose, host, progress).await?;
        }
    }
    pin(&mut images, host).await?;
    Ok(images)
}

/// Notes which images the references lead to, where that is not known, or where what was known is gone.
async fn pin(images: &mut Images, host: &Host) -> Result<()> {
    let mut ids: BTreeMap<String, Option<String>> = BTreeMap::new();
    for image in images.values_mut() {
        if is_there(image, host).await? && image.id.is_some() {
            continue;
        }
        let id = match ids.get(&image.reference) {
            Some(id) => id.clone(),
            None => host.docker().image_id(&image.reference).await?,
        };
        ids.insert(image.reference.clone(), id.clone());
        image.id = id;
    }
    Ok(())
}

/// Whether the image that is meant is there: the pinned one, if there is such.
async fn is_there(image: &PinnedImage, host: &Host) -> Result<bool> {
    let meant = image.id.as_ref().unwrap_or(&image.reference);
    Ok(host.docker().image_id(meant).await?.is_some())
}

/// Whether all images of a release are there.
pub async fn are_there(images: &Images, host: &Host) -> Result<bool> {
    for image in images.values().collect::<BTreeSet<_>>() {
        if !is_there(image, host).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn build_one(
    stack: &Stack,
    service: &Service,
    build: &Build,
    images: &Images,
    commit: &Commit,
    host: &Host,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<()> {
    let tag = &tag_of(stack, &name_of(stack, service), commit);
    progress(&format!("building {}", service.name));
    let mut labels = build.labels.clone();
    labels.insert(LABEL_COMMIT.to_owned(), commit.as_str().to_owned());
    // What is cleaned away later is known by these two.
    labels.insert(LABEL_PROJECT.to_owned(), stack.project.as_str().to_owned());
    let mut line = |text: &str| tracing::info!("build {}: {text}", service.name);
    let contexts = contexts(build, tag, images, &labels, host, &mut line).await?;
    let request = BuildRequest {
        context: host.path(&as_committed(&build.context, host)),
        dockerfile: build.dockerfile.clone(),
        tag: tag.to_owned(),
        args: build.args.clone(),
        labels,
        target: build.target.clone(),
        network: build.network.clone(),
        cache_from: build.cache_from.clone(),
        contexts,
        inline: build.inline.clone(),
        no_cache: build.no_cache,
        pull: build.pull,
        shm_size: build.shm_size,
        extra_hosts: build.extra_hosts.clone(),
        is_directory: false,
    };
    host.docker().build(request, &mut line).await.map_err(OfCommit::from)
}

/// The images that the named contexts of a build stand for; those of directories are made.
async fn contexts(
    build: &Build,
    tag: &str,
    images: &Images,
    labels: &BTreeMap<String, String>,
    host: &Host,
    line: &mut (dyn FnMut(&str) + Send),
) -> Result<BTreeMap<String, String>> {
    let mut contexts = BTreeMap::new();
    for (index, (name, context)) in build.contexts.iter().enumerate() {
        let image = match context {
            NamedContext::Image(image) => image.clone(),
            NamedContext::Service(service) => {
                images.get(service.as_str()).context("no image of a service")?.reference.clone()
            }
            NamedContext::Directory(directory) => {
                let (repository, version) = tag.rsplit_once(':').unwrap_or((tag, "latest"));
                let tag = format!("{repository}-context{index}:{version}");
                let request = BuildRequest {
                    context: host.path(&as_committed(directory, host)),
                    dockerfile: build::OF_DIRECTORY.to_owned(),
                    tag: tag.clone(),
                    labels: labels.clone(),
                    is_directory: true,
                    ..BuildRequest::default()
                };
                let made = host.docker().build(request, line).await;
                made.map_err(OfCommit::from).with_context(|| format!("could not read the build context {name}"))?;
                tag
            }
        };
        contexts.insert(name.clone(), image);
    }
    Ok(contexts)
}

/// What is built, those that others begin with first.
fn in_order(stack: &Stack) -> Result<Vec<(&Service, &Build)>> {
    let mut waiting: Vec<(&Service, &Build)> =
        stack.services.iter().filter_map(|service| Some((service, service.build.as_ref()?))).collect();
    let mut ordered = Vec::new();
    while !waiting.is_empty() {
        let waits_for = |build: &Build, other: &Service| {
            build.contexts.values().any(|context| matches!(context, NamedContext::Service(name) if name == &other.name))
        };
        let is_ready = |(_, build): &(&Service, &Build)| !waiting.iter().any(|(other, _)| waits_for(build, other));
        let (ready, rest): (Vec<_>, Vec<_>) = waiting.iter().partition(|waiting| is_ready(waiting));
        if ready.is_empty() {
            let names: Vec<&str> = rest.iter().map(|(service, _)| service.name.as_str()).collect();
            bail!("the builds of {} wait for each other", names.join(", "));
        }
        ordered.extend(ready);
        waiting = rest;
    }
    Ok(ordered)
}

/// Pulls an image if its policy asks for it. Where that fails and one is there, the release runs on that one.
async fn ensure_pulled(
    app: &AppName,
    service: &Service,
    image: &PinnedImage,
    purpose: Purpose<'_>,
    host: &Host,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<()> {
    let is_there = is_there(image, host).await?;
    let image = image.reference.as_str();
    let wanted = match (service.pull, purpose) {
        _ if !is_there => true,
        (_, Purpose::Known(_)) | (Pull::Missing | Pull::Never | Pull::Build, _) => false,
        (Pull::Always, _) => true,
        (Pull::Older(seconds), _) => is_older(image, seconds, host).await?,
    };
    if !wanted {
        // A pull that had failed is over: somebody else has brought it.
        return pulled::end(host, app, image, None);
    }
    if matches!(service.pull, Pull::Never | Pull::Build) {
        let missing = anyhow!(
            "the image {image} of the service {} is missing, and its pull_policy forbids to pull it",
            service.name
        );
        return Err(OfCommit::from(missing));
    }
    pulled::begin(host, app, image, host.docker().image_id(image).await?)?;
    let done = pull(image, host, progress).await;
    pulled::end(host, app, image, host.docker().image_id(image).await?)?;
    match done {
        Err(error) if is_there && !crate::host::docker::is_away(&error) => {
            tracing::warn!("{error:#}; going on with the one that is there");
            Ok(())
        }
        other => other,
    }
}

async fn is_older(image: &str, seconds: u64, host: &Host) -> Result<bool> {
    let Some(tagged) = host.docker().image_tagged_at(image).await? else { return Ok(true) };
    let age = host.now().duration_since(tagged);
    Ok(age.as_secs() >= i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// Pulls, again after a while if it fails for a reason that may pass.
async fn pull(image: &str, host: &Host, progress: &(dyn Fn(&str) + Sync)) -> Result<()> {
    let mut waits = AGAIN.iter();
    loop {
        progress(&format!("pulling {image}"));
        let mut line = |text: &str| {
            tracing::info!("pull {image}: {text}");
            progress(&format!("pulling {image}: {text}"));
        };
        let error = match host.docker().pull(image, &mut line).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let may_pass = matches!(error.downcast_ref(), Some(DockerError::Refused(text)) if !is_final(text));
        match waits.next().filter(|_| may_pass) {
            Some(wait) => {
                tracing::warn!("{error:#}; trying again in {} s", wait.as_secs());
                tokio::time::sleep(*wait).await;
            }
            // An image that does not exist is the commit's mistake.
            None => return Err(if may_pass { error } else { OfCommit::from(error) }),
        }
    }
}

/// A registry's words for what will not change by waiting.
fn is_final(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    [
        "denied",
        "unauthorized",
        "not found",
        "manifest unknown",
        "no matching manifest",
        "invalid reference",
        "no basic auth",
    ]
    .iter()
    .any(|word| text.contains(word))
}

/// What is built: name to the tag of this commit.
fn built(stack: &Stack, commit: &Commit) -> Result<BTreeMap<String, String>> {
    let mut built: BTreeMap<String, String> = BTreeMap::new();
    for service in stack.services.iter().filter(|service| service.build.is_some()) {
        let named = name_of(stack, service);
        let same_name = |other: &&Service| other.build.is_some() && name_of(stack, other) == named;
        if let Some(other) = stack.services.iter().filter(same_name).find(|other| other.build != service.build) {
            bail!("the services {} and {} build different images under the one name {named}", service.name, other.name);
        }
        built.insert(named.clone(), tag_of(stack, &named, commit));
    }
    Ok(built)
}

/// What a service's own image is called.
fn name_of(stack: &Stack, service: &Service) -> String {
    let own = || format!("{}-{}", stack.project, service.name).to_ascii_lowercase();
    service.image.clone().unwrap_or_else(own)
}

/// Several apps may build images of one name, each by its own variables.
fn tag_of(stack: &Stack, named: &str, commit: &Commit) -> String {
    let is_own_name = named.starts_with(&format!("{}-", stack.project));
    let own = if stack.shares_host && !is_own_name { format!("-{}", stack.project) } else { String::new() };
    format!("{}:{}{own}", repository(named), commit.short())
}

/// An image's name without its tag.
fn repository(image: &str) -> &str {
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => image,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_registry_are_understood() {
        assert!(is_final("pull access denied for x, repository does not exist"));
        assert!(is_final("manifest for x:1 not found: manifest unknown"));
        assert!(!is_final("dial tcp 127.0.0.1:5000: connect: connection refused"));
        assert_eq!(repository("registry:5000/a/b"), "registry:5000/a/b");
        assert_eq!(repository("a/b:1"), "a/b");
    }
}
