//! Putting a database in the place of the app's own: the copy from before a migration, a dump of ours, or somebody else's. The superuser
//! makes the database and its extensions; everything in it is made by pg_restore logged in as the app's role: a dump holds code, and
//! restoring runs it.

use super::archive::{Archive, ResetFrom, chosen, list};
use super::databases::{Databases, Role};
use super::dump::{self, DEADLINE};
use crate::env::Env;
use crate::host::{Host, Login, What, quote_identifier};
use crate::prepare::{self, postgres::Cluster};
use crate::value::Owner;
use anyhow::{Context, Result, bail};

/// Whether there is what [`put_back`] would put back.
pub async fn has_way_back(env: &Env, dump: &str, host: &Host) -> Result<bool> {
    Ok(Databases::of(env, host)?.has(Role::Before).await? || host.exists(dump))
}

/// Whether there is anything in the app's database that a migration could harm.
pub async fn has_data(env: &Env, host: &Host) -> Result<bool> {
    let sql = "SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind IN ('r', 'p', 'm', 'S') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' LIMIT 1";
    Ok(!host.query(&prepare::app_login(env, host)?, sql, &[]).await?.is_empty())
}

/// Puts the database from before a migration back: its copy by renaming it, or else the dump, restored into a new database that is then
/// swapped in. The one that was there is kept as the failed one. Killed anywhere, it is run again.
///
/// # Errors
/// The dump is missing or broken: the database stays as it is.
pub async fn put_back(env: &Env, dump: &str, host: &Host) -> Result<()> {
    let databases = Databases::of(env, host)?;
    // Whoever began with this made sure that there is none: there is one once the swap is done.
    if databases.has(Role::Failed).await? {
        if !databases.has_own().await? {
            bail!("neither {} nor its copy is there, only {}", databases.name, databases.beside(Role::Failed)?);
        }
        databases.reopen().await?;
        return databases.drop(Role::Fresh).await;
    }
    if databases.has(Role::Before).await? {
        return databases.swap_in(Role::Before, Role::Failed).await;
    }
    if !databases.is_fresh_ready().await? {
        make_ready(env, dump, host).await?;
    }
    databases.swap_in(Role::Fresh, Role::Failed).await
}

/// Restores a dump beside the database, so that [`put_back`] only has to swap: what cannot be restored is known before anything is stopped.
/// Nothing is done where there is a copy to swap in.
///
/// # Errors
/// The dump is missing or broken, or holds what the app may not restore: the database stays as it is.
pub async fn make_ready(env: &Env, dump: &str, host: &Host) -> Result<()> {
    let databases = Databases::of(env, host)?;
    if databases.has(Role::Before).await? {
        return Ok(());
    }
    if !host.exists(dump) {
        bail!("{dump} is missing, so the database cannot be put back; it stays as it is");
    }
    let fresh = databases.create_fresh().await?;
    let extensions = extensions(&databases.cluster.superuser(env.app.database.as_str()), host).await?;
    let inside = databases.cluster.superuser(&fresh);
    let schemas = create_extensions(&inside, &extensions, &prepare::app_role(env, host)?, host).await?;
    let list = list(env, dump, host).await?;
    let restored = fill(&databases.cluster, env, &fresh, dump, &chosen(&list, &schemas).0, &[], host).await;
    restored.with_context(|| format!("could not restore {dump}; the database {} is as it was", databases.name))?;
    databases.set_fresh_ready()
}

/// Puts another database in the place of the one that is there, of which there is a copy. Killed anywhere, that copy brings it back.
///
/// # Errors
/// What it is made of does not fit in: an extension that this host lacks, or whatever pg_restore says.
pub async fn reset(env: &Env, from: &ResetFrom, host: &Host) -> Result<()> {
    let databases = Databases::of(env, host)?;
    let fresh = databases.create_fresh().await?;
    // Only a superuser can make some of them, so no migration brings them back.
    let named = match from {
        ResetFrom::Archive(archive) => archive.extensions.clone(),
        ResetFrom::Empty => Vec::new(),
    };
    let live = databases.cluster.superuser(env.app.database.as_str());
    let extensions = extensions_with(&live, &named, host).await?;
    let inside = databases.cluster.superuser(&fresh);
    let schemas = create_extensions(&inside, &extensions, &prepare::app_role(env, host)?, host).await?;
    if let ResetFrom::Archive(archive) = from {
        fill_from(&databases.cluster, env, &fresh, archive, &schemas, host).await?;
    }
    databases.swap_in(Role::Fresh, Role::Emptied).await?;
    databases.drop(Role::Emptied).await
}

