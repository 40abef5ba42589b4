//! The database's way back: a dump before a migration, and putting it back by way of a new database that is swapped in.

use super::archive::{Anew, Archive};
use crate::env::Env;
use crate::host::{Cmd, Host, Login, What, quote_identifier, quote_literal};
use crate::prepare::postgres::{self, Cluster};
use crate::value::{AppName, DatabaseName, Owner};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// How long dumping or restoring may take.
const DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// The longest name of a database, in bytes (PostgreSQL, NAMEDATALEN).
const MAX_NAME: usize = 63;

/// The directory of an app's dumps.
pub fn directory(app: &AppName) -> String {
    format!("/data/{app}-pgdump")
}

/// Where the dump from before the last migration lies.
pub fn path(app: &AppName) -> String {
    format!("{}/{app}-migrate.pgdump", directory(app))
}

/// Where the dump lies while its migration is on the way: the one above belongs to the current release until then.
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

/// The migration has come through: its dump is the one to go back by.
pub fn settle(app: &AppName, host: &Host) -> Result<()> {
    if host.exists(&pending(app)) { host.settle_file(&pending(app), &path(app)) } else { Ok(()) }
}

/// Nothing goes back by it.
pub fn forget_pending(app: &AppName, host: &Host) -> Result<()> {
    host.discard(&pending(app))
}

/// The database's size, in bytes.
pub async fn size(env: &Env, host: &Host) -> Result<u64> {
    let cluster = postgres::cluster(host)?;
    let sql = "SELECT pg_database_size(datname)::text FROM pg_database WHERE datname = $1";
    let size = one(host, &cluster, sql, env.app.database.as_str()).await?;
    size.and_then(|size| size.parse().ok()).with_context(|| format!("there is no database {}", env.app.database))
}

/// Dumps the database to `target`: written beside, synced, renamed. What a killed dump left beside is overwritten.
pub async fn dump(env: &Env, target: &str, host: &Host) -> Result<()> {
    let cluster = postgres::cluster(host)?;
    let name = env.app.database.as_str();
    let beside = format!("{target}.part");
    // Made closed: everything that the app knows is in it.
    host.put(&beside, b"", 0o600)?;
    let args = ["--format=custom", "--no-password", "--file", &beside];
    let cmd = client(&cluster, "pg_dump", args).env("PGDATABASE", name).deadline(DEADLINE);
    let dumped = host.act(What::Database, name, "dump", cmd).await;
    let done = dumped.context("could not dump the database").and_then(|_| {
        let owner: Owner = "app".parse().context("a user name is an owner")?;
        host.ensure_owned(&beside, 0o600, &owner)?;
        host.settle_file(&beside, target)
    });
    if done.is_err() {
        host.discard(&beside)?;
    }
    done
}

/// Takes away what a dump that did not come to its end has written.
pub fn discard(target: &str, host: &Host) -> Result<()> {
    host.discard(&format!("{target}.part"))
}

/// Puts a dump back: restored into a new database, which is then swapped in. The one that was there is kept as the failed one. Killed
/// anywhere, it is run again.
///
/// # Errors
/// The dump is missing or broken: the database stays as it is.
pub async fn restore(env: &Env, dump: &str, host: &Host) -> Result<()> {
    let cluster = postgres::cluster(host)?;
    let admin = cluster.superuser("postgres");
    let name = env.app.database.as_str();
    let (fresh, failed) = (beside(&env.app.database, "_restored")?, beside(&env.app.database, "_failed")?);
    // Whoever began with this made sure that there is none: there is one once the swap is done.
    if exists(host, &cluster, &failed).await? {
        if !exists(host, &cluster, name).await? {
            bail!("neither {name} nor its restored copy is there, only {failed}");
        }
        return drop_database(&admin, &fresh, host).await;
    }
    if !host.exists(dump) {
        bail!("{dump} is missing, so the database cannot be put back; it is as the migration left it");
    }
    drop_database(&admin, &fresh, host).await?;
    create_like(&cluster, name, &fresh, host).await?;
    let database = connection(&fresh);
    let args = ["--exit-on-error", "--no-password", "--dbname", &database, dump];
    let cmd = client(&cluster, "pg_restore", args).deadline(DEADLINE);
    let restored = host.act(What::Database, &fresh, "restore the dump into", cmd).await;
    restored.with_context(|| format!("could not restore {dump}; the database {name} is as it was"))?;
    swap(&admin, name, &fresh, &failed, host).await
}

