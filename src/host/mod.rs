//! The one door to the machine: files, commands, units, Docker, PostgreSQL, HTTP, ACME, the clock. Everything with an effect
//! goes through [`Host`], which does it or, in check mode, only notes it. What should be done is decided elsewhere.

pub mod acme;
mod beside;
pub mod build;
mod child;
mod cmd;
pub mod docker;
mod dockerfile;
mod drive;
pub mod engine;
pub mod exec;
#[cfg(test)]
pub mod fake;
mod files;
mod foreign;
pub mod http;
mod journal;
mod lost_port;
pub mod notify;
mod own;
mod packages;
pub mod pem;
mod pipe;
pub mod post;
mod postgres;
mod private;
mod reserve;
mod routes;
mod sql;
mod systemd;
pub mod terminal;
mod together;
mod tree;
pub mod units;
mod users;
pub mod watch;

pub use cmd::{Cmd, Exec, Output};
pub use docker::Docker;
pub use drive::Drive;
pub use files::{Dir, File, Room, replace_block};
pub use journal::{Entry, Journal, What};
pub use own::Own;
pub use packages::apt;
pub use postgres::{Login, quote_identifier, quote_literal, scram_verifier};
pub use private::PrivateDirectory;
pub use routes::Route;
pub use sql::is_lost;
pub use tree::Extent as TreeExtent;
pub use units::{Owed, UnitState, Units};

use crate::value::Step;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

/// What a trait's method gives back: a future that can be boxed.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whether effects happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Apply,
    /// Nothing is changed; what would be is noted in the journal.
    Check,
}

/// Whether a verb changed something (or would).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    Yes,
    No,
}

impl Changed {
    pub fn yes(self) -> bool {
        self == Changed::Yes
    }

    /// Changed if either did.
    pub fn or(self, other: Changed) -> Changed {
        if self.yes() { self } else { other }
    }
}

/// Those of the machine's parts that cannot be had in a temporary directory.
#[derive(Clone)]
pub struct Backends {
    pub exec: Arc<dyn Exec>,
    pub units: Arc<dyn Units>,
    pub docker: Arc<dyn Docker>,
    pub sql: Arc<dyn postgres::Sql>,
    pub web: Arc<dyn http::Web>,
}

impl Backends {
    /// This machine's own.
    fn system() -> Backends {
        Backends {
            exec: Arc::new(exec::SystemExec),
            units: Arc::new(systemd::Systemd),
            docker: Arc::new(engine::Engine::local()),
            sql: Arc::new(sql::Server),
            web: Arc::new(http::Sockets),
        }
    }
}

/// The machine, or a temporary directory that stands for its file system.
#[derive(Clone)]
pub struct Host {
    root: PathBuf,
    mode: Mode,
    exec: Arc<dyn Exec>,
    units: Arc<dyn Units>,
    docker: Arc<dyn Docker>,
    sql: Arc<dyn postgres::Sql>,
    web: Arc<dyn http::Web>,
    journal: Arc<Journal>,
    /// Directories in which this process has looked for what killed ones left.
    swept: beside::Swept,
    restarted: lost_port::Restarted,
    #[cfg(test)]
    faults: Option<Arc<fake::Faults>>,
}

impl Host {
    /// This machine.
    pub fn system(mode: Mode) -> Host {
        Host::new(PathBuf::from("/"), mode, Backends::system())
    }

    pub fn new(root: PathBuf, mode: Mode, backends: Backends) -> Host {
        let Backends { exec, units, docker, sql, web } = backends;
        Host {
            root,
            mode,
            exec,
            units,
            docker,
            sql,
            web,
            journal: Arc::new(Journal::default()),
            swept: Default::default(),
            restarted: Default::default(),
            #[cfg(test)]
            faults: None,
        }
    }

    /// The same machine with an empty journal, in another mode.
    pub fn in_mode(&self, mode: Mode) -> Host {
        Host { mode, journal: Arc::new(Journal::default()), swept: Arc::default(), ..self.clone() }
    }

    pub fn applies(&self) -> bool {
        self.mode == Mode::Apply
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    pub fn docker(&self) -> &dyn Docker {
        &*self.docker
    }

    /// Names the step that the next entries of the journal belong to.
    pub fn begin(&self, step: Step) {
        self.journal.begin(step);
    }

    /// Where an absolute path of the machine lies below the root.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(Path::new(path.trim_start_matches('/')))
    }

    /// The current time.
    pub fn now(&self) -> jiff::Timestamp {
        now()
    }

    /// The current time, for what is dated by it.
    ///
    /// # Errors
    /// The clock was never set: everything would look wrong, and what is signed would be.
    pub fn settled_now(&self) -> anyhow::Result<jiff::Timestamp> {
        let now = now();
        if now.as_second() < FIRST_DAY_S {
            anyhow::bail!("the clock says it is before 2024; set it, nothing can be dated otherwise");
        }
        Ok(now)
    }

    /// Notes an effect that is carried out by several commands.
    pub fn note_act(&self, what: What, object: &str, how: &str) {
        self.note(what, object, how);
    }

    /// Called before each change of a file: tests let it fail there, or end the process.
    #[cfg(not(test))]
    #[inline]
    fn before_change(&self, _: &str) -> anyhow::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn before_change(&self, path: &str) -> anyhow::Result<()> {
        self.faults.as_ref().map_or(Ok(()), |faults| faults.before(&format!("write {path}")))
    }

    fn note(&self, what: What, object: impl Into<String>, how: impl Into<String>) {
        self.journal.note(Entry { step: None, what, object: object.into(), how: how.into() }, self.applies());
    }
}

/// What this process and its programs make is readable for everybody unless something else is asked for, whatever the shell of the caller
/// says: containers and other users read files of the checkout, and of git's repository.
pub fn set_umask() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
}

/// No clock that is set is before this program was written: 2024-01-01.
const FIRST_DAY_S: i64 = 1_704_067_200;

/// The current time, for the few who have no host at hand.
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
