//! What a checkout carries beyond the commit that the appliance put there. Nothing is changed by looking.

use super::local::{MERGED, OURS};
use super::repository::{Git, tidy};
use super::work_tree::{head, read};
use crate::env::App;
use crate::host::Host;
use crate::state::CheckoutLock;
use crate::value::Commit;
use anyhow::{Context, Result};
use serde::Serialize;
use std::time::Duration;

/// The largest difference that is shown, in bytes; a larger one is an error that says so.
const MAX_TEXT: usize = 16 << 20;

/// How long a command that has the checkout is waited for, and how long looking may take.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOKING: Duration = Duration::from_secs(120);

/// What is beyond the commit.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// The commit as the repository has it.
    pub commit: Commit,
    /// Commits that were made here: short id and subject, the newest first.
    pub commits: Vec<(String, String)>,
    /// Branches in which earlier changes are kept.
    pub kept: Vec<String>,
    /// Files that no commit knows, nor `.gitignore`; a directory of such ends with a slash.
    pub untracked: Vec<String>,
    /// The files' difference to the commit, as `git diff` writes it.
    pub text: String,
}

impl Difference {
    /// Whether the files are the commit's.
    pub fn is_nothing(&self) -> bool {
        self.commits.is_empty() && self.untracked.is_empty() && self.text.is_empty()
    }
}

/// Compares the checkout with its commit; where local commits are merged, with the repository's one in that.
///
/// # Errors
/// Nothing was checked out yet; or there is more than can be shown.
pub async fn difference(app: &App, directory: &str, host: &Host) -> Result<Difference> {
    let _alone = CheckoutLock::take_of(host, &app.name, "app diff", PATIENCE).await?;
    let git = Git::new(app, directory, host)?;
    let missing = || format!("{directory} has no commit of the appliance's yet; run: appliance update");
    if !host.exists(&format!("{}/HEAD", git.work_dir())) {
        return Err(anyhow::anyhow!(missing()));
    }
    // Without settings of user app's, which name programs.
    tidy(&git.work_dir(), git.app_ids(), host).await?;
    let ours = read(&git, OURS).await?.with_context(missing)?;
    let is_merged = read(&git, MERGED).await?.as_ref() == Some(&ours);
    let commit = if is_merged { first_parent(&git, &ours).await? } else { ours };
    let ask = async |args: &[&str]| {
        let cmd = git
            .work_in(&git.work_dir(), directory, args)
            .env("GIT_OPTIONAL_LOCKS", "0")
            .max_output(MAX_TEXT)
            .deadline(LOOKING);
        anyhow::Ok(git.host.ask(cmd).await?.stdout)
    };
    let range = format!("{commit}..{}", head(&git).await?.with_context(missing)?);
    let commits = ask(&["log", "--no-merges", "--no-color", "--format=%h%x09%s", "--end-of-options", &range]).await?;
    let kept = ask(&["for-each-ref", "--format=%(refname:short)", "refs/heads/local-*"]).await?;
    let untracked = ask(&["ls-files", "--others", "--exclude-standard", "--directory", "-z"]).await?;
    let plain = ["diff", "--no-color", "--no-ext-diff", "--no-textconv", "--ignore-submodules"];
    let text = ask(&[&plain[..], &[commit.as_str(), "--"]].concat()).await?;
    let lines = |text: &str, at: char| -> Vec<String> {
        text.split(at).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    let commits = lines(&commits, '\n').into_iter().map(|line| {
        let (id, subject) = line.split_once('\t').unwrap_or((&line, ""));
        (id.to_owned(), subject.to_owned())
    });
    Ok(Difference {
        commits: commits.collect(),
        kept: lines(&kept, '\n'),
        untracked: lines(&untracked, '\0'),
        commit,
        text,
    })
}

async fn first_parent(git: &Git<'_>, merge: &Commit) -> Result<Commit> {
    let parent = git.host.ask(git.work(["rev-parse", "--verify", &format!("{merge}^1")])).await?;
    parent.stdout.trim().parse().ok().with_context(|| format!("{} has no parent", merge.short()))
}
