//! The app's repository, which git keeps as user app in a directory apart from the checkout: a container that has the checkout mounted
//! writes no configuration that git would follow. The repository's address may hold a password: it travels in git's environment, never in
//! an argument.

use super::{checkout, local, submodules, trust};
use crate::env::{App, GitLocal};
use crate::host::{Cmd, Dir, File, Host, Output, What};
use crate::state::Lock;
use crate::value::{Commit, Owner};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// The most that the paths of what was added may take, in bytes: a repository's whole tree of some hundred thousand files.
const MAX_PATHS: usize = 64 << 20;
/// How long a transfer may take.
const TRANSFER: Duration = Duration::from_secs(30 * 60);

/// How long somebody else may have the checkout: for a transfer, and some files.
const PATIENCE: Duration = Duration::from_secs(40 * 60);

/// Where repositories are kept.
const DIRECTORY: &str = "/data/git";

/// git starts helpers of its own with the address as their argument; what must not be seen there, this one hands them
/// from the environment.
const CREDENTIAL_HELPER: &str =
    r#"!f() { printf 'username=%s\npassword=%s\n' "$APPLIANCE_GIT_USER" "$APPLIANCE_GIT_PASSWORD"; }; f"#;

/// What is fetched; what has gone there goes here.
const BRANCHES: &str = "+refs/heads/*:refs/remotes/origin/*";
const TAGS: &str = "+refs/tags/*:refs/tags/*";
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

pub(super) struct Git<'a> {
    pub(super) app: &'a App,
    pub(super) directory: String,
    ids: (u32, u32),
    pub(super) host: &'a Host,
}

