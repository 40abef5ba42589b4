//! What somebody did in the checkout by hand: kept in a branch before an update takes the files, and merged where the env says so.

use super::repository::Git;
use super::work_tree::{Pair, bring_over, head, read};
use crate::env::GitLocal;
use crate::host::What;
use crate::state::app_directory;
use crate::value::Commit;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// In the checkout's repository: the commit that the appliance last checked out.
pub(super) const OURS: &str = "refs/appliance/checked-out";
/// In the same: the commit in which local ones were last merged: what the next version is merged with too.
pub(super) const MERGED: &str = "refs/appliance/merged";
/// In the repository: commits that releases were made of. git must not clean them away when the repository has forgotten them.
const KEPT: &str = "refs/appliance/kept";
/// Who signs for commits that the appliance makes.
const WHO: [&str; 4] = ["-c", "user.name=appliance", "-c", "user.email=appliance@localhost"];

/// Where the checkout is from, as a digest: the address may hold a password.
fn source_mark(git: &Git<'_>) -> String {
    format!("{}/source.sha256", app_directory(&git.app.name))
}

/// A checkout of another repository is begun anew: its commits mean nothing here. What somebody left in it stays in its branches.
pub async fn ensure_of_source(git: &Git<'_>) -> Result<()> {
    let digest = crate::env::hex(&Sha256::digest(git.app.git.source.address()));
    let mark = source_mark(git);
    let known = git.host.read_text(&mark, 256)?.unwrap_or_default();
    if known == digest {
        return Ok(());
    }
    if !known.is_empty() {
        keep(git).await?;
        tracing::info!("the app's repository is another one now; its checkout is begun anew");
        let forget = "forget the old repository";
        let listed = ["for-each-ref", "--format=%(refname)", "refs/remotes/origin", "refs/tags"];
        let known = git.host.ask(git.cmd(listed)).await?;
        for name in known.stdout.lines() {
            git.act(forget, ["update-ref", "-d", name]).await?;
        }
        for name in [OURS, MERGED] {
            git.act_on_work(forget, ["update-ref", "-d", name]).await?;
        }
    }
    git.host.put(&mark, digest.as_bytes(), 0o600)
}

/// Keeps local commits and changed files in a branch; gives back its name if there was something to keep.
pub async fn keep(git: &Git<'_>) -> Result<Option<String>> {
    let Some(head) = head(git).await? else { return Ok(None) };
    let changed =
        git.host.ask(git.work(["status", "--porcelain", "--untracked-files=no", "--ignore-submodules"])).await?;
    let ours = read(git, OURS).await?;
    // A checkout from before this was remembered is taken for untouched.
    let is_merged = git.app.git.local == GitLocal::Merge && read(git, MERGED).await?.as_ref() == Some(&head);
    let has_commits = is_merged || ours.as_ref().is_some_and(|ours| *ours != head);
    if !has_commits && changed.stdout.trim().is_empty() {
        return Ok(None);
    }
    let [a, b, c, d] = WHO;
    let mut kept = head;
    if !changed.stdout.trim().is_empty() {
        let stash = git.work([a, b, c, d, "stash", "create", "changed on this host"]);
        let stash = git.host.act_and_read(What::Directory, &git.directory, "keep changed files", stash).await?;
        kept = stash.stdout.trim().parse().context("git could not keep the changed files")?;
    }
    let branch = format!("local-{}-{}", git.host.now().strftime("%Y%m%d-%H%M%S"), kept.short());
    let how = format!("keep local changes in the branch {branch}");
    git.act_on_work(&how, ["branch", "--force", &branch, kept.as_str()]).await?;
    tracing::warn!("somebody changed files in {}; that is kept there in the branch {branch}", git.directory);
    Ok(Some(branch))
}

/// Merges what was kept into the files that are checked out.
///
/// # Errors
/// It contradicts the new version; the files are the target's then.
pub async fn merge(git: &Git<'_>, branch: &str, target: &Commit) -> Result<Commit> {
    let [a, b, c, d] = WHO;
    // A stash holds the index as a second parent; its first one and its files are what is meant.
    let args = [a, b, c, d, "merge", "--quiet", "--no-edit", "--no-ff", branch];
    if let Err(error) = git.act_on_work("merge local changes", args).await {
        git.act_on_work("give the merge up", ["merge", "--abort"]).await?;
        bail!(
            "the local changes in the branch {branch} contradict {}, so nothing was merged: {error:#}",
            target.short()
        );
    }
    let merged = head(git).await?.context("the merge made no commit")?;
    let pair = Pair { git_dir: &git.git_dir(), work_dir: &git.work_dir() };
    bring_over(git, &pair, &merged, Some(target)).await.context("could not take over what was merged")?;
    let comes_after = ["merge-base", "--is-ancestor", target.as_str(), merged.as_str()];
    if git.host.try_ask(git.cmd(comes_after)).await?.code != Some(0) {
        bail!(
            "somebody changed the checkout during the merge: {} does not come after {}",
            merged.short(),
            target.short()
        );
    }
    git.act_on_work("remember the merge", ["update-ref", MERGED, merged.as_str()]).await?;
    remember(git, &merged).await?;
    Ok(merged)
}

/// Remembers what is checked out.
pub async fn remember(git: &Git<'_>, commit: &Commit) -> Result<()> {
    let how = "remember what is checked out";
    git.act_on_work(how, ["update-ref", OURS, commit.as_str()]).await?;
    git.act(how, ["update-ref", &format!("{KEPT}/{commit}"), commit.as_str()]).await.map(drop)
}
