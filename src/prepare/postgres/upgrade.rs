//! A cluster of another major version, empty, with the configuration of the one in use; nobody but the superuser and the app's role gets
//! into either of them until the copy is whole. Debian's own tool knows how configuration files change between versions, but it puts
//! databases back as the superuser, which runs whatever an app has left in its own; so it is given an empty cluster. What fills the new
//! one is `update/transfer.rs`.

use super::archive;
use super::cluster::{self, Cluster, Id};
use super::record::{self, Change, Record};
use super::tools::{WORKER, put_in_place, stop, wipe, worker};
use crate::host::{Cmd, File, Host, What};
use crate::value::Owner;
use anyhow::{Context, Result, bail};
use std::time::Duration;

const MAX_CONFIG: u64 = 1 << 20;
/// How long making an empty cluster may take.
const MAKING: Duration = Duration::from_secs(900);
/// What the empty cluster of the old version is called, of which Debian's tool makes one of the new version.
const BLANK: &str = "appliance_blank";
/// The configuration that is carried over to it.
const CARRIED: [&str; 5] = ["postgresql.conf", "pg_hba.conf", "pg_ident.conf", "environment", "pg_ctl.conf"];
/// Read after every other file of conf.d.
const CLOSING: &str = "conf.d/zz-appliance-upgrade.conf";
/// Where PostgreSQL keeps what ALTER SYSTEM sets, in its data.
const BY_SQL: &str = "postgresql.auto.conf";
/// What PostgreSQL looks for in its data unless it is told otherwise (ssl_cert_file and the like).
const BY_NAME: [&str; 4] = ["server.crt", "server.key", "root.crt", "root.crl"];
const CLOSED_HBA: &str = "appliance-upgrade.hba";
/// Who gets in meanwhile. The app's role is nobody's but the appliance's then: its containers are stopped.
const CLOSED: &str = "# Written by appliance while a copy of this cluster is made.\n\
                      local all postgres peer map=appliance\n\
                      host all app 127.0.0.1/32 scram-sha-256\n";

/// Where the databases lie for a moment, one after the other, on their way.
pub fn dump_file() -> String {
    format!("{}/postgres-upgrade.pgdump", crate::state::DIRECTORY)
}

/// Whether all of the cluster's configuration would come along.
///
/// # Errors
/// What would not, which is named.
pub async fn check(from: &Cluster, host: &Host) -> Result<()> {
    let login = from.superuser("postgres");
    let ask = async |sql: &'static str| {
        anyhow::Ok(host.query(&login, sql, &[]).await?.into_iter().flatten().flatten().collect::<Vec<String>>())
    };
    let directory = from.id.configuration();
    for (sql, name) in [("SHOW hba_file", "pg_hba.conf"), ("SHOW ident_file", "pg_ident.conf")] {
        if let Some(path) = ask(sql).await?.into_iter().find(|path| *path != from.config(name)) {
            bail!("{} uses {path}, which is not copied; use {} instead. Nothing was done", from.id, from.config(name));
        }
    }
    let is_known = |path: &String| {
        *path == from.config("postgresql.conf")
            || path.starts_with(&format!("{directory}/conf.d/"))
            || path.ends_with("/postgresql.auto.conf")
    };
    let sources = ask("SELECT DISTINCT sourcefile FROM pg_file_settings").await?;
    if let Some(path) = sources.into_iter().find(|path| !is_known(path)) {
        bail!(
            "{} has settings from {path}, which is not copied; put them into {directory}/conf.d. Nothing was done",
            from.id
        );
    }
    if let Some(slot) = ask("SELECT slot_name::text FROM pg_replication_slots ORDER BY 1").await?.first() {
        bail!("{} has the replication slot {slot}, which is not copied; drop it first. Nothing was done", from.id);
    }
    Ok(())
}

/// Begins: from here on nobody else changes what is copied.
///
/// # Errors
/// There is something in the new one's place; or the old one does not take up that it is closed.
pub async fn begin(from: &Cluster, to: &Id, host: &Host) -> Result<()> {
    if !host.names(&to.data())?.is_empty() || !host.names(&to.configuration())?.is_empty() {
        bail!("{} or {} is not empty; nothing is done over it", to.data(), to.configuration());
    }
    let record = record::read(host)?;
    record::write(&Record { change: Some(Change::Copy { to: to.clone(), port: from.port }), ..record }, host)?;
    close(&from.id, "", host)?;
    host.restart_unit(&from.unit()).await?;
    check_closed(from, host).await
}

