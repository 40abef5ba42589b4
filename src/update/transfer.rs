//! Everything that is in one cluster into another one, which is new and empty: roles, then one database after the other. The app's own
//! databases are filled logged in as its role: they hold code, and restoring runs it. What others own is put back by the superuser.

use super::Reporter;
use super::archive::{self, chosen};
use super::dump::DEADLINE;
use super::restore;
use crate::env::Env;
use crate::host::{Host, What};
use crate::prepare::postgres::{Cluster, census, upgrade};
use anyhow::{Context, Result};
use std::time::Duration;

/// The most that roles and their settings may take, in bytes.
const MAX_ROLES: usize = 64 << 20;
/// How long copying roles may take.
const ROLES: Duration = Duration::from_secs(600);
/// Databases that every cluster has, each with the one from which it is made anew.
const STOCK: [(&str, &str); 2] = [("postgres", "template1"), ("template1", "postgres")];

/// Fills a new cluster; `from` and `to` both run, and nobody else is in them.
///
/// # Errors
/// The first thing that cannot be read or put back, in PostgreSQL's words.
pub async fn all(
    env: &Env,
    from: &Cluster,
    whose: &census::Whose,
    to: &Cluster,
    host: &Host,
    reporter: Reporter<'_>,
) -> Result<()> {
    roles(from, to, host).await?;
    for name in &whose.others {
        reporter.doing(&format!("copying the database {name} into {}", to.id));
        database(env, from, to, name, By::Superuser, host).await?;
    }
    for name in &whose.of_the_app {
        reporter.doing(&format!("copying the database {name} into {}", to.id));
        database(env, from, to, name, By::App, host).await?;
    }
    reporter.doing("counting for the planner");
    let args = ["--all", "--analyze-only", "--no-password", "--quiet"];
    let cmd = to.superuser("postgres").client(&to.program("vacuumdb"), args).deadline(DEADLINE);
    host.act(What::Database, &to.id.to_string(), "analyze", cmd).await.map(drop)
}

async fn roles(from: &Cluster, to: &Cluster, host: &Host) -> Result<()> {
    let args = ["--globals-only", "--quote-all-identifiers", "--no-password"];
    let cmd = from.superuser("postgres").client(&to.program("pg_dumpall"), args);
    let told = host.ask(cmd.max_output(MAX_ROLES).deadline(ROLES)).await;
    let sql = without_stock_role(&told.with_context(|| format!("could not read the roles of {}", from.id))?.stdout);
    // Terse: an error must not quote a statement, which may hold a password's hash.
    let args = ["--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--set=VERBOSITY=terse"];
    let cmd = to.superuser("postgres").client(&to.program("psql"), args).input(sql).deadline(ROLES);
    let made = host.act(What::Database, &to.id.to_string(), "make the roles of", cmd).await;
    made.map(drop).with_context(|| format!("could not make the roles of {} in {}", from.id, to.id))
}

/// Every cluster has the superuser from the beginning; roles come before anything that could hold such a line.
fn without_stock_role(sql: &str) -> String {
    const CREATED: &str = "\nCREATE ROLE \"postgres\";\n";
    sql.replacen(CREATED, "\n", 1)
}

/// Who puts back what is in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    App,
    Superuser,
}

async fn database(env: &Env, from: &Cluster, to: &Cluster, name: &str, by: By, host: &Host) -> Result<()> {
    let file = upgrade::dump_file();
    let done = async {
        let args = ["--format=custom", "--create", "--no-password"];
        let cmd = from.superuser(name).client(&to.program("pg_dump"), args).directory("/");
        let cmd = cmd.output_file(&host.path(&file)).deadline(DEADLINE);
        host.act(What::Database, name, "dump", cmd).await?;
        let list = archive::list_at(to, env, &file, host).await?;
        make(to, name, &file, &list, host).await?;
        match by {
            By::App => fill_as_app(env, from, to, name, &file, &list, host).await,
            By::Superuser => fill_as_superuser(to, name, &file, host).await,
        }
    };
    let done = done.await.with_context(|| format!("could not copy the database {name}"));
    host.discard(&file)?;
    done
}

/// Makes a database with all that belongs to it and is not in it: properties, settings, privileges, comment. One that every cluster has
/// is made anew, as pg_dumpall --clean does it.
async fn make(to: &Cluster, name: &str, file: &str, list: &str, host: &Host) -> Result<()> {
    let private = host.private_directory()?;
    let list_file = private.file("list");
    host.put(&list_file, about_the_database(list).as_bytes(), 0o600)?;
    let stock = STOCK.iter().find(|(stock, _)| *stock == name);
    let aside = format!("--dbname={}", stock.map_or("postgres", |(_, aside)| aside));
    let mut args = vec!["--create", "--exit-on-error", "--no-password", "--use-list", &list_file, &aside];
    if stock.is_some() {
        args.extend(["--clean", "--if-exists"]);
    }
    let cmd = to.superuser("postgres").client(&to.program("pg_restore"), args).directory("/");
    let cmd = cmd.input_file(&host.path(file)).deadline(DEADLINE);
    host.act(What::Database, name, "create database", cmd).await.map(drop)
}

/// The entries of a dump's list that concern the database as a whole. Their kind comes first, in pg_dump's own words.
fn about_the_database(list: &str) -> String {
    let kinds = [
        "DATABASE PROPERTIES - ",
        "ACL - DATABASE ",
        "COMMENT - DATABASE ",
        "SECURITY LABEL - DATABASE ",
        "DATABASE - ",
    ];
    let is_about = |line: &&str| {
        // `3456; 1262 16390 DATABASE - notes app`: numbers of the entry, of the catalog and of the object.
        let Some(entry) = line.split_once("; ").and_then(|(_, rest)| rest.splitn(3, ' ').nth(2)) else { return false };
        kinds.iter().any(|kind| entry.starts_with(kind))
    };
    list.lines().filter(is_about).map(|line| format!("{line}\n")).collect()
}

