//! Another major version of PostgreSQL, on a Debian 13 that was a Debian 12: gone to, come back from, whatever is killed; the old data is
//! kept until somebody says otherwise.

use super::intruder::{PAYLOAD, as_app, stolen, try_the_payload};
use crate::host::apps::*;
use crate::host::sample::{is_soak, seed};
use crate::host::{Machine, wait_for};
use std::time::Duration;

/// What a plain copy could lose.
const CONTENTS: &str = r#"
CREATE ROLE reader LOGIN PASSWORD 'secret of reader';
CREATE DATABASE "od d""ity" OWNER reader;
\connect "od d""ity"
CREATE TABLE "T a" (n bigserial PRIMARY KEY, t text UNIQUE, parent bigint REFERENCES "T a");
INSERT INTO "T a" (t, parent) SELECT md5(n::text), nullif(n / 2, 0) FROM generate_series(1, 20000) n;
CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM "T a";
CREATE MATERIALIZED VIEW seen_again AS SELECT count * 2 AS twice FROM seen;
CREATE MATERIALIZED VIEW "Never" AS SELECT 1 WITH NO DATA;
CREATE VIEW half AS SELECT * FROM "T a" WHERE n % 2 = 0;
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT 2 * $1';
CREATE TABLE parted (n int) PARTITION BY RANGE (n);
CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (100);
INSERT INTO parted SELECT generate_series(0, 99);
CREATE INDEX by_half ON "T a" (twice(n::int));
SELECT lo_from_bytea(0, 'large');
GRANT SELECT ON seen TO app;
"#;

fn in_use(machine: &Machine) -> String {
    machine.ok("appliance postgres show --json | jq -r '.in_use + \" \" + (.kept // \"none\")'").trim().to_owned()
}

/// What is in it, beside the notes.
fn contents(machine: &Machine) -> String {
    let sql = r#"SELECT count(*), md5(string_agg(t, ',' ORDER BY n)), (SELECT * FROM seen), (SELECT * FROM seen_again), (SELECT count(*) FROM parted), twice(4),
                 (SELECT last_value FROM "T a_n_seq"), convert_from((SELECT lo_get(oid) FROM pg_largeobject_metadata LIMIT 1), 'UTF8') FROM "T a""#;
    machine.put("/root/look.sql", sql, 0o644);
    machine.ok("psql -U postgres -At -d 'od d\"ity' -f /root/look.sql")
}

fn wait_for_notes(machine: &Machine, expected: &[&str]) {
    wait_for("the notes", UP, || {
        let (code, body) = get(machine, "/notes");
        let value: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let seen: Vec<&str> =
            value["notes"].as_array().into_iter().flatten().filter_map(|note| note.as_str()).collect();
        if code == 200 && seen == expected { Ok(()) } else { Err(format!("{code} {body:.300}")) }
    });
}

fn settle(machine: &Machine) {
    wait_for("nothing on its way", UP, || {
        let releases = machine.ok("appliance releases --json");
        let value: serde_json::Value = serde_json::from_str(&releases).unwrap_or_default();
        if value["in_flight"].is_null() { Ok(()) } else { Err(releases) }
    });
    wait_for_phase(machine, "running");
}

