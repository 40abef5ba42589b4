//! Databases beside the app's own: the copy from before a migration, one that is being filled, one that was swapped out. Which of them
//! the appliance has made is in a record, written before each is made: no other database is ever dropped or swapped in.

use super::creation::{Grant, creation, privileges};
use crate::env::Env;
use crate::host::{Host, Login, quote_identifier, quote_literal};
use crate::prepare::postgres::{self, Cluster};
use crate::state::app_directory;
use crate::value::{AppName, DatabaseName};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long copying or dropping a database may take.
const DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// How long ending sessions may take.
const ENDING: Duration = Duration::from_secs(600);
/// The longest name of a database, in bytes (PostgreSQL, NAMEDATALEN).
const MAX_NAME: usize = 63;
const MAX_RECORD: u64 = 1 << 16;

/// What a database beside the app's own is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The copy from before a migration.
    Before,
    /// Being filled, to be swapped in.
    Fresh,
    /// What was gone back from. While it is there, going back is done.
    Failed,
    /// What was there before a reset or a restore, for a moment.
    Emptied,
}

impl Role {
    const ALL: [Role; 4] = [Role::Before, Role::Fresh, Role::Failed, Role::Emptied];

    fn suffix(self) -> &'static str {
        match self {
            Role::Before => "_before",
            Role::Fresh => "_restored",
            Role::Failed => "_failed",
            Role::Emptied => "_emptied",
        }
    }
}

/// The names of databases that the appliance has made, or is about to make.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    databases: BTreeSet<String>,
    /// The fresh one holds a dump as a whole.
    #[serde(default)]
    is_fresh_ready: bool,
}

/// The app's database and those beside it.
pub struct Databases<'a> {
    pub name: &'a DatabaseName,
    pub cluster: Cluster,
    app: &'a AppName,
    host: &'a Host,
}

