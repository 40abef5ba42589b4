//! restic's command line: the only place that knows it. Password, repository and credentials travel in its environment, never in an argument.
//! What it prints differs between Debian 12's 0.14 and Debian 13's 0.18; what is read here is the same in both.

use super::told::{self, Listed, Snapshot, Stored, first_line, is_damage, passed_over, stored, why};
use super::{CACHE, key};
use crate::env::Env;
use crate::host::{Cmd, Dir, Host, Output, What};
use crate::value::{BACKUP_KNOWN_HOSTS, BackupTarget, Secret};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::time::Duration;

/// How long one of its long verbs may take.
const LONG: Duration = Duration::from_secs(24 * 3600);
/// How long it may take to say what there is.
const QUICK: Duration = Duration::from_secs(15 * 60);
/// How long it may stand still: a target that does not answer any more, and does not say so either.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// The most that a list of snapshots may take, in bytes.
const MAX_LIST: usize = 256 << 20;
/// The largest manifest that is read, in bytes.
pub(super) const MAX_MANIFEST: usize = 32 << 20;
/// What it ends with that has stored a snapshot without some files that it could not read, or that were gone by then.
const INCOMPLETE: i32 = 3;

/// A repository, and how to open it.
pub struct Restic<'a> {
    host: &'a Host,
    target: BackupTarget,
    password: Secret,
    credentials: Vec<(String, Secret)>,
    /// What snapshots name as their host.
    name: String,
}

/// The most that a list of files may take, in bytes: some million files.
const MAX_FILES: usize = 1 << 30;

/// How a repository stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// There is one, of this id.
    Ready(String),
    /// There is none.
    Missing,
}

/// What `cat config` tells.
#[derive(Deserialize)]
struct Config {
    id: String,
}

/// What `stats --json` tells.
#[derive(Deserialize)]
struct Stats {
    total_size: u64,
}

/// What restic ends with where there is no repository, since 0.17.
const NO_REPOSITORY: i32 = 10;
/// How the kinds of targets say that the repository's first file is not there: directories, sftp, rest-server, S3.
const NOT_THERE: [&str; 6] = [
    "no such file or directory",
    "file does not exist",
    "<config/> does not exist",
    "specified key does not exist",
    "NoSuchKey",
    "unexpected HTTP response (404)",
];

