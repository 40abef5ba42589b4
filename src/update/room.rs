//! Whether there is room for what an update makes, before anything is touched.

use super::dump;
use crate::env::Env;
use crate::host::Host;
use crate::state::Release;
use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// What stays free on a file system whatever an update needs, in bytes.
const RESERVE: u64 = 200 << 20;

/// Whether new images, so many dumps and a database beside the one that is there would fit. With a release, images are built anew: they are taken to become as large as
/// those that were built for it, since how much of it they will share is not known before.
pub async fn check(env: &Env, builds_after: Option<&Release>, dumps: u64, host: &Host) -> Result<()> {
    let mut images = 0;
    if let Some(release) = builds_after {
        let built = host.docker().built_images(env.app.name.as_str()).await?;
        images = built.iter().filter(|image| image.commit == release.commit.as_str()).map(|image| image.size).sum();
    }
    let mut needs = vec![("/app/etc".to_owned(), 0), ("/var/lib/docker".to_owned(), images)];
    if dumps > 0 {
        let size = dump::size(env, host).await?;
        needs.push((dump::directory(&env.app.name), size * dumps));
        needs.push(("/var/lib/postgresql".to_owned(), size));
    }
    // What lies on one file system is counted together.
    let mut by_device: BTreeMap<u64, (String, u64, u64)> = BTreeMap::new();
    for (path, bytes) in needs {
        let Some(room) = host.room(&path)? else { continue };
        let entry = by_device.entry(room.device).or_insert((path, 0, room.free));
        entry.1 += bytes;
    }
    for (path, needed, free) in by_device.into_values() {
        let megabytes = |bytes: u64| bytes.div_ceil(1 << 20);
        if needed + RESERVE > free {
            bail!(
                "too little room for the update: {path} has {} MB free, {} MB are needed; free some, then run: appliance update",
                megabytes(free),
                megabytes(needed + RESERVE)
            );
        }
    }
    Ok(())
}
