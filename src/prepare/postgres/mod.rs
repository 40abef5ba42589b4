//! Step postgres: the cluster that is there is tuned, listens on the bridge, and lets root in as role postgres. Databases and who may
//! reach them over the network: `database.rs`.
//!
//! `cluster.rs` finds the cluster, `tuning.rs` is the formula, `archive.rs` says where its log goes; `change.rs` makes, swaps and removes clusters by `tools.rs`, with `record.rs` as its memory and `census.rs` to compare them; `upgrade.rs` makes one of another version.

pub mod archive;
pub mod census;
pub mod change;
mod cluster;
pub mod record;
mod tools;
pub mod tuning;
pub mod upgrade;

pub use cluster::{Cluster, Id, MAIN, clusters, installed};

use crate::env::Env;
use crate::host::{Cmd, Dir, File, Host, Owed, UnitState, What, replace_block};
use crate::state::recovering;
use crate::value::Owner;
use anyhow::{Context, Result, bail};
use cluster::Choice;

const MAX_CONFIG: u64 = 1 << 20;
const SYSCTL: &str = "/etc/sysctl.d/60-appliance.conf";
const NONLOCAL_BIND: &str = "/proc/sys/net/ipv4/ip_nonlocal_bind";

/// The cluster that the appliance uses.
///
/// # Errors
/// There is none yet, or one whose data is missing.
pub fn cluster(host: &Host) -> Result<Cluster> {
    find(host)?.context("there is no PostgreSQL cluster yet; run: appliance prepare --step postgres")
}

/// The same; `None`: it is still to be made.
pub fn find(host: &Host) -> Result<Option<Cluster>> {
    match choice(host)? {
        Choice::Use(cluster) => Ok(Some(cluster)),
        Choice::Create(_) | Choice::Adopt(_) => Ok(None),
    }
}

fn choice(host: &Host) -> Result<Choice> {
    cluster::choose(&cluster::look(record::read(host)?.in_use, host)?)
}

/// The cluster, made if there is none. `None`: in check mode there would be one.
async fn ensure_cluster(host: &Host) -> Result<Option<Cluster>> {
    let change = match choice(host)? {
        Choice::Use(cluster) => {
            let record = record::read(host)?;
            record::write(&record::Record { in_use: Some(cluster.id.clone()), ..record }, host)?;
            return Ok(Some(cluster));
        }
        Choice::Create(id) => record::Change::Create { id },
        Choice::Adopt(id) => record::Change::Adopt { id },
    };
    change::make(change, host).await?;
    if host.applies() { cluster(host).map(Some) } else { Ok(None) }
}

/// pg_hba.conf with role postgres let in through the ident map: the stock line is edited in place, since a line behind
/// it is never reached.
fn with_ident_map(hba: &str) -> String {
    let wanted = "local   all             postgres                                peer map=appliance";
    let mut found = false;
    let lines: Vec<String> = hba
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.len() >= 4 && words[..4] == ["local", "all", "postgres", "peer"] {
                found = true;
                return if words.get(4) == Some(&"map=appliance") { line.to_owned() } else { wanted.to_owned() };
            }
            line.to_owned()
        })
        .collect();
    let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    if found { text } else { format!("{wanted}\n{text}") }
}

/// Root and the system user postgres may both be role postgres.
const IDENT_BLOCK: &str = "appliance root postgres\nappliance postgres postgres\n";

pub async fn prepare(env: &Env, host: &Host) -> Result<()> {
    change::finish(host).await?;
    bring_up(env, host).await
}

