//! Bringing back everything onto a host that holds nothing of it yet. A mark says that it has begun, and keeps the appliance from starting
//! with half of it; killed anywhere, it is run again from the beginning.

use super::content;
use super::fetched::Purpose;
use super::manifest::Manifest;
use super::point::Point;
use super::record;
use super::restic::{Restic, State};
use super::restore;
use super::rewind::{self, Source};
use super::runs::{self, Found};
use super::scratch::{self, Scratch};
use crate::env::{Env, Envs};
use crate::host::{Cmd, Host, What};
use crate::prepare::{self, postgres};
use crate::state::{BackupLock, Ledger, app_directory, recovering};
use crate::update::archive::{self, ResetFrom};
use crate::update::dump;
use crate::update::restore as databases;
use crate::value::AppName;
use anyhow::{Context, Result, bail};
use bollard::models::VolumeCreateRequest;
use std::time::Duration;

/// How long another backup command is waited for.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long counting a database may take.
const COUNTING: Duration = Duration::from_secs(3600);
/// The env that the operator has put in place stays.
const ENV: &str = "/app/env.yml";

/// What will be brought back.
pub struct Plan<'a> {
    pub restic: Restic<'a>,
    /// One for each app of which there is a run, in the env's order.
    pub manifests: Vec<Manifest>,
    /// Apps of which there is none: they begin empty.
    pub without: Vec<AppName>,
    /// What was shipped after the newest run, if anything was: then files and databases are from there.
    pub point: Option<Chosen>,
    /// Why something that was shipped is not used.
    pub note: Option<String>,
    /// The highest generation of whoever has written into the repository.
    generation: u64,
    /// Nobody else uses the repository until all is done.
    lock: BackupLock,
}

/// A point between runs, and how the databases get there.
pub struct Chosen {
    pub point: Point,
    snapshot: String,
    source: Source,
}

/// The newest point after all of these runs to which the databases can be brought back; and why a newer one cannot be used.
async fn newest_point(
    restic: &Restic<'_>,
    found: &Found,
    manifests: &[Manifest],
    host: &Host,
) -> (Option<Chosen>, Option<String>) {
    let newest = manifests.iter().map(Manifest::order).max();
    let mut note = None;
    let is_later = |one: &&runs::Shipment| one.is_point && newest.is_none_or(|newest| one.order() > newest);
    for shipment in found.shipments.iter().filter(is_later) {
        let chosen = async {
            let source = rewind::source(found, shipment)?;
            source.check(host)?;
            let point = Point::read(restic, shipment).await?;
            anyhow::Ok(Chosen { point, snapshot: shipment.stretch.snapshot.clone(), source })
        };
        match chosen.await {
            Ok(chosen) => return (Some(chosen), note),
            Err(error) => {
                note.get_or_insert(format!("what was shipped until {} cannot be brought back: {error:#}", shipment.at));
            }
        }
    }
    (None, note)
}

/// # Errors
/// The host holds something that a recovery would write over, and none has begun yet.
fn refuse_full(envs: &Envs, host: &Host) -> Result<()> {
    if recovering::is_under_way(host) {
        return Ok(());
    }
    for env in envs.iter() {
        if Ledger::read_for(host, &env.app.name)?.current.is_some() {
            bail!(
                "this host has a release of the app {} already, and a recovery is for an empty host; see: appliance backup restore --help",
                env.app.name
            );
        }
        let vault = format!("/data/{}-storage-vault", env.app.name);
        if !host.names(&vault)?.is_empty() {
            bail!("{vault} holds files, which a recovery would write over; move it away first");
        }
    }
    Ok(())
}