impl<'a> Restic<'a> {
    /// # Errors
    /// The env names no target, or no password; or a target that restic does not reach.
    pub fn of(env: &Env, host: &'a Host) -> Result<Restic<'a>> {
        let backup = &env.appliance.backup;
        let url = backup.url.as_ref().context("there is no 'appliance.backup.url', so nothing is backed up")?;
        if backup.mount.is_some() {
            bail!(
                "'appliance.backup.mount' is not supported yet; mount it by /etc/fstab, and name a directory in it in 'appliance.backup.url'"
            );
        }
        let target = BackupTarget::of_url(url.0.expose(), !backup.host_keys.is_empty())?;
        let encrypt = backup.encrypt.as_ref();
        let encrypt = encrypt.context(
            "there is no 'appliance.backup.encrypt', so nothing is backed up; make one: openssl rand -base64 32",
        )?;
        if let Some(directory) = &target.directory
            && let Some(place) = host.written_by_others(directory)?
        {
            bail!(
                "{place} can be written by others than root, so no backup is written below it; run: chown root '{place}'; chmod go-w '{place}'"
            );
        }
        host.ensure_dir(CACHE, &Dir::plain().mode(0o700))?;
        if !backup.host_keys.is_empty() {
            let lines: String = backup.host_keys.iter().map(|key| format!("{}\n", key.line())).collect();
            host.put(BACKUP_KNOWN_HOSTS, lines.as_bytes(), 0o600)?;
        }
        let name = env.host_domain.as_str().to_owned();
        Ok(Restic { host, target, password: key::password(encrypt)?, credentials: backup.credentials.clone(), name })
    }

    /// What one needs to use the repository by hand, as variables of the environment.
    pub fn variables(&self) -> Vec<(&str, &str)> {
        let own = [("RESTIC_REPOSITORY", self.target.repository.expose()), ("RESTIC_PASSWORD", self.password.expose())];
        own.into_iter().chain(self.credentials.iter().map(|(name, value)| (name.as_str(), value.expose()))).collect()
    }

    /// Options that have to be named beside.
    pub fn options(&self) -> &[String] {
        &self.target.options
    }

    fn cmd(&self, args: &[&str]) -> Cmd {
        // It ends with us: one that lives on would keep the repository locked.
        let own = ["--pdeathsig", "KILL", "restic"];
        let options = self.target.options.iter().flat_map(|option| ["--option", option.as_str()]);
        let cmd = Cmd::new("setpriv", own.into_iter().chain(options).chain(args.iter().copied()))
            .idle(IDLE)
            .env("HOME", "/root")
            .env("RESTIC_CACHE_DIR", format!("{CACHE}/cache"))
            // Nobody looks at its progress: a line for each moment would be all that there is room for, and one now and then would be taken
            // for work by whoever looks whether it stands still.
            .env("RESTIC_PROGRESS_FPS", "0.0005")
            .env("GOGC", "20")
            .directory("/");
        let cmd = self.variables().into_iter().fold(cmd, |cmd, (name, value)| cmd.env(name, value));
        let cmd = cmd.mask(self.password.expose()).mask(self.target.repository.expose());
        self.credentials.iter().fold(cmd, |cmd, (_, secret)| cmd.mask(secret.expose()))
    }

    /// Whether there is a repository, and the key fits.
    ///
    /// # Errors
    /// The target does not answer, or the key does not fit: it is said which.
    pub async fn state(&self) -> Result<State> {
        // Without a lock: one that a dead process has left is taken away later.
        let told = self.host.try_ask(self.cmd(&["cat", "config", "--no-lock"]).deadline(QUICK)).await?;
        let said = told.stderr.trim();
        if told.code == Some(0) {
            let config: Config =
                serde_json::from_str(told.stdout.trim()).context("the repository's config cannot be read")?;
            return Ok(State::Ready(config.id));
        }
        if said.contains("wrong password or no key found") {
            bail!(
                "the repository cannot be opened with 'appliance.backup.encrypt': it was made with another key, or the repository's key file is \
                 damaged; nothing was written"
            );
        }
        // It is JSON with base64 in it, which may have become none.
        if said.contains("Unmarshal") || said.contains("invalid character") {
            bail!("the repository's key file is damaged: {}; nothing was written", self.masked(first_line(said)));
        }
        let is_missing = told.code == Some(NO_REPOSITORY) || NOT_THERE.iter().any(|words| said.contains(words));
        // A directory that is not there may be a file system that is not mounted; only where its parent is there it is made.
        let parent = self.target.directory.as_deref().and_then(|path| path.rsplit_once('/')).map(|(parent, _)| parent);
        if is_missing && parent.is_none_or(|parent| self.host.is_directory(parent)) {
            return Ok(State::Missing);
        }
        // Its first line says what is wrong; further ones ask whether there is a repository.
        bail!("the backup's target does not answer: {}", self.masked(first_line(said)))
    }

    /// The repository's id.
    ///
    /// # Errors
    /// There is none, or as [`Restic::state`].
    pub async fn id(&self) -> Result<String> {
        match self.state().await? {
            State::Ready(id) => Ok(id),
            State::Missing => bail!("there is no repository at 'appliance.backup.url'"),
        }
    }

    fn masked(&self, text: &str) -> String {
        let secrets = self.credentials.iter().map(|(_, secret)| secret.expose());
        let secrets = secrets.chain([self.password.expose(), self.target.repository.expose()]);
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "(secret)"))
    }

    /// Makes the repository.
    ///
    /// # Errors
    /// There is one already, with another key or this one.
    pub async fn init(&self) -> Result<()> {
        self.act("make the repository", &["init"], QUICK).await.map(drop)
    }

    /// Takes away locks of this host's processes that are gone, and such as nobody has refreshed for long.
    pub async fn unlock(&self) -> Result<()> {
        self.act("take stale locks away", &["unlock"], QUICK).await.map(drop)
    }

    /// All snapshots, those of others included.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let told =
            self.host.ask(self.cmd(&["snapshots", "--json", "--no-lock"]).deadline(QUICK).max_output(MAX_LIST)).await?;
        // An empty repository has `null`.
        let read: Option<Vec<Snapshot>> =
            serde_json::from_str(told.stdout.trim()).context("restic's list cannot be read")?;
        Ok(read.unwrap_or_default())
    }

    /// Stores what a program prints, if it ends well.
    pub async fn store_output(&self, from: Cmd, name: &str, tags: &[String]) -> Result<Stored> {
        let tags = tags.join(",");
        let args = ["backup", "--json", "--host", &self.name, "--tag", &tags, "--stdin", "--stdin-filename", name];
        let into = self.cmd(&args).deadline(LONG);
        let told = self.host.feed(What::File, name, "back up", from.deadline(LONG), into).await?;
        stored(&told.stdout)
    }

    /// Stores a text.
    pub async fn store_text(&self, text: &str, name: &str, tags: &[String]) -> Result<Stored> {
        let tags = tags.join(",");
        let args = ["backup", "--json", "--host", &self.name, "--tag", &tags, "--stdin", "--stdin-filename", name];
        let told =
            self.host.act_and_read(What::File, name, "back up", self.cmd(&args).input(text).deadline(LONG)).await?;
        stored(&told.stdout)
    }

    /// Stores files and directories. The caller has seen that they are there: restic passes over what is not.
    pub async fn store(&self, paths: &[String], without: &[String], tags: &[String]) -> Result<Stored> {
        let tags = tags.join(",");
        let mut args = vec!["backup", "--json", "--host", &self.name, "--tag", &tags];
        without.iter().for_each(|path| args.extend(["--exclude", path]));
        args.push("--");
        args.extend(paths.iter().map(String::as_str));
        self.host.note_act(What::Directory, &paths.join(" "), "back up");
        let cmd = self.cmd(&args).deadline(LONG);
        let told = self.host.try_ask(cmd).await?;
        match told.code {
            Some(0) => stored(&told.stdout),
            Some(INCOMPLETE) => {
                let passed_over = passed_over(&told.stderr);
                Ok(Stored { unread: self.still_there(&passed_over), passed_over, ..stored(&told.stdout)? })
            }
            _ => bail!("restic backup failed: {}", self.masked(&why(&told.stderr))),
        }
    }

    /// Of the files that could not be read, the first that is there: those that went away meanwhile are no loss.
    fn still_there(&self, passed_over: &[String]) -> Option<String> {
        let first = passed_over.iter().find(|path| !path.is_empty() && self.host.exists(path)).cloned();
        first.or_else(|| passed_over.iter().any(String::is_empty).then(|| "some files".to_owned()))
    }

    /// A file of a snapshot, as text.
    pub async fn read(&self, snapshot: &str, path: &str) -> Result<String> {
        let cmd = self.cmd(&["dump", "--no-lock", snapshot, path]).deadline(QUICK).max_output(MAX_MANIFEST);
        Ok(self.host.ask(cmd).await?.stdout)
    }

    /// A file of a snapshot, into a file of this host.
    pub async fn fetch(&self, snapshot: &str, path: &str, to: &str) -> Result<()> {
        let cmd = self.cmd(&["dump", "--no-lock", snapshot, path]).output_file(&self.host.path(to)).deadline(LONG);
        self.host.act(What::File, to, "fetch from the backup", cmd).await.map(drop)
    }

    /// How long the files of a snapshot are together.
    pub async fn bytes_of(&self, snapshot: &str) -> Result<u64> {
        let cmd = self.cmd(&["stats", "--json", "--no-lock", "--mode", "restore-size", snapshot]);
        let told = self.host.ask(cmd.deadline(QUICK)).await?;
        let stats: Stats = serde_json::from_str(told.stdout.trim()).context("restic's statistics cannot be read")?;
        Ok(stats.total_size)
    }

    /// The regular files of a snapshot, or of a directory in it.
    pub async fn list(&self, snapshot: &str, directory: Option<&str>) -> Result<Vec<Listed>> {
        let args: Vec<&str> = ["ls", "--json", "--no-lock", snapshot].into_iter().chain(directory).collect();
        let cmd = self.cmd(&args).deadline(LONG).max_output(MAX_FILES);
        let told = self.host.ask(cmd).await?.stdout;
        Ok(told::files(&told))
    }

    /// A file of a snapshot, into a program that reads it.
    pub async fn pour(&self, snapshot: &str, path: &str, into: Cmd) -> Result<()> {
        self.pour_and_read(snapshot, path, into).await.map(drop)
    }

    /// [`Restic::pour`]; gives back what the program prints.
    pub async fn pour_and_read(&self, snapshot: &str, path: &str, into: Cmd) -> Result<String> {
        let cmd = self.cmd(&["dump", "--no-lock", snapshot, path]).deadline(LONG);
        let into = into.deadline(LONG).idle(IDLE);
        Ok(self.host.feed(What::Directory, path, "fetch from the backup", cmd, into).await?.stdout)
    }

    /// Files of a snapshot, below a directory, under their own paths there.
    pub async fn restore(&self, snapshot: &str, to: &str, only: &[String], without: &[String]) -> Result<()> {
        let mut args = vec!["restore", "--no-lock", snapshot, "--target", to];
        only.iter().for_each(|path| args.extend(["--include", path]));
        without.iter().for_each(|path| args.extend(["--exclude", path]));
        let cmd = self.cmd(&args).deadline(LONG);
        self.host.act(What::Directory, to, "restore from the backup", cmd).await.map(drop)
    }

    /// Forgets these snapshots and no others; what they alone hold is in the repository until [`Restic::prune`].
    pub async fn forget(&self, ids: &[String]) -> Result<()> {
        for some in ids.chunks(100) {
            let args: Vec<&str> = ["forget"].into_iter().chain(some.iter().map(String::as_str)).collect();
            self.act(&format!("forget {} snapshots", some.len()), &args, QUICK).await?;
        }
        Ok(())
    }

    /// Gives the room of forgotten snapshots back, as far as that costs little.
    pub async fn prune(&self) -> Result<()> {
        let args = ["prune", "--max-unused", "10%", "--max-repack-size", "2G"];
        self.act("give room back", &args, LONG).await.map(drop)
    }

    /// Checks structure and, of the data, a part: `1/1` is all.
    ///
    /// # Errors
    /// Something is damaged.
    pub async fn check(&self, part: &str) -> Result<()> {
        let subset = format!("--read-data-subset={part}");
        let ask = async || self.host.try_ask(self.cmd(&["check", &subset]).deadline(LONG)).await;
        let mut told = ask().await?;
        if told.code != Some(0) && told.stderr.contains("already locked") {
            // By a process that was killed, perhaps.
            self.unlock().await?;
            told = ask().await?;
        }
        let said = told.stderr.trim();
        match told.code {
            Some(0) => Ok(()),
            // Its own last word after it has looked at all.
            _ if said.contains("repository contains errors") && is_damage(said) => {
                bail!("the repository is damaged: {}; see: restic check", self.masked(&why(said)))
            }
            _ => bail!("the repository could not be checked: {}", self.masked(&why(said))),
        }
    }

    async fn act(&self, how: &str, args: &[&str], deadline: Duration) -> Result<Output> {
        self.host.act(What::Directory, "the backup's repository", how, self.cmd(args).deadline(deadline)).await
    }
}