/// Makes the new cluster, which runs then, on a port of its own.
///
/// # Errors
/// Debian's tool fails, which the journal of its unit tells; or a setting of the operator's keeps the new version from starting.
pub async fn make(from: &Cluster, to: &Id, host: &Host) -> Result<Cluster> {
    let blank = blank(&from.id);
    wipe(&blank, host).await?;
    let made = async {
        make_blank(from, &blank, host).await?;
        let args = ["--method=dump", "-v", &to.version, "--rename", &to.name, &blank.version, &blank.name];
        let cmd = worker("/usr/bin/pg_upgradecluster", &args).deadline(MAKING);
        host.act(What::Database, &to.to_string(), "make an empty cluster", cmd).await?;
        wipe(&blank, host).await
    };
    made.await.with_context(|| format!("could not make {to}; see: journalctl -u {WORKER}"))?;
    // It may run beside its unit.
    stop(to, host).await?;
    take_settings(from, to, host).await?;
    // What it writes until it is in use is copied anyway.
    close(to, &archive::settings(false, to), host)?;
    host.reload_units().await?;
    host.start_unit(&to.unit()).await?;
    let made = cluster::clusters(host)?.into_iter().find(|known| known.id == *to);
    let made = made.with_context(|| format!("there is no {to} after it was made"))?;
    host.wait_for_postgres(&made.superuser("postgres")).await?;
    check_closed(&made, host).await?;
    Ok(made)
}

/// The new one is whole: it takes the old one's place, which is stopped and kept.
pub async fn end(from: &Cluster, to: &Id, host: &Host) -> Result<()> {
    open(&from.id, host)?;
    open(to, host)?;
    stop(to, host).await?;
    put_in_place(to, Some(&from.id), from.port, host).await
}

/// Takes away what an upgrade that was cut off has left at the old cluster; it is stopped then.
pub(super) async fn undo(from: &Id, to: &Id, port: u16, host: &Host) -> Result<()> {
    wipe(to, host).await?;
    wipe(&blank(from), host).await?;
    host.discard(&dump_file())?;
    open(from, host)?;
    // It may run with nobody let in.
    stop(from, host).await?;
    put_in_place(from, None, port, host).await
}

fn blank(from: &Id) -> Id {
    Id { version: from.version.clone(), name: BLANK.to_owned() }
}

async fn make_blank(from: &Cluster, blank: &Id, host: &Host) -> Result<()> {
    let sql = "SELECT pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text, current_setting('data_checksums') \
               FROM pg_database WHERE datname = 'template1'";
    let row = host.query(&from.superuser("postgres"), sql, &[]).await?.into_iter().next().unwrap_or_default();
    let row: Vec<String> = row.into_iter().flatten().collect();
    let [encoding, collate, ctype, checksums] = &row[..] else { bail!("{} does not tell its locale", from.id) };
    let taken: Vec<u16> = cluster::clusters(host)?.iter().map(|known| known.port).collect();
    let port = (5433_u16..).find(|free| !taken.contains(free)).context("no port is free")?.to_string();
    let mut args = vec!["--no-status", "--start-conf", "manual", "--port", &port, "--encoding", encoding];
    args.extend(["--lc-collate", collate, "--lc-ctype", ctype, &blank.version, &blank.name]);
    if checksums == "on" {
        args.extend(["--", "--data-checksums"]);
    }
    let cmd = worker("/usr/bin/pg_createcluster", &args).deadline(MAKING);
    host.act(What::Database, &blank.to_string(), "create an empty cluster", cmd).await?;
    let postgres: Owner = "postgres".parse().context("a user name is an owner")?;
    for name in CARRIED {
        if let Some(text) = host.read_text(&from.config(name), MAX_CONFIG)? {
            let path = format!("{}/{name}", blank.configuration());
            host.ensure_file(&path, &File::text(text).mode(0o640).owner(&postgres))?;
        }
    }
    let file = |name: &str| format!("{}/{name}", blank.configuration());
    // What it writes is no part of anybody's archive, and it has no certificate that may lie in the data.
    let quiet = File::text("archive_mode = off\nssl = off\n").mode(0o644);
    host.ensure_file(&format!("{}/{CLOSING}", blank.configuration()), &quiet)?;
    let (text, _) = by_sql(&data_directory(from, host).await?, host)?;
    if !text.is_empty() {
        // Debian's tool takes out what the new version does not know.
        host.ensure_file(&format!("{}/{BY_SQL}", blank.data()), &File::text(text).mode(0o600).owner(&postgres))?;
    }
    for (setting, value) in [
        ("data_directory", blank.data()),
        ("hba_file", file("pg_hba.conf")),
        ("ident_file", file("pg_ident.conf")),
        ("external_pid_file", format!("/var/run/postgresql/{}-{}.pid", blank.version, blank.name)),
        ("cluster_name", blank.to_string()),
        ("port", port.clone()),
    ] {
        let cmd = Cmd::new("pg_conftool", [&blank.version, &blank.name, "set", setting, &value]);
        host.act(What::Database, &blank.to_string(), &format!("set {setting} of"), cmd).await?;
    }
    Ok(())
}

