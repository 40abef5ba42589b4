//! Whom git may believe: the servers it talks to by ssh, and whoever signed a release's commit. Fetching is `git.rs`.

use super::repository::{self, Git, KNOWN_HOSTS};
use crate::host::{Cmd, Dir, File, Host};
use crate::value::{Commit, SigningKey};
use anyhow::{Context, Result, bail};

/// Where root puts the keys that git's ssh uses. User app's own directory.
const APP_SSH: &str = "/app/.ssh";
/// The largest key of ssh, and the longest list of servers, in bytes.
const MAX_KEY: u64 = 64 << 10;
const MAX_KNOWN: u64 = 4 << 20;
/// The most keys: with their public halves, each kind that ssh has by itself.
const MAX_KEYS: usize = 32;
/// How a signer is called in the file of those that are allowed.
const SIGNER: &str = "appliance";
/// How much of what git says about a signature is told, in bytes.
const MAX_TOLD: usize = 300;
/// What ssh says when it remembers a server that it has not met before.
const FIRST_CONTACT: &str = "Permanently added";

/// Writes the servers that the env knows, for ssh.
pub fn ensure_hosts(git: &Git<'_>) -> Result<()> {
    let known = &git.app.git.host_keys;
    if known.is_empty() {
        return Ok(());
    }
    let text: String = known.iter().map(|host| format!("{}\n", host.line())).collect();
    git.host.put(KNOWN_HOSTS, text.as_bytes(), 0o644)
}

/// Gives git's ssh copies of the keys that root has put into user app's directory, and, on a host of before, what was known there of servers
/// when git still ran as user app. What else is in that directory, user app's configuration of ssh above all, is not used. What user app
/// puts there keeps no other key from being used.
pub fn ensure_keys(git: &Git<'_>, is_of_before: bool) -> Result<()> {
    let (host, owner) = (git.host, repository::user()?);
    let ours = format!("{}/.ssh", repository::HOME);
    host.ensure_dir(repository::HOME, &Dir::plain().mode(0o755))?;
    host.ensure_dir(&ours, &Dir::plain().mode(0o700).owner(&owner))?;
    let take = |name: &str, max: u64| match host.read_unlinked(&format!("{APP_SSH}/{name}"), max) {
        Ok(Some(text)) => {
            host.ensure_file(&format!("{ours}/{name}"), &File::bytes(text).mode(0o600).owner(&owner)).map(drop)
        }
        Ok(None) => Ok(()),
        Err(error) => {
            tracing::warn!("git does not use {APP_SSH}/{name}: {error:#}");
            Ok(())
        }
    };
    let is_key = |name: &&String| name.starts_with("id_");
    let theirs = host.names(APP_SSH).unwrap_or_else(|error| {
        tracing::warn!("git uses no key: {error:#}");
        Vec::new()
    });
    for name in host.names(&ours)?.iter().filter(is_key).filter(|name| !theirs.contains(name)) {
        host.discard(&format!("{ours}/{name}"))?;
    }
    theirs.iter().filter(is_key).take(MAX_KEYS).try_for_each(|name| take(name, MAX_KEY))?;
    match is_of_before && !host.exists(&format!("{ours}/known_hosts")) {
        true => take("known_hosts", MAX_KNOWN),
        false => Ok(()),
    }
}

/// Says that a server was met for the first time: nobody has vouched for it.
pub fn tell_of_contact(stderr: &str) {
    for line in stderr.lines().filter(|line| line.contains(FIRST_CONTACT)) {
        tracing::warn!(
            "a git server was met for the first time, and what it answers is believed from now on: {line}; app.git.host_keys pins it"
        );
    }
}

/// Makes sure that a commit, or the tag that the env asks for, is signed with one of the env's keys.
///
/// # Errors
/// It is not.
pub async fn verify(git: &Git<'_>, target: &Commit) -> Result<()> {
    let keys = &git.app.git.verify;
    if keys.is_empty() {
        return Ok(());
    }
    let home = git.host.private_directory()?;
    // Other users cannot enter it; git runs as this one.
    git.host.ensure_dir(home.path(), &Dir::plain().mode(0o700).owner(&repository::user()?))?;
    let signers: String = keys.iter().filter_map(ssh_line).collect();
    let allowed = home.file("signers");
    git.host.put(&allowed, signers.as_bytes(), 0o644)?;
    for (index, block) in keys.iter().filter_map(pgp_block).enumerate() {
        import(git.host, home.path(), git.ids(), block)
            .await
            .with_context(|| format!("the OpenPGP key {} of app.git.verify cannot be used", index + 1))?;
    }
    let signed = |what: &'static str, name: String| {
        let settings = [
            ("gpg.program", "gpg"),
            ("gpg.openpgp.program", "gpg"),
            // A certificate proves nothing about the env's keys.
            ("gpg.x509.program", "/bin/false"),
            ("gpg.ssh.program", "ssh-keygen"),
            ("gpg.ssh.allowedSignersFile", allowed.as_str()),
            ("gpg.minTrustLevel", "undefined"),
        ];
        // No key but the env's: neither app's own ones, nor those of an agent.
        git.cmd_in(&git.git_dir(), &[what, "--", &name], &settings).env("GNUPGHOME", home.path())
    };
    let commit = git.host.try_ask(signed("verify-commit", target.as_str().to_owned())).await?;
    if commit.code == Some(0) {
        return Ok(());
    }
    // Only for the commit that it names: another one may have been asked for.
    if let Some(tag) = git.tag().await?
        && git.resolve(&tag).await? == *target
        && is_called(git, &tag).await?
        && git.host.try_ask(signed("verify-tag", tag)).await?.code == Some(0)
    {
        return Ok(());
    }
    let said = commit.stderr.trim();
    let said = match said.is_empty() {
        true => "it has no signature".to_owned(),
        false => said.chars().take(MAX_TOLD).map(|c| if c.is_control() { ' ' } else { c }).collect(),
    };
    bail!("the commit {} is not signed with a key of app.git.verify, so it is not used: {said}", target.short())
}

/// Whether a tag's own text calls it by the name that it is found under: another one that was signed once does not.
async fn is_called(git: &Git<'_>, tag: &str) -> Result<bool> {
    let own = git.host.ask(git.cmd(["for-each-ref", "--format=%(tag)", tag])).await?;
    Ok(tag.strip_prefix("refs/tags/") == Some(own.stdout.trim()))
}

fn ssh_line(key: &SigningKey) -> Option<String> {
    match key {
        SigningKey::Ssh(key) => Some(format!("{SIGNER} namespaces=\"git\" {}\n", key.identity())),
        SigningKey::OpenPgp(_) => None,
    }
}

fn pgp_block(key: &SigningKey) -> Option<&str> {
    match key {
        SigningKey::OpenPgp(block) => Some(block),
        SigningKey::Ssh(_) => None,
    }
}

async fn import(host: &Host, home: &str, ids: (u32, u32), block: &str) -> Result<()> {
    let args = ["--homedir", home, "--batch", "--no-tty", "--no-autostart", "--quiet", "--import"];
    host.ask(Cmd::new("gpg", args).ids(ids).input(block)).await.map(drop)
}
