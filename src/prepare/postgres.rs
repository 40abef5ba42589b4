//! Step postgres: the cluster that is there is tuned, listens on the bridge, and lets root in as role postgres.
//! Databases and who may reach them over the network: `database.rs`.

use crate::host::{Cmd, File, Host, Login, Owed, UnitState, What, replace_block};
use anyhow::{Context, Result, bail};
use std::net::Ipv4Addr;

/// A Debian cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub version: String,
    pub name: String,
    pub port: u16,
}

impl Cluster {
    pub fn unit(&self) -> String {
        format!("postgresql@{}-{}.service", self.version, self.name)
    }

    pub fn config(&self, file: &str) -> String {
        format!("/etc/postgresql/{}/{}/{file}", self.version, self.name)
    }

    pub fn superuser(&self, database: &str) -> Login {
        Login::superuser(self.port, database)
    }
}

const MAX_CONFIG: u64 = 1 << 20;
const SYSCTL: &str = "/etc/sysctl.d/60-appliance.conf";
const NONLOCAL_BIND: &str = "/proc/sys/net/ipv4/ip_nonlocal_bind";

/// The clusters of this host, the newest version last.
pub fn clusters(host: &Host) -> Result<Vec<Cluster>> {
    let mut versions = host.names("/etc/postgresql")?;
    versions.sort_by_key(|version| version.parse::<u32>().unwrap_or(0));
    let mut all = Vec::new();
    for version in versions {
        for name in host.names(&format!("/etc/postgresql/{version}"))?.into_iter().rev() {
            let path = format!("/etc/postgresql/{version}/{name}/postgresql.conf");
            if let Some(text) = host.read_text(&path, MAX_CONFIG)? {
                all.push(Cluster { port: port_of(&text), version: version.clone(), name });
            }
        }
    }
    Ok(all)
}

/// The cluster to use: of several, the one of the newest version.
pub fn cluster(host: &Host) -> Result<Cluster> {
    let newest = clusters(host)?.pop();
    newest.context("there is no PostgreSQL cluster below /etc/postgresql; run: pg_createcluster VERSION main")
}

fn port_of(config: &str) -> u16 {
    let setting = config.lines().rev().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "port")
            .then(|| value.split('#').next().unwrap_or(value).trim().trim_matches('\'').parse().ok())?
    });
    setting.unwrap_or(5432)
}

/// The tuning formula (spec/prepare.md, "PostgreSQL"), integer division throughout.
fn tuning(mem_mb: u64, cores: u64, bridge: Ipv4Addr) -> String {
    let pg_mb = mem_mb.saturating_sub(2560 + 256 * cores).max(512);
    let max_connections = 36 + 8 * cores;
    let shared_mb = pg_mb / 4;
    let work_kb = ((pg_mb - shared_mb) * 1024 / 96 / cores).clamp(4096, 65536);
    let cache_mb = (3 * pg_mb / 4).max(2048);
    format!(
        "# Written by appliance; changes are overwritten.\n\
         listen_addresses = 'localhost,{bridge}'\n\
         max_connections = {max_connections}\n\
         shared_buffers = {shared_mb}MB\n\
         work_mem = {work_kb}kB\n\
         effective_cache_size = {cache_mb}MB\n\
         password_encryption = 'scram-sha-256'\n\
         shared_preload_libraries = 'pg_stat_statements'\n"
    )
}

fn mem_mb(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib / 1024)
}

