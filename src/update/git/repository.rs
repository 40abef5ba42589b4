//! git's commands in the app's repository: whom they run as, with which settings, and what they are told of servers. Which of them are given
//! is the other files' matter.

use crate::env::App;
use crate::host::{Cmd, Host, Output, What};
use crate::value::{Commit, Owner};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// How long a transfer may take.
const TRANSFER: Duration = Duration::from_secs(30 * 60);

/// Where repositories are kept.
pub(super) const DIRECTORY: &str = "/data/appliance-git";
/// Whom they belong to, and whom git runs as in them; the group may read. Made by the package.
const OWNER: &str = "appliance-git:app";
/// That user's home, as `/etc/passwd` has it: ssh looks there for its keys.
pub(super) const HOME: &str = "/var/lib/appliance-git";

/// git starts helpers of its own with the address as their argument; what must not be seen there, this one hands them
/// from the environment.
const CREDENTIAL_HELPER: &str =
    r#"!f() { printf 'username=%s\npassword=%s\n' "$APPLIANCE_GIT_USER" "$APPLIANCE_GIT_PASSWORD"; }; f"#;

/// What is fetched; what has gone there goes here.
pub(super) const BRANCHES: &str = "+refs/heads/*:refs/remotes/origin/*";
pub(super) const TAGS: &str = "+refs/tags/*:refs/tags/*";
/// The servers that the env knows, where git's ssh looks for them.
pub(super) const KNOWN_HOSTS: &str = "/var/lib/appliance/git/known_hosts";
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
    pub(super) fn new(app: &'a App, directory: &str, host: &'a Host) -> Result<Git<'a>> {
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
    pub(super) fn remote<'b>(&self, address: &'b str) -> Vec<(&'static str, &'b str)> {
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
            .env("GIT_SSH_COMMAND", ssh_command(!self.app.git.host_keys.is_empty()));
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

/// How git calls ssh.
pub(super) fn ssh_command(knows_hosts: bool) -> String {
    let hosts = match knows_hosts {
        true => format!(
            "-o StrictHostKeyChecking=yes -o UserKnownHostsFile={KNOWN_HOSTS} -o GlobalKnownHostsFile=/dev/null"
        ),
        false => "-o StrictHostKeyChecking=accept-new".to_owned(),
    };
    format!("ssh -o BatchMode=yes -o ConnectTimeout=30 {hosts}")
}

/// [`ssh_command`], for servers that were met before.
pub(super) fn ssh_command_for_known(knows_hosts: bool) -> String {
    // Of two values for one option ssh takes the first.
    ssh_command(knows_hosts).replacen("ssh ", "ssh -o StrictHostKeyChecking=yes ", 1)
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
    // Without the caller's terminal: what runs as another user must not type into root's shell.
    let own = ["--pdeathsig", "KILL", "setsid", "--wait", "git"];
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

/// Gives a repository on a disk from another host, where users have other numbers, to its user; links in it are not followed.
pub(super) async fn own(git_dir: &str, owner: &Owner, host: &Host) -> Result<()> {
    if !host.is_of_another(git_dir, owner)? {
        return Ok(());
    }
    let args = ["-R", "-P", "--no-dereference", "--", &format!("{}:", owner.user()), git_dir];
    let chown = Cmd::new("chown", args).deadline(TRANSFER);
    host.act(What::Directory, git_dir, "change the owner", chown).await.map(drop)
}
