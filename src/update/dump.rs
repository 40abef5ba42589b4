//! Dumps of the app's database as files: where they lie, how they are made. pg_dump logs in as the app's role and runs as its user, so
//! nothing that the app has put into its database or into the directory of its dumps gets further than the app itself.

use super::databases::{Databases, Role};
use crate::env::Env;
use crate::host::{Host, What};
use crate::prepare::{self, postgres::Cluster};
use crate::value::{AppName, Owner};
use anyhow::{Context, Result};
use std::time::Duration;

/// How long dumping or restoring may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// The directory of an app's dumps.
pub fn directory(app: &AppName) -> String {
    format!("/data/{app}-pgdump")
}

/// Where the dump from before the last migration lies.
pub fn path(app: &AppName) -> String {
    format!("{}/{app}-migrate.pgdump", directory(app))
}

/// Where that dump lies until its migration is settled: the one above belongs to the current release until then.
pub fn pending(app: &AppName) -> String {
    format!("{}.pending", path(app))
}

/// Where a dump lies that somebody asks for now.
pub fn dated(app: &AppName, host: &Host) -> String {
    format!("{}/{app}-{}.pgdump", directory(app), host.now().strftime("%Y%m%d-%H%M%S"))
}

/// Where what a reset takes away is kept; nobody but an operator removes it.
pub fn before_reset(app: &AppName, host: &Host) -> String {
    format!("{}/{app}-reset-{}.pgdump", directory(app), host.now().strftime("%Y%m%d-%H%M%S"))
}

/// Dumps the app's database to `target`.
pub async fn dump(env: &Env, target: &str, host: &Host) -> Result<()> {
    dump_of(env.app.database.as_str(), env, target, By::App, host).await
}

/// Who dumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    App,
    /// Only for a copy: nobody else can connect to it, so nothing in it changes under the dump.
    Superuser,
}

/// Dumps a database of the app's to `target`: written beside, synced, renamed. What a killed dump left beside is removed.
pub(super) async fn dump_of(database: &str, env: &Env, target: &str, by: By, host: &Host) -> Result<()> {
    let beside = format!("{target}.part");
    let args = ["--format=custom", "--no-password"];
    let cmd = match by {
        By::App => client(env, database, "pg_dump", args, host)?,
        By::Superuser => {
            let cluster = prepare::postgres::cluster(host)?;
            cluster.superuser(database).client(&cluster.program("pg_dump"), args).directory("/")
        }
    };
    let cmd = cmd.output_file(&host.path(&beside)).deadline(DEADLINE);
    let dumped = host.act(What::Database, database, "dump", cmd).await;
    let done = dumped.with_context(|| format!("could not dump the database {database}")).and_then(|_| {
        let owner: Owner = "app".parse().context("a user name is an owner")?;
        host.ensure_owned(&beside, 0o600, &owner)?;
        host.settle_file(&beside, target)
    });
    if done.is_err() {
        discard(target, host)?;
    }
    done
}

/// One of PostgreSQL's programs, of the cluster's own version, logged in as the app's role and run as its user.
pub fn client<const N: usize>(
    env: &Env,
    database: &str,
    program: &str,
    args: [&str; N],
    host: &Host,
) -> Result<crate::host::Cmd> {
    client_at(&prepare::postgres::cluster(host)?, env, database, program, args, host)
}

/// The same for another cluster than the one in use.
pub(super) fn client_at<const N: usize>(
    cluster: &Cluster,
    env: &Env,
    database: &str,
    program: &str,
    args: [&str; N],
    host: &Host,
) -> Result<crate::host::Cmd> {
    let login = prepare::app_login_at(cluster, env, host)?.in_database(database);
    let owner: Owner = "app".parse().context("a user name is an owner")?;
    Ok(login.client(&cluster.program(program), args).directory("/").ids(host.ids(&owner)?))
}

/// Takes away what a dump that did not come to its end has written.
pub fn discard(target: &str, host: &Host) -> Result<()> {
    host.discard(&format!("{target}.part"))
}

/// The copy from before the last migration becomes a file, and goes: a way back remains, and the room is free again. Without such a copy
/// there is nothing to do. Killed anywhere, it is run again.
///
/// # Errors
/// The copy cannot be dumped; it stays, and is the way back.
pub async fn settle_copy(env: &Env, host: &Host) -> Result<()> {
    // Of a version of the appliance that made the file before the migration.
    if host.exists(&pending(&env.app.name)) {
        host.settle_file(&pending(&env.app.name), &path(&env.app.name))?;
    }
    let databases = Databases::of(env, host)?;
    if databases.has(Role::Before).await? {
        let (copy, target) = (databases.beside(Role::Before)?, path(&env.app.name));
        if let Err(error) = dump_of(&copy, env, &target, By::App, host).await {
            // There is something in it that the app may not read: an operator's table, or an extension's.
            tracing::info!("{error:#}; trying again as the superuser");
            dump_of(&copy, env, &target, By::Superuser, host).await?;
        }
        databases.drop(Role::Before).await?;
    }
    Ok(())
}

/// Nothing goes back by the copy from before a migration.
pub async fn forget_copy(env: &Env, host: &Host) -> Result<()> {
    host.discard(&pending(&env.app.name))?;
    Databases::of(env, host)?.drop(Role::Before).await
}

/// Removes what earlier ways back kept.
pub async fn forget_failed(env: &Env, host: &Host) -> Result<()> {
    let databases = Databases::of(env, host)?;
    for role in [Role::Failed, Role::Fresh, Role::Emptied] {
        databases.drop(role).await?;
    }
    Ok(())
}
