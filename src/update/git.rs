//! The app's checkout, made by git as user app. The repository's address may hold a password: it travels in git's
//! environment, never in an argument.

use crate::env::App;
use crate::host::{Cmd, Dir, Host, Output, What};
use crate::value::{Commit, Owner};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// How long a transfer may take.
const TRANSFER: Duration = Duration::from_secs(30 * 60);

struct Git<'a> {
    app: &'a App,
    directory: String,
    ids: (u32, u32),
    host: &'a Host,
}

impl Git<'_> {
    fn cmd<const N: usize>(&self, args: [&str; N]) -> Cmd {
        let url = self.app.git.source.expose();
        let settings = [
            ("remote.origin.url", url),
            ("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"),
            // No program of the repository's choosing is run.
            ("core.hooksPath", "/dev/null"),
            ("protocol.ext.allow", "never"),
        ];
        let mut cmd = Cmd::new("git", ["-C", &self.directory].into_iter().chain(args))
            .ids(self.ids)
            .env("HOME", "/app")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o ConnectTimeout=30")
            .env("GIT_CONFIG_COUNT", settings.len().to_string())
            .deadline(TRANSFER);
        for (index, (key, value)) in settings.iter().enumerate() {
            cmd = cmd.env(&format!("GIT_CONFIG_KEY_{index}"), *key).env(&format!("GIT_CONFIG_VALUE_{index}"), *value);
        }
        match self.app.git.source.password() {
            Some(password) => cmd.mask(password),
            None => cmd,
        }
    }

    async fn act<const N: usize>(&self, how: &str, args: [&str; N]) -> Result<Output> {
        self.host.act(What::Directory, &self.directory, how, self.cmd(args)).await
    }
}

/// Fetches the repository and checks out the release's commit.
///
/// # Errors
/// git's own words, without the password.
pub async fn check_out(app: &App, directory: &str, host: &Host) -> Result<Commit> {
    let owner: Owner = "app".parse().context("a user name is an owner")?;
    host.ensure_dir(directory, &Dir::plain().owner(&owner))?;
    let git = Git { app, directory: directory.to_owned(), ids: host.ids(&owner)?, host };
    if !host.exists(&format!("{directory}/.git")) && !host.names(directory)?.is_empty() {
        bail!("{directory} holds files, but is no git checkout; move it away");
    }
    git.act("prepare the checkout", ["init", "--quiet"]).await?;
    let from = &app.git.source;
    let fetched = git.act("fetch", ["fetch", "--quiet", "--prune", "--tags", "--force", "origin"]).await;
    fetched.with_context(|| format!("could not fetch {from}"))?;
    let commit = target(&git).await?;
    git.act(&format!("check out {}", commit.short()), ["checkout", "--quiet", "--force", "--detach", commit.as_str()])
        .await?;
    Ok(commit)
}

/// The commit that the env asks for: `commitid`, else the branch's head, else what the remote's HEAD names.
async fn target(git: &Git<'_>) -> Result<Commit> {
    let revision = match (&git.app.git.commitid, &git.app.git.branch) {
        (Some(commit), _) => commit.as_str().to_owned(),
        (None, Some(branch)) => format!("refs/remotes/origin/{branch}"),
        (None, None) => {
            let listed = git.host.ask(git.cmd(["ls-remote", "--symref", "origin", "HEAD"])).await?;
            let head =
                listed.stdout.lines().find_map(|line| line.strip_prefix("ref: refs/heads/")?.strip_suffix("\tHEAD"));
            format!("refs/remotes/origin/{}", head.context("the remote names no HEAD; set git.branch in env.yml")?)
        }
    };
    let parsed = git
        .host
        .try_ask(git.cmd(["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{revision}^{{commit}}")]))
        .await?;
    match parsed.stdout.trim().parse::<Commit>() {
        Ok(commit) => Ok(commit),
        Err(_) => bail!(
            "the repository {} has no {}",
            git.app.git.source,
            revision.trim_start_matches("refs/remotes/origin/")
        ),
    }
}
