//! The checkout's own repository, which git uses as user app: what somebody does there by hand, the branches that keep it, and which commit
//! the files are of. It is apart from the checkout, since a container may have that mounted. It borrows the objects of the repository that
//! root takes commits from (`repository.rs`); what goes the other way goes as if it came from a server.

use super::repository::{Git, command, own, tidy, write};
use crate::host::{Cmd, Dir, File, Output, What};
use crate::state::app_directory;
use crate::value::{AppName, Commit, Owner};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// Where these repositories are kept.
const DIRECTORY: &str = "/data/git";
/// How long copying a repository's objects may take.
const OBJECTS: Duration = Duration::from_secs(30 * 60);

impl Git<'_> {
    /// In the checkout.
    pub(super) fn work<const N: usize>(&self, args: [&str; N]) -> Cmd {
        self.work_in(&self.work_dir(), &self.directory, &args)
    }

    /// The checkout's repository.
    pub(super) fn work_dir(&self) -> String {
        format!("{DIRECTORY}/{}", self.app.name)
    }

    /// In the checkout, or in a submodule's directory. Nothing secret is in the environment: user app can read it.
    pub(super) fn work_in(&self, git_dir: &str, work_tree: &str, args: &[&str]) -> Cmd {
        let places = [format!("--git-dir={git_dir}"), format!("--work-tree={work_tree}")];
        let settings = [("protocol.allow", "never")];
        command(&[&places[0], &places[1]], args, &settings)
            .directory(&self.directory)
            .ids(self.app_ids())
            .env("HOME", "/app")
    }

    pub(super) async fn act_on_work<const N: usize>(&self, how: &str, args: [&str; N]) -> Result<Output> {
        self.host.act(What::Directory, &self.directory, how, self.work(args)).await
    }
}

/// A repository that root takes commits from, and the one of the same in the checkout.
pub(super) struct Pair<'a> {
    pub git_dir: &'a str,
    pub work_dir: &'a str,
}

/// Makes a repository of the checkout's side ready for git.
///
/// # Errors
/// It cannot be made.
pub(super) async fn ensure(git: &Git<'_>, git_dir: &str, work_tree: &str) -> Result<()> {
    tidy(git_dir, git.app_ids(), git.host).await?;
    let init = git.work_in(git_dir, work_tree, &["init", "--quiet"]);
    git.host.act(What::Directory, git_dir, "prepare the checkout's repository", init).await.map(drop)
}

/// Has the checkout's repository borrow the other one's objects.
pub(super) async fn borrow(git: &Git<'_>, pair: &Pair<'_>) -> Result<()> {
    let alternates = format!("{}/objects/info/alternates", pair.work_dir);
    write(&alternates, &format!("{}/objects\n", pair.git_dir), git.app_ids(), git.host).await
}

/// Makes the checkout and its repository ready for git.
///
/// # Errors
/// The checkout holds files that are of no repository.
pub(super) async fn open(git: &Git<'_>) -> Result<()> {
    let (host, directory) = (git.host, &git.directory);
    let owner: Owner = "app".parse().context("a user name is an owner")?;
    host.ensure_dir(directory, &Dir::plain().owner(&owner))?;
    let (git_dir, inside) = (git.work_dir(), format!("{directory}/.git"));
    let fresh = !host.exists(&format!("{git_dir}/HEAD"));
    if fresh && !host.exists(&inside) && !host.names(directory)?.is_empty() {
        bail!("{directory} holds files, but is no git checkout; move it away");
    }
    host.ensure_dir(DIRECTORY, &Dir::plain())?;
    own(&git_dir, &owner, host).await?;
    host.ensure_dir(&git_dir, &Dir::plain().mode(0o750).owner(&owner))?;
    ensure(git, &git_dir, directory).await?;
    if host.is_directory(&inside) && host.link_target(&inside).is_none() {
        take_over(git, &inside).await?;
    }
    borrow(git, &Pair { git_dir: &git.git_dir(), work_dir: &git_dir }).await?;
    // For people who look; nothing here follows it.
    let hint = File::text(format!("gitdir: {git_dir}\n")).mode(0o644).owner(&owner);
    if let Err(error) = host.ensure_file(&inside, &hint) {
        tracing::warn!("{error:#}");
    }
    Ok(())
}