/// Puts another database in the place of the one that is there, which is dumped already. Killed anywhere, that dump brings it back.
///
/// # Errors
/// What it is made of does not fit in: an extension that this host lacks, or whatever pg_restore says.
pub async fn make_anew(env: &Env, anew: &Anew, host: &Host) -> Result<()> {
    let cluster = postgres::cluster(host)?;
    let admin = cluster.superuser("postgres");
    let name = env.app.database.as_str();
    let (fresh, old) = (beside(&env.app.database, "_restored")?, beside(&env.app.database, RESET)?);
    drop_database(&admin, &fresh, host).await?;
    create_like(&cluster, name, &fresh, host).await?;
    // Only a superuser can make some of them, so no migration brings them back.
    let sql = "SELECT extname::text FROM pg_catalog.pg_extension";
    let mut extensions: Vec<String> =
        host.query(&cluster.superuser(name), sql, &[]).await?.into_iter().flatten().flatten().collect();
    if let Anew::Archive(archive) = anew {
        extensions.extend(archive.extensions.iter().cloned());
    }
    for extension in extensions {
        let create = format!("CREATE EXTENSION IF NOT EXISTS {}", quote_identifier(&extension));
        host.execute(&cluster.superuser(&fresh), &fresh, "create an extension in", create).await?;
    }
    if let Anew::Archive(archive) = anew {
        fill(&cluster, &fresh, archive, host).await?;
    }
    swap(&admin, name, &fresh, &old, host).await?;
    drop_database(&admin, &old, host).await
}

/// Everything becomes the app's, whoever owned it where it comes from.
async fn fill(cluster: &Cluster, fresh: &str, archive: &Archive, host: &Host) -> Result<()> {
    let private = host.private_directory()?;
    let list = private.file("list");
    host.put(&list, archive.list.as_bytes(), 0o600)?;
    let role = format!("--role={OWNER}");
    let database = connection(fresh);
    let args = [
        "--exit-on-error",
        "--no-password",
        "--no-owner",
        "--no-acl",
        &role,
        "--use-list",
        &list,
        "--dbname",
        &database,
        &archive.path,
    ];
    let cmd = client(cluster, "pg_restore", args).deadline(DEADLINE);
    let restored = host.act(What::Database, fresh, "restore the dump into", cmd).await;
    restored.map(drop).with_context(|| format!("could not restore {}", archive.path))
}

