//! The app's repository, from which root takes commits: kept by a user who does nothing else, so that neither user app nor a container puts
//! anything into it, or sees what git is given. The checkout has a repository of its own (`work_tree.rs`). The repository's address may
//! hold a password: it travels in git's environment, never in an argument.

mod checkout;
mod difference;
mod local;
mod repository;
mod submodules;
mod trust;
mod work_tree;

pub use difference::{Difference, difference};

use crate::env::{App, GitLocal};
use crate::host::{Dir, Host};
use crate::state::{CheckoutLock, Ledger};
use crate::value::Commit;
use anyhow::{Context, Result, anyhow, bail};
use repository::{BRANCHES, DIRECTORY, Git, TAGS, own, owner, ssh_command_for_known, tidy, user};
use std::time::Duration;

/// The most that the paths of what was added may take, in bytes: a repository's whole tree of some hundred thousand files.
const MAX_PATHS: usize = 64 << 20;
/// How long somebody else may have the checkout: for a transfer, and some files.
const PATIENCE: Duration = Duration::from_secs(40 * 60);

/// How often a transfer is tried again, and after how long: a network that is only just coming up.
const RETRIES_S: [u64; 3] = [1, 3, 6];

/// A transfer that failed, as it does while a network or a server is away: it may go well another time.
#[derive(Debug)]
pub struct NotFetched(String);

impl std::fmt::Display for NotFetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "could not fetch {}", self.0)
    }
}

/// Repository and checkout, made ready for git.
async fn open<'a>(app: &'a App, directory: &str, host: &'a Host) -> Result<Git<'a>> {
    let git = Git::new(app, directory, host)?;
    let git_dir = git.git_dir();
    // What it knows of servers is taken over once.
    let is_of_before = !host.exists(&git_dir) && host.exists(&git.work_dir());
    work_tree::open(&git).await?;
    submodules::set_broken_list_aside(&git).await?;
    host.ensure_dir(DIRECTORY, &Dir::plain())?;
    own(&git_dir, &user()?, host).await?;
    host.ensure_dir(&git_dir, &Dir::plain().mode(0o750).owner(&owner()?))?;
    tidy(&git_dir, git.ids(), host).await?;
    git.act("prepare the repository", ["init", "--quiet", "--bare"]).await?;
    trust::ensure_hosts(&git)?;
    trust::ensure_keys(&git, is_of_before)?;
    local::ensure_of_source(&git).await?;
    Ok(git)
}

/// A checkout that has just been fetched.
pub struct Fetched<'a> {
    git: Git<'a>,
    /// What the env asks for.
    pub target: Commit,
}

/// Fetches the repository; the files of the checkout stay as they are.
///
/// # Errors
/// git's own words, without the password.
pub async fn fetch<'a>(app: &'a App, directory: &str, to: Option<&Commit>, host: &'a Host) -> Result<Fetched<'a>> {
    let _alone = CheckoutLock::take_of(host, &app.name, "fetch", PATIENCE).await?;
    let git = open(app, directory, host).await?;
    transfer(&git).await?;
    let ledger = Ledger::read_for(host, &app.name)?;
    let ran_before = [&ledger.current, &ledger.previous].into_iter().flatten().map(|release| &release.commit);
    if let Some(known) = to.filter(|to| ran_before.into_iter().any(|commit| commit == *to)) {
        has(&git, known).await?;
    }
    let target = match to {
        Some(commit) => git.resolve(commit.as_str()).await?,
        None => target(&git).await?,
    };
    Ok(Fetched { git, target })
}

