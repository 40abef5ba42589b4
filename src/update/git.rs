//! The app's checkout, made by git as user app. The repository's address may hold a password: it travels in git's
//! environment, never in an argument.

use super::{local, trust};
use crate::env::{App, GitLocal};
use crate::host::{Cmd, Dir, Host, Output, What};
use crate::value::{Commit, Owner};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// How long a transfer may take.
const TRANSFER: Duration = Duration::from_secs(30 * 60);

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

    /// With other settings than those of the app's own remote: a submodule has one of its own.
    pub(super) fn cmd_for<const N: usize>(&self, args: [&str; N], more: &[(&str, &str)]) -> Cmd {
        let source = &self.app.git.source;
        let address = source.address();
        // The password is for that server and no other.
        let server: String = address.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
        let helper = format!("credential.{server}.helper");
        let mut settings = more.to_vec();
        settings.extend([
            // No program of the repository's choosing is run.
            ("core.hooksPath", "/dev/null"),
            ("protocol.ext.allow", "never"),
            ("credential.helper", ""),
        ]);
        let mut cmd = Cmd::new("git", ["-C", &self.directory].into_iter().chain(args))
            .ids(self.ids)
            .env("HOME", "/app")
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

    async fn go_to(&self, commit: &Commit) -> Result<()> {
        let how = format!("check out {}", commit.short());
        self.act(&how, ["checkout", "--quiet", "--force", "--detach", commit.as_str()]).await?;
        // At once: what is not ours there is somebody's, and would be kept.
        local::remember(self, commit).await?;
        if self.host.exists(&format!("{}/.gitmodules", self.directory)) {
            let args = ["submodule", "update", "--init", "--recursive", "--force", "--quiet"];
            let got =
                self.host.act(What::Directory, &self.directory, "check out its submodules", self.cmd_for(args, &[]));
            trust::tell_of_contact(&got.await.context("could not get the app's submodules")?.stderr);
        }
        Ok(())
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

/// The checkout's directory, made ready for git.
async fn open<'a>(app: &'a App, directory: &str, host: &'a Host) -> Result<Git<'a>> {
    let owner: Owner = "app".parse().context("a user name is an owner")?;
    host.ensure_dir(directory, &Dir::plain().owner(&owner))?;
    let git = Git { app, directory: directory.to_owned(), ids: host.ids(&owner)?, host };
    if !host.exists(&format!("{directory}/.git")) && !host.names(directory)?.is_empty() {
        bail!("{directory} holds files, but is no git checkout; move it away");
    }
    // A git that was killed leaves these, and every later one stops at them; we hold the appliance's lock.
    for lock in ["index.lock", "HEAD.lock", "config.lock", "shallow.lock", "packed-refs.lock"] {
        host.discard(&format!("{directory}/.git/{lock}"))?;
    }
    let fresh = !host.exists(&format!("{directory}/.git"));
    git.act("prepare the checkout", ["init", "--quiet"]).await?;
    local::ensure_of_source(&git, fresh).await?;
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
        let listed = self.git.host.ask(self.git.cmd(args)).await?;
        Ok(listed.stdout.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
    }

    /// Puts the target's files in place; what somebody changed there is kept in a branch first. Gives back the commit that the
    /// files are of: another one than the target where local commits are merged into it.
    pub async fn check_out(&self) -> Result<Commit> {
        let local = local::keep(&self.git).await?;
        self.git.go_to(&self.target).await?;
        let commit = match local.filter(|_| self.git.app.git.local == GitLocal::Merge) {
            Some(branch) => local::merge(&self.git, &branch, &self.target).await?,
            None => self.target.clone(),
        };
        self.git.refuse_lfs().await?;
        Ok(commit)
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
    let head = host.try_ask(git.cmd(["rev-parse", "--verify", "--quiet", "HEAD"])).await?;
    Ok(head.stdout.trim() == commit.as_str())
}

/// Makes sure that the checkout is at a known release's commit; asks the repository only if it is not.
pub async fn ensure_at(app: &App, directory: &str, commit: &Commit, host: &Host) -> Result<()> {
    if host.exists(&format!("{directory}/.git")) && is_at(app, directory, commit, host).await? {
        return Ok(());
    }
    let git = open(app, directory, host).await?;
    let known = host.try_ask(git.cmd(["cat-file", "-e", &format!("{commit}^{{commit}}")])).await?;
    if known.code != Some(0) {
        git.fetch().await?;
    }
    local::keep(&git).await?;
    git.go_to(commit).await
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