impl Git<'_> {
    pub(super) fn cmd<const N: usize>(&self, args: [&str; N]) -> Cmd {
        let address = self.app.git.source.address();
        let mut remote = vec![("remote.origin.url", address.as_str()), ("remote.origin.fetch", BRANCHES)];
        if self.app.git.source.is_local() {
            // Whoever it belongs to: the env names it, and git would serve it to its owner alone.
            remote.push(("remote.origin.uploadpack", "git -c 'safe.directory=*' upload-pack"));
        }
        self.cmd_for(args, &remote)
    }

    /// Where git keeps the repository. Only user app writes there.
    pub(super) fn git_dir(&self) -> String {
        format!("{DIRECTORY}/{}", self.app.name)
    }

    /// With other settings than those of the app's own remote.
    pub(super) fn cmd_for<const N: usize>(&self, args: [&str; N], more: &[(&str, &str)]) -> Cmd {
        self.cmd_in(&self.git_dir(), &self.directory, &args, more)
    }

    /// For another repository than the app's own, with another directory for its files: a submodule's.
    pub(super) fn cmd_in(&self, git_dir: &str, work_tree: &str, args: &[&str], more: &[(&str, &str)]) -> Cmd {
        let source = &self.app.git.source;
        let address = source.address();
        // The password is for that server and no other.
        let server: String = address.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
        let helper = format!("credential.{server}.helper");
        let mut settings = more.to_vec();
        settings.extend([
            // No program of the repository's choosing is run.
            ("core.hooksPath", "/dev/null"),
            ("core.fsmonitor", "false"),
            ("protocol.ext.allow", "never"),
            ("credential.helper", ""),
        ]);
        // It ends with us: one that lives on would meet the next in the same repository.
        let own = ["--pdeathsig", "KILL", "git", &format!("--git-dir={git_dir}"), &format!("--work-tree={work_tree}")];
        let mut cmd = Cmd::new("setpriv", own.into_iter().chain(args.iter().copied()))
            .directory(&self.directory)
            .ids(self.ids)
            .env("HOME", "/app")
            // What user app has set for itself is not meant for this.
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            // A commit is what its id says, whatever stands beside it.
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_SSH_COMMAND", trust::ssh_command(!self.app.git.host_keys.is_empty()))
            .deadline(TRANSFER);
        if let Some((user, password)) = source.credentials() {
            settings.push((helper.as_str(), CREDENTIAL_HELPER));
            cmd = cmd.env("APPLIANCE_GIT_USER", user.expose()).env("APPLIANCE_GIT_PASSWORD", password.expose());
        }
        cmd = cmd.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (index, (key, value)) in settings.iter().enumerate() {
            cmd = cmd.env(&format!("GIT_CONFIG_KEY_{index}"), *key).env(&format!("GIT_CONFIG_VALUE_{index}"), *value);
        }
        source.secrets().iter().fold(cmd, |cmd, secret| cmd.mask(secret.expose()))
    }

    /// Whom git runs as.
    pub(super) fn ids(&self) -> (u32, u32) {
        self.ids
    }

    /// The tag that the env names where it names no branch of the repository.
    pub(super) async fn tag(&self) -> Result<Option<String>> {
        let Some(name) = &self.app.git.branch else { return Ok(None) };
        for (kind, is_tag) in [("remotes/origin", false), ("tags", true)] {
            let name = format!("refs/{kind}/{name}");
            let found = self.host.try_ask(self.cmd(["show-ref", "--verify", "--quiet", "--", &name])).await?;
            if found.code == Some(0) {
                return Ok(is_tag.then_some(name));
            }
        }
        Ok(None)
    }

    async fn fetch(&self) -> Result<()> {
        trust::ensure_hosts(self)?;
        let mut waits = RETRIES_S.iter();
        loop {
            let fetched =
                self.act("fetch", ["fetch", "--quiet", "--prune", "--no-tags", "origin", BRANCHES, TAGS]).await;
            match (fetched, waits.next()) {
                (Ok(said), _) => {
                    trust::tell_of_contact(&said.stderr);
                    return Ok(());
                }
                (Err(error), Some(seconds)) => {
                    trust::tell_of_contact(&format!("{error:#}"));
                    tracing::warn!("could not fetch {}, trying again in {seconds} s: {error:#}", self.app.git.source);
                    tokio::time::sleep(Duration::from_secs(*seconds)).await;
                }
                (Err(error), None) => return Err(error.context(NotFetched(self.app.git.source.to_string()))),
            }
        }
    }

    /// git would leave small text files in the place of large ones, and the app would start with those.
    async fn refuse_lfs(&self) -> Result<()> {
        let args = ["grep", "-lI", "--cached", "-E", "filter=lfs", "--", ".gitattributes", "*/.gitattributes"];
        let found = self.host.try_ask(self.cmd(args)).await?;
        match found.stdout.lines().next() {
            Some(file) => {
                bail!("{file} says that files are kept in Git LFS, which is not carried out; keep them in git")
            }
            None => Ok(()),
        }
    }

    /// The commit that a revision names.
    pub(super) async fn resolve(&self, revision: &str) -> Result<Commit> {
        let args = ["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{revision}^{{commit}}")];
        let parsed = self.host.try_ask(self.cmd(args)).await?;
        match parsed.stdout.trim().parse::<Commit>() {
            Ok(commit) => Ok(commit),
            Err(_) => bail!(
                "the repository {} has no {}",
                self.app.git.source,
                revision.trim_start_matches("refs/remotes/origin/")
            ),
        }
    }

    pub(super) async fn act<const N: usize>(&self, how: &str, args: [&str; N]) -> Result<Output> {
        self.host.act(What::Directory, &self.directory, how, self.cmd(args)).await
    }
}

