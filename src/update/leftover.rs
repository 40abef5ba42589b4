//! Images that no release needs any more: built here, or pulled. What somebody has built, loaded or pulled by hand is theirs.

use crate::host::Host;
use crate::state::{Ledger, pulled};
use crate::value::{AppName, Commit};
use anyhow::Result;
use std::collections::BTreeSet;

/// Takes away what was built for a commit.
pub async fn discard(app: &AppName, commit: &Commit, host: &Host) -> Result<()> {
    for image in host.docker().built_images(app.as_str()).await? {
        if image.commit == commit.as_str() {
            for name in image.names {
                host.docker().remove_image(&name).await?;
            }
        }
    }
    Ok(())
}

/// Takes away the images that were built here or pulled for releases which the ledger does not know any more, and names that lead to none.
///
/// # Errors
/// Docker does not answer; an image that cannot be removed is told and left.
pub async fn clean_up(app: &AppName, ledger: &Ledger, host: &Host) -> Result<()> {
    let known = |commit: &str| ledger.commits().any(|known| known.as_str() == commit);
    for image in host.docker().built_images(app.as_str()).await? {
        if known(&image.commit) && !image.names.is_empty() {
            continue;
        }
        let names = if image.names.is_empty() { vec![image.id] } else { image.names };
        for name in names {
            match host.docker().remove_image(&name).await {
                Ok(()) => tracing::info!("removed the image {name}: no release needs it"),
                Err(error) if crate::host::docker::is_away(&error) => return Err(error),
                // Somebody has made a container of it, or an image on top of it.
                Err(error) => tracing::info!("the image {name} stays: {error:#}"),
            }
        }
    }
    remove_pulled(app, ledger, host).await
}

/// Takes away the pulled ones among them.
async fn remove_pulled(app: &AppName, ledger: &Ledger, host: &Host) -> Result<()> {
    // What is on its way may need what was pulled for it.
    if ledger.in_flight.is_some() {
        return Ok(());
    }
    let all = pulled::read(host, app)?;
    let releases = ledger.current.iter().chain(&ledger.previous);
    let used: BTreeSet<&str> =
        releases.flat_map(|release| release.images.values()).filter_map(|image| image.id.as_deref()).collect();
    let mut kept = Vec::new();
    for image in &all {
        let by_reference = host.docker().image_id(&image.reference).await?;
        // A pull that was cut off may have come to its end.
        let id = image.id.clone().or_else(|| by_reference.clone().filter(|_| by_reference != image.before));
        let Some(id) = id else { continue };
        if used.contains(id.as_str()) {
            kept.push(image.clone());
            continue;
        }
        // By its name, so that the name goes too; one that leads elsewhere by now is somebody's.
        let name = if by_reference.as_ref() == Some(&id) { &image.reference } else { &id };
        match host.docker().remove_image(name).await {
            Ok(()) => tracing::info!("removed the image {}: no release needs it", image.reference),
            Err(error) if crate::host::docker::is_away(&error) => return Err(error),
            // Somebody has made a container of it, or given it another name.
            Err(error) if host.docker().image_id(&id).await?.is_some() => {
                tracing::info!("the image {} stays: {error:#}", image.reference);
                kept.push(image.clone());
            }
            Err(_) => {}
        }
    }
    if kept == all { Ok(()) } else { pulled::write(host, app, &kept) }
}
