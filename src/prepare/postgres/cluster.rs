//! Debian's clusters: which of them is the appliance's, and what it would take if there is none. Nothing is changed here.

use crate::host::{Host, Login};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// A cluster's version and name, as Debian's tools take them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Id {
    pub version: String,
    pub name: String,
}

impl Id {
    /// What of a directory's names can be one, and nothing that a tool could take for an option.
    fn checked(version: &str, name: &str) -> Option<Id> {
        let is_version = number(version).is_some();
        let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && name.starts_with(|first: char| first.is_ascii_alphanumeric());
        (is_version && is_name).then(|| Id { version: version.to_owned(), name: name.to_owned() })
    }

    pub fn unit(&self) -> String {
        format!("postgresql@{}-{}.service", self.version, self.name)
    }

    /// The directory of its configuration.
    pub fn configuration(&self) -> String {
        format!("{CONFIGURATION}/{}/{}", self.version, self.name)
    }

    /// Where Debian keeps its data.
    pub fn data(&self) -> String {
        format!("{DATA}/{}/{}", self.version, self.name)
    }

    /// Its order among versions: 9.6 and 10 are further apart than they look.
    pub fn number(&self) -> (u32, u32) {
        number(&self.version).unwrap_or_default()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.version, self.name)
    }
}

/// `15`, or `9.6` as it was before PostgreSQL 10.
fn number(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A cluster that is configured on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub id: Id,
    pub port: u16,
    /// Whether its data is where its configuration says.
    pub has_data: bool,
    /// Whether it is kept from starting at boot, as one that was upgraded from is.
    pub is_manual: bool,
    /// Whether it has the appliance's settings.
    pub is_ours: bool,
}

impl Cluster {
    pub fn unit(&self) -> String {
        self.id.unit()
    }

    pub fn config(&self, file: &str) -> String {
        format!("{}/{file}", self.id.configuration())
    }

    pub fn superuser(&self, database: &str) -> Login {
        Login::superuser(self.port, database)
    }

    /// One of the programs of its own version.
    pub fn program(&self, name: &str) -> String {
        format!("{PROGRAMS}/{}/bin/{name}", self.id.version)
    }
}

const CONFIGURATION: &str = "/etc/postgresql";
const DATA: &str = "/var/lib/postgresql";
const PROGRAMS: &str = "/usr/lib/postgresql";
const MAX_CONFIG: u64 = 1 << 20;

/// The clusters that are configured, the newest version last.
pub fn clusters(host: &Host) -> Result<Vec<Cluster>> {
    let mut all = Vec::new();
    for id in ids(CONFIGURATION, host)? {
        if let Some(text) = host.read_text(&format!("{}/postgresql.conf", id.configuration()), MAX_CONFIG)? {
            let data = setting(&text, "data_directory").unwrap_or_else(|| id.data());
            let port = setting(&text, "port").and_then(|port| port.parse().ok()).unwrap_or(5432);
            let start = host.read_text(&format!("{}/start.conf", id.configuration()), MAX_CONFIG)?.unwrap_or_default();
            let is_manual = start.lines().any(|line| ["manual", "disabled"].contains(&line.trim()));
            let is_ours = host.exists(&format!("{}/conf.d/appliance.conf", id.configuration()));
            let has_data = host.exists(&format!("{data}/PG_VERSION"));
            all.push(Cluster { has_data, port, id, is_manual, is_ours });
        }
    }
    Ok(all)
}

/// What is called like a cluster below a directory, in the order of their versions.
fn ids(directory: &str, host: &Host) -> Result<Vec<Id>> {
    let mut all = Vec::new();
    for version in host.names(directory)? {
        // Somebody's files may lie beside them.
        if number(&version).is_none() || !host.is_directory(&format!("{directory}/{version}")) {
            continue;
        }
        let names = host.names(&format!("{directory}/{version}"))?;
        let counts = |name: &&String| !name.ends_with(SET_ASIDE);
        all.extend(names.iter().filter(counts).filter_map(|name| Id::checked(&version, name)));
    }
    all.sort_by_key(|id| (id.number(), id.name != MAIN, id.name.clone()));
    Ok(all)
}

/// Data of which its operator says that it does not count, behind the cluster's name (docs/moving.md).
const SET_ASIDE: &str = ".before";

/// How the empty data is called that taking over needs for a moment, behind the cluster's name.
pub const EMPTY: &str = ".appliance-empty";

/// What Debian calls the first cluster of a version.
pub const MAIN: &str = "main";

/// The versions whose server is installed, the newest last.
pub fn installed(host: &Host) -> Result<Vec<String>> {
    let mut versions = host.names(PROGRAMS)?;
    versions.retain(|version| number(version).is_some() && host.exists(&format!("{PROGRAMS}/{version}/bin/postgres")));
    versions.sort_by_key(|version| number(version));
    Ok(versions)
}

