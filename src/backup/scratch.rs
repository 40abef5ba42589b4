//! A scratch cluster: PostgreSQL on files of its own, beside the clusters that are in use, which know nothing of it. Nothing listens on the
//! network, and nobody but root and postgres reaches its socket. What a killed command has left of one is taken away by the next.

use super::fetched::{self, Purpose};
use crate::env::Env;
use crate::host::{Cmd, Dir, File, Host, Login, UnitState, What};
use crate::prepare;
use crate::prepare::postgres::census;
use crate::state::{BackupLock, DrillLock};
use crate::value::Owner;
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// Where one lies, where databases have their room, and the unit that it runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub directory: &'static str,
    unit: &'static str,
}

/// For bringing something back.
pub const REWIND: Place = Place { directory: "/data/postgresql-rewind", unit: "appliance-rewind" };
/// For drills, which may take long and must not be in the way.
pub const DRILL: Place = Place { directory: "/data/postgresql-drill", unit: "appliance-drilled" };

/// How long PostgreSQL may read its log.
const READING: Duration = Duration::from_secs(6 * 3600);
/// How long looking through files, or counting, may take.
pub(super) const LOOKING: Duration = Duration::from_secs(6 * 3600);
/// By which its socket is called.
const PORT: u16 = 5432;
/// Only root and postgres come as far as the socket.
const HBA: &str = "local all all trust\n";

/// Takes away what killed commands have left.
pub async fn sweep(_lock: &BackupLock, host: &Host) -> Result<()> {
    let _drill = DrillLock::try_take(host, "backup")?;
    for place in [Some(REWIND), _drill.as_ref().map(|_| DRILL)].into_iter().flatten() {
        if host.exists(place.directory) {
            Scratch { place, major: 0, host }.remove().await?;
        }
    }
    Ok(())
}

/// A scratch cluster; it is to be ended by [`Scratch::end`].
pub struct Scratch<'a> {
    place: Place,
    major: u32,
    host: &'a Host,
}

