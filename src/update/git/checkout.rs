//! What is checked out: the files in the checkout, which are the app's to use, and the same files where only root can write, from which
//! compose files are read and images are built. What anybody changes in the checkout reaches neither.

use super::repository::{self, Git};
use super::{local, submodules, work_tree};
use crate::env::App;
use crate::host::{Cmd, Dir, Host, What};
use crate::state::{app_directory, source_directory};
use crate::value::Commit;
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// How long putting a tree's files in place may take.
const FILES: Duration = Duration::from_secs(30 * 60);
/// Attributes that count before those of the repository: what is read is the whole commit, as it is checked out.
const ATTRIBUTES: &str = "* -export-ignore -export-subst\n";
const MAX_MARK: u64 = 256;

/// That the files of a commit are whole, both in the checkout and beside it.
fn mark(git: &Git<'_>) -> String {
    format!("{}/checked-out", app_directory(&git.app.name))
}

/// Whether all files of a commit are in place. Of a host that was brought back the mark may be there, and the files not.
pub(super) fn is_whole(git: &Git<'_>, commit: &Commit) -> Result<bool> {
    if !git.host.is_directory(&git.directory) || !git.host.is_directory(&source_directory(&git.app.name)) {
        return Ok(false);
    }
    let mark = git.host.read_text(&mark(git), MAX_MARK)?;
    let source = git.host.link_target(&source_directory(&git.app.name));
    Ok(mark.as_deref() == Some(commit.as_str()) && source.as_deref() == Some(&format!("sources/{commit}")))
}

/// Puts a commit's files in place, whatever lies there; on the disk before it counts.
pub(super) async fn put(git: &Git<'_>, commit: &Commit) -> Result<()> {
    // Killed from here on, the next one does all of it again.
    git.host.discard(&mark(git))?;
    let how = format!("check out {}", commit.short());
    git.act_on_work(&how, ["checkout", "--quiet", "--force", "--detach", commit.as_str()]).await?;
    // At once: what is not ours there is somebody's, and would be kept.
    local::remember(git, commit).await?;
    let modules = submodules::put(git, commit).await.context("could not get the app's submodules")?;
    export(git, commit, &modules).await.with_context(|| format!("could not read the files of {}", commit.short()))?;
    let sync = |path: &str| git.host.ask(Cmd::new("sync", ["--file-system", path]).deadline(FILES));
    tokio::try_join!(sync(&git.directory), sync(&app_directory(&git.app.name)))?;
    git.host.put(&mark(git), commit.as_str().as_bytes(), 0o600)
}

/// The files of a commit in a directory of root's, and the link that leads there.
async fn export(git: &Git<'_>, commit: &Commit, modules: &[submodules::Module]) -> Result<()> {
    let (host, own) = (git.host, app_directory(&git.app.name));
    let sources = format!("{own}/sources");
    let (fresh, part) = (format!("{sources}/.new"), format!("{sources}/.part"));
    repository::write(&format!("{}/info/attributes", git.git_dir()), ATTRIBUTES, git.ids(), host).await?;
    for directory in [&own, &sources] {
        host.ensure_dir(directory, &Dir::plain().mode(0o700))?;
    }
    host.remove_tree(&fresh).await?;
    host.ensure_dir(&fresh, &Dir::plain().mode(0o700))?;
    unpack(git, git.cmd(["archive", "--format=tar", commit.as_str()]), &fresh).await?;
    for module in modules {
        repository::write(&format!("{}/info/attributes", module.git_dir), ATTRIBUTES, git.ids(), host).await?;
        // By itself: what it holds must not be written over a link that lies in the other one.
        host.remove_tree(&part).await?;
        host.ensure_dir(&part, &Dir::plain())?;
        unpack(git, module.cmd(git, &["archive", "--format=tar", module.commit.as_str()]), &part).await?;
        put_in_place(host, &part, &fresh, &module.path).with_context(|| format!("the submodule {}", module.path))?;
    }
    let target = format!("{sources}/{commit}");
    host.remove_tree(&target).await?;
    host.rename(&fresh, &target)?;
    host.ensure_link(&source_directory(&git.app.name), &format!("sources/{commit}"))?;
    for name in host.names(&sources)?.iter().filter(|name| *name != commit.as_str()) {
        host.remove_tree(&format!("{sources}/{name}")).await?;
    }
    Ok(())
}

/// Moves a submodule's files to their place below those of the commit. What a commit holds is its author's choice: a link, or files,
/// where the submodule belongs are refused. Only root writes here, so nothing changes meanwhile.
fn put_in_place(host: &Host, part: &str, below: &str, path: &str) -> Result<()> {
    let mut place = below.to_owned();
    for name in path.split('/') {
        // Makes it, or makes sure that it is no link.
        place = format!("{place}/{name}");
        host.ensure_dir(&place, &Dir::plain())?;
    }
    if !host.names(&place)?.is_empty() {
        bail!("the commit has files of its own where it belongs");
    }
    host.rename(part, &place).map(drop)
}

/// Unpacks what git packs into an empty directory, as root's own files.
async fn unpack(git: &Git<'_>, archive: Cmd, into: &str) -> Result<()> {
    let host = git.host;
    let tar = format!("{}/source.tar", app_directory(&git.app.name));
    host.act(What::File, &tar, "pack the app's files", archive.output_file(&host.path(&tar)).deadline(FILES)).await?;
    let args = ["--extract", "--no-same-owner", "--no-same-permissions", "--directory", into, "--file", &tar];
    let unpacked =
        host.act(What::Directory, into, "unpack the app's files", Cmd::new("tar", args).deadline(FILES)).await;
    host.discard(&tar)?;
    unpacked.map(drop)
}

/// Takes away what a killed run left beside the files.
pub(super) fn tidy(app: &App, host: &Host) -> Result<()> {
    host.discard(&format!("{}/source.tar", app_directory(&app.name)))?;
    host.discard(&work_tree::pack(&app.name))
}
