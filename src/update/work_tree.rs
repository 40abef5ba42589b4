//! The checkout's own repository, which git uses as user app: what somebody does there by hand, the branches that keep it, and which commit
//! the files are of. It is apart from the checkout, since a container may have that mounted. It borrows the objects of the repository that
//! root takes commits from (`git.rs`); what goes the other way goes as if it came from a server.

use super::git::{Git, command, tidy, write};
use super::submodules;
use crate::host::{Cmd, Dir, File, Output, What};
use crate::state::app_directory;
use crate::value::{Commit, Owner};
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

/// Makes a repository of the checkout's side ready for git: user app's, and with the other one's objects.
///
/// # Errors
/// It cannot be made.
pub(super) async fn ensure(git: &Git<'_>, git_dir: &str, work_tree: &str, objects_of: &str) -> Result<()> {
    tidy(git_dir, git.app_ids(), git.host).await?;
    let init = git.work_in(git_dir, work_tree, &["init", "--quiet"]);
    git.host.act(What::Directory, git_dir, "prepare the checkout's repository", init).await?;
    let alternates = format!("{git_dir}/objects/info/alternates");
    write(&alternates, &format!("{objects_of}/objects\n"), git.app_ids(), git.host).await
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
    host.ensure_dir(&git_dir, &Dir::plain().mode(0o750).owner(&owner))?;
    ensure(git, &git_dir, directory, &git.git_dir()).await?;
    if host.is_directory(&inside) && host.link_target(&inside).is_none() {
        take_over(git, &inside).await.with_context(|| format!("could not take over {inside}"))?;
    }
    submodules::set_broken_list_aside(git).await?;
    // For people who look; nothing here follows it.
    let hint = File::text(format!("gitdir: {git_dir}\n")).mode(0o644).owner(&owner);
    if let Err(error) = host.ensure_file(&inside, &hint) {
        tracing::warn!("{error:#}");
    }
    Ok(())
}

/// A repository of before, which lay in the checkout: its commits and branches are taken, its configuration is not.
async fn take_over(git: &Git<'_>, inside: &str) -> Result<()> {
    let git_dir = git.work_dir();
    for name in ["objects", "refs", "packed-refs", "HEAD"] {
        let from = format!("{inside}/{name}");
        if git.host.exists(&from) {
            let args = ["--recursive", "--no-dereference", "--preserve=mode,timestamps", "--", &from, &git_dir];
            let copy = Cmd::new("cp", args).ids(git.app_ids()).deadline(OBJECTS);
            git.host.act(What::Directory, &git_dir, &format!("take over {name}"), copy).await?;
        }
    }
    // How the index was known is lost; the checkout that follows makes a new one.
    git.host.remove_tree(inside).await
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

/// Takes a commit of the checkout's repository into the one that root takes commits from, where that knows `base` already; gives back
/// whether the checkout has it. What it holds is checked as if a server had sent it: its id is made from it anew.
///
/// # Errors
/// The checkout's repository does not give all of it.
pub(super) async fn bring_over(git: &Git<'_>, commit: &Commit, base: Option<&Commit>) -> Result<bool> {
    if read(git, commit.as_str()).await?.is_none() {
        return Ok(false);
    }
    let (host, pack) = (git.host, format!("{}/local.pack", app_directory(&git.app.name)));
    let wanted = base.map_or_else(|| format!("{commit}\n"), |base| format!("{commit}\n^{base}\n"));
    host.ensure_dir(&app_directory(&git.app.name), &Dir::plain().mode(0o700))?;
    let packed = git.work(["pack-objects", "--quiet", "--revs", "--thin", "--stdout"]).input(wanted);
    let packed = packed.output_file(&host.path(&pack)).deadline(OBJECTS);
    host.act(What::File, &pack, "pack local commits", packed).await?;
    let unpack = git.cmd(["index-pack", "--stdin", "--fix-thin"]).input_file(&host.path(&pack));
    let unpacked = host.act(What::Directory, &git.git_dir(), "take over local commits", unpack.deadline(OBJECTS)).await;
    host.discard(&pack)?;
    unpacked?;
    // Every object that it needs is there.
    let complete = ["rev-list", "--objects", "--quiet", commit.as_str(), "--not", "--all"];
    host.ask(git.cmd(complete).deadline(OBJECTS)).await.map(|_| true)
}
