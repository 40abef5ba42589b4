//! What PostgreSQL says of itself. Asked as superuser in a database of its own, where nothing of an app's can be found by name.

use crate::host::{Host, Login};
use crate::prepare::postgres;
use anyhow::{Context, Result};

/// Connections of clients, the most that there may be, how long the oldest transaction of an app's has been open in seconds, the age of the
/// oldest row's transaction, and the version. Backups and dumps are superuser's, and take as long as they take.
const ASK: &str = "SELECT
    (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend')::text,
    pg_catalog.current_setting('max_connections'),
    (SELECT greatest(coalesce(pg_catalog.max(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start))::bigint, 0), 0)
        FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
        WHERE a.backend_type = 'client backend' AND NOT r.rolsuper)::text,
    (SELECT pg_catalog.max(pg_catalog.age(datfrozenxid)) FROM pg_catalog.pg_database)::text,
    pg_catalog.current_setting('server_version_num')";

/// Databases that were sorted otherwise than the system sorts now. The version is known since PostgreSQL 15.
const COLLATIONS: &str = "SELECT datname::text FROM pg_catalog.pg_database
    WHERE datallowconn AND datcollversion <> pg_catalog.pg_database_collation_actual_version(oid) ORDER BY 1";
const COLLATIONS_SINCE: u64 = 150_000;

/// What is known of PostgreSQL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Database {
    pub connections: u64,
    pub most: u64,
    /// How long an app's oldest transaction has been open, in seconds.
    pub transaction_s: i64,
    /// How many transactions ago the oldest was that is not frozen.
    pub age: u64,
    /// Databases whose collation has another version now.
    pub sorted_otherwise: Vec<String>,
}

/// Asks it; none where there is no cluster yet.
///
/// # Errors
/// It takes no connection, and why.
pub async fn ask(host: &Host) -> Result<Option<Database>> {
    let Some(cluster) = postgres::find(host)? else { return Ok(None) };
    let login: Login = cluster.superuser("postgres");
    let rows = host.query(&login, ASK, &[]).await?;
    let row = rows.into_iter().next().context("PostgreSQL says nothing of itself")?;
    let number = |place: usize| row.get(place).and_then(|text| text.as_ref()?.parse::<u64>().ok());
    let numbers = [0, 1, 2, 3, 4].map(number);
    let [Some(connections), Some(most), Some(transaction), Some(age), Some(version)] = numbers else {
        anyhow::bail!("PostgreSQL says of itself what is no number: {row:?}");
    };
    let sorted_otherwise = match version >= COLLATIONS_SINCE {
        true => {
            host.query(&login, COLLATIONS, &[]).await?.into_iter().filter_map(|row| row.into_iter().next()?).collect()
        }
        false => Vec::new(),
    };
    let transaction_s = i64::try_from(transaction).unwrap_or(i64::MAX);
    Ok(Some(Database { connections, most, transaction_s, age, sorted_otherwise }))
}
