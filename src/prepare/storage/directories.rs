//! The directories of the two volumes, and the links that lead to them.

use crate::env::Env;
use crate::host::{Dir, Host};
use crate::value::Owner;
use anyhow::{Context, Result};

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

/// Whether all of them are there.
pub fn are_there(env: &Env, host: &Host) -> bool {
    directories(env.app.name.as_str()).iter().all(|wanted| host.is_directory(&wanted.path))
}

/// Makes what is missing.
pub fn make(env: &Env, host: &Host) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_apps_name_is_in_its_directories() {
        let paths: Vec<String> = directories("shop").into_iter().map(|wanted| wanted.path).collect();
        assert!(paths.contains(&"/data/shop-storage-vault".to_owned()));
        assert!(links("shop").contains(&("/app/shop-cache".into(), "/volatile/shop-cache".into())));
    }
}
