//! PostgreSQL as the rest of the crate sees it: who logs in where, what is asked, how names and values are quoted. The client is `sql.rs`.

use super::{Cmd, Host, Pending, What};
use crate::value::Secret;
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// Where a superuser looks for what it names: nowhere that an app can write, whatever the app has set for its database. It counts before
/// settings of databases and roles (PostgreSQL's documentation, "Setting Parameters").
pub(super) const PINNED_PATH: &str = "-c search_path=pg_catalog";

/// Debian's superuser.
const SUPERUSER: &str = "postgres";
/// How long a server may take to read its log.
const RECOVERY: Duration = Duration::from_secs(6 * 3600);

/// How long a statement may take unless told otherwise, told to the server.
pub(super) const STATEMENT: Duration = Duration::from_secs(60);

/// The columns of a row, as text.
pub type Row = Vec<Option<String>>;

/// How a server receives somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    Welcome,
    /// It is there, and takes connections only later, or is about to end.
    Starting,
    /// It refuses, or there is none.
    Refused,
}

/// What can be asked of PostgreSQL. Every verb has a deadline.
pub trait Sql: Send + Sync {
    /// The rows of a query that only reads; every column must be text.
    fn query<'a>(&'a self, login: &'a Login, sql: &'static str, params: &'a [&'a str])
    -> Pending<'a, Result<Vec<Row>>>;
    /// The first value of somebody else's SELECT, which can write nothing.
    fn first_value<'a>(
        &'a self,
        login: &'a Login,
        sql: String,
        deadline: Duration,
    ) -> Pending<'a, Result<Option<String>>>;
    fn greet<'a>(&'a self, login: &'a Login) -> Pending<'a, Result<Greeting>>;
    /// Holds the state of a database as it is now, for others to read the same, and gives back the first value of a SELECT in it.
    fn hold<'a>(&'a self, login: &'a Login, sql: String, deadline: Duration) -> Pending<'a, Result<Held>>;
    /// Statements that may take so long.
    fn execute<'a>(&'a self, login: &'a Login, sql: String, deadline: Duration) -> Pending<'a, Result<()>>;
}

/// A state of a database that others can read, too, for as long as this lives.
pub struct Held {
    /// What `SET TRANSACTION SNAPSHOT` and `pg_dump --snapshot` call it.
    pub snapshot: String,
    /// The first value of the SELECT.
    pub value: Option<String>,
    /// The connection ends with it.
    pub(super) _keeper: Box<dyn Send + Sync>,
}

/// Where to connect and as whom.
#[derive(Debug, Clone)]
pub struct Login {
    /// A host name or address, or the directory of the Unix socket.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<Secret>,
    pub database: String,
    /// Names lead into the catalogs alone, whatever the role or the database sets; always so for the superuser.
    pub is_pinned: bool,
}

impl Login {
    /// Role postgres through the Unix socket: root is let in by the ident map (docs/postgresql.md).
    pub fn superuser(port: u16, database: &str) -> Login {
        Login {
            host: "/var/run/postgresql".to_owned(),
            port,
            user: SUPERUSER.to_owned(),
            password: None,
            database: database.to_owned(),
            is_pinned: true,
        }
    }

    pub(super) fn is_superuser(&self) -> bool {
        self.user == SUPERUSER
    }

    /// One of PostgreSQL's programs that connects by this login, to this database unless its arguments name another one.
    pub fn client<I, A>(&self, program: &str, args: I) -> Cmd
    where
        I: IntoIterator<Item = A>,
        A: Into<String>,
    {
        let cmd = Cmd::new(program, args)
            .env("PGHOST", &self.host)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", &self.user)
            .env("PGDATABASE", &self.database);
        let cmd = if self.is_pinned || self.is_superuser() { cmd.env("PGOPTIONS", PINNED_PATH) } else { cmd };
        match &self.password {
            Some(password) => cmd.env("PGPASSWORD", password.expose()).mask(password.expose()),
            None => cmd,
        }
    }