/// The last uncommented setting of postgresql.conf, without its quotes: `name = 'value'`, where the sign may be missing.
pub(super) fn setting(config: &str, name: &str) -> Option<String> {
    config.lines().rev().find_map(|line| {
        let (key, value) = line.trim_start().split_once(|c: char| c == '=' || c.is_whitespace())?;
        let value = value.trim_start_matches(|c: char| c == '=' || c.is_whitespace()).trim_end();
        let value = match value.strip_prefix('\'') {
            Some(quoted) => quoted.split('\'').next().unwrap_or(quoted),
            None => value.split('#').next().unwrap_or(value).trim(),
        };
        key.eq_ignore_ascii_case(name).then(|| value.to_owned())
    })
}

/// What is on this host, for the choice.
#[derive(Debug, Default)]
pub struct Found {
    pub clusters: Vec<Cluster>,
    /// Data that no configured cluster has: of a host before this one, or of one that was removed.
    pub orphans: Vec<Id>,
    pub installed: Vec<String>,
    /// What was chosen before.
    pub recorded: Option<Id>,
}

/// Which cluster the appliance uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    Use(Cluster),
    /// There is none: a new one.
    Create(Id),
    /// There is data, but no configuration for it.
    Adopt(Id),
}

pub fn look(recorded: Option<Id>, host: &Host) -> Result<Found> {
    let clusters = clusters(host)?;
    let configured: BTreeSet<&Id> = clusters.iter().map(|cluster| &cluster.id).collect();
    let mut orphans = ids(DATA, host)?;
    orphans.retain(|id| {
        !configured.contains(id) && !id.name.ends_with(EMPTY) && host.exists(&format!("{}/PG_VERSION", id.data()))
    });
    Ok(Found { orphans, installed: installed(host)?, recorded, clusters })
}

/// Data decides: a cluster without it is never preferred to one that has some, and never made anew in its place.
///
/// # Errors
/// Data that should be there is not, or its PostgreSQL is not installed.
pub fn choose(found: &Found) -> Result<Choice> {
    if let Some(recorded) = &found.recorded {
        if let Some(cluster) = found.clusters.iter().find(|cluster| cluster.id == *recorded) {
            return if cluster.has_data { Ok(Choice::Use(cluster.clone())) } else { Err(without_data(cluster)) };
        }
        if found.orphans.contains(recorded) {
            return adopt(recorded, found);
        }
    }
    // The ones that run; of these, one that has the appliance's settings. Else Debian gives the port to the first one that is made, while a
    // second one comes with a newer version, and is empty.
    let usable = || found.clusters.iter().filter(|cluster| cluster.has_data && !cluster.is_manual);
    let ours = usable().rfind(|cluster| cluster.is_ours).or_else(|| usable().find(|cluster| cluster.port == 5432));
    let chosen = ours.or_else(|| usable().next()).or_else(|| found.clusters.iter().find(|cluster| cluster.has_data));
    // Of two copies of one version, Debian's own name.
    let orphan = found.orphans.iter().max_by_key(|id| (id.number(), id.name == MAIN));
    match (chosen, orphan) {
        (Some(cluster), Some(orphan)) if orphan.number() > cluster.id.number() => bail!(
            "{} holds the data of a newer PostgreSQL than {} that is configured; which of them counts? Move the other one away",
            orphan.data(),
            cluster.id
        ),
        (Some(cluster), _) => return Ok(Choice::Use(cluster.clone())),
        (None, Some(orphan)) => return adopt(orphan, found),
        (None, None) => {}
    }
    if let Some(cluster) = found.clusters.last() {
        return Err(without_data(cluster));
    }
    let newest = found.installed.last().context("PostgreSQL is not installed; run: apt install postgresql")?;
    Ok(Choice::Create(Id { version: newest.clone(), name: MAIN.to_owned() }))
}

fn adopt(orphan: &Id, found: &Found) -> Result<Choice> {
    if !found.installed.contains(&orphan.version) {
        bail!(
            "{data} holds the data of PostgreSQL {version}, which is not installed. Install it (apt install postgresql-{version}); or, where this \
             distribution does not have it, set the data aside (mv '{data}' '{data}{SET_ASIDE}'), start with an empty database, and restore a \
             dump: appliance database restore FILE",
            data = orphan.data(),
            version = orphan.version
        );
    }
    Ok(Choice::Adopt(orphan.clone()))
}

