//! A run: database, files, what is the host's, and at last the manifest, which makes it one. Killed anywhere before that, it has not been.

use super::Progress;
use super::base;
use super::content::{self, Content};
use super::manifest::{self, DatabasePart, FilesPart, Manifest};
use super::open::{Accept, lost, open};
use super::rebase;
use super::record::{Record, is_clock_synchronised, machine};
use super::restic::Restic;
use super::runs::{self, Found, HOST, Writer};
use super::shipping::Shipping;
use super::told::{Snapshot, Stored};
use super::upkeep;
use crate::env::{Env, Envs, hex};
use crate::host::Host;
use crate::host::http::Request;
use crate::prepare::postgres::archive;
use crate::prepare::{self, postgres};
use crate::report::sentry;
use crate::state::{BackupLock, Ledger, ShipLock, Touched, UpdateLock, recovering};
use crate::update::dump;
use crate::value::AppName;
use anyhow::{Context, Result, bail};
use std::time::Duration;
use tokio::time::Instant;

/// How long another backup command is waited for.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);
/// How long an update is waited for: half of it must not be stored.
const UPDATES: Duration = Duration::from_secs(6 * 3600);
/// How long a shipment is waited for.
const SHIPMENT: Duration = Duration::from_secs(6 * 3600);
/// How long counting a database may take.
const COUNTING: Duration = Duration::from_secs(3600);
/// How long the service that is told of a complete run may take.
const ALIVE: Duration = Duration::from_secs(30);
/// The dump's name in its snapshot.
const DUMP: &str = "/database.pgdump";

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

/// What was stored of the host.
struct HostPart {
    stored: Stored,
    paths: Vec<String>,
}

/// What all parts of a run share.
struct Making<'a> {
    restic: Restic<'a>,
    host: &'a Host,
    run: String,
    writer: Writer,
    is_clock_synchronised: bool,
    before: Found,
    accept: Accept,
    begins_anew: bool,
    begun: Instant,
    progress: Progress<'a>,
}

async fn make(
    envs: &Envs,
    accept: Accept,
    mut record: Record,
    lock: &BackupLock,
    host: &Host,
    progress: Progress<'_>,
) -> Result<Outcome> {
    let begun = Instant::now();
    let (restic, machine) = (Restic::of(envs.host(), host)?, machine(host)?);
    let (repository, before) = open(&restic, &record, accept, progress).await?;
    if record.repository.replace(repository.clone()).is_some_and(|before| before != repository) {
        // The last run is in the other one.
        record.last_run_generation = 0;
    }
    if let Err(error) = rebase::sweep(envs, lock, host).await {
        tracing::warn!("what was left of earlier commands cannot be taken away: {error:#}");
    }
    before.refuse_foreign(&machine, record.generation)?;
    let lost = lost(&record, &before, accept);
    record.generation = record.generation.max(1);
    // Before anything is stored: what is begun anew is begun once.
    record.write(host)?;
    let run = format!("{}-{}", host.now().strftime("%Y%m%dT%H%M%SZ"), hex(&host.random::<2>()?));
    let is_clock_synchronised = is_clock_synchronised(host).await;
    let writer = Writer { machine, generation: record.generation, serial: before.next_serial() };
    let making = Making {
        restic,
        host,
        run,
        writer,
        is_clock_synchronised,
        before,
        accept,
        begins_anew: record.begins_anew,
        begun,
        progress,
    };
    let (mut manifests, mut failed) = (Vec::new(), Vec::new());
    let of_host = making.first_part().await?;
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
    let based = making.base(envs.host(), &manifests, record.repository.as_deref().unwrap_or_default()).await;
    let unread = manifests.iter().find_map(|one| {
        let first = one.files.unread.as_ref()?;
        Some(format!("{}: not all files could be read, {first} for one", one.app))
    });
    let based =
        based.err().map(|error| format!("the databases cannot be brought back to a moment between runs: {error:#}"));
    let trouble = failed.first().map(|(app, why)| format!("{app}: {why}")).or(unread);
    (record.last_run, record.last_run_generation) = (Some(making.run.clone()), record.generation);
    if trouble.is_none() {
        record.last_success = Some(host.now());
    }
    record.last_seconds = Some(begun.elapsed().as_secs());
    record.last_bytes = Some(manifests.iter().map(|one| one.files.bytes).sum());
    record.last_database_bytes = Some(manifests.iter().filter_map(|one| Some(one.database.as_ref()?.bytes)).sum());
    if let Some(lost) = &lost {
        sentry::critical(host, "The backup's repository is not as it was", lost);
    }
    record.trouble = trouble.clone().or(lost).or(based);
    record.write(host)?;
    if trouble.is_none() {
        tell_alive(envs.host(), host).await;
    }
    making.keep_up(envs.host(), &mut record).await;
    record.write(host)?;
    Ok(Outcome { run: making.run, manifests, failed, trouble: record.trouble })
}

