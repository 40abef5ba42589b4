//! The app's repository, from which root takes commits: kept by a user who does nothing else, so that neither user app nor a container puts
//! anything into it, or sees what git is given. The checkout has a repository of its own (`work_tree.rs`). The repository's address may
//! hold a password: it travels in git's environment, never in an argument.

use super::{checkout, local, trust, work_tree};
use crate::env::{App, GitLocal};
use crate::host::{Cmd, Dir, Host, Output, What};
use crate::state::{CheckoutLock, Ledger};
use crate::value::{Commit, Owner};
use anyhow::{Context, Result, anyhow, bail};
use std::time::Duration;

/// The most that the paths of what was added may take, in bytes: a repository's whole tree of some hundred thousand files.
const MAX_PATHS: usize = 64 << 20;
/// How long a transfer may take.
const TRANSFER: Duration = Duration::from_secs(30 * 60);

/// How long somebody else may have the checkout: for a transfer, and some files.
const PATIENCE: Duration = Duration::from_secs(40 * 60);

/// Where repositories are kept.
const DIRECTORY: &str = "/data/appliance-git";
/// Whom they belong to, and whom git runs as in them; the group may read. Made by the package.
const OWNER: &str = "appliance-git:app";
/// That user's home, as `/etc/passwd` has it: ssh looks there for its keys.
pub(super) const HOME: &str = "/var/lib/appliance-git";

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
    /// The checkout.
    pub(super) directory: String,
    /// Whom git runs as in the repository, and in the checkout.
    ids: (u32, u32),
    app_ids: (u32, u32),
    pub(super) host: &'a Host,
}