fn without_data(cluster: &Cluster) -> anyhow::Error {
    anyhow::anyhow!(
        "the PostgreSQL cluster {} has lost its data: it is not where {}/postgresql.conf says; put it back, for nothing is made anew in its \
         place. How to begin with an empty one is in /usr/share/doc/appliance/docs/postgresql.md",
        cluster.id,
        cluster.id.configuration()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(version: &str) -> Id {
        Id { version: version.to_owned(), name: MAIN.to_owned() }
    }

    fn one(version: &str, port: u16, has_data: bool) -> Cluster {
        Cluster { id: id(version), port, has_data, is_manual: false, is_ours: false }
    }

    #[test]
    fn data_decides() {
        let installed = || vec!["15".to_owned(), "17".to_owned()];
        let found = |clusters: Vec<Cluster>, orphans: &[&str], recorded: Option<&str>| Found {
            clusters,
            orphans: orphans.iter().map(|version| id(version)).collect(),
            installed: installed(),
            recorded: recorded.map(id),
        };
        let both = || vec![one("15", 5432, true), one("17", 5433, true)];
        // What a distribution's upgrade puts beside it is not taken for it.
        assert_eq!(choose(&found(both(), &[], None)).expect("one"), Choice::Use(one("15", 5432, true)));
        // After an upgrade the record says which, whatever the ports.
        assert_eq!(choose(&found(both(), &[], Some("17"))).expect("one"), Choice::Use(one("17", 5433, true)));
        // Neither on the usual port.
        let moved = vec![one("15", 5440, true), one("17", 5433, true)];
        assert_eq!(choose(&found(moved, &[], None)).expect("one"), Choice::Use(one("15", 5440, true)));
        // Without the record, what runs with the appliance's settings; not what is kept beside it, on whatever port.
        let ours = |cluster: Cluster| Cluster { is_ours: true, ..cluster };
        let kept = Cluster { is_manual: true, ..ours(one("15", 5432, true)) };
        let swapped = vec![kept, ours(one("17", 5433, true))];
        assert_eq!(choose(&found(swapped.clone(), &[], None)).expect("one"), Choice::Use(swapped[1].clone()));
        // The record counts, also where only its configuration is lost.
        assert_eq!(choose(&found(swapped[..1].to_vec(), &["17"], Some("17"))).expect("one"), Choice::Adopt(id("17")));
        assert!(
            choose(&found(vec![one("15", 5432, true)], &["17"], None))
                .expect_err("newer")
                .to_string()
                .contains("newer")
        );
        // Of two copies, the one with Debian's name.
        let mut copies = found(Vec::new(), &["15"], None);
        copies.orphans.push(Id { version: "15".into(), name: "main.bak".into() });
        assert_eq!(choose(&copies).expect("one"), Choice::Adopt(id("15")));
        // A disk from another host: its data counts, not the new host's configuration.
        assert_eq!(choose(&found(vec![one("17", 5432, false)], &["15"], None)).expect("one"), Choice::Adopt(id("15")));
        assert_eq!(choose(&found(Vec::new(), &[], None)).expect("one"), Choice::Create(id("17")));
        // What was removed by hand is not missed.
        assert_eq!(choose(&found(Vec::new(), &[], Some("15"))).expect("one"), Choice::Create(id("17")));

        let fails = |found: &Found| choose(found).expect_err("an error").to_string();
        assert!(
            fails(&found(vec![one("15", 5432, false), one("17", 5433, true)], &[], Some("15")))
                .contains("lost its data")
        );
        assert!(fails(&found(vec![one("15", 5432, false)], &[], None)).contains("lost its data"));
        assert!(fails(&found(Vec::new(), &["16"], None)).contains("apt install postgresql-16"));
        let nothing = Found::default();
        assert!(fails(&nothing).contains("apt install postgresql"));
    }

    #[test]
    fn settings_and_names_are_read_and_nothing_else_counts() {
        assert_eq!(setting("port = 5433 # x\n", "port").as_deref(), Some("5433"));
        assert_eq!(setting("#port = 1\n", "port"), None);
        assert_eq!(setting("Data_Directory '/srv/pg'\n", "data_directory").as_deref(), Some("/srv/pg"));
        assert_eq!(setting("data_directory = '/srv/x y'\t# use\n", "data_directory").as_deref(), Some("/srv/x y"));
        assert_eq!(setting("port = 1\nport = 2\n", "port").as_deref(), Some("2"));
        assert!(Id::checked("15", "main").is_some() && Id::checked("9.6", "a-b").is_some());
        assert!(Id::checked("15", "-x").is_none() && Id::checked("15", "a b").is_none());
        assert!(Id::checked("--help", "main").is_none() && Id::checked("15", "").is_none());
        assert!(id("9.6").number() < id("10").number());
    }
}