impl Making<'_> {
    fn tags(&self, app: &str, part: &str) -> Vec<String> {
        self.writer.tags(&[("run", &self.run), ("app", app), ("part", part)])
    }

    /// What is done behind a run: what becomes of it is in the record.
    async fn keep_up(&self, env: &Env, record: &mut Record) {
        let (host, machine, may_remove) = (self.host, &self.writer.machine, self.is_clock_synchronised);
        let kept_up = match ShipLock::take(host, "backup run", SHIPMENT).await {
            Ok(_lock) => upkeep::keep_up(&self.restic, env, machine, may_remove, record, host, self.progress).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &kept_up {
            let said = format!("the run is stored, but the repository could not be kept up: {error:#}");
            record.trouble.get_or_insert(said);
            sentry::critical(host, "The backup's repository is in trouble", &format!("{error:#}"));
        }
    }

    /// What is the host's; once more, should a process that is gone hold the repository for itself.
    async fn first_part(&self) -> Result<HostPart> {
        match self.host_part().await {
            Ok(of_host) => Ok(of_host),
            Err(error) if format!("{error:#}").contains("already locked") => {
                tracing::warn!("{error:#}; trying again");
                match self.restic.unlock().await {
                    Ok(()) => self.host_part().await,
                    Err(_) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn host_part(&self) -> Result<HostPart> {
        let _update = UpdateLock::take(self.host, "backup run", UPDATES).await?;
        (self.progress)("storing what is the host's");
        let paths = content::of_host(self.host);
        let stored = self.restic.store(&paths, &content::left_out([]), &self.tags(HOST, "host")).await;
        Ok(HostPart { stored: stored.context("could not store what is the host's")?, paths })
    }

    /// A new base for what is shipped until the next run; and what the next shipments are compared with.
    async fn base(&self, env: &Env, manifests: &[Manifest], repository: &str) -> Result<()> {
        if !archive::is_wanted(env) {
            return Ok(());
        }
        if let Some(why) = base::why_impossible(self.host).await? {
            tracing::warn!("changes are not shipped between runs: {why}");
            return Ok(());
        }
        let lock = ShipLock::take(self.host, "backup run", SHIPMENT).await?;
        (self.progress)("storing a base backup of the databases");
        let mut shipping = Shipping::read(self.host)?;
        for manifest in manifests {
            shipping.holds(manifest.app.as_str(), manifest.files.in_vault, &manifest.files.excluded);
        }
        shipping.write(self.host)?;
        let found = runs::runs(&self.restic).await?;
        rebase::rebase(&mut shipping, &lock, Some(&found), &self.restic, &self.writer, repository, self.host)
            .await
            .map(drop)
    }

    async fn app_part(&self, env: &Env, of_host: &HostPart) -> Result<Manifest> {
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
        // Where somebody has let the apps begin anew, another host's says nothing of this vault.
        let is_own = |run: &&runs::Run| run.app == *app && (!self.begins_anew || self.writer.is_of(run));
        if let (Some(last), false) = (self.before.runs.iter().find(is_own), self.accept.loss) {
            match last.manifest(&self.restic).await {
                Ok(last) if last.files.excluded == content.excluded => {
                    content::refuse_loss(last.files.in_vault, content.in_vault, app.as_str())?;
                }
                Ok(_) => {}
                // One that cannot be read keeps no later one from being made.
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
        content::make_ready(env, host).await?;
        // The database first: what a row names in the files is there by then.
        let at = host.now();
        let stored = self.database_part(env).await.with_context(|| format!("could not store the database of {app}"))?;
        let (mut database, dump) = stored;
        let (mut files, of_files) = self.files_part(env, &content).await?;
        let all = self.restic.snapshots().await?;
        database.snapshot = listed(&all, &dump, &[])?.id.clone();
        files.snapshot = listed(&all, &of_files, &content.paths)?.id.clone();
        let of_host = listed(&all, &of_host.stored, &of_host.paths)?.id.clone();
        let manifest = Manifest {
            version: Manifest::VERSION,
            run: self.run.clone(),
            at,
            app: app.clone(),
            release: Ledger::read_for(host, app)?.current.map(|release| release.commit),
            appliance: env!("CARGO_PKG_VERSION").to_owned(),
            host: env.host_domain.as_str().to_owned(),
            machine: self.writer.machine.clone(),
            generation: self.writer.generation,
            serial: self.writer.serial,
            is_clock_synchronised: self.is_clock_synchronised,
            env_digest: env.file_digest.clone(),
            database: Some(database),
            files,
            of_host,
            volumes: content.volumes,
            seconds: self.begun.elapsed().as_secs(),
        };
        let text = serde_json::to_string_pretty(&manifest)?;
        let name = app.as_str();
        let stored = self.restic.store_text(&text, manifest::FILE, &self.tags(name, "manifest")).await?;
        if self.restic.read(&stored.snapshot, manifest::FILE).await? != text {
            bail!("the manifest that the repository has is not the one that was stored");
        }
        Ok(manifest)
    }

    async fn database_part(&self, env: &Env) -> Result<(DatabasePart, Stored)> {
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
        let major = cluster.id.number().0;
        let (snapshot, bytes) = (stored.snapshot.clone(), stored.bytes);
        Ok((DatabasePart { snapshot, path: DUMP.to_owned(), major, bytes, contents }, stored))
    }

    async fn files_part(&self, env: &Env, content: &Content) -> Result<(FilesPart, Stored)> {
        let app = env.app.name.as_str();
        (self.progress)(&format!("{app}: storing files"));
        let stored = self.restic.store(&content.paths, &content::left_out([&env.app]), &self.tags(app, "files")).await;
        let stored = stored.with_context(|| format!("could not store the files of {app}"))?;
        if let Some(unread) = &stored.unread {
            tracing::warn!("{app}: some files could not be read, {unread} for one");
        }
        let part = FilesPart {
            snapshot: stored.snapshot.clone(),
            paths: content.paths.clone(),
            count: stored.files,
            bytes: stored.bytes,
            in_vault: content.in_vault,
            excluded: content.excluded.clone(),
            unread: stored.unread.clone(),
        };
        Ok((part, stored))
    }
}

/// What was stored, as the repository lists it, with all that was to be in it.
fn listed<'a>(all: &'a [Snapshot], stored: &Stored, paths: &[String]) -> Result<&'a Snapshot> {
    let is_it = |snapshot: &&Snapshot| !stored.snapshot.is_empty() && snapshot.id.starts_with(&stored.snapshot);
    let found = all.iter().find(is_it).context("the repository does not list what was stored")?;
    match paths.iter().find(|path| !found.paths.contains(path)) {
        Some(missing) => bail!("{missing} was gone when it was to be stored"),
        None => Ok(found),
    }
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