/// [`prepare`], by whoever is changing something about the cluster.
pub async fn bring_up(env: &Env, host: &Host) -> Result<()> {
    let Some(cluster) = ensure_cluster(host).await? else { return Ok(()) };
    let bridge = host.docker().bridge().await?.gateway;
    let meminfo = host.read_text("/proc/meminfo", MAX_CONFIG)?.unwrap_or_default();
    let cpuinfo = host.read_text("/proc/cpuinfo", 16 << 20)?.unwrap_or_default();
    let mem_mb = tuning::mem_mb(&meminfo).context("/proc/meminfo names no MemTotal")?;

    // The bridge's address may not exist yet when PostgreSQL starts; without this it would never listen there.
    let sysctl = "# Written by appliance: PostgreSQL listens on Docker's bridge before it exists.\nnet.ipv4.ip_nonlocal_bind = 1\n";
    host.ensure_file(SYSCTL, &File::text(sysctl).mode(0o644))?;
    if host.read_text(NONLOCAL_BIND, 64)?.is_some_and(|value| value.trim() != "1") {
        let set = Cmd::new("sysctl", ["-q", "-w", "net.ipv4.ip_nonlocal_bind=1"]);
        host.act(What::Setting, "net.ipv4.ip_nonlocal_bind", "set to 1", set).await?;
    }
    // Before it listens there for the first time.
    super::filter::ensure(cluster.port, env, &super::filter::Networks::look(host).await?, host).await?;

    let unit = cluster.unit();
    let path = cluster.config("conf.d/appliance.conf");
    let tuned = tuning::tuning(mem_mb, tuning::cores(&cpuinfo), env.apps.len(), bridge);
    let is_theirs = archive::set_by_operator(&cluster, host)?.is_some();
    // What a recovery writes is in the backup already.
    let is_archived = archive::is_wanted(env) && !recovering::is_under_way(host);
    let tuned = if is_theirs { tuned } else { tuned + &archive::settings(is_archived, &cluster.id) };
    if !is_theirs && is_archived && archive::is_possible(&cluster.id) {
        // Before PostgreSQL is told of it: it refuses a directory that is not there.
        let postgres: Owner = "postgres".parse().context("a user name is an owner")?;
        host.ensure_dir(&archive::spool(&cluster.id), &Dir::plain().mode(0o700).owner(&postgres))?;
    }
    let before = host.read_text(&path, MAX_CONFIG)?.unwrap_or_default();
    let owes = if tuning::needs_restart(&before, &tuned) { Owed::Restart } else { Owed::Reload };
    let included = ensure_included(&cluster, host).await?;
    let mut would_owe = host.ensure_file_of(&unit, owes, &path, &File::text(tuned).mode(0o644))?.yes().then_some(owes);
    would_owe = would_owe.max(included);
    for (file, edit) in [
        ("pg_ident.conf", &(|text: &str| replace_block(text, "appliance", IDENT_BLOCK)) as &dyn Fn(&str) -> String),
        ("pg_hba.conf", &with_ident_map),
    ] {
        let path = cluster.config(file);
        let text = host.read_text(&path, MAX_CONFIG)?.with_context(|| format!("{path} is missing"))?;
        let changed = host.ensure_file_of(&unit, Owed::Reload, &path, &File::text(edit(&text)))?;
        would_owe = would_owe.max(changed.yes().then_some(Owed::Reload));
    }
    // In check mode nothing is remembered, so what would be owed follows from what would change.
    tell(&cluster, host.owed(&unit)?.max(would_owe), host).await
}

/// A cluster that was made long ago, or by other defaults, does not read what lies in conf.d.
async fn ensure_included(cluster: &Cluster, host: &Host) -> Result<Option<Owed>> {
    let path = cluster.config("postgresql.conf");
    let text = host.read_text(&path, MAX_CONFIG)?.with_context(|| format!("{path} is missing"))?;
    let postgres: Owner = "postgres".parse().context("a user name is an owner")?;
    host.ensure_dir(&cluster.config("conf.d"), &Dir::plain().mode(0o755).owner(&postgres))?;
    if text.lines().any(|line| line.trim_start().starts_with("include_dir") && line.contains("'conf.d'")) {
        return Ok(None);
    }
    if host.applies() {
        host.owe(&cluster.unit(), Owed::Restart)?;
    }
    let wanted = File::text(format!("{}\ninclude_dir 'conf.d'\n", text.trim_end()));
    host.ensure_file(&path, &wanted)?;
    Ok(Some(Owed::Restart))
}

/// Makes the cluster read its files, as far as it must, and asks it what it made of them.
pub async fn tell(cluster: &Cluster, owed: Option<Owed>, host: &Host) -> Result<()> {
    let unit = cluster.unit();
    match owed {
        _ if host.unit_state(&unit).await? != UnitState::Active => host.start_unit(&unit).await?,
        Some(Owed::Restart) => host.restart_unit(&unit).await?,
        Some(Owed::Reload) => host.reload_unit(&unit).await?,
        None if !host.applies() => return Ok(()),
        None => return host.wait_for_postgres(&cluster.superuser("postgres")).await,
    }
    if host.applies() {
        host.wait_for_postgres(&cluster.superuser("postgres")).await?;
        check_files(cluster, host).await?;
        host.settle(&unit)?;
    }
    Ok(())
}

/// A reload succeeds whatever the files hold; the server says in its views what it could not read.
async fn check_files(cluster: &Cluster, host: &Host) -> Result<()> {
    let sql =
        "SELECT 'pg_hba.conf line ' || line_number || ': ' || error FROM pg_hba_file_rules WHERE error IS NOT NULL";
    let mut errors = host.query(&cluster.superuser("postgres"), sql, &[]).await?;
    if cluster.id.number() >= (15, 0) {
        let sql = "SELECT 'pg_ident.conf line ' || line_number || ': ' || error FROM pg_ident_file_mappings WHERE error IS NOT NULL";
        errors.extend(host.query(&cluster.superuser("postgres"), sql, &[]).await?);
    }
    match errors.into_iter().flatten().flatten().next() {
        Some(error) => bail!("PostgreSQL refuses its configuration: {error}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stock_line_is_edited_in_place() {
        let stock = "# x\nlocal   all             postgres                                peer\nlocal all all peer\n";
        let edited = with_ident_map(stock);
        assert!(edited.lines().nth(1).is_some_and(|line| line.ends_with("peer map=appliance")));
        assert_eq!(with_ident_map(&edited), edited);
        assert!(with_ident_map("local all all peer\n").starts_with("local   all             postgres"));
    }
}