/// Looks what there is to bring back; nothing is changed.
///
/// # Errors
/// The host holds an app already; there is no repository, or no complete run of one of the apps.
pub async fn plan<'a>(envs: &Envs, run: Option<&str>, host: &'a Host) -> Result<Plan<'a>> {
    refuse_full(envs, host)?;
    let lock = BackupLock::take(host, "backup recover", PATIENCE).await?;
    let restic = Restic::of(envs.host(), host)?;
    if restic.state().await? == State::Missing {
        bail!("there is no repository at 'appliance.backup.url', so there is nothing to recover from");
    }
    let found = runs::runs(&restic).await?;
    let (mut manifests, mut without) = (Vec::new(), Vec::new());
    for env in envs.iter() {
        let app = &env.app.name;
        match found.of(app, run) {
            Ok(run) => manifests.push(run.manifest(&restic).await?),
            // Who names a run means that one.
            Err(error) if run.is_some() => return Err(error),
            Err(_) => without.push(app.clone()),
        }
    }
    // Who names a run means that one, and nothing that came after it.
    let (point, note) = match run {
        Some(_) => (None, None),
        None => newest_point(&restic, &found, &manifests, host).await,
    };
    if let Some(chosen) = &point {
        let apps = chosen.point.apps.iter().filter(|part| envs.iter().any(|env| env.app.name == part.app));
        for part in apps {
            manifests.retain(|manifest| manifest.app != part.app);
            without.retain(|app| *app != part.app);
            manifests.push(chosen.point.manifest(part, &chosen.snapshot));
        }
    }
    if manifests.is_empty() {
        bail!("the repository has no complete run of any of the apps of env.yml");
    }
    Ok(Plan { restic, manifests, without, point, note, generation: found.generation(), lock })
}

impl Plan<'_> {
    /// Puts files in place: what is the host's, then each app's, its volumes made before. The host's storage is ready by now.
    ///
    /// # Errors
    /// Something cannot be fetched or written; run again, it begins anew.
    pub async fn place_files(&self, envs: &Envs, host: &Host, progress: &dyn Fn(&str)) -> Result<()> {
        // Once more, now that the disks are where they belong: one of them may be the old host's.
        refuse_full(envs, host)?;
        recovering::begin(host)?;
        let newest = self.manifests.iter().max_by_key(|one| one.order());
        let first = newest.context("there is no app to recover")?;
        progress("restoring what is the host's");
        make_room(&content::of_host(host), host).await?;
        // An app without a run begins anew, and not with the ledger of one that has run.
        let of_others = self.without.iter().flat_map(|app| [app_directory(app), format!("/data/etc/{app}")]);
        let of_others: Vec<String> = of_others.collect();
        // restic takes either what is wanted or what is not.
        match &self.point {
            Some(chosen) => {
                let of_host: Vec<String> = chosen.point.of_host.iter().filter(|path| *path != ENV).cloned().collect();
                self.restic.restore(&first.of_host, "/", &of_host, &[]).await?;
                for path in &of_others {
                    host.remove_tree(path).await?;
                }
            }
            None => {
                let left_out: Vec<String> = of_others.into_iter().chain([ENV.to_owned()]).collect();
                self.restic.restore(&first.of_host, "/", &[], &left_out).await?;
            }
        }
        for manifest in &self.manifests {
            for volume in &manifest.volumes {
                make_volume(volume, host).await?;
            }
            progress(&format!("{}: restoring files", manifest.app));
            make_room(&manifest.files.paths, host).await?;
            self.restic.restore(&manifest.files.snapshot, "/", &manifest.files.paths, &[]).await?;
        }
        // What was restored may not be what says that this is done.
        recovering::begin(host)
    }

    /// Fills the databases, which the host's preparation has made, and compares each with what was counted when it was stored.
    ///
    /// # Errors
    /// One cannot be restored, or is not the same.
    pub async fn fill_databases(&self, envs: &Envs, host: &Host, progress: &(dyn Fn(&str) + Sync)) -> Result<()> {
        let scratch = match &self.point {
            Some(Chosen { source, .. }) => {
                let made = rewind::rewind(&self.restic, source, scratch::REWIND, host, progress).await;
                Some(made.context(
                    "without what was shipped after it, a run is brought back by: appliance backup recover --run ID",
                )?)
            }
            None => None,
        };
        for env in envs.iter() {
            self.fill_database(env, scratch.as_ref(), host, progress).await?;
        }
        match scratch {
            Some(scratch) => scratch.end().await,
            None => Ok(()),
        }
    }

    async fn fill_database(
        &self,
        env: &Env,
        scratch: Option<&Scratch<'_>>,
        host: &Host,
        progress: &(dyn Fn(&str) + Sync),
    ) -> Result<()> {
        let app = &env.app.name;
        let Some(manifest) = self.manifests.iter().find(|manifest| &manifest.app == app) else { return Ok(()) };
        progress(&format!("{app}: fetching the database"));
        let (file, contents, major) = match (&manifest.database, scratch) {
            (Some(part), _) => {
                let file =
                    restore::fetch_dump_locked(env, &self.restic, manifest, Purpose::Use, &self.lock, host).await?;
                (file, part.contents.clone(), part.major)
            }
            (None, Some(scratch)) => {
                let contents = scratch.contents(env).await?;
                (scratch.dump(env, &manifest.run, Purpose::Use).await?, contents, scratch.major())
            }
            (None, None) => return Ok(()),
        };
        progress(&format!("{app}: restoring the database"));
        if databases::has_data(env, host).await? {
            // A disk that was kept, or a recovery that was cut off: nobody knows which.
            dump::dump(env, &dump::before_reset(app, host), host).await?;
        }
        let archive = archive::open(env, &file, host).await?;
        databases::reset(env, &ResetFrom::Archive(archive), host).await?;
        let login = prepare::app_login(env, host)?.pinned();
        let counted =
            host.hold(&login, postgres::census::CONTENTS.to_owned(), COUNTING).await?.value.unwrap_or_default();
        let difference = difference(&contents, &counted, major == postgres::cluster(host)?.id.number().0);
        if let Some(difference) = difference {
            bail!("the restored database of {app} is not the one that was stored: {difference}");
        }
        host.discard(&file)
    }

    /// Everything is in place: from now on this host is the one that writes into the repository.
    pub async fn end(&self, host: &Host) -> Result<()> {
        let repository = self.restic.id().await?;
        record::adopt(self.generation, repository, host)?;
        recovering::end(host)
    }
}