    /// The same role, whose names lead into the catalogs alone.
    pub fn pinned(&self) -> Login {
        Login { is_pinned: true, ..self.clone() }
    }

    /// The same role in another database.
    pub fn in_database(&self, database: &str) -> Login {
        Login { database: database.to_owned(), ..self.clone() }
    }
}

impl Host {
    /// Rows of a query that only reads; every column must be text (cast with `::text`).
    ///
    /// # Errors
    /// The query fails, or gives more than 10,000 rows.
    pub async fn query(&self, login: &Login, sql: &'static str, params: &[&str]) -> Result<Vec<Row>> {
        self.sql.query(login, sql, params).await
    }

    /// The first value of the first row that somebody else's SELECT gives, as text. Nothing is written by it.
    ///
    /// # Errors
    /// The query fails, or takes longer than the deadline.
    pub async fn first_value(&self, login: &Login, sql: String, deadline: Duration) -> Result<Option<String>> {
        self.sql.first_value(login, sql, deadline).await
    }

    /// Holds the state of a database, and reads the first value of a SELECT in it.
    ///
    /// # Errors
    /// The query fails, or takes longer than the deadline.
    pub async fn hold(&self, login: &Login, sql: String, deadline: Duration) -> Result<Held> {
        self.sql.hold(login, sql, deadline).await
    }

    /// Whether a login is let in. A server that is starting up is not asked: see [`Host::wait_for_postgres`].
    pub async fn can_log_in(&self, login: &Login) -> Result<bool> {
        Ok(self.sql.greet(login).await? == Greeting::Welcome)
    }

    /// Waits until the server takes connections. After a power cut it first reads its log, which may take long; before that it refuses
    /// everybody. Gives back at once if it refuses for another reason, or is not there.
    ///
    /// # Errors
    /// It is still starting up after six hours.
    pub async fn wait_for_postgres(&self, login: &Login) -> Result<()> {
        let begin = tokio::time::Instant::now();
        let mut told = false;
        loop {
            if self.sql.greet(login).await? != Greeting::Starting {
                return Ok(());
            }
            if begin.elapsed() > RECOVERY {
                bail!(
                    "PostgreSQL is still starting up after {} s; see: journalctl -u 'postgresql@*'",
                    RECOVERY.as_secs()
                );
            }
            if !told {
                tracing::warn!("PostgreSQL is starting up, as it does after a power cut; waiting for it");
                told = true;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Statements with an effect, noted as `database object: how`. Identifiers in them are quoted by the caller.
    pub async fn execute(&self, login: &Login, object: &str, how: &str, sql: String) -> Result<()> {
        self.execute_within(STATEMENT, login, object, how, sql).await
    }

    /// [`Host::execute`], for statements that may take so long.
    pub async fn execute_within(
        &self,
        deadline: Duration,
        login: &Login,
        object: &str,
        how: &str,
        sql: String,
    ) -> Result<()> {
        self.note(What::Database, object, how);
        if !self.applies() {
            return Ok(());
        }
        self.sql.execute(login, sql, deadline).await.with_context(|| format!("could not {how} {object}"))
    }
}

/// An SQL identifier: double quotes around it, inner ones doubled. NUL is refused where names are checked.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An SQL string literal. `E''` form, so that it means the same whatever `standard_conforming_strings` says.
pub fn quote_literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The SCRAM-SHA-256 verifier that PostgreSQL stores: the password itself never travels in a statement (RFC 5803).
pub fn scram_verifier(password: &Secret) -> String {
    postgres_protocol::password::scram_sha_256(password.expose().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_leaves_no_way_out() {
        assert_eq!(quote_identifier("a\"; drop"), "\"a\"\"; drop\"");
        assert_eq!(quote_literal("a'\\b"), "E'a\\'\\\\b'");
        assert!(scram_verifier(&Secret::new("x")).starts_with("SCRAM-SHA-256$4096:"));
    }
}
