//! What of an app and of the host belongs into a backup, from what they have on this host: directories, named volumes, and what the compose
//! file mounts. Something that should be there and is not is an error: a volume that is not mounted must not be stored as empty.

use super::manifest::VolumePart;
use crate::env::{App, Env};
use crate::host::{Cmd, Host};
use crate::prepare::client_ca;
use crate::stack::model::{Source, Stack};
use crate::stack::{self, inside};
use crate::state::{DIRECTORY, app_directory};
use crate::value::UnstoredPath;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A volume that is labelled so with `no` is left out.
const LABEL: &str = "appliance.backup";
/// Places of the system, of memory and of what can be made again: mounts of those are not the app's data.
const NOT_DATA: [&str; 14] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/sys",
    "/tmp",
    "/usr",
    "/var/run",
    "/volatile",
];
/// Places of which neither a part nor something around is an app's: databases as files, Docker, and what is stored with the host.
const HELD: [&str; 5] = ["/app/etc", "/data/appliance", "/data/postgresql", "/var/lib/docker", "/var/lib/postgresql"];
/// More of the vault's files than this share gone since the last run is taken for an accident.
const MAX_LOSS: u64 = 2;
/// The most files that are counted, and how long that may take.
const MAX_FILES: usize = 256 << 20;
const COUNTING: Duration = Duration::from_secs(3600);
/// How long an app may take to put in order what is stored of it.
const MAKING_READY: Duration = Duration::from_secs(3600);
/// Below so many files nothing is concluded from their number.
const FEW: u64 = 20;

/// What is stored of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Absolute, sorted.
    pub paths: Vec<String>,
    pub volumes: Vec<VolumePart>,
    /// How many files its vault holds, without what is left out.
    pub in_vault: u64,
    /// What is left out, since the app says so.
    pub excluded: Vec<String>,
}

/// What belongs to one app.
///
/// # Errors
/// Its vault or a volume is not where it should be, or the compose file cannot be read.
pub async fn of_app(env: &Env, host: &Host) -> Result<Content> {
    let app = &env.app.name;
    let vault = format!("/data/{app}-storage-vault");
    if !host.is_directory(&vault) {
        bail!("{vault} is not there; is its file system mounted? Nothing is stored in its place");
    }
    let excluded = excluded(&env.app);
    let in_vault = files_in(&vault, &excluded, host).await?;
    let own = [
        vault,
        client_ca::home(&env.tenant),
        format!("/data/{app}-ca"),
        format!("/data/{app}-gpg"),
        format!("/data/etc/{app}"),
        format!("/data/git/{app}"),
        format!("/data/appliance-git/{app}"),
        app_directory(app),
    ];
    let mut paths: BTreeSet<String> = own.into_iter().filter(|path| host.exists(path)).collect();
    let stack = stack::load_to_stop(env, host).context("what the app mounts is not known")?;
    let volumes = volumes(&stack, host).await?;
    paths.extend(volumes.iter().map(|volume| volume.path.clone()));
    for path in mounts(&stack) {
        // What it is by its own name: a link on the way may be the appliance's, or lead into the system.
        let Some(real) = host.real_path(&path) else {
            bail!(
                "the app mounts {path}, which is not there; is its file system mounted? Nothing is stored in its place"
            );
        };
        match is_data(&real) {
            true => drop(paths.insert(real)),
            false => {
                tracing::warn!("{app}: {path} is mounted, and is not backed up: it is, or holds, a part of the system")
            }
        }
    }
    Ok(Content { paths: without_inner(paths), volumes, in_vault, excluded })
}

/// How many files a directory holds, on its own file system, without those that are not stored.
async fn files_in(directory: &str, excluded: &[String], host: &Host) -> Result<u64> {
    let excluded: Vec<String> = excluded.iter().map(|path| regex(path)).collect();
    let mut args = vec![directory, "-ignore_readdir_race", "-xdev", "-regextype", "posix-extended"];
    excluded.iter().for_each(|path| args.extend(["-regex", path, "-prune", "-o"]));
    args.extend(["-type", "f", "-printf", "."]);
    let count = Cmd::new("find", args);
    let counted = host.ask(count.max_output(MAX_FILES).deadline(COUNTING)).await?;
    Ok(counted.stdout.len() as u64)
}

/// A path with `*` and `**` as restic takes them, as an extended regular expression of find's.
fn regex(path: &str) -> String {
    let mut regex = String::new();
    let mut rest = path;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match (c, rest.strip_prefix('*')) {
            ('*', Some(behind)) => {
                regex.push_str(".*");
                rest = behind;
            }
            ('*', None) => regex.push_str("[^/]*"),
            ('.' | '^' | '$' | '|' | '(' | ')' | '{' | '}' | '+' | '?' | '[' | ']' | '\\', _) => {
                regex.extend(['\\', c])
            }
            _ => regex.push(c),
        }
    }
    regex
}

/// Whether so many files are gone that it is asked before they are gone from the backups, too.
///
/// # Errors
/// They are; it is said what to do.
pub fn refuse_loss(before: u64, now: u64, app: &str) -> Result<()> {
    if before > FEW && now < before / MAX_LOSS {
        bail!(
            "/data/{app}-storage-vault holds {now} files, and held {before} at the last run; nothing was stored. If that is right, run: appliance \
             backup run --accept-loss"
        );
    }
    Ok(())
}

