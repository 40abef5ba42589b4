//! Step storage: `/data` and `/volatile` with their directories. Partitioning and relocation are not built yet.

use crate::env::Env;
use crate::host::{Cmd, Dir, Host};
use crate::value::Owner;
use anyhow::{Context, Result};
use std::fmt;

/// A directory: path, owner, mode (spec/prepare.md, "Storage").
struct Wanted {
    path: String,
    owner: &'static str,
    mode: Option<u32>,
}

fn directories(app: &str) -> Vec<Wanted> {
    let plain = |path: String, owner| Wanted { path, owner, mode: None };
    let closed = |path: String, owner| Wanted { path, owner, mode: Some(0o700) };
    vec![
        // Not app's: whoever owns the directory could put an env.yml of their own in place.
        plain("/app".into(), "root"),
        plain("/data".into(), "root"),
        plain("/data/etc".into(), "app"),
        closed(format!("/data/{app}-ca"), "1000:1000"),
        closed(format!("/data/{app}-gpg"), "1000:1000"),
        closed(format!("/data/{app}-pgdump"), "app"),
        plain(format!("/data/{app}-storage-vault"), "1000:1000"),
        plain("/data/postgresql".into(), "postgres"),
        plain("/volatile".into(), "root"),
        plain("/volatile/docker".into(), "root"),
        plain(format!("/volatile/{app}-backup-test"), "app"),
        plain(format!("/volatile/{app}-cache"), "1000:1000"),
        plain("/volatile/redis".into(), "1000:1000"),
        plain("/volatile/prometheus".into(), "1000:1000"),
        plain("/volatile/alertmanager".into(), "1000:1000"),
        plain("/volatile/grafana".into(), "472:472"),
        plain("/volatile/duplicity".into(), "root"),
    ]
}

/// containerd gives the directory above this one its open mode again at each start.
const CONTAINERD: &str = "/var/lib/containerd/io.containerd.metadata.v1.bolt";

/// Links below `/app` into the two volumes, and the directories inside `/app/etc`.
fn links(app: &str) -> Vec<(String, String)> {
    let data = ["ca", "gpg", "storage-vault"].map(|name| (format!("/app/{app}-{name}"), format!("/data/{app}-{name}")));
    let mut all = vec![("/app/etc".to_owned(), "/data/etc".to_owned())];
    // A compose file in /app/etc/<name> reaches the checkout by the app's name, as it always did.
    all.push((format!("/data/etc/{app}/{app}"), format!("/app/{app}")));
    all.extend(data);
    // What clients' certificates are checked against, where it always was.
    all.extend(["ca.cert.pem", "crl.pem"].map(|name| (format!("/data/etc/{name}"), format!("/data/{app}-ca/{name}"))));
    all.push((format!("/app/{app}-cache"), format!("/volatile/{app}-cache")));
    all
}

pub async fn prepare(env: &Env, host: &Host) -> Result<()> {
    if let Some(missing) = missing(env, host).await? {
        return Err(missing.into());
    }
    make(env, host)
}

/// The volumes that should be mounted and are not.
pub async fn missing(env: &Env, host: &Host) -> Result<Option<VolumeMissing>> {
    let storage = &env.appliance.storage;
    let mut missing = Vec::new();
    for (mount, label, ignored) in
        [("/data", "ecs-data", storage.ignore_data), ("/volatile", "ecs-volatile", storage.ignore_volatile)]
    {
        if !ignored && !is_mounted(host, mount, label).await? {
            missing.push((mount, label));
        }
    }
    Ok(Some(VolumeMissing(missing)).filter(|missing| !missing.0.is_empty()))
}

fn make(env: &Env, host: &Host) -> Result<()> {
    let app = env.app.name.as_str();
    for wanted in directories(app) {
        let owner: Owner = wanted.owner.parse().context("the table of directories holds owners")?;
        let plain = Dir::plain().owner(&owner);
        let dir = wanted.mode.map_or(plain.clone(), |mode| plain.mode(mode));
        host.ensure_dir(&wanted.path, &dir)?;
    }
    let owner: Owner = "app".parse().context("a user name is an owner")?;
    for name in ["tags", "flags", "hooks", app] {
        host.ensure_dir(&format!("/data/etc/{name}"), &Dir::plain().owner(&owner))?;
    }
    // containerd keeps every container's environment here, and leaves it open to all who know the path.
    if host.exists(CONTAINERD) {
        host.ensure_dir(CONTAINERD, &Dir::plain().mode(0o700))?;
    }
    for (path, to) in links(app) {
        host.ensure_link(&path, &to)?;
    }
    Ok(())
}

/// Volumes that should be mounted and are not. Nothing is created on the root disk in their place; whoever starts the app waits for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMissing(Vec<(&'static str, &'static str)>);

impl fmt::Display for VolumeMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (mount, label)) in self.0.iter().enumerate() {
            let key = mount.trim_start_matches('/');
            let sep = if index > 0 { "; " } else { "" };
            write!(
                f,
                "{sep}no file system labelled '{label}' is mounted on {mount}; mount it, or set appliance.storage.ignore.{key}: true in \
                 env.yml to keep {mount} on the root disk"
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for VolumeMissing {}

/// Whether a file system of that label is mounted there.
async fn is_mounted(host: &Host, mount: &str, label: &str) -> Result<bool> {
    let look = Cmd::new("findmnt", ["--noheadings", "--output", "LABEL", "--mountpoint", mount]);
    let mounted = host.try_ask(look).await?;
    // Mounted twice, the last one counts.
    Ok(mounted.code == Some(0) && mounted.stdout.lines().last().is_some_and(|line| line.trim() == label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_apps_name_is_in_its_directories() {
        let paths: Vec<String> = directories("shop").into_iter().map(|wanted| wanted.path).collect();
        assert!(paths.contains(&"/data/shop-storage-vault".to_owned()));
        assert!(links("shop").contains(&("/app/shop-cache".into(), "/volatile/shop-cache".into())));
    }

    #[test]
    fn every_missing_volume_is_named_with_the_key_that_does_without_it() {
        let said = VolumeMissing(vec![("/data", "ecs-data"), ("/volatile", "ecs-volatile")]).to_string();
        for part in [
            "'ecs-data' is mounted on /data",
            "ignore.data",
            "'ecs-volatile' is mounted on /volatile",
            "ignore.volatile",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }
}