#[test]
fn another_major_version_is_gone_to_and_come_back_from() {
    let machine = Machine::boot_trixie("major");
    // On an upgraded host the old one was first.
    machine
        .ok("set -e; pg_dropcluster --stop 17 main; pg_lsclusters -h | grep -q . || pg_createcluster --start 15 main");
    start_notes(&machine, "v1");
    wait_for_phase(&machine, "running");
    keep_note(&machine, "on 15");
    machine.put("/root/contents.sql", CONTENTS, 0o644);
    machine.ok("psql -U postgres -q -v ON_ERROR_STOP=1 -f /root/contents.sql");
    let before = contents(&machine);
    assert_eq!(in_use(&machine), "15/main none");

    // The distribution brings a newer one, which is empty: nobody moves there by themselves.
    machine.ok("pg_createcluster --start 17 main");
    machine.ok("systemctl restart appliance-supervisor");
    wait_for_phase(&machine, "running");
    assert_eq!((in_use(&machine), machine.sh("appliance plan").code), ("15/main none".to_owned(), 0));
    let out = machine.sh("appliance postgres upgrade");
    assert!(out.code == 1 && out.stderr.contains("nothing was done. With --yes it is"), "{}", out.all());
    // Somebody's own data is not written over.
    machine.ok("runuser -u postgres -- psql -p 5433 -qc 'CREATE TABLE theirs (n int)'");
    let out = machine.sh("appliance postgres upgrade --yes");
    assert!(out.code == 1 && out.stderr.contains("17/main is there already and is not empty"), "{}", out.all());
    machine.ok("runuser -u postgres -- psql -p 5433 -qc 'DROP TABLE theirs'");

    // A copy that lost something is not gone to.
    let spoil = |how: &str| {
        // Debian's own hook calls it too, for the empty cluster.
        let script = format!(
            "#!/bin/sh\n/usr/lib/postgresql/17/bin/vacuumdb.whole \"$@\" || exit\ncase $* in *--analyze-only*)\n\
             exec psql -U postgres -p \"$PGPORT\" -d 'od d\"ity' -qc {how};;\nesac\n"
        );
        machine.put("/root/vacuumdb", &script, 0o755);
        machine.ok("cd /usr/lib/postgresql/17/bin && mv vacuumdb vacuumdb.whole && cp /root/vacuumdb vacuumdb");
    };
    let mend = || machine.ok("cd /usr/lib/postgresql/17/bin && mv vacuumdb.whole vacuumdb");
    spoil("'DELETE FROM public.\"T a\" WHERE n = 20000'");
    let out = machine.sh("appliance postgres upgrade --yes");
    assert!(
        out.code == 1 && out.stderr.contains("the copy is not the same: - od d\"ity: table public.\"T a\": 20000 rows"),
        "{}{}",
        out.all(),
        machine.ok("journalctl -u appliance-postgres -o cat -n 40 --no-pager")
    );
    mend();
    assert_eq!(in_use(&machine), "15/main none");
    wait_for_notes(&machine, &["on 15"]);
    machine.ok("test ! -e /var/lib/postgresql/17/main && test ! -e /etc/postgresql/17/main");

    // Killed at any moment: the old one is in use again, or the new one is. By the watcher, or by the next boot.
    let rounds = if is_soak() { 12 } else { 3 };
    let mut cut = seed();
    for round in 1..=rounds {
        cut = cut.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let seconds = 2.0 + f64::from(cut >> 16) / 65536.0 * 18.0;
        if round % 3 == 0 {
            let mut child = machine.spawn("appliance postgres upgrade --yes");
            std::thread::sleep(Duration::from_secs_f64(seconds));
            machine.power_cut();
            drop(child.wait());
            machine.start();
        } else {
            let out = machine.sh(&format!("timeout -s KILL {seconds:.2} appliance postgres upgrade --yes"));
            println!("killed after {seconds:.2} s: {}", out.all());
            assert!([0, 137].contains(&out.code), "{}", out.all());
        }
        settle(&machine);
        wait_for_notes(&machine, &["on 15"]);
        assert_eq!(contents(&machine), before);
        if in_use(&machine) == "17/main 15/main" {
            println!("it got through");
            machine.ok("appliance postgres back --yes");
        }
        // One that the app was on, or was tried on, is kept.
        if in_use(&machine) == "15/main 17/main" {
            machine.ok("appliance postgres forget --yes");
        }
        assert_eq!(in_use(&machine), "15/main none");
    }

    // Killed while the app is tried on it: back to the old one, and the new one is kept, since the app may have written there.
    let mut child = machine.spawn("appliance postgres upgrade --yes");
    wait_for("the trial", UP, || {
        let record = machine.get("/var/lib/appliance/postgres.json");
        if record.contains("trial") { Ok(()) } else { Err(record) }
    });
    machine.ok("pkill -KILL -f 'appliance postgres upgrad[e]'");
    drop(child.wait());
    settle(&machine);
    wait_for_notes(&machine, &["on 15"]);
    assert_eq!(in_use(&machine), "15/main 17/main");
    machine.ok("appliance postgres forget --yes");

    // An app that does not come up on it, which takes its time, goes back.
    if is_soak() {
        spoil("'ALTER DATABASE notes CONNECTION LIMIT 0'");
        let out = machine.sh_for(1800, "appliance postgres upgrade --yes");
        assert!(
            out.code == 1 && out.stderr.contains("the app did not come up on 17/main, so 15/main is in use again"),
            "{}",
            out.all()
        );
        mend();
        wait_for_notes(&machine, &["on 15"]);
        assert_eq!(in_use(&machine), "15/main 17/main");
        machine.ok("appliance postgres forget --yes");
    }
    // Data that no configuration knows of is not written over, nor taken away.
    machine.ok(
        "install -d -o postgres -g postgres /var/lib/postgresql/17/main && touch /var/lib/postgresql/17/main/precious",
    );
    let out = machine.sh("appliance postgres upgrade --yes");
    assert!(out.code == 1 && out.stderr.contains("that is no cluster; move it away"), "{}", out.all());
    machine.ok("rm /var/lib/postgresql/17/main/precious && rmdir /var/lib/postgresql/17/main");
    machine.put("/etc/postgresql/15/main/conf.d/own.conf", "log_min_duration_statement = 4321\n", 0o644);

    machine.ok("psql -U postgres -qc \"ALTER SYSTEM SET work_mem = '7MB'\"");
    let said = machine.sh("appliance postgres upgrade --yes");
    assert!(said.code == 0 && said.stdout.contains("17/main is in use now; 15/main is kept"), "{}", said.all());
    assert_eq!(in_use(&machine), "17/main 15/main");
    wait_for_notes(&machine, &["on 15"]);
    assert_eq!(contents(&machine), before);
    keep_note(&machine, "on 17");
    let sql = "SELECT current_setting('server_version_num')::int / 10000, current_setting('port'), current_setting('listen_addresses')";
    assert_eq!(machine.ok(&format!("psql -U postgres -Atc \"{sql}\"")), "17|5432|localhost,172.17.0.1\n");
    assert_eq!(
        machine.ok("psql -U postgres -Atc 'SHOW log_min_duration_statement'"),
        "4321ms\n",
        "the operator's own setting"
    );
    assert_eq!(machine.ok("psql -U postgres -Atc 'SHOW work_mem'"), "7MB\n", "set by ALTER SYSTEM");
    machine.ok("PGPASSWORD='secret of reader' psql -h 127.0.0.1 -U reader -d 'od d\"ity' -Atc 'SELECT 1'");
    assert_eq!(machine.ok("appliance prepare"), "nothing to do\n");
    assert_eq!(
        machine.ok("appliance postgres upgrade --yes"),
        "nothing to do: the newest PostgreSQL that is installed is in use\n"
    );
    machine.reboot();
    wait_for_phase(&machine, "running");
    wait_for_notes(&machine, &["on 15", "on 17"]);
    assert_eq!(machine.ok("pg_lsclusters -h | awk '{print $1, $3, $4}'"), "15 5433 down\n17 5432 online\n");

    // Cut off once the app was good and in use: nobody goes back behind that.
    machine.ok("jq -c '.change = {trial: {from: .kept, port: 5432}}' /var/lib/appliance/postgres.json > /root/r && cat /root/r > /var/lib/appliance/postgres.json");
    machine.ok("appliance prepare --step postgres");
    assert_eq!(in_use(&machine), "17/main 15/main");
    machine.ok("jq -e '.change == null' /var/lib/appliance/postgres.json");

    // One that cannot run any more is not gone back to.
    machine.ok("mv /var/lib/postgresql/15/main /var/lib/postgresql/15/away");
    let out = machine.sh("appliance postgres back --yes");
    assert!(out.code == 1 && out.stderr.contains("15/main cannot run"), "{}", out.all());
    wait_for_notes(&machine, &["on 15", "on 17"]);
    machine.ok("mv /var/lib/postgresql/15/away /var/lib/postgresql/15/main");

    // Back, forth, and for good.
    machine.ok("appliance postgres back --yes");
    assert_eq!(in_use(&machine), "15/main 17/main");
    wait_for_notes(&machine, &["on 15"]);
    let out = machine.sh("appliance postgres upgrade --yes");
    assert!(out.code == 1 && out.stderr.contains("17/main is kept, since it was gone back from"), "{}", out.all());
    let out = machine.sh("timeout -s KILL 3 appliance postgres back --yes");
    assert!([0, 137].contains(&out.code), "{}", out.all());
    settle(&machine);
    if in_use(&machine) == "15/main 17/main" {
        machine.ok("appliance postgres back --yes");
    }
    assert_eq!(in_use(&machine), "17/main 15/main");
    wait_for_notes(&machine, &["on 15", "on 17"]);
    assert_eq!(machine.ok("appliance postgres forget --yes"), "15/main is gone\n");
    assert_eq!(machine.ok("pg_lsclusters -h | awk '{print $1, $3, $4}'"), "17 5432 online\n");
    assert_eq!(machine.ok("appliance postgres forget --yes"), "nothing to do: no other cluster is kept\n");
    wait_for_notes(&machine, &["on 15", "on 17"]);
    let dumped = machine.ok(
        "appliance database dump /root/on17.pgdump && pg_restore -l /root/on17.pgdump | grep -m 1 'database version'",
    );
    assert!(dumped.contains("database version: 17."), "{dumped}");
}