async fn data_directory(from: &Cluster, host: &Host) -> Result<String> {
    let told = host.query(&from.superuser("postgres"), "SHOW data_directory", &[]).await?;
    told.into_iter().flatten().flatten().next().with_context(|| format!("{} tells no data directory", from.id))
}

/// What was set by ALTER SYSTEM, and of it what is about archiving, which the blank cluster must not do. The directory is the server's.
fn by_sql(data: &str, host: &Host) -> Result<(String, String)> {
    let text = host.read_text_unlinked(&format!("{data}/{BY_SQL}"), MAX_CONFIG)?.unwrap_or_default();
    let (archiving, others): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with("archive_"));
    let joined = |lines: Vec<&str>| lines.into_iter().map(|line| format!("{line}\n")).collect();
    Ok((joined(others), joined(archiving)))
}

/// Settings of the operator's own, which Debian's tool does not copy from the blank cluster. One that the new version does not take keeps
/// it from starting.
async fn take_settings(from: &Cluster, to: &Id, host: &Host) -> Result<()> {
    let postgres: Owner = "postgres".parse().context("a user name is an owner")?;
    let data = data_directory(from, host).await?;
    let (path, archiving) = (format!("{}/{BY_SQL}", to.data()), by_sql(&data, host)?.1);
    if !archiving.is_empty() {
        let text = host.read_text_unlinked(&path, MAX_CONFIG)?.unwrap_or_default();
        host.ensure_file(&path, &File::text(format!("{text}{archiving}")).mode(0o600).owner(&postgres))?;
    }
    for name in BY_NAME {
        if let Some(text) = host.read_text_unlinked(&format!("{data}/{name}"), MAX_CONFIG)? {
            host.ensure_file(&format!("{}/{name}", to.data()), &File::text(text).mode(0o600).owner(&postgres))?;
        }
    }
    let from = &from.id;
    let directory = |id: &Id| format!("{}/conf.d", id.configuration());
    let is_operators = |name: &&String| name.ends_with(".conf") && format!("conf.d/{name}") != CLOSING;
    for name in host.names(&directory(from))?.iter().filter(is_operators) {
        let text = host.read_text(&format!("{}/{name}", directory(from)), MAX_CONFIG)?.unwrap_or_default();
        // What it writes is no part of the old one's log.
        let text = text.replace(&archive::spool(from), &archive::spool(to));
        host.ensure_file(&format!("{}/{name}", directory(to)), &File::text(text).mode(0o644))?;
    }
    Ok(())
}

/// `more` is set beside.
fn close(id: &Id, more: &str, host: &Host) -> Result<()> {
    let hba = format!("{}/{CLOSED_HBA}", id.configuration());
    host.ensure_file(&hba, &File::text(CLOSED).mode(0o644))?;
    let setting = format!("# Written by appliance while a copy of this cluster is made.\nhba_file = '{hba}'\n{more}");
    host.ensure_file(&format!("{}/{CLOSING}", id.configuration()), &File::text(setting).mode(0o644)).map(drop)
}

fn open(id: &Id, host: &Host) -> Result<()> {
    for name in [CLOSING, CLOSED_HBA] {
        host.ensure_absent(&format!("{}/{name}", id.configuration()))?;
    }
    Ok(())
}

async fn check_closed(cluster: &Cluster, host: &Host) -> Result<()> {
    let login = cluster.superuser("postgres");
    host.wait_for_postgres(&login).await?;
    let told = host.query(&login, "SHOW hba_file", &[]).await?.into_iter().flatten().flatten().next();
    match told {
        Some(path) if path.ends_with(CLOSED_HBA) => Ok(()),
        told => bail!(
            "{} reads {} and not conf.d/{CLOSING}, so others could write while it is copied; is hba_file set by ALTER SYSTEM?",
            cluster.id,
            told.unwrap_or_default()
        ),
    }
}
