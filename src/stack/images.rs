//! Which image each service runs on: the one that its release was tried with, for as long as it is there.

use super::create::Image;
use crate::host::Host;
use crate::host::docker::Container;
use crate::value::PinnedImage;
use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// Service to image, as a release holds them.
pub type Images = BTreeMap<String, PinnedImage>;

/// Each image once: services share them.
pub(super) async fn look_up(images: &Images, containers: &[Container], host: &Host) -> Result<BTreeMap<String, Image>> {
    let mut found: BTreeMap<&PinnedImage, Option<(String, bool)>> = BTreeMap::new();
    for image in images.values() {
        if !found.contains_key(image) {
            found.insert(image, find(image, host).await?);
        }
    }
    let mut all = BTreeMap::new();
    for (service, image) in images {
        let reference = &image.reference;
        let (id, is_current) = match found.get(image).cloned().flatten() {
            Some(found) => found,
            // Cleaned away under a container: that one has it, and goes on.
            None if let Some(own) = containers.iter().find(|container| container.service() == service) => {
                (own.image_id.clone(), true)
            }
            // What is only looked at may still have to be built or pulled.
            None if !host.applies() => ("not there yet".to_owned(), true),
            None => bail!("the image {reference} of the service {service} is missing"),
        };
        all.insert(service.clone(), Image { reference: reference.clone(), id, is_current });
    }
    Ok(all)
}

/// The id of the image that is meant, and whether its reference leads to it. The one that the release was tried with counts for as
/// long as it is there; then what its reference leads to now.
async fn find(image: &PinnedImage, host: &Host) -> Result<Option<(String, bool)>> {
    let by_reference = host.docker().image_id(&image.reference).await?;
    let Some(pinned) = image.id.as_ref().filter(|id| by_reference.as_ref() != Some(*id)) else {
        return Ok(by_reference.map(|id| (id, true)));
    };
    match host.docker().image_id(pinned).await? {
        Some(id) => Ok(Some((id, false))),
        None => Ok(by_reference.map(|id| (id, true))),
    }
}