fn cores(cpuinfo: &str) -> u64 {
    cpuinfo.lines().filter(|line| line.starts_with("processor")).count().max(1) as u64
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

pub async fn prepare(host: &Host) -> Result<()> {
    let cluster = cluster(host)?;
    let bridge = host.docker().bridge().await?.gateway;
    let meminfo = host.read_text("/proc/meminfo", MAX_CONFIG)?.unwrap_or_default();
    let cpuinfo = host.read_text("/proc/cpuinfo", 16 << 20)?.unwrap_or_default();
    let mem_mb = mem_mb(&meminfo).context("/proc/meminfo names no MemTotal")?;

    // The bridge's address may not exist yet when PostgreSQL starts; without this it would never listen there.
    let sysctl = "# Written by appliance: PostgreSQL listens on Docker's bridge before it exists.\nnet.ipv4.ip_nonlocal_bind = 1\n";
    host.ensure_file(SYSCTL, &File::text(sysctl).mode(0o644))?;
    if host.read_text(NONLOCAL_BIND, 64)?.is_some_and(|value| value.trim() != "1") {
        let set = Cmd::new("sysctl", ["-q", "-w", "net.ipv4.ip_nonlocal_bind=1"]);
        host.act(What::Setting, "net.ipv4.ip_nonlocal_bind", "set to 1", set).await?;
    }

    let unit = cluster.unit();
    let tuned = File::text(tuning(mem_mb, cores(&cpuinfo), bridge)).mode(0o644);
    let mut changed = host.ensure_file_of(&unit, Owed::Restart, &cluster.config("conf.d/appliance.conf"), &tuned)?;
    let restart = changed;
    for (file, edit) in [
        ("pg_ident.conf", &(|text: &str| replace_block(text, "appliance", IDENT_BLOCK)) as &dyn Fn(&str) -> String),
        ("pg_hba.conf", &with_ident_map),
    ] {
        let path = cluster.config(file);
        let text = host.read_text(&path, MAX_CONFIG)?.with_context(|| format!("{path} is missing"))?;
        changed = changed.or(host.ensure_file_of(&unit, Owed::Reload, &path, &File::text(edit(&text)))?);
    }
    // In check mode nothing is remembered, so what would be owed follows from what would change.
    let would_owe = if restart.yes() { Some(Owed::Restart) } else { changed.yes().then_some(Owed::Reload) };
    tell(&cluster, host.owed(&unit)?.max(would_owe), host).await
}

/// Makes the cluster read its files, as far as it must, and asks it what it made of them.
pub async fn tell(cluster: &Cluster, owed: Option<Owed>, host: &Host) -> Result<()> {
    let unit = cluster.unit();
    match owed {
        _ if host.unit_state(&unit).await? != UnitState::Active => host.start_unit(&unit).await?,
        Some(Owed::Restart) => host.restart_unit(&unit).await?,
        Some(Owed::Reload) => host.reload_unit(&unit).await?,
        None => return Ok(()),
    }
    if host.applies() {
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
    if cluster.version.parse::<u32>().is_ok_and(|version| version >= 15) {
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
    fn the_formula() {
        let values = |mem, cores| {
            let text = tuning(mem, cores, Ipv4Addr::new(172, 17, 0, 1));
            text.lines()
                .skip(2)
                .take(4)
                .map(|line| line.split_once(" = ").expect("a setting").1.to_owned())
                .collect::<Vec<_>>()
        };
        // Too little memory: the floor of 512 MB. Little work_mem: clamped from below.
        assert_eq!(values(2048, 2), ["52", "128MB", "4096kB", "2048MB"]);
        assert_eq!(values(8192, 4), ["68", "1152MB", "9216kB", "3456MB"]);
        // Clamped from above.
        assert_eq!(values(131_072, 2), ["52", "32000MB", "65536kB", "96000MB"]);
    }

    #[test]
    fn the_stock_line_is_edited_in_place() {
        let stock = "# x\nlocal   all             postgres                                peer\nlocal all all peer\n";
        let edited = with_ident_map(stock);
        assert!(edited.lines().nth(1).is_some_and(|line| line.ends_with("peer map=appliance")));
        assert_eq!(with_ident_map(&edited), edited);
        assert!(with_ident_map("local all all peer\n").starts_with("local   all             postgres"));
    }

    #[test]
    fn a_port_is_read_from_the_last_setting() {
        assert_eq!(port_of("port = 5433 # x\n"), 5433);
        assert_eq!(port_of("#port = 1\n"), 5432);
        assert_eq!(mem_mb("MemTotal:        2048000 kB\n"), Some(2000));
        assert_eq!(cores("processor : 0\nx\nprocessor : 1\n"), 2);
    }
}
