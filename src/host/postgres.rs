//! SQL. The `postgres` crate is a blocking one: it runs on a blocking thread, here and nowhere else.

use super::{Cmd, Host, What};
use crate::value::Secret;
use anyhow::{Context, Result, bail};
use postgres::types::ToSql;
use std::time::Duration;

/// How long one connection's work may take.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a statement may take, told to the server.
const STATEMENT: Duration = Duration::from_secs(60);
/// Where a superuser looks for what it names: nowhere that an app can write, whatever the app has set for its database. It counts before
/// settings of databases and roles (PostgreSQL's documentation, "Setting Parameters").
const PINNED_PATH: &str = "-c search_path=pg_catalog";

/// Debian's superuser.
const SUPERUSER: &str = "postgres";
/// The most rows that a query may give.
const MAX_ROWS: usize = 10_000;

/// How long a server may take to read its log.
const RECOVERY: Duration = Duration::from_secs(6 * 3600);

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

    fn is_superuser(&self) -> bool {
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

    fn connect(&self) -> Result<postgres::Client> {
        self.connect_for(STATEMENT)
    }

    /// Connects, for statements that may take so long.
    fn connect_for(&self, statement: Duration) -> Result<postgres::Client> {
        let path = if self.is_pinned || self.is_superuser() { PINNED_PATH } else { "" };
        let mut config = postgres::Config::new();
        config
            .host(&self.host)
            .port(self.port)
            .user(&self.user)
            .dbname(&self.database)
            .application_name("appliance")
            .options(&format!("-c statement_timeout={} {path}", statement.as_millis()))
            .connect_timeout(CONNECT);
        if let Some(password) = &self.password {
            config.password(password.expose());
        }
        let client = config.connect(postgres::NoTls);
        client.with_context(|| format!("could not connect to the database '{}' as {}", self.database, self.user))
    }
}

/// Whether the server is there, and takes connections only later, or is about to end (SQLSTATE 57P03).
fn is_starting(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<postgres::Error>().and_then(postgres::Error::code);
    code == Some(&postgres::error::SqlState::CANNOT_CONNECT_NOW)
}

/// Whether the server was not there, or went away in the middle: it may be back in a moment.
pub fn is_lost(error: &anyhow::Error) -> bool {
    let Some(error) = error.downcast_ref::<postgres::Error>() else { return false };
    // Class 08 is about the connection; 57P01 to 57P03 say that the server ends or begins.
    let is_code = |code: &postgres::error::SqlState| {
        code.code().starts_with("08") || ["57P01", "57P02", "57P03"].contains(&code.code())
    };
    let is_of_connection = |error: &std::io::Error| {
        use std::io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, NotFound, TimedOut, UnexpectedEof,
        };
        matches!(
            error.kind(),
            BrokenPipe | ConnectionAborted | ConnectionRefused | ConnectionReset | NotFound | TimedOut | UnexpectedEof
        )
    };
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    error.is_closed() || error.code().is_some_and(is_code) || source.is_some_and(is_of_connection)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    blocking_for(DEADLINE, work).await
}

async fn blocking_for<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let joined = tokio::time::timeout(deadline, tokio::task::spawn_blocking(work)).await;
    joined
        .with_context(|| format!("PostgreSQL did not answer within {} s", deadline.as_secs()))?
        .context("the database thread died")?
}

impl Host {
    /// Rows of a query that only reads; every column must be text (cast with `::text`).
    ///
    /// # Errors
    /// The query fails, or gives more than 10,000 rows.
    pub async fn query(&self, login: &Login, sql: &'static str, params: &[&str]) -> Result<Vec<Vec<Option<String>>>> {
        let (login, params) = (login.clone(), params.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        blocking(move || {
            let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|text| text as _).collect();
            let rows = login.connect()?.query(sql, &params).context("could not query PostgreSQL")?;
            if rows.len() > MAX_ROWS {
                bail!("PostgreSQL gave more than {MAX_ROWS} rows; a part of them is not used");
            }
            let text = |row: &postgres::Row| (0..row.len()).map(|at| row.try_get(at)).collect::<Result<Vec<_>, _>>();
            rows.iter().map(|row| text(row).context("PostgreSQL gave a column that is not text")).collect()
        })
        .await
    }

    /// The first value of the first row that somebody else's SELECT gives, as text. Nothing is written by it.
    ///
    /// # Errors
    /// The query fails, or takes longer than the deadline.
    pub async fn first_value(&self, login: &Login, sql: String, deadline: Duration) -> Result<Option<String>> {
        let login = login.clone();
        let asked = move || {
            let mut client = login.connect()?;
            let ms = deadline.as_millis().clamp(1, 3_600_000);
            let ready =
                client.batch_execute(&format!("SET default_transaction_read_only = on; SET statement_timeout = {ms}"));
            ready.context("could not prepare the query")?;
            let mut transaction = client.transaction().context("could not begin")?;
            // One statement, which reads; and of its rows only the first is got, however many there are.
            let declared = transaction.execute(&format!("DECLARE probe NO SCROLL CURSOR FOR {sql}"), &[]);
            declared.context("PostgreSQL does not take the query")?;
            let fetched = transaction.simple_query("FETCH 1 FROM probe").context("could not query PostgreSQL")?;
            transaction.rollback().context("could not end the query")?;
            let first = fetched.into_iter().find_map(|message| match message {
                postgres::SimpleQueryMessage::Row(row) if !row.is_empty() => row.get(0).map(str::to_owned),
                _ => None,
            });
            Ok(first)
        };
        let joined = tokio::time::timeout(deadline + CONNECT, tokio::task::spawn_blocking(asked)).await;
        joined.context("PostgreSQL did not answer in time")?.context("the database thread died")?
    }

    /// Whether a login is let in. A server that is starting up is not asked: see [`Host::wait_for_postgres`].
    pub async fn can_log_in(&self, login: &Login) -> Result<bool> {
        let login = login.clone();
        blocking(move || Ok(login.connect().is_ok())).await
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
            let login = login.clone();
            let is_starting = blocking(move || Ok(login.connect().is_err_and(|error| is_starting(&error)))).await?;
            if !is_starting {
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
        let (login, context) = (login.clone(), format!("could not {how} {object}"));
        // Connecting, and what the server needs to give up a statement.
        let whole = deadline + (DEADLINE - STATEMENT);
        blocking_for(whole, move || login.connect_for(deadline)?.batch_execute(&sql).context(context)).await
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