impl Fetched<'_> {
    /// Makes sure that the target is signed, where the env asks for that.
    ///
    /// # Errors
    /// It is not signed with one of the env's keys.
    pub async fn verify(&self) -> Result<()> {
        trust::verify(&self.git, &self.target).await
    }

    /// Whether this commit is there, so that the update can start from it.
    pub async fn knows(&self, commit: &Commit) -> Result<bool> {
        has(&self.git, commit).await
    }

    /// The paths that were added since another commit.
    pub async fn added_since(&self, from: &Commit) -> Result<Vec<String>> {
        let args =
            ["diff", "--name-only", "-z", "--no-renames", "--diff-filter=A", from.as_str(), self.target.as_str()];
        let listed = self.git.host.ask(self.git.cmd(args).max_output(MAX_PATHS)).await?;
        Ok(listed.stdout.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
    }

    /// Puts the target's files in place; what somebody changed there is kept in a branch first. Gives back the commit that the
    /// files are of: another one than the target where local commits are merged into it.
    pub async fn check_out(&self) -> Result<Commit> {
        let _alone = CheckoutLock::take_of(self.git.host, &self.git.app.name, "check out", PATIENCE).await?;
        let local = local::keep(&self.git).await?;
        checkout::put(&self.git, &self.target).await?;
        let commit = match local.filter(|_| self.git.app.git.local == GitLocal::Merge) {
            Some(branch) => {
                let merged = local::merge(&self.git, &branch, &self.target).await?;
                checkout::put(&self.git, &merged).await?;
                merged
            }
            None => self.target.clone(),
        };
        refuse_lfs(&self.git, &commit).await?;
        Ok(commit)
    }

    /// Whether the target comes after another commit.
    pub async fn descends_from(&self, commit: &Commit) -> Result<bool> {
        let args = ["merge-base", "--is-ancestor", commit.as_str(), self.target.as_str()];
        Ok(self.git.host.try_ask(self.git.cmd(args)).await?.code == Some(0))
    }

    /// Whether the target is another version than this one.
    pub async fn is_other_than(&self, current: &Commit) -> Result<bool> {
        // Where local commits are merged, the release is one commit further than the repository.
        if self.git.app.git.local == GitLocal::Merge && self.knows(current).await? {
            let args = ["merge-base", "--is-ancestor", self.target.as_str(), current.as_str()];
            return Ok(self.git.host.try_ask(self.git.cmd(args)).await?.code != Some(0));
        }
        Ok(&self.target != current)
    }
}

/// How long a server may take to say what its branches name.
const ANSWER: Duration = Duration::from_secs(30);

/// The commit that the env asks for, as the server has it now; nothing is fetched, and nothing is written.
///
/// # Errors
/// [`NotFetched`]: the server cannot be asked. Or it has no such branch.
pub async fn wanted(app: &App, directory: &str, host: &Host) -> Result<Commit> {
    let git = Git::new(app, directory, host)?;
    let is_known = host.exists(&format!("{}/HEAD", git.git_dir()));
    if let Some(commit) = &app.git.commitid {
        // A tag's own id stands for its commit.
        return if is_known {
            Ok(git.resolve(commit.as_str()).await.unwrap_or(commit.clone()))
        } else {
            Ok(commit.clone())
        };
    }
    let address = app.git.source.address();
    let not_asked = |error: anyhow::Error| error.context(NotFetched(app.git.source.to_string()));
    if !is_known && !app.git.source.is_local() && !address.starts_with("http") {
        // Key and known hosts are put in place by a fetch.
        return Err(not_asked(anyhow!("a server is asked by ssh for the first time when the app is fetched")));
    }
    let name = app.git.branch.as_ref().map(ToString::to_string);
    let names = match &name {
        Some(name) => vec![format!("refs/heads/{name}"), format!("refs/tags/{name}^{{}}"), format!("refs/tags/{name}")],
        None => vec!["HEAD".to_owned()],
    };
    let asked: Vec<&str> = names.iter().map(String::as_str).collect();
    let args = [&["ls-remote", "--quiet", "origin"], &asked[..]].concat();
    let ask = git.cmd_in(&git.git_dir(), &args, &git.remote(&address)).deadline(ANSWER);
    // A server that was not met before would be remembered.
    let ask = ask.env("GIT_SSH_COMMAND", ssh_command_for_known(!app.git.host_keys.is_empty()));
    let said = host.ask(ask).await.map_err(not_asked)?;
    let of = |name: &String| {
        said.stdout.lines().find_map(|line| line.split_once('\t').filter(|(_, of)| of == name)?.0.parse().ok())
    };
    names
        .iter()
        .find_map(of)
        .with_context(|| format!("the repository {} has no {}", app.git.source, name.as_deref().unwrap_or("HEAD")))
}

/// Whether a release has a commit already, as one of those that it was merged from; without a repository it has not.
pub async fn is_merged(app: &App, directory: &str, commit: &Commit, release: &Commit, host: &Host) -> Result<bool> {
    let git = Git::new(app, directory, host)?;
    if app.git.local != GitLocal::Merge || !host.exists(&format!("{}/HEAD", git.git_dir())) {
        return Ok(false);
    }
    let args = ["merge-base", "--is-ancestor", commit.as_str(), release.as_str()];
    Ok(host.try_ask(git.cmd(args)).await?.code == Some(0))
}

