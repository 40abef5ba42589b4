//! Taking away one of several apps that env.yml does not name any more: what is made of it on the host, and if that is wished for its data
//! too. Killed anywhere, it is run again.

use super::databases::Databases;
use super::dump;
use crate::env::{Env, MAX_BYTES};
use crate::host::{Dir, Host, Login, What, quote_identifier, quote_literal};
use crate::prepare::{self, postgres};
use crate::report::{metrics, page};
use crate::stack::{slice, stop, stopped};
use crate::state::flags::Flag;
use crate::state::{Ledger, StackLock, Status, UpdateLock, app_directory, history, ledger, pulled};
use crate::value::{AppName, Tenant};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// How long it waits for another command.
const PATIENCE: Duration = Duration::from_secs(600);
/// Where the last dumps of removed apps are kept; nobody but an operator removes them.
pub const KEPT: &str = "/data/removed-apps";

/// What is to be taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Containers, networks, images, configuration: everything that the next start would make again.
    Traces,
    /// The data too: database and role, volumes, directories.
    All,
}

/// Removes an app. `last` is what an env said to it last, if one is kept. Gives back where the last dump of its database is.
///
/// # Errors
/// Something of it could not be removed; what was removed before is gone.
pub async fn remove(app: &AppName, last: Option<&Env>, extent: Extent, host: &Host) -> Result<Option<String>> {
    let _alone = UpdateLock::take(host, "app remove", PATIENCE).await?;
    let _lock = StackLock::take_of(host, app, "app remove", PATIENCE).await?;
    refuse_named(app, last, host)?;
    let dumped = match extent {
        Extent::Traces => None,
        // Before anything is gone.
        Extent::All => last_dump(app, last, host).await?,
    };
    take_down(app, host).await?;
    remove_images(app, host).await?;
    let tenant = Tenant::OneOfSeveral(app.clone());
    host.remove_tree(&page::root(Some(&tenant))).await?;
    host.remove_tree(&prepare::nginx::slots(&tenant)).await?;
    Flag::App(app.clone()).clear(host)?;
    Status::discard(host, &tenant)?;
    stopped::forget(host, app)?;
    metrics::discard(app, host)?;
    if extent == Extent::All {
        remove_data(app, last, host).await?;
    }
    Ok(dumped)
}

/// The database as it is now, as a file that outlives the app. An app without a database has none.
async fn last_dump(app: &AppName, last: Option<&Env>, host: &Host) -> Result<Option<String>> {
    let Some(env) = last else {
        bail!(
            "no env is kept that names the app {app}, so what its database is called is not known; dump it and drop it by hand"
        );
    };
    let database = env.app.database.as_str();
    let admin = postgres::cluster(host)?.superuser("postgres");
    let sql = "SELECT datname::text FROM pg_database WHERE datname = $1";
    if host.query(&admin, sql, &[database]).await?.is_empty() {
        return Ok(None);
    }
    let target = format!("{KEPT}/{app}-{}.pgdump", host.now().strftime("%Y%m%d-%H%M%S"));
    host.ensure_dir(KEPT, &Dir::plain().mode(0o700))?;
    dump::dump(env, &target, host).await?;
    Ok(Some(target))
}

/// Containers, those of one run each included, and networks.
async fn take_down(app: &AppName, host: &Host) -> Result<()> {
    let docker = host.docker();
    stop::stop(None, app.as_str(), host).await?;
    for container in docker.containers(app.as_str(), crate::host::docker::Look::Close).await? {
        host.note_container(&container.name, "remove");
        docker.remove(&container.id).await?;
    }
    for network in docker.networks(app.as_str()).await? {
        host.note_network(&network.name, "remove");
        docker.remove_network(&network.name).await?;
    }
    slice::remove(app, host).await
}

/// Images that were built for it, or pulled for it alone. One that something else uses stays.
async fn remove_images(app: &AppName, host: &Host) -> Result<()> {
    let docker = host.docker();
    let mut names: Vec<String> = Vec::new();
    for image in docker.built_images(app.as_str()).await? {
        names.extend(if image.names.is_empty() { vec![image.id] } else { image.names });
    }
    names.extend(pulled::read(host, app)?.into_iter().filter_map(|image| image.id.map(|_| image.reference)));
    for name in names {
        match docker.remove_image(&name).await {
            Ok(()) => tracing::info!("removed the image {name}"),
            Err(error) if crate::host::docker::is_away(&error) => return Err(error),
            Err(error) => tracing::info!("the image {name} stays: {error:#}"),
        }
    }
    Ok(())
}

