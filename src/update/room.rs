//! Whether there is room for what an update makes, before anything is touched.

use super::databases::Databases;
use super::dump;
use crate::env::Env;
use crate::host::Host;
use crate::state::Release;
use crate::value::Commit;
use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// What stays free on a file system whatever an update needs, in bytes.
const RESERVE: u64 = 200 << 20;

/// Whether one dump would fit.
pub async fn for_dump(env: &Env, host: &Host) -> Result<()> {
    let size = Databases::of(env, host)?.size().await?;
    judge(vec![(dump::directory(&env.app.name), size)], "the dump", host)
}

/// Whether new images, so many dumps and a database beside the one that is there would fit. With a release and a
/// target, images are built: they are taken to need as much as the largest of that release, since what they share is not known before.
pub async fn check(env: &Env, builds_after: Option<(&Release, &Commit)>, dumps: u64, host: &Host) -> Result<()> {
    let mut images = 0;
    if let Some((release, target)) = builds_after {
        let built = host.docker().built_images(env.app.name.as_str()).await?;
        let of = |commit: &Commit| {
            built.iter().filter(|image| image.commit == commit.as_str()).map(|image| image.size).max()
        };
        // Those of a release to go back to are there.
        images = if of(target).is_some() { 0 } else { of(&release.commit).unwrap_or(0) };
    }
    let mut needs = vec![(crate::state::DIRECTORY.to_owned(), 0), ("/var/lib/docker".to_owned(), images)];
    if dumps > 0 {
        let size = Databases::of(env, host)?.size().await?;
        needs.push((dump::directory(&env.app.name), size * dumps));
        needs.push(("/var/lib/postgresql".to_owned(), size));
    }
    judge(needs, "the update", host)
}

/// Whether a cluster of so many bytes fits beside those that are there, and a dump of its largest database.
pub(super) fn for_cluster(bytes: u64, largest: u64, what: &str, host: &Host) -> Result<()> {
    let needs = vec![("/var/lib/postgresql".to_owned(), bytes), (crate::state::DIRECTORY.to_owned(), largest)];
    judge(needs, what, host)
}

fn judge(needs: Vec<(String, u64)>, what: &str, host: &Host) -> Result<()> {
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
                "too little room for {what}: {path} has {} MB free, {} MB are needed; free some, then try again",
                megabytes(free),
                megabytes(needed + RESERVE)
            );
        }
    }
    Ok(())
}