/// Repository and checkout, made ready for git.
async fn open<'a>(app: &'a App, directory: &str, host: &'a Host) -> Result<Git<'a>> {
    let owner: Owner = "app".parse().context("a user name is an owner")?;
    host.ensure_dir(directory, &Dir::plain().owner(&owner))?;
    let git = Git { app, directory: directory.to_owned(), ids: host.ids(&owner)?, host };
    let (git_dir, inside) = (git.git_dir(), format!("{directory}/.git"));
    let fresh = !host.exists(&format!("{git_dir}/HEAD"));
    if fresh && !host.exists(&inside) && !host.names(directory)?.is_empty() {
        bail!("{directory} holds files, but is no git checkout; move it away");
    }
    host.ensure_dir(DIRECTORY, &Dir::plain())?;
    host.ensure_dir(&git_dir, &Dir::plain().mode(0o750).owner(&owner))?;
    // A git that was killed leaves these, and every later one stops at them; we hold the lock of the checkout.
    let stale = ["-xdev", "-name", "*.lock", "-type", "f", "-delete"];
    host.ask(Cmd::new("find", [&[git_dir.as_str()], &stale[..]].concat()).ids(git.ids)).await?;
    // What it says is ours to say, each time.
    for name in ["config", "config.worktree"] {
        host.discard(&format!("{git_dir}/{name}"))?;
    }
    git.act("prepare the repository", ["init", "--quiet"]).await?;
    if host.is_directory(&inside) && host.link_target(&inside).is_none() {
        take_over(&git, &inside).await.with_context(|| format!("could not take over {inside}"))?;
    }
    submodules::set_broken_list_aside(&git).await?;
    // For people who look; nothing here follows it.
    let hint = File::text(format!("gitdir: {git_dir}\n")).mode(0o644).owner(&owner);
    if let Err(error) = host.ensure_file(&inside, &hint) {
        tracing::warn!("{error:#}");
    }
    local::ensure_of_source(&git, fresh).await?;
    Ok(git)
}

/// A repository of before, which lay in the checkout: its commits and branches are taken, its configuration is not.
async fn take_over(git: &Git<'_>, inside: &str) -> Result<()> {
    for name in ["objects", "refs", "packed-refs", "HEAD"] {
        if git.host.exists(&format!("{inside}/{name}")) {
            let args = [
                "--recursive",
                "--no-dereference",
                "--preserve=mode,timestamps",
                "--",
                &format!("{inside}/{name}"),
                &git.git_dir(),
            ];
            git.host
                .act(
                    What::Directory,
                    &git.git_dir(),
                    &format!("take over {name}"),
                    Cmd::new("cp", args).ids(git.ids).deadline(TRANSFER),
                )
                .await?;
        }
    }
    // How the index was known is lost; the checkout that follows makes a new one.
    git.host.remove_tree(inside).await
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
    let _alone = Lock::take_checkout(host, "fetch", PATIENCE).await?;
    let git = open(app, directory, host).await?;
    git.fetch().await?;
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
        let asked = self.git.host.try_ask(self.git.cmd(["cat-file", "-e", &format!("{commit}^{{commit}}")])).await?;
        Ok(asked.code == Some(0))
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
        let _alone = Lock::take_checkout(self.git.host, "check out", PATIENCE).await?;
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
        self.git.refuse_lfs().await?;
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

/// Whether the checkout's files are those of a commit.
pub async fn is_at(app: &App, directory: &str, commit: &Commit, host: &Host) -> Result<bool> {
    let owner: Owner = "app".parse().context("a user name is an owner")?;
    let git = Git { app, directory: directory.to_owned(), ids: host.ids(&owner)?, host };
    // git moves HEAD last, and the files may be of two commits until then: that all are there is known by more than that.
    if !host.exists(&format!("{}/HEAD", git.git_dir())) || !checkout::is_whole(&git, commit)? {
        return Ok(false);
    }
    let head = host.try_ask(git.cmd(["rev-parse", "--verify", "--quiet", "HEAD"])).await?;
    Ok(head.stdout.trim() == commit.as_str())
}

/// Makes sure that the checkout is at a known release's commit; asks the repository only if that is not there.
pub async fn ensure_at(app: &App, directory: &str, commit: &Commit, host: &Host) -> Result<()> {
    if is_at(app, directory, commit, host).await? {
        return checkout::tidy(app, host);
    }
    let _alone = Lock::take_checkout(host, "check out", PATIENCE).await?;
    let git = open(app, directory, host).await?;
    let known = host.try_ask(git.cmd(["cat-file", "-e", &format!("{commit}^{{commit}}")])).await?;
    if known.code != Some(0) {
        git.fetch().await?;
    }
    local::keep(&git).await?;
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
