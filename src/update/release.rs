//! Making a release: fetched, built, migrated. Each stage is in the ledger before it starts.

use super::blame::OfCommit;
use super::databases::Databases;
use super::image::{self, Purpose};
use super::{dump, git, restore, room};
use crate::env::{Env, Migrate};
use crate::error::Halt;
use crate::host::Host;
use crate::host::docker::is_away;
use crate::stack::images::Images;
use crate::stack::masking::without_secrets;
use crate::stack::{self, Service, Stack, apply, routes, stop};
use crate::state::{InFlight, Ledger, Release, StackLock, Touched};
use crate::value::{Commit, Stage};
use anyhow::{Result, anyhow};
use std::time::Duration;

/// How long a migration may take: it is not killed by a short timeout, but not endless either.
const MIGRATION: Duration = Duration::from_secs(24 * 3600);

/// Told what is happening.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

/// A release that is built, but not yet current.
pub struct Built {
    pub release: Release,
    pub stack: Stack,
}

fn begin(env: &Env, ledger: &mut Ledger, stage: Stage, commit: Option<&Commit>, host: &Host) -> Result<()> {
    ledger.in_flight = Some(InFlight::at(commit.cloned(), stage, host));
    ledger.write(host, &env.app.name)
}

/// Fetches and builds the first release. Killed anywhere, it is begun anew: every stage can be repeated.
///
/// # Errors
/// [`Halt`] with standby: there is nothing to run.
pub async fn first(
    env: &Env,
    ledger: &mut Ledger,
    host: &Host,
    _lock: &StackLock,
    progress: Progress<'_>,
) -> Result<Built> {
    if ledger.in_flight.as_ref().is_some_and(|flight| flight.database == Touched::Migrated) {
        progress("putting the database back");
        stop::stop(None, env.app.name.as_str(), host).await?;
        restore::put_back(env, &dump::pending(&env.app.name), host).await?;
    }
    begin(env, ledger, Stage::Fetch, None, host)?;
    dump::forget_copy(env, host).await?;
    progress("fetching the app");
    let directory = stack::checkout(env);
    let fetched = patient_fetch(env, &directory, host, progress).await;
    let fetched = fetched.map_err(|error| no_release("The app could not be fetched", error))?;
    fetched.verify().await.map_err(|error| no_release("The app's commit is not trusted", error))?;
    begin(env, ledger, Stage::Build, Some(&fetched.target), host)?;
    match build(env, &fetched, Purpose::Release, host, progress).await {
        Ok(built) => Ok(built),
        Err(error) => {
            if !is_away(&error) {
                if error.is::<OfCommit>() {
                    ledger.remember_failed(fetched.target.clone());
                }
                ledger.in_flight = None;
                ledger.write(host, &env.app.name)?;
            }
            Err(no_release("The app could not be built", error))
        }
    }
}

/// After how long a first transfer is tried again; all of them take an hour. Nobody may be looking at a new machine whose network, or
/// whose git server, comes up later than itself.
const PATIENCE_S: [u64; 16] = [5, 15, 30, 60, 120, 240, 300, 300, 300, 300, 300, 300, 300, 300, 300, 300];

async fn patient_fetch<'a>(
    env: &'a Env,
    directory: &str,
    host: &'a Host,
    progress: Progress<'_>,
) -> Result<git::Fetched<'a>> {
    for seconds in PATIENCE_S {
        match git::fetch(&env.app, directory, None, host).await {
            Err(error) if error.is::<git::NotFetched>() => {
                progress(&format!("the app could not be fetched and is tried again in {seconds} s: {error:#}"));
                tokio::time::sleep(Duration::from_secs(seconds)).await;
            }
            ended => return ended,
        }
    }
    git::fetch(&env.app, directory, None, host).await
}

/// Checks out and builds what was fetched. Nothing that runs is touched.
pub async fn build(
    env: &Env,
    fetched: &git::Fetched<'_>,
    purpose: Purpose<'_>,
    host: &Host,
    progress: Progress<'_>,
) -> Result<Built> {
    progress("building the app");
    let commit = fetched.check_out().await?;
    let stack = stack::load(env, host)?;
    let routes = routes::routes(&stack)?;
    let images = image::make(&stack, &commit, purpose, host, progress).await?;
    let release = Release {
        commit,
        images,
        env_digest: env.digest.clone(),
        runs_with: None,
        routes,
        since: host.now(),
        migrated: false,
    };
    Ok(Built { release, stack })
}

