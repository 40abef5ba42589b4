//! Making a release: fetched, built, migrated. Each stage is in the ledger before it starts.

use super::{git, image};
use crate::env::{Env, Migrate};
use crate::error::Halt;
use crate::host::Host;
use crate::stack::{self, Stack, apply, routes};
use crate::state::{InFlight, Ledger, Lock, Release, Stage};
use crate::value::Commit;
use anyhow::{Context, Result};
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
    ledger.in_flight = Some(InFlight { commit: commit.cloned(), stage, since: host.now() });
    ledger.write(host, &env.app.name)
}

/// Fetches and builds the release that the env asks for. Nothing that runs is touched. Killed anywhere, it is begun
/// anew: every stage can be repeated.
///
/// # Errors
/// [`Halt`] with standby: there is nothing to run.
pub async fn build(env: &Env, ledger: &mut Ledger, host: &Host, _lock: &Lock, progress: Progress<'_>) -> Result<Built> {
    begin(env, ledger, Stage::Fetch, None, host)?;
    progress("fetching the app");
    let checkout = stack::checkout(env);
    let commit = git::check_out(&env.app, &checkout, host)
        .await
        .map_err(|error| no_release("The app could not be fetched", &error))?;

    begin(env, ledger, Stage::Build, Some(&commit), host)?;
    progress("building the app");
    let make = async {
        let stack = stack::load(env, host)?;
        let routes = routes::routes(&stack)?;
        let images = image::make(&stack, &commit, host, progress).await?;
        anyhow::Ok((stack, routes, images))
    };
    match make.await {
        Ok((stack, routes, images)) => {
            let release =
                Release { commit, images, env_digest: env.digest.clone(), routes, since: host.now(), migrated: false };
            Ok(Built { release, stack })
        }
        Err(error) => {
            ledger.remember_failed(commit);
            ledger.in_flight = None;
            ledger.write(host, &env.app.name)?;
            Err(no_release("The app could not be built", &error))
        }
    }
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
    _lock: &Lock,
    progress: Progress<'_>,
) -> Result<()> {
    begin(env, ledger, Stage::Migrate, Some(&built.release.commit), host)?;
    let Some(migrate) = env.app.migrate.as_ref().filter(|migrate| migrate.auto) else { return Ok(()) };
    progress("migrating the database");
    let done = run_migration(migrate, built, host).await;
    if done.is_err() {
        ledger.remember_failed(built.release.commit.clone());
        ledger.in_flight = None;
        ledger.write(host, &env.app.name)?;
    }
    built.release.migrated = done.is_ok();
    done
}

async fn run_migration(migrate: &Migrate, built: &Built, host: &Host) -> Result<()> {
    let stack = &built.stack;
    let service = stack.service(migrate.service.as_str());
    let service = service
        .with_context(|| format!("app.migrate.service is {}, which is not in {}", migrate.service, stack.file))?;
    let ended =
        apply::run_once(stack, service, &built.release.images, "migrate", &migrate.command, MIGRATION, host).await?;
    if ended.exit_code == 0 {
        return Ok(());
    }
    let text = format!(
        "{} in {} ended with {}:\n{}",
        migrate.command.join(" "),
        migrate.service,
        ended.exit_code,
        ended.tail.trim()
    );
    Err(Halt::failed("The migration failed", text).into())
}

/// Rebuilds images of a known release that have gone missing; the checkout must still be at its commit.
pub async fn restore_images(stack: &Stack, release: &Release, host: &Host, progress: Progress<'_>) -> Result<()> {
    for image in release.images.values() {
        if host.docker().image_id(image).await?.is_none() {
            image::make(stack, &release.commit, host, progress).await?;
            return Ok(());
        }
    }
    Ok(())
}

fn no_release(title: &str, error: &anyhow::Error) -> anyhow::Error {
    Halt::standby(title, format!("{error:#}")).into()
}
