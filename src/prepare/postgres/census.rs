//! What is in a cluster, counted: by it a copy is compared with its original.

use super::cluster::Cluster;
use crate::host::{Host, Login};
use crate::value::Owner;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long counting one database may take: every row is read.
const COUNTING: Duration = Duration::from_secs(3600);
/// How many differences are named.
const NAMED: usize = 5;

/// Lines like `notes: table public.note: 17 rows`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census(BTreeSet<String>);

/// Counts everything in all databases that can be connected to, in the app's own logged in as the app: whoever plans a query of a table
/// runs functions that its indexes and statistics name. What belongs to an extension differs from version to version.
pub async fn take(cluster: &Cluster, app: &Login, host: &Host) -> Result<Census> {
    let mut all = BTreeSet::new();
    let whose = whose(cluster, host).await?;
    let as_app = whose.of_the_app.iter().map(|database| (database, app.in_database(database).pinned()));
    let others = whose.others.iter().map(|database| (database, cluster.superuser(database)));
    for (database, login) in as_app.chain(others) {
        let counted = host.first_value(&login, CONTENTS.to_owned(), COUNTING).await;
        let counted =
            counted.with_context(|| format!("could not count what is in the database {database} of {}", cluster.id))?;
        all.extend(counted.unwrap_or_default().lines().map(|line| format!("{database}: {line}")));
    }
    let roles = host.query(&cluster.superuser("postgres"), ROLES, &[]).await?;
    all.extend(roles.into_iter().flatten().flatten());
    Ok(Census(all))
}

/// The databases of the app's role, and those that nobody can connect to.
pub struct Whose {
    pub of_the_app: Vec<String>,
    pub others: Vec<String>,
    /// Not the app's, and closed: what is in them cannot be read.
    pub closed: Vec<String>,
}

/// Whose database is which. One of the app's that is closed was gone back from, and is no part of a copy.
pub async fn whose(cluster: &Cluster, host: &Host) -> Result<Whose> {
    let sql = "SELECT datname::text, (pg_get_userbyid(datdba) = 'app')::text, datallowconn::text FROM pg_database \
               WHERE datname <> 'template0' ORDER BY datname";
    let mut all = Whose { of_the_app: Vec::new(), others: Vec::new(), closed: Vec::new() };
    for row in host.query(&cluster.superuser("postgres"), sql, &[]).await? {
        let row: Vec<String> = row.into_iter().flatten().collect();
        let [name, is_apps, is_open] = &row[..] else { bail!("{} tells too little of a database", cluster.id) };
        match (is_apps == "true", is_open == "true") {
            (true, true) => all.of_the_app.push(name.clone()),
            (true, false) => {}
            (false, true) => all.others.push(name.clone()),
            (false, false) => all.closed.push(name.clone()),
        }
    }
    Ok(all)
}

/// What is not where it belongs: things of the app's role in others' databases, which the superuser would restore with all that they run;
/// and things of others in the app's, which would become the app's.
pub async fn strangers(cluster: &Cluster, whose: &Whose, host: &Host) -> Result<Vec<String>> {
    let first = |rows: Vec<Vec<Option<String>>>| rows.into_iter().flatten().flatten().collect::<Vec<String>>();
    let sql = "SELECT concat('the role app owns something in the database ', d.datname) \
               FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid \
               WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = (SELECT oid FROM pg_authid WHERE rolname = 'app') \
               AND s.deptype = 'o' AND pg_get_userbyid(d.datdba) <> 'app' GROUP BY d.datname ORDER BY d.datname";
    let mut all = first(host.query(&cluster.superuser("postgres"), sql, &[]).await?);
    for database in &whose.of_the_app {
        let found = first(host.query(&cluster.superuser(database), OWNED_BY_OTHERS, &[]).await?);
        all.extend(found.into_iter().map(|thing| format!("in the database {database}, {thing}")));
    }
    Ok(all)
}

