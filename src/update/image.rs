//! The images of a release: built ones tagged by commit, others pulled where they are missing.

use crate::host::Host;
use crate::host::docker::BuildRequest;
use crate::stack::Stack;
use crate::stack::apply::Images;
use crate::value::Commit;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;

/// Builds and pulls what the stack needs; the running containers are not touched.
pub async fn make(stack: &Stack, commit: &Commit, host: &Host, progress: &(dyn Fn(&str) + Sync)) -> Result<Images> {
    // What a service builds under a name, another may use by that name.
    let mut built: BTreeMap<String, String> = BTreeMap::new();
    let mut images = Images::new();
    for service in &stack.services {
        let Some(build) = &service.build else { continue };
        let own = format!("{}-{}", stack.project, service.name);
        let named = service.image.clone().unwrap_or_else(|| own.to_ascii_lowercase());
        let tag = format!("{}:{}", repository(&named), commit.short());
        let other = stack
            .services
            .iter()
            .find(|other| other.image == Some(named.clone()) && other.build.as_ref().is_some_and(|b| b != build));
        if let Some(other) = other {
            bail!("the services {} and {} build different images under the one name {named}", service.name, other.name);
        }
        if host.docker().image_id(&tag).await?.is_none() {
            progress(&format!("building {}", service.name));
            let request = BuildRequest {
                context: host.path(&build.context),
                dockerfile: build.dockerfile.clone(),
                tag: tag.clone(),
                args: build.args.clone(),
                labels: BTreeMap::from([("appliance.commit".to_owned(), commit.as_str().to_owned())]),
                target: build.target.clone(),
                network: None,
                cache_from: Vec::new(),
            };
            let mut line = |text: &str| tracing::info!("build {}: {text}", service.name);
            host.docker().build(request, &mut line).await?;
        }
        // By its own name too, as people and old scripts know it.
        let repository = repository(&named);
        let name_tag = named.strip_prefix(repository).and_then(|rest| rest.strip_prefix(':')).unwrap_or("latest");
        host.docker().tag(&tag, repository, name_tag).await?;
        built.insert(named, tag.clone());
        images.insert(service.name.as_str().to_owned(), tag);
    }
    for service in stack.services.iter().filter(|service| service.build.is_none()) {
        let image = service.image.as_ref().context("a service has neither image nor build")?;
        let reference = match built.get(image) {
            Some(tag) => tag.clone(),
            None => {
                if host.docker().image_id(image).await?.is_none() {
                    progress(&format!("pulling {image}"));
                    let mut line = |text: &str| tracing::info!("pull {image}: {text}");
                    host.docker().pull(image, &mut line).await?;
                }
                image.clone()
            }
        };
        images.insert(service.name.as_str().to_owned(), reference);
    }
    Ok(images)
}

/// An image's name without its tag.
fn repository(image: &str) -> &str {
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => image,
    }
}