/// What the app can leave in its database, for whoever runs it with a superuser's rights.
const TRAPS: &str = r#"
CREATE FUNCTION evil.replace(a text, b text, c text) RETURNS text LANGUAGE plpgsql STRICT AS $$
  BEGIN PERFORM evil.really('by a path'); RETURN pg_catalog.replace(a, b, c); END $$;
CREATE TABLE guarded (id int CHECK (evil.run('by a check') IS NOT NULL));
INSERT INTO guarded SELECT generate_series(1, 3);
CREATE TABLE generated (id int, said text GENERATED ALWAYS AS (evil.run('by a column')) STORED);
INSERT INTO generated SELECT generate_series(1, 3);
CREATE DOMAIN doubtful AS int CHECK (evil.run('by a domain') IS NOT NULL);
CREATE TABLE doubts (id doubtful);
INSERT INTO doubts VALUES (1);
CREATE TABLE parted (t text) PARTITION BY LIST ((evil.run('by a key') || t));
CREATE TABLE rest PARTITION OF parted DEFAULT;
INSERT INTO parted VALUES ('x');
CREATE INDEX ON guarded ((evil.run(id::text)));
CREATE INDEX ON guarded ((id::text || evil.run('by a constant in an index')));
CREATE INDEX ON guarded (id) WHERE id::text <> evil.run('by a constant in a predicate');
CREATE STATISTICS counted ON (id::text || evil.run('by a constant in statistics')) FROM guarded;
CREATE MATERIALIZED VIEW seen AS SELECT evil.run('by a view') AS x;
CREATE TABLE forced (n int);
INSERT INTO forced VALUES (1);
CREATE POLICY of_a_tenant ON forced USING (n = current_setting('app.tenant')::int);
ALTER TABLE forced ENABLE ROW LEVEL SECURITY;
ALTER TABLE forced FORCE ROW LEVEL SECURITY;
ALTER DATABASE notes SET search_path TO evil, pg_catalog, public;
ALTER ROLE app SET search_path TO evil, pg_catalog, public;
"#;