/// What one list has and the other has not. Between major versions of PostgreSQL only rows are compared: names of what is in catalogs differ.
/// Sequences never are: they count on beside every transaction, so they were counted at another moment than they were dumped.
pub(super) fn difference(stored: &[String], counted: &str, same_major: bool) -> Option<String> {
    let counts = |line: &&str| line.starts_with("table ") || same_major && !line.starts_with("sequence ");
    let counted: Vec<&str> = counted.lines().filter(counts).collect();
    let stored: Vec<&str> = stored.iter().map(String::as_str).filter(counts).collect();
    let missing = stored.iter().filter(|line| !counted.contains(line)).map(|line| format!("- {line}"));
    let more = counted.iter().filter(|line| !stored.contains(line)).map(|line| format!("+ {line}"));
    let all: Vec<String> = missing.chain(more).take(5).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// restic writes over files, but not over links, pipes and devices: those that the host's preparation has made, or a recovery that was cut
/// off, go first. None of them holds data.
async fn make_room(paths: &[String], host: &Host) -> Result<()> {
    for path in paths.iter().filter(|path| host.is_directory(path)) {
        let args = [path.as_str(), "-xdev", "!", "-type", "f", "!", "-type", "d", "-delete"];
        let cmd = Cmd::new("find", args).deadline(COUNTING);
        host.act(What::Directory, path, "take links away", cmd).await?;
    }
    Ok(())
}

async fn make_volume(volume: &super::manifest::VolumePart, host: &Host) -> Result<()> {
    let known = match host.docker().volume(&volume.name).await? {
        Some(known) => known,
        None => {
            host.note_volume(&volume.name, "create");
            let request = VolumeCreateRequest {
                name: Some(volume.name.clone()),
                labels: Some(volume.labels.clone().into_iter().collect()),
                ..Default::default()
            };
            host.docker().create_volume(request).await?;
            let made = host.docker().volume(&volume.name).await?;
            made.with_context(|| format!("Docker does not know the volume {} that it has just made", volume.name))?
        }
    };
    if known.mountpoint != volume.path {
        bail!(
            "the volume {} is at {} on this host, and was at {}; give Docker the same data-root (or the host the same appliance.storage) as before",
            volume.name,
            known.mountpoint,
            volume.path
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_missing_is_a_difference_in_every_version() {
        let stored = ["table public.note: 3 rows", "index public.i", "sequence public.s: 3"].map(str::to_owned);
        assert_eq!(difference(&stored, &stored.join("\n"), true), None);
        let fewer = "table public.note: 2 rows\nindex public.i\nsequence public.s: 3";
        for same in [true, false] {
            let said = difference(&stored, fewer, same).expect("a difference");
            assert_eq!(said, "- table public.note: 3 rows; + table public.note: 2 rows");
        }
        let renamed = "table public.note: 3 rows\nindex public.other\nsequence public.s: 4";
        assert!(difference(&stored, renamed, true).is_some() && difference(&stored, renamed, false).is_none());
    }
}