/// Whether the checkout's files are those of a commit.
pub async fn is_at(app: &App, directory: &str, commit: &Commit, host: &Host) -> Result<bool> {
    let git = Git::new(app, directory, host)?;
    // git moves HEAD last, and the files may be of two commits until then: that all are there is known by more than that.
    if !checkout::is_whole(&git, commit)? {
        return Ok(false);
    }
    Ok(work_tree::head(&git).await?.as_ref() == Some(commit))
}

/// Makes sure that the checkout is at a known release's commit; asks the repository only if that is not there.
pub async fn ensure_at(app: &App, directory: &str, commit: &Commit, host: &Host) -> Result<()> {
    if is_at(app, directory, commit, host).await? {
        return checkout::tidy(app, host);
    }
    let _alone = CheckoutLock::take_of(host, &app.name, "check out", PATIENCE).await?;
    let has_files = host.is_directory(directory) && !host.names(directory)?.is_empty();
    let git = open(app, directory, host).await?;
    // Only the checkout has it where the repository was begun anew: after an upgrade of a host of before.
    if !has(&git, commit).await? {
        transfer(&git).await?;
    }
    // An empty checkout is one whose disk is gone, and nobody's wish to remove all files.
    if has_files {
        local::keep(&git).await?;
    }
    checkout::put(&git, commit).await
}

/// The commit that the env asks for: `commitid`, else the branch's head or the tag, else what the remote's HEAD names.
async fn target(git: &Git<'_>) -> Result<Commit> {
    let revision = match (&git.app.git.commitid, &git.app.git.branch) {
        (Some(commit), _) => commit.as_str().to_owned(),
        (None, Some(branch)) => git.tag().await?.unwrap_or_else(|| format!("refs/remotes/origin/{branch}")),
        (None, None) => {
            let listed = git.host.ask(git.cmd(["ls-remote", "--symref", "origin", "HEAD"])).await?;
            let head =
                listed.stdout.lines().find_map(|line| line.strip_prefix("ref: refs/heads/")?.strip_suffix("\tHEAD"));
            format!("refs/remotes/origin/{}", head.context("the remote names no HEAD; set git.branch in env.yml")?)
        }
    };
    git.resolve(&revision).await
}

/// Whether a commit is in the repository with all that it needs. One of which root knows the id is taken from the checkout's own where
/// only that has it: on a host of before, whose repository of root's was begun anew.
async fn has(git: &Git<'_>, commit: &Commit) -> Result<bool> {
    let pair = work_tree::Pair { git_dir: &git.git_dir(), work_dir: &git.work_dir() };
    work_tree::has(git, &pair, commit).await
}

/// Gets what the server has.
async fn transfer(git: &Git<'_>) -> Result<()> {
    let mut waits = RETRIES_S.iter();
    loop {
        let fetched = git.act("fetch", ["fetch", "--quiet", "--prune", "--no-tags", "origin", BRANCHES, TAGS]).await;
        match (fetched, waits.next()) {
            (Ok(said), _) => {
                trust::tell_of_contact(&said.stderr);
                return Ok(());
            }
            (Err(error), Some(seconds)) => {
                trust::tell_of_contact(&format!("{error:#}"));
                tracing::warn!("could not fetch {}, trying again in {seconds} s: {error:#}", git.app.git.source);
                tokio::time::sleep(Duration::from_secs(*seconds)).await;
            }
            (Err(error), None) => {
                let source = &git.app.git.source;
                let hint = if source.is_local() { ": user appliance-git must be able to read it" } else { "" };
                return Err(error.context(NotFetched(format!("{source}{hint}"))));
            }
        }
    }
}

/// git would leave small text files in the place of large ones, and the app would start with those.
async fn refuse_lfs(git: &Git<'_>, commit: &Commit) -> Result<()> {
    let args = ["grep", "-lI", "-E", "filter=lfs", commit.as_str(), "--", ".gitattributes", "*/.gitattributes"];
    let found = git.host.try_ask(git.cmd(args)).await?;
    // `COMMIT:PATH`.
    match found.stdout.lines().next().and_then(|line| line.split_once(':')) {
        Some((_, file)) => {
            bail!("{file} says that files are kept in Git LFS, which is not supported; keep them in git")
        }
        None => Ok(()),
    }
}
