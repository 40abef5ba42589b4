//! What is in a cluster, counted: by it a copy is compared with its original. Debian's tool does not look at whether everything came
//! through.

use super::cluster::Cluster;
use crate::host::{Cmd, Host, What};
use crate::value::Owner;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long counting one database may take: every row is read.
const COUNTING: Duration = Duration::from_secs(3600);
/// How many differences are named.
const NAMED: usize = 5;

/// Lines like `notes: table public.note: 17 rows`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census(BTreeSet<String>);

/// Counts everything in all databases that can be connected to. What belongs to an extension differs from version to version.
pub async fn take(cluster: &Cluster, host: &Host) -> Result<Census> {
    let mut all = BTreeSet::new();
    for database in databases(cluster, host).await? {
        let counted = host.first_value(&cluster.superuser(&database), CONTENTS.to_owned(), COUNTING).await;
        let counted =
            counted.with_context(|| format!("could not count what is in the database {database} of {}", cluster.id))?;
        all.extend(counted.unwrap_or_default().lines().map(|line| format!("{database}: {line}")));
    }
    let roles = host.query(&cluster.superuser("postgres"), ROLES, &[]).await?;
    all.extend(roles.into_iter().flatten().flatten());
    Ok(Census(all))
}

/// The databases that can be connected to.
pub async fn databases(cluster: &Cluster, host: &Host) -> Result<Vec<String>> {
    let sql = "SELECT datname::text FROM pg_database WHERE datallowconn ORDER BY datname";
    Ok(host.query(&cluster.superuser("postgres"), sql, &[]).await?.into_iter().flatten().flatten().collect())
}

/// Fills the materialized views of a copy that have data in the original: Debian's tool leaves them without. One may need another, so they
/// are filled in the order in which they were made.
pub async fn refresh(original: &Census, copy: &Cluster, deadline: Duration, host: &Host) -> Result<()> {
    let sql = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind = 'm' AND NOT c.relispopulated ORDER BY c.oid";
    for database in databases(copy, host).await? {
        for view in host.query(&copy.superuser(&database), sql, &[]).await?.into_iter().flatten().flatten() {
            if original.0.contains(&format!("{database}: materialized view {view}: without data")) {
                continue;
            }
            let statement = format!("REFRESH MATERIALIZED VIEW {view}");
            let cmd =
                Cmd::new(&copy.program("psql"), ["--no-psqlrc", "--quiet", "--no-password", "--command", &statement])
                    .env("PGHOST", "/var/run/postgresql")
                    .env("PGPORT", copy.port.to_string())
                    .env("PGUSER", "postgres")
                    .env("PGDATABASE", &database)
                    .deadline(deadline);
            host.act(What::Database, &database, &format!("fill {view}"), cmd).await?;
        }
    }
    Ok(())
}

/// What somebody has put elsewhere.
pub async fn tablespaces(cluster: &Cluster, host: &Host) -> Result<Vec<String>> {
    let sql =
        "SELECT spcname::text FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY spcname";
    Ok(host.query(&cluster.superuser("postgres"), sql, &[]).await?.into_iter().flatten().flatten().collect())
}