/// How libpq is told a database's name, whatever is in it.
fn connection(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The role that owns the app's database (spec/prepare.md, "PostgreSQL").
const OWNER: &str = "app";

/// What the database before a reset is called for a moment. Not the failed one: by that, [`restore`] would take its work for done.
const RESET: &str = "_emptied";

/// Removes what earlier roll-backs kept.
pub async fn forget_failed(env: &Env, host: &Host) -> Result<()> {
    let cluster = postgres::cluster(host)?;
    let admin = cluster.superuser("postgres");
    for suffix in ["_failed", "_restored", RESET] {
        drop_database(&admin, &beside(&env.app.database, suffix)?, host).await?;
    }
    Ok(())
}

/// The name of a database beside another one, cut to what PostgreSQL takes.
///
/// # Errors
/// The database itself is called so.
fn beside(name: &DatabaseName, suffix: &str) -> Result<String> {
    let mut end = name.as_str().len().min(MAX_NAME - suffix.len());
    while !name.as_str().is_char_boundary(end) {
        end -= 1;
    }
    let beside = format!("{}{suffix}", &name.as_str()[..end]);
    if beside == name.as_str() {
        bail!("a database must not be called {beside}: the appliance uses that name for a copy of it");
    }
    Ok(beside)
}

fn client<const N: usize>(cluster: &Cluster, program: &str, args: [&str; N]) -> Cmd {
    // The cluster's own: an older one refuses, a newer one may write what the old one cannot read.
    Cmd::new(&cluster.program(program), args)
        .env("PGHOST", "/var/run/postgresql")
        .env("PGPORT", cluster.port.to_string())
        .env("PGUSER", "postgres")
}

async fn one(host: &Host, cluster: &Cluster, sql: &'static str, name: &str) -> Result<Option<String>> {
    Ok(host.query(&cluster.superuser("postgres"), sql, &[name]).await?.into_iter().flatten().flatten().next())
}

async fn exists(host: &Host, cluster: &Cluster, name: &str) -> Result<bool> {
    Ok(one(host, cluster, "SELECT datname::text FROM pg_database WHERE datname = $1", name).await?.is_some())
}

async fn drop_database(admin: &Login, name: &str, host: &Host) -> Result<()> {
    let sql = "SELECT datname::text FROM pg_database WHERE datname = $1";
    if host.query(admin, sql, &[name]).await?.is_empty() {
        return Ok(());
    }
    host.execute(admin, name, "drop database", format!("DROP DATABASE {} WITH (FORCE)", quote_identifier(name))).await
}

/// An empty database with another one's owner, encoding, locale and settings.
async fn create_like(cluster: &Cluster, name: &str, fresh: &str, host: &Host) -> Result<()> {
    let admin = cluster.superuser("postgres");
    let sql = "SELECT pg_get_userbyid(datdba)::text, pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text \
               FROM pg_database WHERE datname = $1";
    let row = host.query(&admin, sql, &[name]).await?.into_iter().next();
    let row: Vec<String> = row.with_context(|| format!("there is no database {name}"))?.into_iter().flatten().collect();
    let [owner, encoding, collate, ctype] = &row[..] else { bail!("PostgreSQL tells too little of {name}") };
    let create = format!(
        "CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        quote_identifier(fresh),
        quote_identifier(owner),
        quote_literal(encoding),
        quote_literal(collate),
        quote_literal(ctype)
    );
    host.execute(&admin, fresh, "create database", create).await?;
    let sql = "SELECT split_part(setting, '=', 1)::text, substr(setting, strpos(setting, '=') + 1)::text FROM pg_db_role_setting \
               JOIN pg_database ON pg_database.oid = setdatabase CROSS JOIN unnest(setconfig) AS setting \
               WHERE setrole = 0 AND datname = $1";
    for row in host.query(&admin, sql, &[name]).await? {
        let row: Vec<String> = row.into_iter().flatten().collect();
        let [key, value] = &row[..] else { continue };
        let sql = format!(
            "ALTER DATABASE {} SET {} TO {}",
            quote_identifier(fresh),
            key.split('.').map(quote_identifier).collect::<Vec<_>>().join("."),
            quote_literal(value)
        );
        host.execute(&admin, fresh, "take over a setting of", sql).await?;
    }
    Ok(())
}

/// Both names change in one transaction: whoever looks finds a whole database.
async fn swap(admin: &Login, name: &str, fresh: &str, failed: &str, host: &Host) -> Result<()> {
    let quoted = quote_identifier(name);
    // Nobody may be connected, and nobody may come in between.
    let shut = format!(
        "ALTER DATABASE {quoted} WITH ALLOW_CONNECTIONS false; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {} AND pid <> pg_backend_pid()",
        quote_literal(name)
    );
    host.execute(admin, name, "close", shut).await?;
    let swap = format!(
        "BEGIN; ALTER DATABASE {quoted} RENAME TO {}; ALTER DATABASE {} RENAME TO {quoted}; COMMIT",
        quote_identifier(failed),
        quote_identifier(fresh)
    );
    let swapped = host.execute(admin, name, "swap in another database for", swap).await;
    if swapped.is_err() {
        let open = format!("ALTER DATABASE {quoted} WITH ALLOW_CONNECTIONS true");
        host.execute(admin, name, "open", open).await?;
    }
    swapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beside_are_cut_and_never_within_a_character() {
        let long: DatabaseName = "ä".repeat(31).parse().expect("62 bytes are a name");
        let name = beside(&long, "_failed").expect("another name");
        assert!(name.len() <= MAX_NAME && name.ends_with("ä_failed"), "{name}");
        let short: DatabaseName = "shop".parse().expect("a name");
        assert_eq!(beside(&short, "_restored").expect("another name"), "shop_restored");
        let taken: DatabaseName = format!("{}_failed", "a".repeat(56)).parse().expect("63 bytes are a name");
        assert!(beside(&taken, "_failed").is_err());
    }
}
