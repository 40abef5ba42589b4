//! A run: database, files, what is the host's, and at last the manifest, which makes it one. Killed anywhere before that, it has not been.

use super::content::{self, Content};
use super::manifest::{self, DatabasePart, FilesPart, Manifest};
use super::record::{Record, machine};
use super::restic::{Restic, Snapshot, State};
use super::runs::{self, Found};
use super::thin;
use crate::env::{Env, Envs, hex};
use crate::host::http::Request;
use crate::host::{Cmd, Host};
use crate::prepare::{self, postgres};
use crate::report::sentry;
use crate::state::{BackupLock, Ledger, Touched, UpdateLock, recovering};
use crate::update::dump;
use crate::value::AppName;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// How long another backup command is waited for.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long an update is waited for: half of it must not be stored.
const UPDATES: Duration = Duration::from_secs(6 * 3600);
/// How long counting a database may take.
const COUNTING: Duration = Duration::from_secs(3600);
/// How long the service that is told of a complete run may take.
const ALIVE: Duration = Duration::from_secs(30);
/// In so many runs all of the data is read once.
const PARTS: u32 = 28;
/// How often room is given back, in seconds.
const PRUNE_EVERY_S: i64 = 7 * 24 * 3600;
/// A run without a manifest is not begun anew after this, in seconds: it was cut off.
const CUT_OFF_AFTER_S: i64 = 2 * 24 * 3600;
/// The dump's name in its snapshot.
const DUMP: &str = "/database.pgdump";

/// The app that stands for the host, in tags.
const HOST: &str = "-";

/// What would be refused, and is meant so.
#[derive(Debug, Clone, Copy, Default)]
pub struct Accept {
    /// A vault has lost more than half of its files.
    pub loss: bool,
    /// The repository is another one than the last, or a new one.
    pub new_repository: bool,
}

/// What a run has stored.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub run: String,
    pub manifests: Vec<Manifest>,
    /// Why some apps are not in it, by name.
    pub failed: Vec<(AppName, String)>,
    /// What was left undone behind it.
    pub trouble: Option<String>,
}

/// Tells what is done now.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

/// Makes a run of all apps.
///
/// # Errors
/// Nothing could be stored; or the repository is another host's.
pub async fn run(envs: &Envs, accept: Accept, host: &Host, progress: Progress<'_>) -> Result<Outcome> {
    // A host that holds half of what it shall is nothing to go back to; it is looked at again by whoever has the lock.
    recovering::refuse(host)?;
    let lock = BackupLock::take(host, "backup run", PATIENCE).await?;
    recovering::refuse(host)?;
    let record = Record { last_start: Some(host.now()), ..Record::read(host)? };
    record.write(host)?;
    let made = make(envs, accept, record, &lock, host, progress).await;
    if let Err(error) = &made {
        let said = format!("{error:#}");
        Record { trouble: Some(said.clone()), ..Record::read(host)? }.write(host)?;
        sentry::critical(host, "The backup failed", &said);
    }
    made
}

/// What all parts of a run share.
struct Making<'a> {
    restic: Restic<'a>,
    host: &'a Host,
    run: String,
    machine: String,
    generation: u64,
    is_clock_synchronised: bool,
    before: Found,
    accept: Accept,
    begun: Instant,
    progress: Progress<'a>,
}

