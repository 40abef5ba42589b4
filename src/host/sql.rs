//! The client of PostgreSQL. The `postgres` crate is a blocking one: it runs on a blocking thread, here and nowhere else.

use super::Pending;
use super::postgres::{Greeting, Held, Login, PINNED_PATH, Row, STATEMENT, Sql};
use anyhow::{Context, Result, bail};
use postgres::types::ToSql;
use std::time::Duration;

/// How long one connection's work may take.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// The most rows that a query may give.
const MAX_ROWS: usize = 10_000;

/// Servers of this machine, and others.
pub struct Server;

impl Sql for Server {
    fn query<'a>(
        &'a self,
        login: &'a Login,
        sql: &'static str,
        params: &'a [&'a str],
    ) -> Pending<'a, Result<Vec<Row>>> {
        let (login, params) = (login.clone(), params.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        Box::pin(blocking(move || {
            let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|text| text as _).collect();
            let rows = connect(&login, STATEMENT)?.query(sql, &params).context("could not query PostgreSQL")?;
            if rows.len() > MAX_ROWS {
                bail!("PostgreSQL gave more than {MAX_ROWS} rows; a part of them is not used");
            }
            let text = |row: &postgres::Row| (0..row.len()).map(|at| row.try_get(at)).collect::<Result<Vec<_>, _>>();
            rows.iter().map(|row| text(row).context("PostgreSQL gave a column that is not text")).collect()
        }))
    }

    fn first_value<'a>(
        &'a self,
        login: &'a Login,
        sql: String,
        deadline: Duration,
    ) -> Pending<'a, Result<Option<String>>> {
        let login = login.clone();
        Box::pin(async move {
            let asked = move || first_value(&login, &sql, deadline);
            let joined = tokio::time::timeout(deadline + CONNECT, tokio::task::spawn_blocking(asked)).await;
            joined.context("PostgreSQL did not answer in time")?.context("the database thread died")?
        })
    }

    fn hold<'a>(&'a self, login: &'a Login, sql: String, deadline: Duration) -> Pending<'a, Result<Held>> {
        let login = login.clone();
        Box::pin(async move {
            let (tell, told) = tokio::sync::oneshot::channel();
            let (keeper, dropped) = std::sync::mpsc::channel::<()>();
            tokio::task::spawn_blocking(move || match hold(&login, &sql, deadline) {
                Ok((client, snapshot, value)) => {
                    drop(tell.send(Ok((snapshot, value))));
                    // It ends when the other end is dropped: nothing is ever sent.
                    let _ended = dropped.recv();
                    drop(client);
                }
                // Whoever asked may have given up.
                Err(error) => drop(tell.send(Err(error))),
            });
            let told = tokio::time::timeout(deadline + CONNECT, told).await;
            let (snapshot, value) =
                told.context("PostgreSQL did not answer in time")?.context("the database thread died")??;
            Ok(Held { snapshot, value, _keeper: Box::new(std::sync::Mutex::new(keeper)) })
        })
    }

    fn greet<'a>(&'a self, login: &'a Login) -> Pending<'a, Result<Greeting>> {
        let login = login.clone();
        Box::pin(blocking(move || {
            Ok(match connect(&login, STATEMENT) {
                Ok(_) => Greeting::Welcome,
                Err(error) if is_starting(&error) => Greeting::Starting,
                Err(_) => Greeting::Refused,
            })
        }))
    }

    fn execute<'a>(&'a self, login: &'a Login, sql: String, deadline: Duration) -> Pending<'a, Result<()>> {
        let login = login.clone();
        // Connecting, and what the server needs to give up a statement.
        let whole = deadline + (DEADLINE - STATEMENT);
        Box::pin(blocking_for(whole, move || Ok(connect(&login, deadline)?.batch_execute(&sql)?)))
    }
}

/// A connection in a transaction whose state is exported, what it is called, and the value.
fn hold(login: &Login, sql: &str, deadline: Duration) -> Result<(postgres::Client, String, Option<String>)> {
    let mut client = connect(login, STATEMENT)?;
    let ms = deadline.as_millis().clamp(1, 86_400_000);
    let begin = format!(
        "SET statement_timeout = {ms}; SET idle_in_transaction_session_timeout = 0; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    );
    client.batch_execute(&begin).context("could not begin")?;
    let first = |rows: Vec<postgres::SimpleQueryMessage>| {
        rows.into_iter().find_map(|message| match message {
            postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    };
    let exported = client.simple_query("SELECT pg_catalog.pg_export_snapshot()");
    let snapshot = first(exported.context("could not hold the database's state")?);
    let value = first(client.simple_query(sql).context("could not query PostgreSQL")?);
    Ok((client, snapshot.context("PostgreSQL names no snapshot")?, value))
}

fn first_value(login: &Login, sql: &str, deadline: Duration) -> Result<Option<String>> {
    let mut client = connect(login, STATEMENT)?;
    let ms = deadline.as_millis().clamp(1, 3_600_000);
    let ready = client.batch_execute(&format!("SET default_transaction_read_only = on; SET statement_timeout = {ms}"));
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
}

/// Connects, for statements that may take so long.
fn connect(login: &Login, statement: Duration) -> Result<postgres::Client> {
    let path = if login.is_pinned || login.is_superuser() { PINNED_PATH } else { "" };
    let mut config = postgres::Config::new();
    config
        .host(&login.host)
        .port(login.port)
        .user(&login.user)
        .dbname(&login.database)
        .application_name("appliance")
        .options(&format!("-c statement_timeout={} {path}", statement.as_millis()))
        .connect_timeout(CONNECT);
    if let Some(password) = &login.password {
        config.password(password.expose());
    }
    let client = config.connect(postgres::NoTls);
    client.with_context(|| format!("could not connect to the database '{}' as {}", login.database, login.user))
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