async fn fill_as_app(
    env: &Env,
    from: &Cluster,
    to: &Cluster,
    name: &str,
    file: &str,
    list: &str,
    host: &Host,
) -> Result<()> {
    let extensions = restore::extensions(&from.superuser(name), host).await?;
    let schemas =
        restore::create_extensions(&to.superuser(name), &extensions, &crate::prepare::app_role(env, host)?, host)
            .await?;
    // Tables of extensions whose rows are a part of a dump, like PostGIS's reference systems: the app may not write them.
    let sql = "SELECT DISTINCT c.oid::text FROM pg_extension CROSS JOIN LATERAL unnest(extconfig) AS part \
               JOIN pg_class c ON c.oid = part WHERE pg_get_userbyid(c.relowner) <> 'app'";
    let theirs: Vec<String> =
        host.query(&from.superuser(name), sql, &[]).await?.into_iter().flatten().flatten().collect();
    let (extensions_own, rest) = divided(list, &theirs);
    if !extensions_own.is_empty() {
        let private = host.private_directory()?;
        let list_file = private.file("list");
        host.put(&list_file, extensions_own.as_bytes(), 0o600)?;
        restore_as_superuser(to, name, file, &["--use-list", &list_file], host).await?;
    }
    restore::fill(to, env, name, file, &chosen(&rest, &schemas).0, &[], host).await
}

/// The entries of a list that are rows of these tables, or values of these sequences, and all others. An entry names its object's number in
/// the original behind `; 0 `.
fn divided(list: &str, tables: &[String]) -> (String, String) {
    let is_theirs = |line: &&str| {
        let rest = line.split_once("; 0 ").map(|(_, rest)| rest);
        let parts = rest.and_then(|rest| rest.split_once(' '));
        parts.is_some_and(|(number, what)| {
            let is_rows = ["TABLE DATA ", "SEQUENCE SET "].iter().any(|kind| what.starts_with(kind));
            is_rows && tables.iter().any(|table| table == number)
        })
    };
    let (theirs, rest): (Vec<&str>, Vec<&str>) = list.lines().partition(is_theirs);
    let joined = |lines: Vec<&str>| lines.into_iter().map(|line| format!("{line}\n")).collect();
    (joined(theirs), joined(rest))
}

async fn fill_as_superuser(to: &Cluster, name: &str, file: &str, host: &Host) -> Result<()> {
    restore_as_superuser(to, name, file, &[], host).await.map_err(|error| {
        error.context("it is not the app's; what cannot be put back there is for its owner to change, or to drop")
    })
}

async fn restore_as_superuser(to: &Cluster, name: &str, file: &str, more: &[&str], host: &Host) -> Result<()> {
    let database = restore::connection(name);
    let args = [&["--exit-on-error", "--no-password", "--dbname", &database], more].concat();
    let cmd = to.superuser("postgres").client(&to.program("pg_restore"), args).directory("/");
    let cmd = cmd.input_file(&host.path(file)).deadline(DEADLINE);
    host.act(What::Database, name, "restore into", cmd).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_the_database_is_told_from_what_is_in_it() {
        // As pg_dump 17 lists them; the last ones by somebody who chose names for it.
        let list = ";\n;     Format: CUSTOM\n3456; 1262 16390 DATABASE - notes app\n3457; 0 0 COMMENT - DATABASE notes app\n\
                    3458; 0 0 ACL - DATABASE notes app\n3459; 0 0 DATABASE PROPERTIES - notes app\n5; 2615 2200 SCHEMA - public app\n\
                    3460; 0 0 COMMENT - SCHEMA public app\n2; 3079 17 EXTENSION - pg_trgm \n215; 1259 16393 TABLE public DATABASE - x app\n\
                    7; 2615 9 SCHEMA - DATABASE - x app\n3461; 0 0 ACL public TABLE \"DATABASE x\" app\n";
        let chosen = about_the_database(list);
        let numbers: Vec<&str> = chosen.lines().map(|line| &line[..4]).collect();
        assert_eq!(numbers, ["3456", "3457", "3458", "3459"]);
    }

    #[test]
    fn rows_of_extensions_tables_are_told_from_the_apps() {
        let list = "; 0 7 TABLE DATA\n9; 1259 7 TABLE public t app\n10; 0 7 TABLE DATA public spatial_ref_sys postgres\n\
                    11; 0 77 TABLE DATA public mine app\n12; 0 8 SEQUENCE SET public s postgres\n13; 0 7 ACL public TABLE t app\n";
        let (theirs, rest) = divided(list, &["7".to_owned(), "8".to_owned()]);
        let numbers = |list: &str| {
            list.lines().filter_map(|line| line.split_once(';')).map(|(n, _)| n.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            (numbers(&theirs), numbers(&rest)),
            (vec!["10".into(), "12".into()], vec!["".into(), "9".into(), "11".into(), "13".into()])
        );
    }

    #[test]
    fn the_role_that_is_there_is_not_made_again() {
        let sql =
            "SET x;\nCREATE ROLE \"app\";\nALTER ROLE \"app\";\nCREATE ROLE \"postgres\";\nALTER ROLE \"postgres\";\n";
        assert_eq!(without_stock_role(sql), sql.replace("CREATE ROLE \"postgres\";\n", ""));
    }
}