async fn make(
    envs: &Envs,
    accept: Accept,
    mut record: Record,
    _lock: &BackupLock,
    host: &Host,
    progress: Progress<'_>,
) -> Result<Outcome> {
    let begun = Instant::now();
    let (restic, machine) = (Restic::of(envs.host(), host)?, machine(host)?);
    record.repository = Some(ensure_repository(&restic, &record, accept, progress).await?);
    restic.unlock().await?;
    let before = runs::runs(&restic).await?;
    before.refuse_foreign(&machine, record.generation)?;
    record.generation = record.generation.max(1);
    // Before anything is stored: what is begun anew is begun once.
    record.write(host)?;
    let run = format!("{}-{}", host.now().strftime("%Y%m%dT%H%M%SZ"), hex(&host.random::<2>()?));
    let is_clock_synchronised = is_clock_synchronised(host).await;
    let generation = record.generation;
    let making =
        Making { restic, host, run, machine, generation, is_clock_synchronised, before, accept, begun, progress };
    let (mut manifests, mut failed) = (Vec::new(), Vec::new());
    let of_host = making.host_part().await?;
    for env in envs.iter() {
        let app = &env.app.name;
        if Ledger::read_for(host, app)?.current.is_none() {
            progress(&format!("{app}: it has no release yet, so there is nothing of it"));
            continue;
        }
        match making.app_part(env, &of_host).await {
            Ok(manifest) => manifests.push(manifest),
            Err(error) if envs.is_alone() => return Err(error),
            // The others are stored all the same.
            Err(error) => {
                let said = format!("{error:#}");
                sentry::critical(host, &format!("The backup of the app {app} failed"), &said);
                failed.push((app.clone(), said));
            }
        }
    }
    if manifests.is_empty() {
        let whys: Vec<String> = failed.iter().map(|(app, why)| format!("{app}: {why}")).collect();
        bail!("nothing was stored: {}", whys.join("; "));
    }
    let unread = manifests.iter().find_map(|one| {
        let first = one.files.unread.as_ref()?;
        Some(format!("{}: not all files could be read, {first} for one", one.app))
    });
    let trouble = failed.first().map(|(app, why)| format!("{app}: {why}")).or(unread);
    record.last_run = Some(making.run.clone());
    if trouble.is_none() {
        record.last_success = Some(host.now());
    }
    record.last_seconds = Some(begun.elapsed().as_secs());
    record.last_bytes = Some(manifests.iter().map(|one| one.files.bytes).sum());
    record.last_database_bytes = Some(manifests.iter().filter_map(|one| Some(one.database.as_ref()?.bytes)).sum());
    record.trouble = trouble.clone();
    record.write(host)?;
    if trouble.is_none() {
        tell_alive(envs.host(), host).await;
    }
    let kept_up = making.keep_up(envs.host(), &mut record).await;
    if let Err(error) = &kept_up {
        let said = format!("the run is stored, but the repository could not be kept up: {error:#}");
        record.trouble.get_or_insert(said);
        sentry::critical(host, "The backup's repository is in trouble", &format!("{error:#}"));
    }
    record.write(host)?;
    Ok(Outcome { run: making.run, manifests, failed, trouble: record.trouble })
}

