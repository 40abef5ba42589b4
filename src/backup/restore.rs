//! Getting parts of a run back onto a host that lives: the dump as a file, which `appliance database restore` knows how to put in place, and
//! files into a directory beside. What runs is not touched here.

use super::fetched::{self, Fetched, Purpose};
use super::manifest::Manifest;
use super::restic::Restic;
use super::rewind::{self, Source};
use super::room;
use super::scratch;
use crate::env::Env;
use crate::host::{Dir, Host};
use crate::prepare::postgres;
use crate::state::BackupLock;
use crate::update::dump;
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// How long another backup command is waited for.
const PATIENCE: Duration = Duration::from_secs(600);

/// Fetches a run's dump into the directory of the app's dumps.
///
/// # Errors
/// The run has no database; PostgreSQL here is older than the one it comes from; there is no room; or it cannot be fetched.
pub async fn fetch_dump(
    env: &Env,
    restic: &Restic<'_>,
    manifest: &Manifest,
    purpose: Purpose,
    host: &Host,
) -> Result<Fetched> {
    let lock = BackupLock::take(host, "backup restore", PATIENCE).await?;
    let file = fetch_dump_locked(env, restic, manifest, purpose, &lock, host).await?;
    Ok(Fetched { file, _lock: lock })
}

/// [`fetch_dump`], by whoever holds the lock.
pub(super) async fn fetch_dump_locked(
    env: &Env,
    restic: &Restic<'_>,
    manifest: &Manifest,
    purpose: Purpose,
    _lock: &BackupLock,
    host: &Host,
) -> Result<String> {
    let part = manifest.database.as_ref().with_context(|| format!("the run {} has no database", manifest.run))?;
    refuse_older(part.major, host)?;
    let directory = dump::directory(&env.app.name);
    // Once as a file, once as a database.
    room::refuse_too_little(&directory, part.bytes.saturating_mul(2), host)?;
    let target = fetched::target(&env.app.name, &manifest.run, purpose);
    let written = restic.fetch(&part.snapshot, &part.path, &fetched::beside(&target)).await;
    let settled = fetched::settle(written, &target, host);
    settled.with_context(|| format!("could not fetch the database of the run {}", manifest.run))?;
    Ok(target)
}

/// Dumps the app's database as it was at a moment between runs into the directory of its dumps.
///
/// # Errors
/// What was shipped does not reach there; there is no room; or it cannot be fetched.
pub async fn rewound_dump(
    env: &Env,
    restic: &Restic<'_>,
    source: &Source,
    purpose: Purpose,
    host: &Host,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Fetched> {
    let lock = BackupLock::take(host, "backup restore", PATIENCE).await?;
    refuse_older(source.major(), host)?;
    let scratch = rewind::rewind(restic, source, scratch::REWIND, host, progress).await?;
    let dumped = scratch.dump(env, &source.name(), purpose).await;
    scratch.end().await?;
    Ok(Fetched { file: dumped?, _lock: lock })
}

/// # Errors
/// A dump of a newer PostgreSQL is put back by none that is older.
pub fn refuse_older(major: u32, host: &Host) -> Result<()> {
    let here = postgres::cluster(host)?.id.number().0;
    if here < major {
        bail!(
            "the run's database is of PostgreSQL {major}, and this host uses {here}; install postgresql-{major}, and run: appliance postgres upgrade"
        );
    }
    Ok(())
}

/// How long an app's files of a shipment are together.
async fn shipped_bytes(restic: &Restic<'_>, manifest: &Manifest) -> Result<u64> {
    let mut bytes = 0_u64;
    for path in &manifest.files.paths {
        let files = restic.list(&manifest.files.snapshot, Some(path)).await?;
        bytes = files.iter().fold(bytes, |bytes, file| bytes.saturating_add(file.size));
    }
    Ok(bytes)
}

/// Restores files of a run below a new directory, under their whole paths; `only` are paths in it, or none for all.
///
/// # Errors
/// The directory is there and is not empty; there is no room; or restic's own words.
pub async fn files(restic: &Restic<'_>, manifest: &Manifest, to: &str, only: &[String], host: &Host) -> Result<()> {
    let _lock = BackupLock::take(host, "backup restore", PATIENCE).await?;
    if let Some(place) = host.written_by_others(to)? {
        bail!(
            "{place} can be written by others than root, who could lead what is restored elsewhere; name a directory below one of root's"
        );
    }
    if !host.names(to)?.is_empty() {
        bail!("{to} is not empty; name a new directory");
    }
    if only.is_empty() {
        let bytes = match manifest.files.bytes {
            // Of a shipment it is not counted.
            0 => shipped_bytes(restic, manifest).await?,
            bytes => bytes,
        };
        room::refuse_too_little(to, bytes, host)?;
    }
    // The snapshot of a shipment holds what is other apps' and the host's, too.
    let only = if only.is_empty() { &manifest.files.paths } else { only };
    host.ensure_dir(to, &Dir::plain().mode(0o700))?;
    restic.restore(&manifest.files.snapshot, to, only, &[]).await?;
    if host.names(to)?.is_empty() {
        bail!("the run {} has no such files; it has: {}", manifest.run, manifest.files.paths.join(", "));
    }
    Ok(())
}
