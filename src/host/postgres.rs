//! SQL. The `postgres` crate is a blocking one: it runs on a blocking thread, here and nowhere else.

use super::{Host, What};
use crate::value::Secret;
use anyhow::{Context, Result};
use postgres::types::ToSql;
use std::time::Duration;

/// How long one connection's work may take.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a statement may take, told to the server.
const STATEMENT_TIMEOUT_MS: u64 = 60_000;

/// Where to connect and as whom.
#[derive(Debug, Clone)]
pub struct Login {
    /// A host name or address, or the directory of the Unix socket.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<Secret>,
    pub database: String,
}

impl Login {
    /// Role postgres through the Unix socket: root is let in by the ident map (spec/prepare.md).
    pub fn superuser(port: u16, database: &str) -> Login {
        Login {
            host: "/var/run/postgresql".to_owned(),
            port,
            user: "postgres".to_owned(),
            password: None,
            database: database.to_owned(),
        }
    }

    fn connect(&self) -> Result<postgres::Client> {
        let mut config = postgres::Config::new();
        config
            .host(&self.host)
            .port(self.port)
            .user(&self.user)
            .dbname(&self.database)
            .application_name("appliance")
            .options(&format!("-c statement_timeout={STATEMENT_TIMEOUT_MS}"))
            .connect_timeout(CONNECT);
        if let Some(password) = &self.password {
            config.password(password.expose());
        }
        let client = config.connect(postgres::NoTls);
        client.with_context(|| format!("could not connect to the database '{}' as {}", self.database, self.user))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let joined = tokio::time::timeout(DEADLINE, tokio::task::spawn_blocking(work)).await;
    joined
        .with_context(|| format!("PostgreSQL did not answer within {} s", DEADLINE.as_secs()))?
        .context("the database thread died")?
}

impl Host {
    /// Rows of a query that only reads; every column must be text (cast with `::text`). At most 10,000 rows.
    pub async fn query(&self, login: &Login, sql: &'static str, params: &[&str]) -> Result<Vec<Vec<Option<String>>>> {
        let (login, params) = (login.clone(), params.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        blocking(move || {
            let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|text| text as _).collect();
            let rows = login.connect()?.query(sql, &params).context("could not query PostgreSQL")?;
            let text = |row: &postgres::Row| (0..row.len()).map(|at| row.try_get(at)).collect::<Result<Vec<_>, _>>();
            rows.iter().take(10_000).map(|row| text(row).context("PostgreSQL gave a column that is not text")).collect()
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

    /// Whether a login is let in.
    pub async fn can_log_in(&self, login: &Login) -> Result<bool> {
        let login = login.clone();
        blocking(move || Ok(login.connect().is_ok())).await
    }

    /// Statements with an effect, noted as `database object: how`. Identifiers in them are quoted by the caller.
    pub async fn execute(&self, login: &Login, object: &str, how: &str, sql: String) -> Result<()> {
        self.note(What::Database, object, how);
        if !self.applies() {
            return Ok(());
        }
        let (login, context) = (login.clone(), format!("could not {how} {object}"));
        blocking(move || login.connect()?.batch_execute(&sql).context(context)).await
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
