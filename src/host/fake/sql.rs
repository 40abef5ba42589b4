//! A PostgreSQL server that knows databases, and of each what is in it, as one text.

use super::{Faults, locked};
use crate::host::postgres::{Greeting, Held, Row, Sql};
use crate::host::{Login, Pending};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeDatabase {
    pub content: String,
    pub is_open: bool,
}

type Databases = BTreeMap<String, FakeDatabase>;

/// Roles `postgres` and `app` are there, and every database is app's.
pub struct FakeSql {
    faults: Arc<Faults>,
    pub databases: Mutex<Databases>,
}

impl FakeSql {
    pub(super) fn new(faults: Arc<Faults>) -> FakeSql {
        FakeSql { faults, databases: Mutex::default() }
    }

    /// What is in a database; `None`: there is no such.
    pub fn content(&self, name: &str) -> Option<String> {
        locked(&self.databases).get(name).map(|database| database.content.clone())
    }

    pub fn put(&self, name: &str, content: &str) {
        locked(&self.databases).insert(name.to_owned(), FakeDatabase { content: content.to_owned(), is_open: true });
    }

    /// Whether somebody could connect to it.
    pub(super) fn enter(&self, name: &str) -> Result<()> {
        let databases = locked(&self.databases);
        let database = databases.get(name).filter(|_| name != "postgres");
        match database {
            None if name == "postgres" => Ok(()),
            None => bail!("database \"{name}\" does not exist"),
            Some(database) if !database.is_open => bail!("database \"{name}\" is not currently accepting connections"),
            Some(_) => Ok(()),
        }
    }

    fn answer(&self, login: &Login, sql: &str, params: &[&str]) -> Vec<Row> {
        let databases = locked(&self.databases);
        let named = params.first().copied().unwrap_or_default();
        let row = |text: &str| vec![vec![Some(text.to_owned())]];
        let database = databases.get(named);
        if sql.contains("NOT datallowconn") {
            return database.filter(|database| !database.is_open).map(|_| row(named)).unwrap_or_default();
        }
        if sql.starts_with("SELECT datname::text FROM pg_database WHERE datname") {
            return database.map(|_| row(named)).unwrap_or_default();
        }
        if sql.starts_with("SELECT (to_jsonb(d)") {
            let described = r#"{"owner": "app", "encoding": "UTF8", "datcollate": "C.UTF-8", "datctype": "C.UTF-8", "tablespace": "pg_default"}"#;
            return database.map(|_| row(described)).unwrap_or_default();
        }
        if sql.starts_with("SELECT (datacl IS NULL)") {
            return row("true");
        }
        if sql.starts_with("SELECT pg_database_size") {
            return database.map(|database| row(&database.content.len().to_string())).unwrap_or_default();
        }
        if sql.starts_with("SELECT c.relname::text FROM pg_catalog.pg_class") {
            let has_tables = databases.get(&login.database).is_some_and(|database| !database.content.is_empty());
            return if has_tables { row("notes") } else { Vec::new() };
        }
        if sql.starts_with("SELECT rolname::text") || sql.starts_with("SELECT pg_get_userbyid(datdba)") {
            return row("app");
        }
        if sql.contains("extname = 'pg_stat_statements'") {
            return row("pg_stat_statements");
        }
        Vec::new()
    }
}

impl Sql for FakeSql {
    fn hold<'a>(&'a self, login: &'a Login, _: String, _: Duration) -> Pending<'a, Result<Held>> {
        Box::pin(async move {
            self.enter(&login.database)?;
            Ok(Held { snapshot: "1".to_owned(), value: self.content(&login.database), _keeper: Box::new(()) })
        })
    }

    fn query<'a>(
        &'a self,
        login: &'a Login,
        sql: &'static str,
        params: &'a [&'a str],
    ) -> Pending<'a, Result<Vec<Row>>> {
        Box::pin(async move {
            let words: Vec<&str> = sql.split_whitespace().take(6).collect();
            self.faults.before_waiting(&format!("query {}: {}", login.database, words.join(" "))).await?;
            self.enter(&login.database)?;
            Ok(self.answer(login, sql, params))
        })
    }
    fn first_value<'a>(&'a self, login: &'a Login, sql: String, _: Duration) -> Pending<'a, Result<Option<String>>> {
        Box::pin(async move {
            self.faults.before_waiting(&format!("query {}: {sql}", login.database)).await?;
            self.enter(&login.database)?;
            Ok(Some("1".to_owned()))
        })
    }
    fn greet<'a>(&'a self, login: &'a Login) -> Pending<'a, Result<Greeting>> {
        Box::pin(async move {
            self.faults.before_waiting(&format!("connect to {}", login.database)).await?;
            Ok(if self.enter(&login.database).is_ok() { Greeting::Welcome } else { Greeting::Refused })
        })
    }
    fn execute<'a>(&'a self, login: &'a Login, sql: String, _: Duration) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            self.faults.before_waiting(&format!("execute in {}: {sql}", login.database)).await?;
            self.enter(&login.database)?;
            let mut databases = locked(&self.databases);
            // All of it or nothing: what is more than one statement is a transaction.
            let mut after = databases.clone();
            sql.split("; ").try_for_each(|statement| carry_out(statement.trim(), &mut after))?;
            *databases = after;
            Ok(())
        })
    }
}

fn carry_out(statement: &str, databases: &mut Databases) -> Result<()> {
    let quoted: Vec<&str> = statement.split('"').skip(1).step_by(2).collect();
    let name = quoted.first().copied().unwrap_or_default().to_owned();
    let missing = || format!("database \"{name}\" does not exist");
    if statement.starts_with("CREATE DATABASE") {
        ensure!(!databases.contains_key(&name), "database \"{name}\" already exists");
        let template =
            statement.contains(" TEMPLATE ").then(|| quoted.get(1).copied()).flatten().unwrap_or("template0");
        let content = match template {
            "template0" => String::new(),
            template => databases.get(template).context("no such template")?.content.clone(),
        };
        databases.insert(name, FakeDatabase { content, is_open: true });
    } else if statement.starts_with("DROP DATABASE") {
        databases.remove(&name).with_context(missing)?;
    } else if statement.starts_with("ALTER DATABASE") && statement.contains(" RENAME TO ") {
        let to = quoted.get(1).context("a name to rename to")?;
        ensure!(!databases.contains_key(*to), "database \"{to}\" already exists");
        let database = databases.remove(&name).with_context(missing)?;
        databases.insert((*to).to_owned(), database);
    } else if statement.starts_with("ALTER DATABASE") && statement.contains("ALLOW_CONNECTIONS") {
        databases.get_mut(&name).with_context(missing)?.is_open = statement.ends_with("true");
    }
    Ok(())
}