/// What belongs to the host: what root keeps, and env.yml.
pub fn of_host(host: &Host) -> Vec<String> {
    ["/app/env.yml", "/data/etc", DIRECTORY].into_iter().filter(|path| host.exists(path)).map(str::to_owned).collect()
}

/// What is in these and can be made again, and what the apps say of theirs.
pub fn left_out<'a>(apps: impl IntoIterator<Item = &'a App>) -> Vec<String> {
    let own = ["sources", "source.tar"].map(|name| format!("{DIRECTORY}/apps/*/{name}"));
    own.into_iter().chain(apps.into_iter().flat_map(excluded)).collect()
}

fn excluded(app: &App) -> Vec<String> {
    let path = |path: &UnstoredPath| match path.as_str() {
        absolute if absolute.starts_with('/') => absolute.to_owned(),
        below => format!("/data/{}-storage-vault/{below}", app.name),
    };
    app.backup.exclude.iter().map(path).collect()
}

/// Lets an app put in order what is stored of it, where it says how.
///
/// # Errors
/// Its command fails, or takes longer than an hour.
pub async fn make_ready(env: &Env, host: &Host) -> Result<()> {
    let Some(exec) = &env.app.backup.exec else { return Ok(()) };
    let (app, service) = (env.app.name.as_str(), exec.service.as_str());
    let run = inside::run_inside(host, app, service, &exec.command, MAKING_READY).await;
    run.context("app.backup.exec failed, so nothing was stored")
}

async fn volumes(stack: &Stack, host: &Host) -> Result<Vec<VolumePart>> {
    let mut known = host.docker().volumes(stack.project.as_str()).await?;
    for volume in &stack.volumes {
        if !known.iter().any(|known| known.name == volume.name) {
            known.extend(host.docker().volume(&volume.name).await?);
        }
    }
    let mut parts = Vec::new();
    for volume in known {
        if volume.labels.get(LABEL).is_some_and(|said| said == "no") {
            continue;
        }
        if volume.driver != "local" || !volume.options.is_empty() {
            tracing::warn!("the volume {} is not on this host's disk, and is not backed up", volume.name);
            continue;
        }
        if !host.is_directory(&volume.mountpoint) {
            bail!("the volume {} should be at {}, which is not there", volume.name, volume.mountpoint);
        }
        let labels: BTreeMap<String, String> = volume.labels.into_iter().collect();
        parts.push(VolumePart { name: volume.name, labels, path: volume.mountpoint });
    }
    parts.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(parts)
}

/// Directories and files of the host that services mount and that are no part of the system.
fn mounts(stack: &Stack) -> BTreeSet<String> {
    let mounts = stack.services.iter().flat_map(|service| &service.mounts);
    let paths = mounts.filter_map(|mount| match &mount.source {
        Source::Path(path) => Some(path.clone()),
        _ => None,
    });
    paths.filter(|path| is_data(path)).collect()
}

fn is_data(path: &str) -> bool {
    let is_in = |place: &str| path == place || path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'));
    let holds = |place: &&str| place.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    path.len() > 1
        && !NOT_DATA.iter().any(|place| is_in(place))
        && !HELD.iter().any(|place| is_in(place))
        && !HELD.iter().any(holds)
}

/// Without paths that lie in another one of them.
fn without_inner(paths: BTreeSet<String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for path in paths {
        // Sorted: what a path lies in comes before it.
        if !all.iter().any(|outer| path.strip_prefix(outer.as_str()).is_some_and(|rest| rest.starts_with('/'))) {
            all.push(path);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_system_are_no_data() {
        for (path, expected) in [
            ("/srv/shop/files", true),
            ("/data/shared", true),
            ("/app/shop/uploads", true),
            ("/runner", true),
            ("/", false),
            ("/data", false),
            ("/var/lib", false),
            ("/run/docker.sock", false),
            ("/etc/localtime", false),
            ("/data/postgresql/15", false),
            ("/app/etc/shop/x.env", false),
        ] {
            assert_eq!(is_data(path), expected, "{path}");
        }
        let paths = ["/data/a", "/data/a/b", "/data/ab"].map(str::to_owned);
        assert_eq!(without_inner(paths.into()), ["/data/a", "/data/ab"]);
    }

    #[test]
    fn what_is_not_stored_is_not_counted() {
        for (path, expected) in
            [("/v/cache", "/v/cache"), ("/v/*.jpg", "/v/[^/]*\\.jpg"), ("/v/**/x (1)", "/v/.*/x \\(1\\)")]
        {
            assert_eq!(regex(path), expected);
        }
    }

    #[test]
    fn a_vault_that_lost_half_of_its_files_is_not_stored_as_it_is() {
        assert!(refuse_loss(100, 49, "shop").is_err_and(|error| error.to_string().contains("held 100")));
        for (before, now) in [(100, 50), (20, 0), (0, 0), (10, 1000)] {
            assert!(refuse_loss(before, now, "shop").is_ok(), "{before} {now}");
        }
    }
}
