//! The directories of the two volumes, and the links that lead to them.

use crate::env::Env;
use crate::host::{Cmd, Dir, Host, What};
use crate::value::Owner;
use anyhow::{Context, Result};

/// A directory: path, owner, mode.
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
        // What root trusts lies where nobody else can write.
        closed(crate::state::DIRECTORY.into(), "root"),
        plain("/data/etc".into(), "root"),
        closed(format!("/data/{app}-ca"), "1000:1000"),
        closed(format!("/data/{app}-gpg"), "1000:1000"),
        closed(format!("/data/{app}-pgdump"), "app"),
        plain(format!("/data/{app}-storage-vault"), "1000:1000"),
        plain("/data/postgresql".into(), "postgres"),
        plain("/volatile".into(), "root"),
        plain("/volatile/docker".into(), "root"),
        // Where env-template/*.yml have backups go until somebody names a better place.
        closed(format!("/volatile/{app}-backup-test"), "root"),
        plain(format!("/volatile/{app}-cache"), "1000:1000"),
        plain("/volatile/redis".into(), "1000:1000"),
        plain("/volatile/prometheus".into(), "1000:1000"),
        plain("/volatile/alertmanager".into(), "1000:1000"),
        plain("/volatile/grafana".into(), "472:472"),
        plain("/volatile/duplicity".into(), "root"),
    ]
}

/// The user that most images run their app as, and that owns what they write.
const CONTAINERS: u32 = 1000;

/// containerd gives the directory above this one its open mode again at each start.
const CONTAINERD: &str = "/var/lib/containerd/io.containerd.metadata.v1.bolt";

/// Links below `/app` into the two volumes, and the directories inside `/app/etc`.
fn links(app: &str, is_alone: bool) -> Vec<(String, String)> {
    let data = ["ca", "gpg", "storage-vault"].map(|name| (format!("/app/{app}-{name}"), format!("/data/{app}-{name}")));
    let mut all = vec![("/app/etc".to_owned(), "/data/etc".to_owned())];
    // A compose file in /app/etc/<name> reaches the checkout by the app's name, as it always did.
    all.push((format!("/data/etc/{app}/{app}"), format!("/app/{app}")));
    all.extend(data);
    if is_alone {
        // What clients' certificates are checked against, where it always was.
        let there = |name| (format!("/data/etc/{name}"), format!("/data/{app}-ca/{name}"));
        all.extend(["ca.cert.pem", "crl.pem"].map(there));
    }
    all.push((format!("/app/{app}-cache"), format!("/volatile/{app}-cache")));
    all
}

/// Whether all of them are there.
pub fn are_there(env: &Env, host: &Host) -> bool {
    directories(env.app.name.as_str()).iter().all(|wanted| host.is_directory(&wanted.path))
}

/// Makes what is missing.
pub async fn make(env: &Env, host: &Host) -> Result<()> {
    let app = env.app.name.as_str();
    // Before the directories themselves, so that a run that is killed in between leaves it to the next.
    for directory in ["/data/etc", &format!("/data/etc/{app}")] {
        take_over(directory, host).await?;
    }
    for wanted in directories(app) {
        let owner: Owner = wanted.owner.parse().context("the table of directories holds owners")?;
        let plain = Dir::plain().owner(&owner);
        let dir = wanted.mode.map_or(plain.clone(), |mode| plain.mode(mode));
        host.ensure_dir(&wanted.path, &dir)?;
    }
    let owner: Owner = "root".parse().context("a user name is an owner")?;
    for name in ["tags", "flags", "hooks", app] {
        host.ensure_dir(&format!("/data/etc/{name}"), &Dir::plain().owner(&owner))?;
    }
    // User app has the checkout anyway.
    if let Some(user) = host.login(CONTAINERS)?.filter(|user| user != "app") {
        tracing::warn!(
            "the user {user} of this host has the number {CONTAINERS}, which is the app's containers' too: whoever logs in as {user} may read \
             and write the app's vault, keyring and client CA in /data/{app}-*; give {user} another number (usermod --uid)"
        );
    }
    // containerd keeps every container's environment here, and leaves it open to all who know the path.
    if host.exists(CONTAINERD) {
        host.ensure_dir(CONTAINERD, &Dir::plain().mode(0o700))?;
    }
    for (path, to) in links(app, env.tenant.is_alone()) {
        host.ensure_link(&path, &to)?;
    }
    Ok(())
}

/// On a host of before, user app owned these directories. The files in one that does not belong to root yet become root's, and nobody else
/// can write them: compose files, variables and keys there count as root's word. Afterwards a file of somebody else's is one that a
/// container mounts, and keeps its owner; one that is to be read is refused ([`Host::read_trusted`]).
async fn take_over(directory: &str, host: &Host) -> Result<()> {
    if !host.is_directory(directory) {
        return Ok(());
    }
    let is_foreign = Cmd::new("find", [directory, "-maxdepth", "0", "!", "-user", "root"]);
    if host.ask(is_foreign).await?.stdout.trim().is_empty() {
        return Ok(());
    }
    let foreign = ["-maxdepth", "1", "-type", "f", "(", "!", "-user", "root", "-o", "-perm", "/022", ")"];
    let own = ["-exec", "chown", "--no-dereference", "root", "{}", "+", "-exec", "chmod", "go-w", "{}", "+"];
    let own = Cmd::new("find", [&[directory], &foreign[..], &own].concat());
    host.act(What::Directory, directory, "its files belong to root, and nobody else writes them", own).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_apps_name_is_in_its_directories() {
        let paths: Vec<String> = directories("shop").into_iter().map(|wanted| wanted.path).collect();
        assert!(paths.contains(&"/data/shop-storage-vault".to_owned()));
        assert!(links("shop", true).contains(&("/app/shop-cache".into(), "/volatile/shop-cache".into())));
    }
}