/// A repository of before, which lay in the checkout: its commits and branches are taken, its configuration is not. One that cannot be taken
/// is put aside: a container can make such a one, too.
async fn take_over(git: &Git<'_>, inside: &str) -> Result<()> {
    match copy(git, inside).await {
        // How the index was known is lost; the checkout that follows makes a new one.
        Ok(()) => git.host.remove_tree(inside).await,
        Err(error) => {
            let aside = format!("{inside}.{}", git.host.now().strftime("%Y%m%d-%H%M%S"));
            tracing::warn!("{inside} is put aside as {aside}, since it could not be taken over: {error:#}");
            let put = Cmd::new("mv", ["--no-target-directory", "--", inside, &aside]).ids(git.app_ids());
            git.host.act(What::Directory, inside, "put aside", put).await.map(drop)
        }
    }
}

async fn copy(git: &Git<'_>, inside: &str) -> Result<()> {
    let git_dir = git.work_dir();
    for name in ["objects", "refs", "packed-refs", "HEAD"] {
        let from = format!("{inside}/{name}");
        if git.host.exists(&from) {
            let args = ["--recursive", "--no-dereference", "--preserve=mode,timestamps", "--", &from, &git_dir];
            let copy = Cmd::new("cp", args).ids(git.app_ids()).deadline(OBJECTS);
            git.host.act(What::Directory, &git_dir, &format!("take over {name}"), copy).await?;
        }
    }
    Ok(())
}

/// The commit that a reference of the checkout's repository names. User app can change it.
pub(super) async fn read(git: &Git<'_>, reference: &str) -> Result<Option<Commit>> {
    let args = ["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{reference}^{{commit}}")];
    Ok(git.host.try_ask(git.work(args)).await?.stdout.trim().parse().ok())
}

/// The commit that the files are of.
pub(super) async fn head(git: &Git<'_>) -> Result<Option<Commit>> {
    match git.host.exists(&format!("{}/HEAD", git.work_dir())) {
        true => read(git, "HEAD").await,
        false => Ok(None),
    }
}

/// Whether a commit is in the repository that root takes commits from, with all that it needs; one that is not is taken from the
/// checkout's, if that has it.
///
/// # Errors
/// git cannot be run.
pub(super) async fn has(git: &Git<'_>, pair: &Pair<'_>, commit: &Commit) -> Result<bool> {
    if is_whole(git, pair, commit).await? {
        return Ok(true);
    }
    let is_there = git.work_in(pair.work_dir, "/", &["cat-file", "-e", &format!("{commit}^{{commit}}")]);
    if git.host.try_ask(is_there).await?.code != Some(0) {
        return Ok(false);
    }
    match bring_over(git, pair, commit, None).await {
        Ok(()) => Ok(true),
        Err(error) => {
            tracing::warn!("{} is not taken from the checkout's own repository: {error:#}", commit.short());
            Ok(false)
        }
    }
}

/// Whether everything that a commit needs is there. What the repository's references lead to is.
async fn is_whole(git: &Git<'_>, pair: &Pair<'_>, commit: &Commit) -> Result<bool> {
    let walk = ["rev-list", "--objects", "--quiet", commit.as_str(), "--not", "--all"];
    let walked = git.host.try_ask(git.cmd_in(pair.git_dir, &walk, &[]).deadline(OBJECTS)).await?;
    Ok(walked.code == Some(0))
}

/// Takes a commit of the checkout's repository into the one that root takes commits from, where that knows `base` already. What it
/// holds is checked as if a server had sent it: each id is made anew from what it stands for.
///
/// # Errors
/// The checkout's repository does not give all of it.
pub(super) async fn bring_over(git: &Git<'_>, pair: &Pair<'_>, commit: &Commit, base: Option<&Commit>) -> Result<()> {
    let (host, pack) = (git.host, pack(&git.app.name));
    let wanted = base.map_or_else(|| format!("{commit}\n"), |base| format!("{commit}\n^{base}\n"));
    host.ensure_dir(&app_directory(&git.app.name), &Dir::plain().mode(0o700))?;
    let packing = git.work_in(pair.work_dir, "/", &["pack-objects", "--quiet", "--revs", "--thin", "--stdout"]);
    let packing = packing.input(wanted).output_file(&host.path(&pack)).deadline(OBJECTS);
    let unpacking = git.cmd_in(pair.git_dir, &["index-pack", "--stdin", "--fix-thin"], &[]);
    let unpacking = unpacking.input_file(&host.path(&pack)).deadline(OBJECTS);
    let moved = async {
        host.act(What::File, &pack, "pack local commits", packing).await?;
        host.act(What::Directory, pair.git_dir, "take over local commits", unpacking).await
    };
    let moved = moved.await;
    host.discard(&pack)?;
    moved?;
    match is_whole(git, pair, commit).await? {
        true => Ok(()),
        false => bail!("the checkout's repository does not give all that {} needs", commit.short()),
    }
}

/// What is on its way from one repository to the other.
pub(super) fn pack(app: &AppName) -> String {
    format!("{}/local.pack", app_directory(app))
}