impl Making<'_> {
    fn tags(&self, app: &str, part: &str) -> Vec<String> {
        vec![
            format!("run={}", self.run),
            format!("app={app}"),
            format!("part={part}"),
            format!("machine={}", &self.machine[..8]),
            format!("generation={}", self.generation),
        ]
    }

    /// The snapshot that was stored with these tags.
    async fn stored(&self, app: &str, part: &str) -> Result<Snapshot> {
        let all = self.restic.snapshots().await?;
        let is_it = |snapshot: &Snapshot| {
            [("run", self.run.as_str()), ("app", app), ("part", part)]
                .iter()
                .all(|(name, value)| snapshot.tag(name) == Some(value))
        };
        all.into_iter()
            .find(is_it)
            .with_context(|| format!("the repository does not list what was stored of {app} ({part})"))
    }

    /// Stores paths that are there, and makes sure that all of them were.
    async fn store(&self, paths: &[String], app: &str, part: &str) -> Result<(Snapshot, super::restic::Stored)> {
        let stored = self.restic.store(paths, &content::left_out(), &self.tags(app, part)).await?;
        let snapshot = self.stored(app, part).await?;
        if let Some(missing) = paths.iter().find(|path| !snapshot.paths.contains(path)) {
            bail!("{missing} was gone when it was to be stored");
        }
        Ok((snapshot, stored))
    }

    async fn host_part(&self) -> Result<String> {
        let _update = UpdateLock::take(self.host, "backup run", UPDATES).await?;
        (self.progress)("storing what is the host's");
        let stored = self.store(&content::of_host(self.host), HOST, "host").await;
        Ok(stored.context("could not store what is the host's")?.0.id)
    }

    async fn app_part(&self, env: &Env, of_host: &str) -> Result<Manifest> {
        let (app, host) = (&env.app.name, self.host);
        // Half an update is no state to go back to.
        let _update = UpdateLock::take(host, "backup run", UPDATES).await?;
        let flight = Ledger::read_for(host, app)?.in_flight;
        if let Some(flight) = flight.filter(|flight| flight.database != Touched::No) {
            bail!(
                "an update was cut off in its stage {}, and its database is no state to go back to: appliance status --app {app}",
                flight.stage
            );
        }
        let content = content::of_app(env, host).await?;
        if let (Ok(last), false) = (self.before.of(app, None), self.accept.loss) {
            match last.manifest(&self.restic).await {
                Ok(last) => content::refuse_loss(last.files.in_vault, content.in_vault, app.as_str())?,
                // One that cannot be read keeps no later one from being made.
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
        // The database first: what a row names in the files is there by then.
        let at = host.now();
        let database =
            self.database_part(env).await.with_context(|| format!("could not store the database of {app}"))?;
        let files = self.files_part(env, &content).await?;
        let manifest = Manifest {
            version: Manifest::VERSION,
            run: self.run.clone(),
            at,
            app: app.clone(),
            release: Ledger::read_for(host, app)?.current.map(|release| release.commit),
            appliance: env!("CARGO_PKG_VERSION").to_owned(),
            host: env.host_domain.as_str().to_owned(),
            machine: self.machine.clone(),
            generation: self.generation,
            is_clock_synchronised: self.is_clock_synchronised,
            env_digest: env.file_digest.clone(),
            database: Some(database),
            files,
            of_host: of_host.to_owned(),
            volumes: content.volumes,
            seconds: self.begun.elapsed().as_secs(),
        };
        let text = serde_json::to_string_pretty(&manifest)?;
        let name = app.as_str();
        self.restic.store_text(&text, manifest::FILE, &self.tags(name, "manifest")).await?;
        let stored = self.stored(name, "manifest").await?;
        if self.restic.read(&stored.id, manifest::FILE).await? != text {
            bail!("the manifest that the repository has is not the one that was stored");
        }
        Ok(manifest)
    }

    async fn database_part(&self, env: &Env) -> Result<DatabasePart> {
        let (app, host) = (env.app.name.as_str(), self.host);
        let cluster = postgres::cluster(host)?;
        // As the app: whoever plans a query of its tables runs what their indexes name.
        let login = prepare::app_login(env, host)?.pinned();
        (self.progress)(&format!("{app}: counting what is in the database"));
        let held = host.hold(&login, postgres::census::CONTENTS.to_owned(), COUNTING).await?;
        (self.progress)(&format!("{app}: storing the database"));
        let snapshot = format!("--snapshot={}", held.snapshot);
        // restic compresses, and finds again what it knows only where pg_dump has not.
        let args = ["--format=custom", "--compress=0", "--no-password", &snapshot];
        let cmd = dump::client(env, env.app.database.as_str(), "pg_dump", args, host)?;
        let stored = self.restic.store_output(cmd, DUMP, &self.tags(app, "database")).await?;
        let contents = held.value.as_deref().unwrap_or_default().lines().map(str::to_owned).collect();
        Ok(DatabasePart {
            snapshot: self.stored(app, "database").await?.id,
            path: DUMP.to_owned(),
            major: cluster.id.number().0,
            bytes: stored.bytes,
            contents,
        })
    }

    async fn files_part(&self, env: &Env, content: &Content) -> Result<FilesPart> {
        let app = env.app.name.as_str();
        (self.progress)(&format!("{app}: storing files"));
        let stored = self.store(&content.paths, app, "files").await;
        let (snapshot, stored) = stored.with_context(|| format!("could not store the files of {app}"))?;
        if let Some(unread) = &stored.unread {
            tracing::warn!("{app}: some files could not be read, {unread} for one");
        }
        Ok(FilesPart {
            snapshot: snapshot.id,
            paths: content.paths.clone(),
            count: stored.files,
            bytes: stored.bytes,
            in_vault: content.in_vault,
            unread: stored.unread,
        })
    }

    /// Checks the repository, and thins it out.
    async fn keep_up(&self, env: &Env, record: &mut Record) -> Result<()> {
        let part = record.checked_part % PARTS + 1;
        (self.progress)(&format!("checking the repository, part {part} of {PARTS} of its data"));
        self.restic.check(&format!("{part}/{PARTS}")).await?;
        record.checked_part = part;
        if !self.is_clock_synchronised {
            tracing::warn!("the clock is not synchronised, so no run is removed from the repository");
            return Ok(());
        }
        let (now, found) = (self.host.now(), runs::runs(&self.restic).await?);
        // Each app by itself: one that fails for weeks loses no run to those of the others.
        let (mut gone, mut wrong) = (BTreeSet::new(), Ok(()));
        for (app, times) in found.times(&self.machine) {
            match thin::to_forget(&times, env.appliance.backup.keep, now) {
                Ok(ids) => gone.extend(ids.into_iter().map(|id| (app.as_str().to_owned(), id))),
                // Told in the end: the others are thinned out all the same.
                Err(error) => wrong = wrong.and(Err(error.context(format!("the runs of {app}")))),
            }
        }
        let ids = ids_of(&found, &gone, &self.machine, now);
        if !ids.is_empty() {
            (self.progress)(&format!("removing {} snapshots", ids.len()));
            self.restic.forget(&ids).await?;
            let left = runs::runs(&self.restic).await?;
            if let Some(still) = left.snapshots.iter().find(|snapshot| ids.contains(&snapshot.id)) {
                bail!("the repository keeps what was to be removed ({}); is it append-only?", still.id);
            }
        }
        let due = record.last_prune.is_none_or(|last| now.as_second() - last.as_second() >= PRUNE_EVERY_S);
        if due {
            (self.progress)("giving room back");
            self.restic.prune().await?;
            record.last_prune = Some(now);
        }
        wrong
    }
}

/// Snapshots of runs that go, by app and id, and of runs of ours that were cut off long ago. What is the host's goes with the last app's part.
fn ids_of(found: &Found, gone: &BTreeSet<(String, String)>, machine: &str, now: jiff::Timestamp) -> Vec<String> {
    let is_gone = |app: &str, run: &str| gone.contains(&(app.to_owned(), run.to_owned()));
    let stays = |app: &str, run: &str| {
        let is_it = |known: &&runs::Run| known.id == run && (app == HOST || known.app.as_str() == app);
        found.runs.iter().filter(is_it).any(|known| !is_gone(known.app.as_str(), run))
    };
    let goes = |snapshot: &&Snapshot| {
        let (Some(run), Some(app)) = (snapshot.tag("run"), snapshot.tag("app")) else { return false };
        let is_ours = snapshot.tag("machine").is_some_and(|of| machine.starts_with(of));
        let is_old = now.as_second() - snapshot.time.as_second() > CUT_OFF_AFTER_S;
        let was_complete = found.runs.iter().any(|known| known.id == run && (app == HOST || known.app.as_str() == app));
        is_ours && !stays(app, run) && (was_complete || is_old)
    };
    found.snapshots.iter().filter(goes).map(|snapshot| snapshot.id.clone()).collect()
}

/// Makes the repository if there was none before; gives back its id.
///
/// # Errors
/// The one that this host has written is not there any more, or another one is in its place.
async fn ensure_repository(
    restic: &Restic<'_>,
    record: &Record,
    accept: Accept,
    progress: Progress<'_>,
) -> Result<String> {
    let known = record.repository.as_ref().filter(|_| !accept.new_repository);
    let found = match (restic.state().await?, known) {
        (State::Ready(id), None) => return Ok(id),
        (State::Ready(id), Some(known)) if id == *known => return Ok(id),
        (State::Ready(_), Some(_)) => "has another one in its place",
        (State::Missing, Some(_)) => "is not there any more",
        (State::Missing, None) => {
            progress("making the repository");
            restic.init().await?;
            let State::Ready(id) = restic.state().await? else { bail!("the repository was made, and is not there") };
            return Ok(id);
        }
    };
    bail!(
        "the repository that this host wrote last {found}; is its file system mounted? Nothing was stored. To start a new one: appliance backup run \
         --new-repository"
    )
}

/// Whether a server sets the clock; where systemd cannot say, it is taken for one that is not set.
async fn is_clock_synchronised(host: &Host) -> bool {
    let asked = host.try_ask(Cmd::new("timedatectl", ["show", "--property=NTPSynchronized", "--value"])).await;
    asked.is_ok_and(|told| told.stdout.trim() == "yes")
}

/// Tells whoever watches that a run is complete. That somebody else's service is away is no failure of the backup: it says so itself.
async fn tell_alive(env: &Env, host: &Host) {
    let Some(url) = &env.appliance.backup.alive else { return };
    let request = Request { method: "GET", url: url.as_str(), headers: &[], wanted: "", max: 64 << 10 };
    match tokio::time::timeout(ALIVE, host.request(request)).await {
        Ok(Ok(answer)) if answer.status < 400 => {}
        Ok(Ok(answer)) => tracing::warn!("'appliance.backup.alive' answers {}", answer.status),
        Ok(Err(error)) => tracing::warn!("'appliance.backup.alive' cannot be asked: {error:#}"),
        Err(_) => tracing::warn!("'appliance.backup.alive' does not answer within {} s", ALIVE.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ones_own_is_removed_and_what_was_cut_off_only_later() {
        let now: jiff::Timestamp = "2026-11-30T00:00:00Z".parse().expect("a time");
        let snapshot = |id: &str, run: &str, hours: i64, machine: &str| Snapshot {
            id: id.to_owned(),
            time: now - jiff::SignedDuration::from_hours(hours),
            tags: vec![format!("run={run}"), format!("machine={machine}"), "app=shop".to_owned()],
            paths: Vec::new(),
        };
        let of = |app: &str, snapshot: Snapshot| {
            let tags = snapshot.tags.iter().map(|tag| tag.replace("app=shop", &format!("app={app}"))).collect();
            Snapshot { tags, ..snapshot }
        };
        let complete = |app: &str, run: &str| runs::Run {
            id: run.to_owned(),
            app: app.parse().expect("it is a name"),
            at: now,
            machine: "aa".to_owned(),
            generation: 1,
            snapshot: "m".to_owned(),
        };
        let found = Found {
            runs: vec![
                complete("shop", "gone"),
                complete("shop", "half"),
                complete("wiki", "half"),
                complete("shop", "stays"),
            ],
            snapshots: vec![
                snapshot("1", "gone", 1, "aa"),
                of("-", snapshot("2", "gone", 1, "aa")),
                snapshot("3", "gone", 1, "bb"),
                // One app's part goes, and another one's stays, with what is the host's.
                snapshot("4", "half", 1, "aa"),
                of("wiki", snapshot("5", "half", 1, "aa")),
                of("-", snapshot("6", "half", 1, "aa")),
                snapshot("7", "stays", 99, "aa"),
                snapshot("8", "cut off", 49, "aa"),
                of("-", snapshot("9", "cut off", 49, "aa")),
                snapshot("10", "at work", 1, "aa"),
            ],
        };
        let gone = [("shop", "gone"), ("shop", "half")].map(|(app, run)| (app.to_owned(), run.to_owned())).into();
        assert_eq!(ids_of(&found, &gone, "aa00", now), ["1", "2", "4", "8", "9"]);
    }
}