async fn remove_data(app: &AppName, last: Option<&Env>, host: &Host) -> Result<()> {
    for volume in host.docker().volumes(app.as_str()).await? {
        host.note_volume(&volume.name, "remove");
        host.docker().remove_volume(&volume.name).await?;
    }
    if let Some(env) = last {
        drop_databases(env, host).await?;
    }
    for name in ["ca", "gpg", "storage-vault", "cache"] {
        host.discard(&format!("/app/{app}-{name}"))?;
    }
    let directories = [
        format!("/data/{app}-ca"),
        format!("/data/{app}-gpg"),
        format!("/data/{app}-storage-vault"),
        dump::directory(app),
        format!("/volatile/{app}-cache"),
        format!("/volatile/{app}-backup-test"),
        format!("/app/{app}"),
        format!("/data/git/{app}"),
        format!("/data/appliance-git/{app}"),
        format!("/data/etc/{app}"),
    ];
    for directory in directories {
        host.note_act(What::Directory, &directory, "remove");
        host.remove_tree(&directory).await?;
    }
    Ledger::discard_tags(host, app)?;
    // The ledger last: as long as it is there, something is left of the app.
    let own = app_directory(app);
    host.note_act(What::Directory, &own, "remove");
    host.remove_tree(&own).await
}

/// The app's own database and those that the appliance has made beside it; and the role, unless another app connects as that, too.
async fn drop_databases(env: &Env, host: &Host) -> Result<()> {
    let (app, admin) = (&env.app.name, postgres::cluster(host)?.superuser("postgres"));
    let role = prepare::app_role(env, host)?;
    let mut own = Databases::of(env, host)?.made()?;
    own.insert(env.app.database.as_str().to_owned());
    for database in own {
        let sql = "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = $1";
        let owner = host.query(&admin, sql, &[&database]).await?.into_iter().flatten().flatten().next();
        match owner {
            None => continue,
            Some(owner) if owner == role => {}
            Some(owner) => {
                bail!("the database {database} belongs to the role {owner} and not to {role}; it is not dropped")
            }
        }
        end_sessions(&admin, &database, host).await?;
        let sql = format!("DROP DATABASE IF EXISTS {}", quote_identifier(&database));
        host.execute_within(dump::DEADLINE, &admin, &database, "drop database", sql).await?;
    }
    for other in ledger::apps(host)?.iter().filter(|other| *other != app) {
        if prepare::role_of(host, other)? == role {
            tracing::warn!("the role {role} stays: the app {other} connects as that, too");
            return Ok(());
        }
    }
    let sql = "SELECT rolname::text FROM pg_roles WHERE rolname = $1";
    if !host.query(&admin, sql, &[&role]).await?.is_empty() {
        // Grants in the database that everybody may connect to.
        let quoted = quote_identifier(&role);
        let sql = format!("DROP OWNED BY {quoted}; DROP ROLE {quoted}");
        host.execute(&admin, &role, "drop role", sql).await.context(
            "the role owns something in a database of somebody else's; give that to another role, and run this again",
        )?;
    }
    Ok(())
}

/// # Errors
/// Somebody has made an env the active one meanwhile that names the app, or its database.
fn refuse_named(app: &AppName, last: Option<&Env>, host: &Host) -> Result<()> {
    let active = host.read_start(history::ACTIVE, MAX_BYTES + 1)?.and_then(|bytes| Env::parse(&bytes).envs);
    let Some(active) = active else { return Ok(()) };
    if active.of(app).is_some() {
        bail!("the active env names the app {app} by now; nothing was done");
    }
    let database = last.map(|env| &env.app.database);
    if let Some(other) = active.iter().find(|env| Some(&env.app.database) == database) {
        bail!("the database of {app} is that of the app {} now; nothing was done", other.app.name);
    }
    Ok(())
}

async fn end_sessions(admin: &Login, database: &str, host: &Host) -> Result<()> {
    let sql = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = {}",
        quote_literal(database)
    );
    host.execute(admin, database, "end the sessions of", sql).await
}
