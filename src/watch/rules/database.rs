//! Rules about PostgreSQL.

use super::{Judge, first, key, on};
use crate::alert::{Condition, Key};
use crate::value::rule::{
    DATABASE_AWAY, DATABASE_COLLATION, DATABASE_CONNECTIONS, DATABASE_TRANSACTION, DATABASE_WRAPAROUND, DISK_FULL,
};
use crate::watch::facts::{Database, Disk, Slow};

/// PostgreSQL stops writing when a row is two billion transactions old, less three millions ("Preventing Transaction ID Wraparound
/// Failures"); three quarters of that.
const OLDEST: u64 = 1_500_000_000;

impl Judge<'_> {
    pub(super) fn database(&self, slow: &Slow, disks: &[Disk]) -> Vec<Condition> {
        match &slow.database {
            None => Vec::new(),
            Some(Err(why)) => {
                let summary = format!("PostgreSQL takes no connection: {}", first(why));
                let remedy = "pg_lsclusters; journalctl -u 'postgresql*'; ls /var/log/postgresql";
                // A full disk is why.
                let parents: Vec<Key> = disks.iter().map(|disk| key(&DISK_FULL, &disk.place)).collect();
                vec![Condition { parents, ..on(&DATABASE_AWAY, "", summary, remedy) }]
            }
            Some(Ok(known)) => self.known_database(known),
        }
    }

    fn known_database(&self, known: &Database) -> Vec<Condition> {
        let Database { connections, most, transaction_s, age, sorted_otherwise } = known;
        let mut found = Vec::new();
        if connections * 100 > most * u64::from(self.limits.percent(&DATABASE_CONNECTIONS)) {
            let summary = format!("{connections} of PostgreSQL's {most} connections are taken");
            let remedy = "psql -U postgres -c 'SELECT state, count(*) FROM pg_stat_activity GROUP BY 1'";
            found.push(on(&DATABASE_CONNECTIONS, "", summary, remedy));
        }
        if *transaction_s > self.limits.seconds(&DATABASE_TRANSACTION) {
            let summary =
                format!("a transaction has been open for {} minutes; it holds up vacuuming", transaction_s / 60);
            let remedy =
                "psql -U postgres -c 'SELECT pid, state, xact_start FROM pg_stat_activity ORDER BY xact_start'";
            found.push(on(&DATABASE_TRANSACTION, "", summary, remedy));
        }
        if *age > OLDEST {
            let summary =
                format!("the oldest transaction is {} millions old; at 2000 PostgreSQL stops writing", age / 1_000_000);
            let remedy = "end old transactions, then: vacuumdb -U postgres --all --freeze";
            found.push(on(&DATABASE_WRAPAROUND, "", summary, remedy));
        }
        for database in sorted_otherwise {
            let summary = format!("the system sorts otherwise than when the indexes of database {database} were made");
            // A name that somebody chose must not be a command of root's.
            let is_plain = database.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            let database = if is_plain { database.as_str() } else { "NAME" };
            let remedy = format!(
                "reindexdb -U postgres {database}; psql -U postgres -c 'ALTER DATABASE \"{database}\" REFRESH COLLATION VERSION'"
            );
            found.push(on(&DATABASE_COLLATION, database, summary, remedy));
        }
        found
    }
}