impl<'a> Databases<'a> {
    /// # Errors
    /// There is no cluster yet.
    pub fn of(env: &'a Env, host: &'a Host) -> Result<Databases<'a>> {
        Ok(Databases { name: &env.app.database, cluster: postgres::cluster(host)?, app: &env.app.name, host })
    }

    fn admin(&self) -> Login {
        self.cluster.superuser("postgres")
    }

    fn record_file(&self) -> String {
        format!("{}/databases.json", app_directory(self.app))
    }

    fn record(&self) -> Result<Record> {
        let path = self.record_file();
        let Some(text) = self.host.read_text(&path, MAX_RECORD)? else { return Ok(Record::default()) };
        serde_json::from_str(&text).with_context(|| format!("{path} is broken"))
    }

    fn write(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_string(record).context("names can be written")?;
        self.host.put(&self.record_file(), text.as_bytes(), 0o600)
    }

    /// The name of a database beside the app's own, cut to what PostgreSQL takes.
    ///
    /// # Errors
    /// The app's database itself has that name.
    pub fn beside(&self, role: Role) -> Result<String> {
        beside(self.name, role)
    }

    async fn exists(&self, name: &str) -> Result<bool> {
        let sql = "SELECT datname::text FROM pg_database WHERE datname = $1";
        Ok(!self.host.query(&self.admin(), sql, &[name]).await?.is_empty())
    }

    /// Whether there is such a database of the appliance's making.
    pub async fn has(&self, role: Role) -> Result<bool> {
        let name = self.beside(role)?;
        Ok(self.record()?.databases.contains(&name) && self.exists(&name).await?)
    }

    /// The names of all that the appliance has made beside the app's own, there or not.
    pub fn made(&self) -> Result<BTreeSet<String>> {
        Ok(self.record()?.databases)
    }

    /// Makes sure that no database of somebody else's has one of the names.
    ///
    /// # Errors
    /// One has, which is named.
    pub async fn refuse_strangers(&self) -> Result<()> {
        let ours = self.record()?.databases;
        for role in Role::ALL {
            let name = self.beside(role)?;
            if !ours.contains(&name) && self.exists(&name).await? {
                bail!(
                    "there is a database {name} that the appliance has not made; it needs that name for a copy of {}. Rename it, or \
                     drop it: dropdb '{name}'",
                    self.name
                );
            }
        }
        Ok(())
    }

    /// Announces that a database of this role is going to be made, of which there is none.
    async fn announce(&self, role: Role) -> Result<String> {
        let name = self.beside(role)?;
        let mut record = self.record()?;
        if !record.databases.contains(&name) {
            if self.exists(&name).await? {
                bail!("there is a database {name} that the appliance has not made; rename it, or drop it");
            }
            record.databases.insert(name.clone());
            self.write(&record)?;
        }
        Ok(name)
    }

    /// Drops a database of the appliance's making, if it is there.
    pub async fn drop(&self, role: Role) -> Result<()> {
        let name = self.beside(role)?;
        let mut record = self.record()?;
        if !record.databases.contains(&name) {
            return Ok(());
        }
        self.end_creation(&name).await?;
        if self.exists(&name).await? {
            let sql = format!("DROP DATABASE {} WITH (FORCE)", quote_identifier(&name));
            self.host.execute_within(DEADLINE, &self.admin(), &name, "drop database", sql).await?;
        }
        record.databases.remove(&name);
        record.is_fresh_ready &= role != Role::Fresh;
        self.write(&record)
    }

    /// Ends what a killed run had the server make under a name: it would go on, and the database would be there when nobody expects it.
    async fn end_creation(&self, name: &str) -> Result<()> {
        let begin = quote_literal(&format!("CREATE DATABASE {} ", quote_identifier(name)));
        self.terminate(name, &format!("state <> 'idle' AND position({begin} in query) > 0")).await
    }

    /// Ends sessions, and waits until they have ended where the server can.
    async fn terminate(&self, object: &str, whose: &str) -> Result<()> {
        // Before version 14 without a time to wait for its end.
        let end = if self.cluster.id.number() >= (14, 0) { "(pid, 60000)" } else { "(pid)" };
        let sql =
            format!("SELECT pg_terminate_backend{end} FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND {whose}");
        self.host.execute_within(ENDING, &self.admin(), object, "end the sessions of", sql).await
    }

    /// Whether there is a database that holds a dump as a whole, to be swapped in.
    pub async fn is_fresh_ready(&self) -> Result<bool> {
        Ok(self.record()?.is_fresh_ready && self.has(Role::Fresh).await?)
    }

    /// The fresh database holds all that it is to hold.
    pub fn set_fresh_ready(&self) -> Result<()> {
        let record = self.record()?;
        self.write(&Record { is_fresh_ready: true, ..record })
    }

    /// Nobody can connect to a database from here on, and nobody is.
    async fn close(&self, name: &str) -> Result<()> {
        // In force before anybody is sent away, or they would be back.
        let sql = format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false", quote_identifier(name));
        self.host.execute(&self.admin(), name, "close", sql).await?;
        self.terminate(name, &format!("datname = {}", quote_literal(name))).await
    }

    async fn open(&self, name: &str) -> Result<()> {
        let sql = format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true", quote_identifier(name));
        self.host.execute(&self.admin(), name, "open", sql).await
    }

    /// Copies the app's database, with all that belongs to it, file by file: nothing is sorted, checked or built anew. Nobody is
    /// connected meanwhile.
    pub async fn copy(&self) -> Result<()> {
        let name = self.name.as_str();
        let copy = self.announce(Role::Before).await?;
        let row = self.properties(name).await?;
        self.close(name).await?;
        let create = creation(&copy, name, &row, self.cluster.id.number())?;
        let made = self.host.execute_within(DEADLINE, &self.admin(), &copy, "create database", create).await;
        let made = match made {
            Ok(()) => self.take_over(name, &copy).await,
            failed => failed,
        };
        self.open(name).await?;
        made.with_context(|| format!("could not copy the database {name}"))
    }

    /// An empty database with all that belongs to the app's own.
    pub async fn create_fresh(&self) -> Result<String> {
        self.drop(Role::Fresh).await?;
        let name = self.name.as_str();
        let fresh = self.announce(Role::Fresh).await?;
        let row = self.properties(name).await?;
        let create = creation(&fresh, "template0", &row, self.cluster.id.number())?;
        self.host.execute_within(DEADLINE, &self.admin(), &fresh, "create database", create).await?;
        self.take_over(name, &fresh).await?;
        Ok(fresh)
    }

    /// A database's row in `pg_database`, whatever columns this version has.
    async fn properties(&self, name: &str) -> Result<serde_json::Value> {
        let sql = "SELECT (to_jsonb(d) || jsonb_build_object('owner', pg_get_userbyid(datdba), 'encoding', pg_encoding_to_char(encoding), \
                   'tablespace', (SELECT spcname FROM pg_tablespace t WHERE t.oid = dattablespace)))::text \
                   FROM pg_database d WHERE datname = $1";
        let row = self.host.query(&self.admin(), sql, &[name]).await?.into_iter().flatten().flatten().next();
        let row = row.with_context(|| format!("there is no database {name}"))?;
        serde_json::from_str(&row)
            .with_context(|| format!("PostgreSQL describes {name} in a way that is not understood"))
    }

    /// Gives a database what CREATE DATABASE does not: settings, also those of roles in it, privileges, comment, security labels.
    async fn take_over(&self, from: &str, to: &str) -> Result<()> {
        let mut sql = String::from("BEGIN; ");
        // As they are stored: what a setting holds was written by the app, and need not be SQL. The rows are of no other catalog's concern.
        sql.push_str(&format!(
            "INSERT INTO pg_db_role_setting (setdatabase, setrole, setconfig) \
             SELECT (SELECT oid FROM pg_database WHERE datname = {to}), setrole, setconfig FROM pg_db_role_setting \
             WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = {from}); ",
            from = quote_literal(from),
            to = quote_literal(to)
        ));
        let ask = async |sql: &'static str| self.host.query(&self.admin(), sql, &[from]).await;
        let texts = |row: Vec<Option<String>>| row.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>();
        let grants = ask(
            "SELECT pg_get_userbyid(a.grantor)::text, CASE a.grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(a.grantee)::text END, \
             a.privilege_type::text, a.is_grantable::text, pg_get_userbyid(d.datdba)::text, (a.grantee = 0)::text \
             FROM pg_database d CROSS JOIN LATERAL aclexplode(d.datacl) a WHERE d.datname = $1",
        )
        .await?;
        let is_default = ask("SELECT (datacl IS NULL)::text FROM pg_database WHERE datname = $1").await?;
        if is_default.into_iter().flatten().flatten().next().as_deref() != Some("true") {
            let grants: Vec<Grant> = grants.into_iter().filter_map(|row| Grant::read(&texts(row))).collect();
            sql.push_str(&privileges(to, &grants));
        }
        let comment = ask("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1").await?;
        if let Some(comment) = comment.into_iter().flatten().flatten().next() {
            sql.push_str(&format!("COMMENT ON DATABASE {} IS {}; ", quote_identifier(to), quote_literal(&comment)));
        }
        let labels = ask("SELECT provider::text, label::text FROM pg_shseclabel JOIN pg_database ON oid = objoid \
                          WHERE classoid = 'pg_database'::regclass AND datname = $1")
        .await?;
        for row in labels {
            if let [provider, label] = &texts(row)[..] {
                let (provider, to) = (quote_identifier(provider), quote_identifier(to));
                sql.push_str(&format!("SECURITY LABEL FOR {provider} ON DATABASE {to} IS {}; ", quote_literal(label)));
            }
        }
        sql.push_str("COMMIT");
        self.host.execute(&self.admin(), to, "take over what belongs to the original of", sql).await
    }

    /// Puts one of the databases in the place of the app's own, which is kept in another role. Both names change in one transaction:
    /// whoever looks finds a whole database.
    pub async fn swap_in(&self, role: Role, kept: Role) -> Result<()> {
        let name = self.name.as_str();
        let (fresh, kept) = (self.beside(role)?, self.announce(kept).await?);
        self.close(name).await?;
        self.close(&fresh).await?;
        let (quoted, admin) = (quote_identifier(name), self.admin());
        let swap = format!(
            "BEGIN; ALTER DATABASE {quoted} RENAME TO {}; ALTER DATABASE {} RENAME TO {quoted}; COMMIT",
            quote_identifier(&kept),
            quote_identifier(&fresh)
        );
        let swapped = self.host.execute(&admin, name, "swap in another database for", swap).await;
        self.open(name).await?;
        swapped
    }

    /// Takes away what a copy that was cut off has left: a part of it, and the closed door of the app's own database.
    pub async fn leave_copying(&self) -> Result<()> {
        self.drop(Role::Before).await?;
        if self.has_own().await? { self.reopen().await } else { Ok(()) }
    }

    /// Lets the app connect to its own database again, of which a killed run had closed the door.
    pub async fn reopen(&self) -> Result<()> {
        self.open(self.name.as_str()).await
    }

    /// Whether the app's own database is there.
    pub async fn has_own(&self) -> Result<bool> {
        self.exists(self.name.as_str()).await
    }

    /// The size of the app's own, in bytes.
    pub async fn size(&self) -> Result<u64> {
        let sql = "SELECT pg_database_size(datname)::text FROM pg_database WHERE datname = $1";
        let size =
            self.host.query(&self.admin(), sql, &[self.name.as_str()]).await?.into_iter().flatten().flatten().next();
        size.and_then(|size| size.parse().ok()).with_context(|| format!("there is no database {}", self.name))
    }
}

fn beside(name: &DatabaseName, role: Role) -> Result<String> {
    let suffix = role.suffix();
    let mut end = name.as_str().len().min(MAX_NAME - suffix.len());
    while !name.as_str().is_char_boundary(end) {
        end -= 1;
    }
    let beside = format!("{}{suffix}", &name.as_str()[..end]);
    if beside == name.as_str() {
        bail!("a database must not be called {beside}: the appliance uses that name for a copy of it");
    }
    Ok(beside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beside_are_cut_and_never_within_a_character() {
        let long: DatabaseName = "ä".repeat(31).parse().expect("62 bytes are a name");
        let name = beside(&long, Role::Failed).expect("another name");
        assert!(name.len() <= MAX_NAME && name.ends_with("ä_failed"), "{name}");
        let short: DatabaseName = "shop".parse().expect("a name");
        assert_eq!(beside(&short, Role::Before).expect("another name"), "shop_before");
        let taken: DatabaseName = format!("{}_failed", "a".repeat(56)).parse().expect("63 bytes are a name");
        assert!(beside(&taken, Role::Failed).is_err());
    }
}