/// Everything becomes the app's, whoever owned it where it comes from.
async fn fill_from(
    cluster: &Cluster,
    env: &Env,
    fresh: &str,
    archive: &Archive,
    schemas: &[String],
    host: &Host,
) -> Result<()> {
    let list = chosen(&archive.list, schemas).0;
    let restored = fill(cluster, env, fresh, &archive.path, &list, &["--no-acl"], host).await;
    restored.with_context(|| format!("could not restore {}", archive.path))
}

/// Restores what is in the list, logged in as the app's role.
pub(super) async fn fill(
    cluster: &Cluster,
    env: &Env,
    fresh: &str,
    file: &str,
    list: &str,
    more: &[&str],
    host: &Host,
) -> Result<()> {
    let private = host.private_directory()?;
    let owner: Owner = "app".parse().context("a user name is an owner")?;
    // Others cannot enter it; pg_restore runs as this user.
    host.ensure_dir(private.path(), &crate::host::Dir::plain().mode(0o700).owner(&owner))?;
    let list_file = private.file("list");
    host.put(&list_file, list.as_bytes(), 0o644)?;
    let database = connection(fresh);
    let args = ["--exit-on-error", "--no-password", "--no-owner", "--use-list", &list_file, "--dbname", &database];
    let cmd = dump::client_at(cluster, env, fresh, "pg_restore", args, host)?;
    let cmd = more.iter().fold(cmd, |cmd, more| cmd.arg(more)).input_file(&host.path(file)).deadline(DEADLINE);
    host.act(What::Database, fresh, "restore the dump into", cmd).await.map(drop)
}

/// An extension, and the schema that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    pub name: String,
    schema: String,
}

impl Extension {
    /// One of which it is not known where it was.
    pub fn in_public(name: &str) -> Extension {
        Extension { name: name.to_owned(), schema: "public".to_owned() }
    }
}

/// Those of a database, in the order in which they were made.
pub(super) async fn extensions(database: &Login, host: &Host) -> Result<Vec<Extension>> {
    let sql = "SELECT extname::text, nspname::text FROM pg_catalog.pg_extension \
               JOIN pg_catalog.pg_namespace n ON n.oid = extnamespace WHERE extname <> 'plpgsql' ORDER BY pg_extension.oid";
    let rows = host.query(database, sql, &[]).await?;
    let read = |row: Vec<Option<String>>| match &row.into_iter().flatten().collect::<Vec<_>>()[..] {
        [name, schema] => Some(Extension { name: name.clone(), schema: schema.clone() }),
        _ => None,
    };
    Ok(rows.into_iter().filter_map(read).collect())
}

/// Those of a database, and others that a dump names.
pub async fn extensions_with(database: &Login, named: &[String], host: &Host) -> Result<Vec<Extension>> {
    let mut all = extensions(database, host).await?;
    for name in named {
        if !all.iter().any(|known| known.name == *name) {
            all.push(Extension::in_public(name));
        }
    }
    Ok(all)
}

/// Makes extensions in a database that nobody has put anything into yet; gives back the schemas that were made for them.
pub async fn create_extensions(
    inside: &Login,
    extensions: &[Extension],
    owner: &str,
    host: &Host,
) -> Result<Vec<String>> {
    let mut schemas = Vec::new();
    for extension in extensions {
        let name = quote_identifier(&extension.name);
        // Some are in one schema and no other, which they make themselves.
        let sql = "SELECT schema::text FROM pg_available_extension_versions v JOIN pg_available_extensions e USING (name) \
                   WHERE name = $1 AND version = default_version AND schema IS NOT NULL";
        let is_fixed = !host.query(inside, sql, &[&extension.name]).await?.is_empty();
        let schema = quote_identifier(&extension.schema);
        let mut create = String::new();
        if !is_fixed && extension.schema != "public" && !schemas.contains(&extension.schema) {
            create = format!("CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {}; ", quote_identifier(owner));
            schemas.push(extension.schema.clone());
        }
        if is_fixed && extension.schema != "public" && !schemas.contains(&extension.schema) {
            // It makes that one itself, if it is not there.
            schemas.push(extension.schema.clone());
        }
        create.push_str(&format!("CREATE EXTENSION IF NOT EXISTS {name}"));
        if !is_fixed {
            create.push_str(&format!(" SCHEMA {schema}"));
        }
        host.execute(inside, &inside.database, "create an extension in", create).await?;
    }
    Ok(schemas)
}

/// How libpq is told a database's name, whatever is in it.
pub fn connection(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}
