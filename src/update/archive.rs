//! Somebody's dump, to be put in the place of the app's database: of another host, of an older PostgreSQL, with other owners. What is
//! in it is looked at before anything stops. Dumps of our own making are `dump.rs`'s.

use super::dump;
use crate::env::Env;
use crate::host::{Cmd, Host, What};
use crate::prepare::{self, postgres::Cluster};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// How long unpacking may take.
const UNPACK: Duration = Duration::from_secs(6 * 3600);
/// How a dump in pg_dump's custom format begins.
const CUSTOM: &[u8] = b"PGDMP";
/// How a file begins that gzip packed.
const GZIP: &[u8] = &[0x1f, 0x8b];
/// What only a superuser could put back, and what is in every new database anyway.
const LEFT_OUT: [&str; 4] =
    [" EXTENSION - ", " COMMENT - EXTENSION ", " SCHEMA - public ", " COMMENT - SCHEMA public "];

/// What a database is made of that takes the place of the one that is there.
#[derive(Debug, Clone)]
pub enum ResetFrom {
    /// Of nothing but what a migration makes.
    Empty,
    Archive(Archive),
}

/// A dump that can be read.
#[derive(Debug, Clone)]
pub struct Archive {
    /// In pg_dump's custom format.
    pub path: String,
    /// What pg_restore says is in it.
    pub list: String,
    /// The extensions that it asks for, but for plpgsql.
    pub extensions: Vec<String>,
    /// It was unpacked, and goes when it is done with.
    is_ours: bool,
}

/// Looks at a dump, and unpacks it into the directory of the app's dumps where gzip packed it.
///
/// # Errors
/// It is none in pg_dump's custom format, or a broken one.
pub async fn open(env: &Env, file: &str, host: &Host) -> Result<Archive> {
    let file = &host.real_path(file).with_context(|| format!("{file} is missing"))?;
    let start = host.read_start(file, 5)?.with_context(|| format!("{file} is missing"))?;
    let (path, is_ours) = match start {
        start if start.starts_with(GZIP) => (unpack(env, file, host).await?, true),
        _ => (file.to_owned(), false),
    };
    let mut archive = Archive { path, list: String::new(), extensions: Vec::new(), is_ours };
    match look(env, &archive.path, host).await {
        Ok(list) => {
            archive.extensions = chosen(&list, &[]).1;
            archive.list = list;
            Ok(archive)
        }
        Err(error) => {
            archive.discard(host)?;
            Err(error.context(format!("{file} cannot be put back")))
        }
    }
}

impl Archive {
    /// Takes away what was unpacked.
    pub fn discard(&self, host: &Host) -> Result<()> {
        if self.is_ours { host.discard(&self.path) } else { Ok(()) }
    }
}

async fn unpack(env: &Env, file: &str, host: &Host) -> Result<String> {
    // Where dumps have their room, and under one name: what a killed run left is removed.
    let path = format!("{}/restore.pgdump", dump::directory(&env.app.name));
    let unpack = Cmd::new("gzip", ["--decompress", "--stdout"]);
    let unpack = unpack.input_file(&host.path(file)).output_file(&host.path(&path)).deadline(UNPACK);
    let unpacked = host.act(What::File, &path, "unpack", unpack).await;
    if unpacked.is_err() {
        host.discard(&path)?;
    }
    unpacked.with_context(|| format!("could not unpack {file}"))?;
    Ok(path)
}

async fn look(env: &Env, path: &str, host: &Host) -> Result<String> {
    if host.read_start(path, 5)?.is_none_or(|start| start != CUSTOM) {
        bail!("it is no dump in pg_dump's custom format (pg_dump --format=custom, or that packed by gzip)");
    }
    list(env, path, host).await
}

/// What pg_restore says is in a dump.
pub(super) async fn list(env: &Env, file: &str, host: &Host) -> Result<String> {
    list_at(&prepare::postgres::cluster(host)?, env, file, host).await
}

/// The same by the programs of another cluster than the one in use.
pub(super) async fn list_at(cluster: &Cluster, env: &Env, file: &str, host: &Host) -> Result<String> {
    let cmd = dump::client_at(cluster, env, env.app.database.as_str(), "pg_restore", ["--list"], host)?;
    let cmd = cmd.input_file(&host.path(file)).max_output(MAX_LIST).deadline(LISTING);
    Ok(host.ask(cmd).await?.stdout)
}

/// How long listing what is in a dump may take.
const LISTING: Duration = Duration::from_secs(600);
/// The longest list of a dump's contents, in bytes: before PostgreSQL 17 each large object has some lines of its own.
const MAX_LIST: usize = 1 << 30;

/// What is put back, where these schemas are there already; and the extensions that are made before.
pub fn chosen(list: &str, schemas: &[String]) -> (String, Vec<String>) {
    let made: Vec<String> = schemas.iter().map(|schema| format!(" SCHEMA - {schema} ")).collect();
    let is_chosen = |line: &&str| {
        let mut left_out = LEFT_OUT.iter().copied().chain(made.iter().map(String::as_str));
        // `ACL - SCHEMA x` and `COMMENT - SCHEMA x` have another word before.
        !left_out.any(|left| format!("{line} ").contains(left))
    };
    let chosen = list.lines().filter(is_chosen).map(|line| format!("{line}\n")).collect();
    let extensions = list
        .lines()
        .filter_map(|line| line.split_once(" EXTENSION - "))
        .filter(|(before, _)| !before.contains("COMMENT"));
    let extensions =
        extensions.filter_map(|(_, rest)| rest.split_whitespace().next()).filter(|name| *name != "plpgsql");
    (chosen, extensions.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_superuser_could_put_back_is_left_out_and_extensions_are_known() {
        // As pg_dump 9.5 has them.
        let list = ";\n; Archive created at 2019-01-01 00:00:00\n;     Dumped from database version: 9.5.14\n2146; 1262 16385 DATABASE - ecs app\n\
                    7; 2615 2200 SCHEMA - public postgres\n2147; 0 0 COMMENT - SCHEMA public postgres\n2; 3079 12361 EXTENSION - plpgsql \n\
                    2148; 0 0 COMMENT - EXTENSION plpgsql \n1; 3079 16386 EXTENSION - pg_stat_statements \n\
                    2149; 0 0 COMMENT - EXTENSION pg_stat_statements \n181; 1259 16393 TABLE public notes ecs\n2140; 0 16393 TABLE DATA public notes ecs\n";
        let (chosen, extensions) = chosen(list, &[]);
        assert_eq!(extensions, ["pg_stat_statements"]);
        assert!(!chosen.contains("EXTENSION") && !chosen.contains("SCHEMA"), "{chosen}");
        assert!(
            chosen.contains("TABLE public notes ecs\n") && chosen.contains("TABLE DATA") && chosen.contains("9.5.14")
        );
    }
}