#[test]
fn nothing_of_the_apps_runs_as_superuser_in_an_upgrade() {
    let machine = Machine::boot_trixie("majorevil");
    machine
        .ok("set -e; pg_dropcluster --stop 17 main; pg_lsclusters -h | grep -q . || pg_createcluster --start 15 main");
    start_notes(&machine, "v1");
    wait_for_phase(&machine, "running");
    keep_note(&machine, "on 15");
    let did = as_app(&machine, &format!("{PAYLOAD}{TRAPS}"));
    assert_eq!(did.code, 0, "{}", did.all());
    assert_eq!(stolen(&machine), "", "as the app it cannot");
    try_the_payload(&machine);
    // An extension whose rows are a part of a dump, as PostGIS has some, and which the app may only read.
    machine.ok(
        "set -e; for v in 15 17; do cd /usr/share/postgresql/$v/extension; printf \"default_version = '1'\\n\" > kept.control
           printf \"CREATE TABLE kept_rows (n int); GRANT SELECT ON kept_rows TO PUBLIC; SELECT pg_catalog.pg_extension_config_dump('kept_rows', '');\\n\" > kept--1.sql; done
         PGOPTIONS='-c search_path=public' psql -U postgres -d notes -qAt -c 'CREATE EXTENSION kept SCHEMA public' -c 'INSERT INTO kept_rows VALUES (7)'",
    );
    // What would change hands, or be restored by the superuser, stops it before anything is stopped.
    for (database, sql, named, undo) in [
        ("notes", "CREATE TABLE audit (n int)", "public.audit belongs to postgres", "DROP TABLE public.audit"),
        (
            "notes",
            "CREATE TYPE mood AS ENUM ('x')",
            "the type public.mood belongs to postgres",
            "DROP TYPE public.mood",
        ),
        (
            "notes",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO pg_monitor",
            "default privileges of the role postgres",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE SELECT ON TABLES FROM pg_monitor",
        ),
        (
            "postgres",
            "CREATE TABLE lent (n int); ALTER TABLE lent OWNER TO app",
            "the role app owns something in the database postgres",
            "DROP TABLE lent",
        ),
        (
            "postgres",
            "SELECT pg_create_physical_replication_slot('s')",
            "replication slot s",
            "SELECT pg_drop_replication_slot('s')",
        ),
    ] {
        let psql = |sql: &str| {
            machine.ok(&format!("PGOPTIONS='-c search_path=public' psql -U postgres -d {database} -qAtc \"{sql}\""))
        };
        psql(sql);
        let out = machine.sh("appliance postgres upgrade --yes");
        assert!(
            out.code == 1 && out.stderr.contains(named) && out.stderr.to_lowercase().contains("nothing was done"),
            "{}",
            out.all()
        );
        psql(undo);
    }
    let said = machine.sh("appliance postgres upgrade --yes");
    assert_eq!(stolen(&machine), "", "{}", said.all());
    assert_eq!((said.code, in_use(&machine).as_str()), (0, "17/main 15/main"), "{}", said.all());
    let superusers = "psql -U postgres -Atc 'SELECT rolname FROM pg_roles WHERE rolsuper'";
    assert_eq!(machine.ok(superusers), "postgres\n");
    // All of it came along, for the app to use.
    let sql = "SELECT (SELECT count(*) FROM guarded), (SELECT count(said) FROM generated), (SELECT count(*) FROM doubts), \
               (SELECT count(*) FROM rest), (SELECT x FROM seen), (SELECT count(*) FROM forced), (SELECT n FROM kept_rows), \
               current_setting('search_path')";
    machine.ok("psql -U postgres -d notes -qc \"ALTER DATABASE notes RESET search_path\" -c 'ALTER ROLE app RESET search_path' >/dev/null");
    assert_eq!(
        machine.ok(&format!("psql -U postgres -d notes -Atc \"{sql}\"")),
        "3|3|1|1|by a view|1|7|\"$user\", public\n"
    );
    wait_for_notes(&machine, &["on 15"]);
}