/// Whether nobody has put anything into a cluster since it was made. It is asked as the system's user postgres, since nobody else is
/// let into one that is not the appliance's.
pub async fn is_empty(cluster: &Cluster, host: &Host) -> Result<bool> {
    let postgres: Owner = "postgres".parse().context("a user name is an owner")?;
    let ids = host.ids(&postgres)?;
    let ask = async |database: &str, sql: &str| {
        let args =
            ["--no-psqlrc", "--no-password", "--tuples-only", "--no-align", "--dbname", database, "--command", sql];
        let cmd = Cmd::new(&cluster.program("psql"), args)
            .env("PGHOST", "/var/run/postgresql")
            .env("PGPORT", cluster.port.to_string())
            .directory("/")
            .ids(ids)
            .deadline(COUNTING);
        let told = host.ask(cmd).await.with_context(|| format!("could not look into {}", cluster.id))?.stdout;
        anyhow::Ok(told.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let mut lines =
        ask("postgres", "SELECT datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1')")
            .await?;
    lines.extend(
        ask("postgres", "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> 'postgres'").await?,
    );
    for database in ["postgres", "template1"] {
        let is_stock = |line: &String| ["extension plpgsql", "large objects: 0"].contains(&line.as_str());
        lines.extend(ask(database, CONTENTS).await?.into_iter().filter(|line| !is_stock(line)));
    }
    Ok(lines.is_empty())
}

/// The bytes of all databases.
pub async fn size(cluster: &Cluster, host: &Host) -> Result<u64> {
    let sql = "SELECT sum(pg_database_size(oid))::text FROM pg_database";
    let told = host.query(&cluster.superuser("postgres"), sql, &[]).await?.into_iter().flatten().flatten().next();
    told.and_then(|told| told.parse().ok()).with_context(|| format!("{} tells no size", cluster.id))
}

impl Census {
    /// The first differences, in words.
    pub fn difference(&self, copy: &Census) -> Option<String> {
        let missing = self.0.difference(&copy.0).map(|line| format!("- {line}"));
        let more = copy.0.difference(&self.0).map(|line| format!("+ {line}"));
        let all: Vec<String> = missing.chain(more).take(NAMED).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

const ROLES: &str = "SELECT concat('role ', quote_ident(rolname), ' ', rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, ' ') || \
                     md5(coalesce(rolpassword, '')) FROM pg_authid WHERE rolname !~ '^pg_' ORDER BY 1";

/// Rows of tables, values of sequences, and the names of everything else.
const CONTENTS: &str = r"
WITH own AS (
    SELECT c.oid, c.relkind, c.relispopulated, format('%I.%I', n.nspname, c.relname) AS name
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
    AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
), lines AS (
    SELECT 'table ' || name || ': ' || (xpath('/row/n/text()', query_to_xml('SELECT count(*) AS n FROM ' || name, false, true, '')))[1]
           || ' rows' AS line
    FROM own WHERE relkind = 'r'
    UNION ALL
    -- Its rows are those of the moment when it was refreshed, and a copy is refreshed now.
    SELECT 'materialized view ' || name || CASE WHEN relispopulated THEN '' ELSE ': without data' END
    FROM own WHERE relkind = 'm'
    UNION ALL
    SELECT 'sequence ' || name || ': ' || (xpath('/row/n/text()', query_to_xml('SELECT last_value AS n FROM ' || name, false, true, '')))[1]
    FROM own WHERE relkind = 'S'
    UNION ALL
    SELECT CASE relkind WHEN 'v' THEN 'view ' WHEN 'i' THEN 'index ' WHEN 'p' THEN 'partitioned table ' WHEN 'I' THEN 'partitioned index '
           ELSE 'relation ' END || name
    FROM own WHERE relkind NOT IN ('r', 'm', 'S', 't')
    UNION ALL
    SELECT 'constraint ' || quote_ident(o.conname) || ' of ' || own.name
    FROM pg_catalog.pg_constraint o JOIN own ON own.oid = o.conrelid WHERE o.contype IN ('p', 'u', 'f', 'c', 'x')
    UNION ALL
    SELECT 'trigger ' || quote_ident(t.tgname) || ' of ' || own.name
    FROM pg_catalog.pg_trigger t JOIN own ON own.oid = t.tgrelid WHERE NOT t.tgisinternal
    UNION ALL
    SELECT 'function ' || p.oid::regprocedure
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND NOT EXISTS (
        SELECT 1 FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
    UNION ALL
    SELECT 'extension ' || quote_ident(extname) FROM pg_catalog.pg_extension
    UNION ALL
    SELECT 'large objects: ' || count(*) FROM pg_catalog.pg_largeobject_metadata
)
SELECT string_agg(replace(line, E'\n', ' '), E'\n') FROM lines";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_and_what_is_more_is_named() {
        let of = |lines: &[&str]| Census(lines.iter().map(|line| (*line).to_owned()).collect());
        let original = of(&["a: table public.x: 3 rows", "role app"]);
        assert_eq!(original.difference(&original), None);
        let said = original.difference(&of(&["a: table public.x: 2 rows", "role app"])).expect("a difference");
        assert_eq!(said, "- a: table public.x: 3 rows; + a: table public.x: 2 rows");
    }
}
