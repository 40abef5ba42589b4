//! Getting images: pulled from a registry, or built.

use super::convert::tag_of;
use super::{Engine, drain};
use crate::host::build::context_stream;
use crate::host::docker::*;
use anyhow::{Context, Result};
use bollard::query_parameters::*;

impl Engine {
    pub(super) async fn pull_image(&self, image: &str, progress: Progress<'_>) -> Result<()> {
        let by_digest = image.contains('@');
        let tag = (!by_digest).then(|| tag_of(image).to_owned());
        let options = CreateImageOptions { from_image: Some(image.to_owned()), tag, ..Default::default() };
        let stream = self.client().await?.create_image(Some(options), None, None);
        let pulled = drain("pull", stream, |info| {
            if let Some(status) = info.status.filter(|_| info.progress_detail.is_none_or(|p| p.current.is_none())) {
                progress(&status);
            }
            Ok(())
        });
        pulled.await.with_context(|| format!("could not pull {image}"))
    }

    pub(super) async fn build_image(&self, request: BuildRequest, progress: Progress<'_>) -> Result<()> {
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
    }
}