/// Migrates the database for a release, if the env says how. The networks that the app reaches PostgreSQL from must
/// have been admitted.
///
/// # Errors
/// [`Halt`] with failed: the command's exit code and last lines.
pub async fn migrate(
    env: &Env,
    built: &mut Built,
    ledger: &mut Ledger,
    host: &Host,
    _lock: &StackLock,
    progress: Progress<'_>,
) -> Result<()> {
    begin(env, ledger, Stage::Dump, Some(&built.release.commit), host)?;
    let Some(migrate) = env.app.migrate.as_ref().filter(|migrate| migrate.auto) else { return Ok(()) };
    let mut database = Touched::No;
    if restore::has_data(env, host).await? {
        // Of a host before this one, or of a ledger that was lost.
        progress("copying the database that is there");
        room::check(env, None, 1, host).await?;
        let databases = Databases::of(env, host)?;
        databases.refuse_strangers().await?;
        dump::forget_failed(env, host).await?;
        databases.copy().await?;
        database = Touched::Migrated;
    }
    let flight = InFlight::at(Some(built.release.commit.clone()), Stage::Migrate, host);
    ledger.in_flight = Some(InFlight { database, ..flight });
    ledger.write(host, &env.app.name)?;
    progress("migrating the database");
    let done = run_migration(migrate, &built.stack, &built.release, host).await;
    if done.as_ref().is_err_and(|error| !is_away(error)) {
        if database == Touched::Migrated {
            restore::put_back(env, &dump::pending(&env.app.name), host).await?;
        }
        if done.as_ref().is_err_and(OfCommit::is_of_migration) {
            ledger.remember_failed(built.release.commit.clone());
        }
        ledger.in_flight = None;
        ledger.write(host, &env.app.name)?;
        dump::forget_failed(env, host).await?;
    }
    built.release.migrated = done.is_ok();
    done
}

/// The service whose command migrates.
///
/// # Errors
/// The compose files have no such service: the commit's own mistake.
pub fn migration_service<'a>(migrate: &Migrate, stack: &'a Stack) -> Result<&'a Service> {
    stack.service(migrate.service.as_str()).ok_or_else(|| {
        let files = stack.files.join(", ");
        OfCommit::from(anyhow!("app.migrate.service is {}, which is not in {files}", migrate.service))
    })
}

/// Runs the migration's command to its end.
///
/// # Errors
/// [`Halt`] with failed: the command's exit code and last lines.
pub async fn run_migration(migrate: &Migrate, stack: &Stack, release: &Release, host: &Host) -> Result<()> {
    let service = migration_service(migrate, stack)?;
    let ended = apply::run_once(stack, service, &release.images, "migrate", &migrate.command, MIGRATION, host).await?;
    if ended.exit_code == 0 {
        return Ok(());
    }
    let text = format!(
        "{} in {} ended with {}:\n{}",
        migrate.command.join(" "),
        migrate.service,
        ended.exit_code,
        without_secrets(service, ended.tail.trim())
    );
    Err(Halt::failed("The migration failed", text).into())
}

/// Makes sure that a known release can be brought up: its checkout is at its commit.
pub async fn restore_checkout(env: &Env, release: &Release, host: &Host) -> Result<()> {
    git::ensure_at(&env.app, &stack::checkout(env), &release.commit, host).await
}

/// Gets images of a known release that have gone missing, and takes up what the operator's compose file asks for now: the checkout
/// must still be at its commit. What changes is in the ledger before anything is done with it.
pub async fn ensure_images(
    stack: &Stack,
    release: &mut Release,
    ledger: &mut Ledger,
    host: &Host,
    progress: Progress<'_>,
) -> Result<()> {
    let (mut images, routes) = (references(stack, release)?, routes::routes(stack)?);
    let is_pinned = images.values().all(|image| image.id.is_some());
    if !is_pinned || !image::are_there(&images, host).await? {
        images = image::make(stack, &release.commit, Purpose::Known(&release.images), host, progress).await?;
    }
    if release.images != images || release.routes != routes {
        release.images = images;
        release.routes = routes;
        ledger.current = Some(release.clone());
        ledger.write(host, &stack.project)?;
    }
    Ok(())
}

/// The images of a release, by what the compose file says now: those that it was tried with, where they are called the same.
///
/// # Errors
/// Two services that build different images under one name.
pub fn references(stack: &Stack, release: &Release) -> Result<Images> {
    Ok(image::pinned(image::references(stack, &release.commit)?, &release.images))
}

fn no_release(title: &str, error: anyhow::Error) -> anyhow::Error {
    if is_away(&error) {
        return error;
    }
    Halt::standby(title, format!("{error:#}")).into()
}