/// What the role app does not own, extensions and what is in them apart; at most some of each kind.
const OWNED_BY_OTHERS: &str = r"
WITH own AS (SELECT oid FROM pg_authid WHERE rolname = 'app'),
schemas AS (SELECT oid, nspname, CASE WHEN oid IN (SELECT extnamespace FROM pg_extension) THEN (SELECT oid FROM own) ELSE nspowner END AS nspowner
            FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'),
parts AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e')
(SELECT format('%s belongs to %s', c.oid::regclass, pg_get_userbyid(c.relowner)) FROM pg_class c JOIN schemas n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relowner NOT IN (SELECT oid FROM own)
 AND NOT EXISTS (SELECT 1 FROM parts WHERE classid = 'pg_class'::regclass AND objid = c.oid) LIMIT 3)
UNION ALL
(SELECT format('the function %s belongs to %s', p.oid::regprocedure, pg_get_userbyid(p.proowner)) FROM pg_proc p JOIN schemas n ON n.oid = p.pronamespace
 WHERE p.proowner NOT IN (SELECT oid FROM own)
 AND NOT EXISTS (SELECT 1 FROM parts WHERE classid = 'pg_proc'::regclass AND objid = p.oid) LIMIT 3)
UNION ALL
(SELECT format('the schema %I belongs to %s', n.nspname, pg_get_userbyid(n.nspowner)) FROM schemas n
 WHERE n.nspname <> 'public' AND n.nspowner NOT IN (SELECT oid FROM own)
 AND NOT EXISTS (SELECT 1 FROM parts WHERE classid = 'pg_namespace'::regclass AND objid = n.oid) LIMIT 3)
UNION ALL
(SELECT format('the type %s belongs to %s', t.oid::regtype, pg_get_userbyid(t.typowner)) FROM pg_type t JOIN schemas n ON n.oid = t.typnamespace
 WHERE t.typowner NOT IN (SELECT oid FROM own) AND t.typtype IN ('e', 'd', 'r', 'c', 'b') AND t.typelem = 0
 AND (t.typrelid = 0 OR EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
 AND NOT EXISTS (SELECT 1 FROM parts WHERE classid = 'pg_type'::regclass AND objid = t.oid) LIMIT 3)
UNION ALL
(SELECT format('the function %s is in the language %s, in which only a superuser can make one', p.oid::regprocedure, l.lanname)
 FROM pg_proc p JOIN schemas n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
 WHERE NOT l.lanpltrusted AND l.lanname <> 'sql' AND p.proowner IN (SELECT oid FROM own)
 AND NOT EXISTS (SELECT 1 FROM parts WHERE classid = 'pg_proc'::regclass AND objid = p.oid) LIMIT 3)
UNION ALL
(SELECT format('there are default privileges of the role %s', pg_get_userbyid(defaclrole)) FROM pg_default_acl
 WHERE defaclrole NOT IN (SELECT oid FROM own) GROUP BY defaclrole LIMIT 3)
UNION ALL
(SELECT format('the event trigger %I belongs to %s', evtname, pg_get_userbyid(evtowner)) FROM pg_event_trigger e
 WHERE NOT EXISTS (SELECT 1 FROM parts WHERE classid = 'pg_event_trigger'::regclass AND objid = e.oid) LIMIT 3)
UNION ALL
(SELECT format('the publication %I belongs to %s', pubname, pg_get_userbyid(pubowner)) FROM pg_publication
 WHERE pubowner NOT IN (SELECT oid FROM own) OR puballtables LIMIT 3)
UNION ALL
(SELECT format('the foreign server %I belongs to %s', srvname, pg_get_userbyid(srvowner)) FROM pg_foreign_server
 WHERE srvowner NOT IN (SELECT oid FROM own) LIMIT 3)
UNION ALL
(SELECT format('the large object %s belongs to %s', oid, pg_get_userbyid(lomowner)) FROM pg_largeobject_metadata
 WHERE lomowner NOT IN (SELECT oid FROM own) LIMIT 3)";

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
        let cmd = cluster
            .superuser(database)
            .client(&cluster.program("psql"), args)
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

/// The bytes of all databases, and of the largest.
pub async fn sizes(cluster: &Cluster, host: &Host) -> Result<(u64, u64)> {
    let sql = "SELECT pg_database_size(oid)::text FROM pg_database";
    let told = host.query(&cluster.superuser("postgres"), sql, &[]).await?;
    let sizes: Vec<u64> = told.into_iter().flatten().flatten().filter_map(|size| size.parse().ok()).collect();
    let largest = sizes.iter().max().with_context(|| format!("{} tells no size", cluster.id))?;
    Ok((sizes.iter().sum(), *largest))
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
pub const CONTENTS: &str = r"
WITH own AS (
    SELECT c.oid, c.relkind, c.relispopulated, c.relforcerowsecurity, format('%I.%I', n.nspname, c.relname) AS name
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
    AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
), lines AS (
    SELECT 'table ' || name || ': ' || (xpath('/row/n/text()', query_to_xml('SELECT count(*) AS n FROM ONLY ' || name, false, true, '')))[1]
           || ' rows' AS line
    FROM own WHERE relkind = 'r' AND NOT relforcerowsecurity
    UNION ALL
    -- Who counts sees what its policies show.
    SELECT 'table ' || name || ', rows not counted: row security is forced' FROM own WHERE relkind = 'r' AND relforcerowsecurity
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
    -- One that was not built to its end is no part of a dump.
    AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_index i WHERE i.indexrelid = own.oid AND own.relkind = 'i' AND NOT i.indisvalid)
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
