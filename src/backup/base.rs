//! A base backup: a copy of the cluster's files, into the repository, on which PostgreSQL's log builds.

use super::restic::Restic;
use super::runs::{BASE, Writer};
use super::shipping::Base;
use super::wal::Segment;
use crate::env::hex;
use crate::host::{Host, Login};
use crate::prepare::postgres::{self, Cluster, archive};
use crate::value::Owner;
use anyhow::{Context, Result, bail};

/// The copy's name in its snapshot.
pub(super) const FILE: &str = "/base.tar";

/// Where a cluster's log is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The cluster's own identifier.
    pub system: String,
    pub lsn: String,
    pub segment: Segment,
    /// Which transactions have ended: looked at before the position, so that it never has one that the log has not.
    pub snapshot: String,
    pub segment_bytes: u64,
}

/// Asks the cluster where its log is, and makes sure that it goes into the spool.
///
/// # Errors
/// It does not archive as it should.
pub async fn position(cluster: &Cluster, host: &Host) -> Result<Position> {
    // Before the position is asked for: a transaction that ends in between is in the log, and is shipped again.
    let snapshot = first(host, &cluster.superuser("postgres"), "SELECT pg_current_snapshot()::text").await?;
    let sql = "SELECT system_identifier::text, pg_current_wal_insert_lsn()::text, \
               pg_walfile_name(pg_current_wal_insert_lsn())::text, \
               (SELECT setting::text FROM pg_settings WHERE name = 'wal_segment_size'), \
               concat(current_setting('archive_mode'), ' ', current_setting('archive_library', true), ' ', current_setting('archive_command')) \
               FROM pg_control_system()";
    let row = host.query(&cluster.superuser("postgres"), sql, &[]).await?.into_iter().next().unwrap_or_default();
    let row: Vec<String> = row.into_iter().flatten().collect();
    let [system, lsn, segment, bytes, archiving] = &row[..] else {
        bail!("PostgreSQL does not tell where its log is");
    };
    // What an archive command that is off shows as differs between versions.
    if !["on basic_archive ", "on basic_archive (disabled)"].contains(&archiving.as_str()) {
        bail!("PostgreSQL does not archive its log for backups ({archiving}); run: appliance prepare --step postgres");
    }
    Ok(Position {
        system: system.clone(),
        lsn: lsn.clone(),
        segment: segment.parse()?,
        snapshot,
        segment_bytes: bytes.parse().context("PostgreSQL tells no size of segments")?,
    })
}

/// The first value of a question.
pub(super) async fn first(host: &Host, login: &Login, sql: &'static str) -> Result<String> {
    let rows = host.query(login, sql, &[]).await?;
    rows.into_iter().flatten().flatten().next().context("PostgreSQL gives no answer")
}

/// Why what is written cannot be shipped on this host, if it cannot.
///
/// # Errors
/// PostgreSQL cannot be asked.
pub async fn why_impossible(host: &Host) -> Result<Option<String>> {
    let cluster = postgres::cluster(host)?;
    if let Some(why) = archive::why_impossible(&cluster, host)? {
        return Ok(Some(why));
    }
    let spaces = "SELECT count(*)::text FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')";
    let has_spaces = first(host, &cluster.superuser("postgres"), spaces).await? != "0";
    Ok(has_spaces.then(|| format!("the cluster {} has tablespaces, which are not stored in a base backup", cluster.id)))
}

/// Stores a copy of the cluster's files, for the log of that chain, or of a new one. It ends once the log that it needs is in the spool.
pub async fn make(
    restic: &Restic<'_>,
    writer: &Writer,
    chain: Option<&str>,
    repository: &str,
    host: &Host,
) -> Result<Base> {
    let cluster = postgres::cluster(host)?;
    let (at, before) = (host.now(), position(&cluster, host).await?);
    let id = format!("{}-{}", at.strftime("%Y%m%dT%H%M%SZ"), hex(&host.random::<2>()?));
    let (first, segment) = (before.segment.to_string(), before.segment_bytes.to_string());
    let (major, chain) = (cluster.id.number().0, chain.unwrap_or(&id).to_owned());
    let tags = writer.tags(&[
        (BASE, &id),
        ("part", BASE),
        ("chain", &chain),
        ("at", &at.to_string()),
        ("first", &first),
        ("segment", &segment),
        ("major", &major.to_string()),
    ]);
    // pg_hba.conf lets the system user postgres in for replication, and not root.
    let owner: Owner = "postgres".parse().context("a user name is an owner")?;
    let args =
        ["--pgdata=-", "--format=tar", "--wal-method=none", "--checkpoint=fast", "--label=appliance", "--no-password"];
    let cmd = cluster.superuser("postgres").client(&cluster.program("pg_basebackup"), args);
    let stored = restic.store_output(cmd.directory("/").ids(host.ids(&owner)?), FILE, &tags).await;
    stored.context("could not store a base backup of PostgreSQL's cluster")?;
    Ok(Base {
        id,
        chain,
        repository: repository.to_owned(),
        generation: writer.generation,
        at,
        system: before.system,
        major,
        first,
        segment_bytes: before.segment_bytes,
        spool: archive::spool(&cluster.id),
    })
}
