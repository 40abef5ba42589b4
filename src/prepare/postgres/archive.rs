//! Archiving of PostgreSQL's log of changes (WAL): into a spool, from which backups ship it, or nowhere. PostgreSQL copies each segment by a
//! library of its own; no program of ours is in its way.

use super::{Cluster, Id, MAX_CONFIG};
use crate::env::Env;
use crate::host::Host;
use anyhow::Result;

/// What holds the spools of clusters.
pub const SPOOLS: &str = "/data/postgresql-wal";
/// The first version that archives by a library.
const SINCE: (u32, u32) = (15, 0);

/// Where a cluster's segments wait for being shipped.
pub fn spool(id: &Id) -> String {
    format!("{SPOOLS}/{}-{}", id.version, id.name)
}

/// Whether an env wants that changes are shipped between runs.
pub fn is_wanted(env: &Env) -> bool {
    let backup = &env.appliance.backup;
    backup.url.is_some() && backup.continuous.is_some()
}

/// Whether a cluster of that version can.
pub fn is_possible(id: &Id) -> bool {
    id.number() >= SINCE
}

/// The file in which an operator has set up archiving of his own, or has made it impossible: that stays as it is.
///
/// # Errors
/// A file cannot be read.
pub fn set_by_operator(cluster: &Cluster, host: &Host) -> Result<Option<String>> {
    let directory = cluster.config("conf.d");
    let main = cluster.config("postgresql.conf");
    let read = |path: &str| anyhow::Ok(host.read_text(path, MAX_CONFIG)?.unwrap_or_default());
    let data = super::cluster::setting(&read(&main)?, "data_directory").unwrap_or_else(|| cluster.id.data());
    // What ALTER SYSTEM writes lies in the server's own directory.
    let by_sql = format!("{data}/postgresql.auto.conf");
    if is_theirs(&host.read_text_unlinked(&by_sql, MAX_CONFIG)?.unwrap_or_default()) {
        return Ok(Some(by_sql));
    }
    let others = host.names(&directory)?.into_iter().filter(|name| name.ends_with(".conf") && name != "appliance.conf");
    for path in [main].into_iter().chain(others.map(|name| format!("{directory}/{name}"))) {
        if is_theirs(&read(&path)?) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Two ways to archive at once are an error since PostgreSQL 16; and with the least of its logs PostgreSQL does not start if it is to archive.
fn is_theirs(text: &str) -> bool {
    let is_set = |name: &str| super::cluster::setting(text, name).is_some_and(|value| !value.is_empty());
    let level = super::cluster::setting(text, "wal_level");
    is_set("archive_command") || is_set("archive_library") || level.is_some_and(|level| level == "minimal")
}

/// Why changes of a cluster cannot be shipped, if they cannot.
///
/// # Errors
/// A file cannot be read.
pub fn why_impossible(cluster: &Cluster, host: &Host) -> Result<Option<String>> {
    if !is_possible(&cluster.id) {
        return Ok(Some(format!("it takes PostgreSQL 15 or later, and this is {}", cluster.id)));
    }
    let theirs = set_by_operator(cluster, host)?;
    Ok(theirs.map(|path| format!("{path} sets archive_command, archive_library or wal_level, which stay as they are")))
}

/// The settings, for a cluster on which the operator has set nothing up. Archiving as such is always on, since changing that needs a restart;
/// what it does is changed by a reload.
pub fn settings(wanted: bool, id: &Id) -> String {
    match (is_possible(id), wanted) {
        (true, true) => format!(
            "archive_mode = 'on'\narchive_command = ''\narchive_library = 'basic_archive'\nbasic_archive.archive_directory = '{}'\n",
            spool(id)
        ),
        (true, false) => "archive_mode = 'on'\narchive_command = '/bin/true'\narchive_library = ''\n".to_owned(),
        (false, _) => "archive_mode = 'on'\narchive_command = '/bin/true'\n".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_two_ways_at_once_and_none_where_there_is_no_target() {
        let id = |version: &str| Id { version: version.to_owned(), name: "main".to_owned() };
        let wanted = |backup: &str| {
            is_wanted(&Env::of_text(&format!(
                "appliance: {{domain: a.de{backup}}}\napp: {{name: x, git: {{source: /srv/x}}}}\n"
            )))
        };
        assert!(wanted(", backup: {url: /srv/b}"), "it is the default");
        assert!(!wanted("") && !wanted(", backup: {url: /srv/b, continuous: no}"));
        assert!(settings(true, &id("15")).contains("archive_directory = '/data/postgresql-wal/15-main'"));
        assert!(settings(true, &id("15")).contains("archive_command = ''"), "with both, PostgreSQL 16 refuses");
        for (wanted, version) in [(true, "14"), (false, "15")] {
            let text = settings(wanted, &id(version));
            assert!(text.contains("archive_command = '/bin/true'") && !text.contains("basic_archive"), "{version}");
        }
        assert!(!settings(false, &id("14")).contains("archive_library"), "it would not start");
    }

    #[test]
    fn what_the_operator_has_set_up_stays() {
        for (text, expected) in [
            ("#archive_command = 'x'\narchive_command = 'pgbackrest archive-push %p'\n", true),
            ("archive_command = '/bin/true'", true),
            ("archive_library 'pg_tool'", true),
            ("wal_level = minimal", true),
            ("archive_command = ''\nwal_level = logical\n", false),
        ] {
            assert_eq!(is_theirs(text), expected, "{text}");
        }
    }
}