impl<'a> Git<'a> {
    fn new(app: &'a App, directory: &str, host: &'a Host) -> Result<Git<'a>> {
        // Its own group: what the repository's group is, is for reading.
        let ids = host.ids(&user()?).context("git runs as a user of its own, whom the package makes")?;
        let app_ids = host.ids(&"app".parse().context("a user name is an owner")?)?;
        Ok(Git { app, directory: directory.to_owned(), ids, app_ids, host })
    }

    /// In the repository.
    pub(super) fn cmd<const N: usize>(&self, args: [&str; N]) -> Cmd {
        let address = self.app.git.source.address();
        self.cmd_in(&self.git_dir(), &args, &self.remote(&address))
    }

    /// The settings of the remote `origin`.
    fn remote<'b>(&self, address: &'b str) -> Vec<(&'static str, &'b str)> {
        let mut remote = vec![("remote.origin.url", address), ("remote.origin.fetch", BRANCHES)];
        if self.app.git.source.is_local() {
            // Whoever it belongs to: the env names it, and git would serve it to its owner alone.
            remote.push(("remote.origin.uploadpack", "git -c 'safe.directory=*' upload-pack"));
        }
        remote
    }

    /// Where git keeps the repository.
    pub(super) fn git_dir(&self) -> String {
        format!("{DIRECTORY}/{}", self.app.name)
    }

    /// In the app's repository or a submodule's, with further settings.
    pub(super) fn cmd_in(&self, git_dir: &str, args: &[&str], more: &[(&str, &str)]) -> Cmd {
        let source = &self.app.git.source;
        let address = source.address();
        // The password is for that server and no other.
        let server: String = address.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
        let helper = format!("credential.{server}.helper");
        let mut settings = more.to_vec();
        // The checkout's repository may have commits that follow from ones which nothing here leads to any more.
        settings.extend([("protocol.ext.allow", "never"), ("credential.helper", ""), ("gc.pruneExpire", "never")]);
        if source.credentials().is_some() {
            settings.push((helper.as_str(), CREDENTIAL_HELPER));
        }
        let mut cmd = command(&[&format!("--git-dir={git_dir}")], args, &settings)
            .directory("/")
            .ids(self.ids)
            .env("HOME", HOME)
            .env("GIT_SSH_COMMAND", trust::ssh_command(!self.app.git.host_keys.is_empty()));
        if let Some((user, password)) = source.credentials() {
            cmd = cmd.env("APPLIANCE_GIT_USER", user.expose()).env("APPLIANCE_GIT_PASSWORD", password.expose());
        }
        source.secrets().iter().fold(cmd, |cmd, secret| cmd.mask(secret.expose()))
    }

    /// Whom git runs as in the repository.
    pub(super) fn ids(&self) -> (u32, u32) {
        self.ids
    }

    /// Whom the checkout belongs to.
    pub(super) fn app_ids(&self) -> (u32, u32) {
        self.app_ids
    }

    /// Whether a commit is in the repository with all that it needs. One of which root knows the id is taken from the checkout's own where
    /// only that has it: on a host of before, whose repository of root's was begun anew.
    async fn has(&self, commit: &Commit) -> Result<bool> {
        let pair = work_tree::Pair { git_dir: &self.git_dir(), work_dir: &self.work_dir() };
        work_tree::has(self, &pair, commit).await
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
                (Err(error), None) => {
                    let source = &self.app.git.source;
                    let hint = if source.is_local() { ": user appliance-git must be able to read it" } else { "" };
                    return Err(error.context(NotFetched(format!("{source}{hint}"))));
                }
            }
        }
    }

    /// git would leave small text files in the place of large ones, and the app would start with those.
    async fn refuse_lfs(&self, commit: &Commit) -> Result<()> {
        let args = ["grep", "-lI", "-E", "filter=lfs", commit.as_str(), "--", ".gitattributes", "*/.gitattributes"];
        let found = self.host.try_ask(self.cmd(args)).await?;
        // `COMMIT:PATH`.
        match found.stdout.lines().next().and_then(|line| line.split_once(':')) {
            Some((_, file)) => {
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
        self.host.act(What::Directory, &self.git_dir(), how, self.cmd(args)).await
    }
}

/// Who git is in the repository.
pub(super) fn user() -> Result<Owner> {
    OWNER.split(':').next().unwrap_or(OWNER).parse().context("a user name is an owner")
}

/// Whom a repository belongs to.
pub(super) fn owner() -> Result<Owner> {
    OWNER.parse().context("a user and a group are an owner")
}

/// git with these settings, and none of anybody's own.
pub(super) fn command(where_: &[&str], args: &[&str], settings: &[(&str, &str)]) -> Cmd {
    // It ends with us: one that lives on would meet the next in the same repository.
    let own = ["--pdeathsig", "KILL", "git"];
    let mut cmd = Cmd::new("setpriv", own.iter().chain(where_).chain(args).copied())
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        // A commit is what its id says, whatever stands beside it.
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .deadline(TRANSFER);
    // No program of the repository's choosing is run.
    let never = [("core.hooksPath", "/dev/null"), ("core.fsmonitor", "false")];
    let settings = settings.iter().chain(&never);
    cmd = cmd.env("GIT_CONFIG_COUNT", settings.clone().count().to_string());
    for (index, (key, value)) in settings.enumerate() {
        cmd = cmd.env(&format!("GIT_CONFIG_KEY_{index}"), *key).env(&format!("GIT_CONFIG_VALUE_{index}"), *value);
    }
    cmd
}

/// Makes a repository's directory ready: without what a git that was killed has left, at which every later one would stop (we hold the lock
/// of the checkout), and without settings. As the one whom the directory is in: who owns it can put links in the place of what is there.
pub(super) async fn tidy(git_dir: &str, ids: (u32, u32), host: &Host) -> Result<()> {
    host.ask(Cmd::new("mkdir", ["--parents", "--", git_dir]).ids(ids)).await?;
    let settings = ["config", "config.worktree"].map(|name| format!("{git_dir}/{name}"));
    host.ask(Cmd::new("rm", ["--force", "--", &settings[0], &settings[1]]).ids(ids)).await?;
    let stale = ["-xdev", "-name", "*.lock", "-type", "f", "-delete"];
    host.ask(Cmd::new("find", [&[git_dir], &stale[..]].concat()).ids(ids)).await.map(drop)
}

/// Writes a file below a repository's directory, as the one whom that is in.
pub(super) async fn write(path: &str, text: &str, ids: (u32, u32), host: &Host) -> Result<()> {
    host.ask(Cmd::new("tee", [path]).ids(ids).input(text)).await.map(drop)
}

/// Repository and checkout, made ready for git.
async fn open<'a>(app: &'a App, directory: &str, host: &'a Host) -> Result<Git<'a>> {
    let git = Git::new(app, directory, host)?;
    let git_dir = git.git_dir();
    // What it knows of servers is taken over once.
    let is_of_before = !host.exists(&git_dir) && host.exists(&git.work_dir());
    work_tree::open(&git).await?;
    host.ensure_dir(DIRECTORY, &Dir::plain())?;
    own(&git_dir, &user()?, host).await?;
    host.ensure_dir(&git_dir, &Dir::plain().mode(0o750).owner(&owner()?))?;
    tidy(&git_dir, git.ids, host).await?;
    git.act("prepare the repository", ["init", "--quiet", "--bare"]).await?;
    trust::ensure_hosts(&git)?;
    trust::ensure_keys(&git, is_of_before)?;
    local::ensure_of_source(&git).await?;
    Ok(git)
}

/// Gives a repository on a disk from another host, where users have other numbers, to its user; links in it are not followed.
pub(super) async fn own(git_dir: &str, owner: &Owner, host: &Host) -> Result<()> {
    if !host.is_of_another(git_dir, owner)? {
        return Ok(());
    }
    let args = ["-R", "-P", "--no-dereference", "--", &format!("{}:", owner.user()), git_dir];
    let chown = Cmd::new("chown", args).deadline(TRANSFER);
    host.act(What::Directory, git_dir, "change the owner", chown).await.map(drop)
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
    let _alone = CheckoutLock::take(host, "fetch", PATIENCE).await?;
    let git = open(app, directory, host).await?;
    git.fetch().await?;
    let ledger = Ledger::read_for(host, &app.name)?;
    let ran_before = [&ledger.current, &ledger.previous].into_iter().flatten().map(|release| &release.commit);
    if let Some(known) = to.filter(|to| ran_before.into_iter().any(|commit| commit == *to)) {
        git.has(known).await?;
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
        self.git.has(commit).await
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
        let _alone = CheckoutLock::take(self.git.host, "check out", PATIENCE).await?;
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
        self.git.refuse_lfs(&commit).await?;
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
    let ask = ask.env("GIT_SSH_COMMAND", trust::ssh_command_for_known(!app.git.host_keys.is_empty()));
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
    let _alone = CheckoutLock::take(host, "check out", PATIENCE).await?;
    let git = open(app, directory, host).await?;
    // Only the checkout has it where the repository was begun anew: after an upgrade of a host of before.
    if !git.has(commit).await? {
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