impl<'a> Scratch<'a> {
    /// Makes the place, empty.
    ///
    /// # Errors
    /// What was left of another one cannot be taken away.
    pub async fn begin(place: Place, major: u32, host: &'a Host) -> Result<Scratch<'a>> {
        let scratch = Scratch { place, major, host };
        scratch.remove().await?;
        let owner: Owner = "postgres".parse().context("a user name is an owner")?;
        let own = Dir::plain().mode(0o700).owner(&owner);
        host.ensure_dir(place.directory, &Dir::plain())?;
        host.ensure_dir(&scratch.data(), &own)?;
        host.ensure_dir(&scratch.path("socket"), &own)?;
        for (name, text) in [("postgresql.conf", ""), ("pg_hba.conf", HBA), ("pg_ident.conf", "")] {
            host.ensure_file(&scratch.path(name), &File::text(text).mode(0o644))?;
        }
        Ok(scratch)
    }

    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.place.directory)
    }

    /// Where its files are.
    pub fn data(&self) -> String {
        self.path("data")
    }

    /// PostgreSQL's major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// One of the programs of its version.
    pub fn program(&self, name: &str) -> String {
        format!("/usr/lib/postgresql/{}/bin/{name}", self.major)
    }

    /// A command run by the system user postgres.
    pub fn as_postgres(&self, cmd: Cmd) -> Result<Cmd> {
        let owner: Owner = "postgres".parse().context("a user name is an owner")?;
        Ok(cmd.directory("/").ids(self.host.ids(&owner)?))
    }

    /// Starts it with these settings beside its own, and waits until it takes connections.
    ///
    /// # Errors
    /// It does not; the unit whose journal says why is named.
    pub async fn start(&self, settings: &[String]) -> Result<()> {
        let seconds = READING.as_secs();
        let unit = [
            "--quiet".to_owned(),
            "--collect".to_owned(),
            format!("--unit={}", self.place.unit),
            "--uid=postgres".to_owned(),
            "--service-type=notify".to_owned(),
            format!("--property=TimeoutStartSec={seconds}"),
            "--property=RuntimeMaxSec=86400".to_owned(),
            "--property=KillSignal=SIGINT".to_owned(),
            "--property=TimeoutStopSec=60".to_owned(),
            "--property=PrivateNetwork=yes".to_owned(),
            "--property=NoNewPrivileges=yes".to_owned(),
            // What is in the copied databases is the apps', and this runs as the user who owns the cluster that is in use.
            "--property=InaccessiblePaths=-/run/postgresql -/var/lib/postgresql -/data/postgresql -/data/postgresql-wal".to_owned(),
            "--property=InaccessiblePaths=-/etc/postgresql -/run/docker.sock".to_owned(),
            "--nice=10".to_owned(),
            self.program("postgres"),
            "-D".to_owned(),
            self.data(),
        ];
        // On the command line: what ALTER SYSTEM has set in the cluster that it is a copy of counts less.
        let own = [
            format!("config_file={}", self.path("postgresql.conf")),
            format!("hba_file={}", self.path("pg_hba.conf")),
            format!("ident_file={}", self.path("pg_ident.conf")),
            format!("unix_socket_directories={}", self.path("socket")),
            format!("port={PORT}"),
            "external_pid_file=".to_owned(),
            "listen_addresses=".to_owned(),
            "archive_mode=off".to_owned(),
            "archive_command=".to_owned(),
            "ssl=off".to_owned(),
            "hot_standby=off".to_owned(),
            "autovacuum=off".to_owned(),
            "fsync=off".to_owned(),
            // Enough for what other settings have let in there.
            "max_locks_per_transaction=1024".to_owned(),
            "max_prepared_transactions=1000".to_owned(),
            "logging_collector=off".to_owned(),
            "lc_messages=C".to_owned(),
            "log_destination=stderr".to_owned(),
        ];
        let all = own.iter().chain(settings).flat_map(|setting| ["-c".to_owned(), setting.clone()]);
        let cmd = Cmd::new("systemd-run", unit.into_iter().chain(all)).deadline(READING + Duration::from_secs(120));
        let failed = || format!("the scratch cluster does not start; see: journalctl -u {}", self.place.unit);
        self.host.act(What::Database, "the scratch cluster", "start", cmd).await.with_context(failed)?;
        // It tells systemd that it is ready when it begins to read its log; it lets somebody in when it is at the end of that, and ends where
        // it cannot get there.
        let login = self.superuser("postgres");
        self.host.wait_for_postgres(&login).await?;
        if self.host.can_log_in(&login).await? { Ok(()) } else { bail!(failed()) }
    }

    /// Whether it has said something since its last start.
    pub async fn said(&self, words: &str) -> Result<bool> {
        let unit = format!("--unit={}", self.place.unit);
        let args = ["--output=cat", "--no-pager", "--lines=50", &unit];
        let told = self.host.ask(Cmd::new("journalctl", args)).await?;
        Ok(told.stdout.lines().any(|line| line.contains(words)))
    }

    pub fn superuser(&self, database: &str) -> Login {
        Login { host: self.path("socket"), ..Login::superuser(PORT, database) }
    }

    /// An app's own role in its database.
    pub fn app_login(&self, env: &Env) -> Result<Login> {
        let login = prepare::app_login(env, self.host)?;
        Ok(Login { host: self.path("socket"), port: PORT, password: None, ..login }.pinned())
    }

    /// What is in an app's database, as [`census::CONTENTS`] tells it.
    pub async fn contents(&self, env: &Env) -> Result<Vec<String>> {
        let counted = self.host.hold(&self.app_login(env)?, census::CONTENTS.to_owned(), LOOKING).await;
        let counted =
            counted.with_context(|| format!("could not count what is in the database of {}", env.app.name))?;
        Ok(counted.value.unwrap_or_default().lines().map(str::to_owned).collect())
    }

    /// Dumps an app's database into the directory of its dumps. Gives back the file.
    pub async fn dump(&self, env: &Env, name: &str, purpose: Purpose) -> Result<String> {
        let (host, app) = (self.host, &env.app.name);
        let target = fetched::target(app, name, purpose);
        let beside = fetched::beside(&target);
        let args = ["--format=custom", "--no-password"];
        let cmd = self.as_postgres(self.app_login(env)?.client(&self.program("pg_dump"), args))?;
        let cmd = cmd.output_file(&host.path(&beside)).deadline(LOOKING);
        let dumped = host.act(What::Database, app.as_str(), "dump", cmd).await;
        fetched::settle(dumped, &target, host).with_context(|| format!("could not dump the database of {app}"))?;
        Ok(target)
    }

    /// Stops it and takes it away.
    pub async fn end(self) -> Result<()> {
        self.remove().await
    }

    async fn remove(&self) -> Result<()> {
        let unit = format!("{}.service", self.place.unit);
        if self.host.unit_state(&unit).await? != UnitState::Missing {
            self.host.stop_unit(&unit).await?;
        }
        self.host.remove_tree(self.place.directory).await
    }
}
