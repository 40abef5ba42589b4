//! Drills that must fail: runs that are damaged in each way that there is, in a repository of restic's. One that failed never is no proof.

use crate::host::Machine;
use crate::host::apps::wait_for_phase;
use crate::host::several::*;

const KEY: &str = "canary-key-of-the-repository-0123456789";
const RESTIC: &str = "eval \"$(appliance backup key)\"; export RESTIC_PROGRESS_FPS=0";

fn start(machine: &Machine, more: &str) {
    install(machine);
    machine.ok("mkdir -p /srv/target");
    let backup = format!("  backup: {{url: 'file:///srv/target', encrypt: {KEY}{more}}}\n");
    let env = env_yml(&backup, "").replace("apps:\n  - name: one\n", "app:\n    name: one\n");
    machine.put("/app/env.yml", env, 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(machine, "running");
    machine.ok(
        "psql -U postgres one -qc 'CREATE TABLE note AS SELECT n, sha256(n::text::bytea) AS t FROM generate_series(1, 40000) n' \
         -c 'CREATE INDEX ON note (n)' -c 'ALTER TABLE note OWNER TO app'; \
         for n in $(seq 40); do head -c 2000 /dev/urandom > /data/one-storage-vault/$n; done",
    );
}

/// What a drill says that has to fail.
fn fails(machine: &Machine, arguments: &str, expected: &str) {
    let before = containers(machine);
    let out = machine.sh(&format!("appliance backup drill {arguments}"));
    assert!(
        out.code == 1 && out.stdout.contains("FAILED: ") && out.stdout.contains(expected),
        "{expected}: {}",
        out.all()
    );
    let status = machine.sh("appliance backup status");
    assert!(status.code == 1 && status.stdout.contains("FAILED"), "{}", status.all());
    assert_eq!(containers(machine), before, "what runs does not know of it");
    assert_eq!(machine.sh("ls /data/postgresql-drill").code, 2, "nothing is left of it");
}

/// Puts another run into the repository: the newest one's manifest, with another dump, both changed by a script.
fn forge(machine: &Machine, run: &str, dump: &str, manifest: &str) {
    machine.ok(&format!(
        "set -e; {RESTIC}
         tags=$(restic snapshots --json --tag part=manifest | jq -r '.[-1].tags | map(select(test(\"^(run|part)=\") | not)) | join(\",\")')
         id=$({dump} | restic backup -q --stdin --stdin-filename /database.pgdump --tag \"run={run},part=database,forged,$tags\" --json | jq -r 'select(.message_type == \"summary\").snapshot_id')
         restic dump --tag part=manifest latest /manifest.json | jq --arg id \"$id\" '.run = \"{run}\" | .database.snapshot = $id | {manifest}' > /root/manifest
         restic backup -q --stdin --stdin-filename /manifest.json --tag \"run={run},part=manifest,forged,$tags\" < /root/manifest"
    ));
}

#[test]
fn a_drill_of_a_damaged_run_fails_and_says_why() {
    let machine = Machine::boot("drill");
    start(&machine, ", drill: {oncalendar: 'Sat 04:00'}");
    machine.ok("systemctl stop appliance-ship.timer");
    let timer =
        machine.ok("systemctl show -P TimersCalendar appliance-drill.timer; systemctl is-active appliance-drill.timer");
    assert!(timer.contains("Sat *-*-* 04:00:00") && timer.ends_with("active\n"), "{timer}");
    machine.ok("appliance backup run && appliance backup ship");
    let told = machine.ok("appliance backup drill --json");
    let told: serde_json::Value = serde_json::from_str(&told).expect("it is JSON");
    assert_eq!(
        (&told["trouble"], &told["parts"][0]["how"], &told["parts"][1]["how"]),
        (&serde_json::Value::Null, &"restored".into(), &"restored".into()),
        "{told}"
    );
    assert!(told["parts"][0]["files"].as_u64().is_some_and(|files| files >= 40), "{told}");
    let good = told["parts"][0]["run"].as_str().expect("it has an id").to_owned();

    // Of the run itself: a row that is gone, a dump that ends early, one that is none, a manifest of another run.
    machine.ok("psql -U postgres -qc 'CREATE DATABASE fewer TEMPLATE one' && psql -U postgres fewer -qc 'DELETE FROM note WHERE n = 7'");
    let dump = "pg_dump -U postgres -Fc -Z0";
    forge(&machine, "fewer", &format!("{dump} fewer"), ".");
    fails(
        &machine,
        "--run fewer",
        "what was restored is not what was stored: - table public.note: 40000 rows; + table public.note: 39999 rows",
    );
    forge(&machine, "short", &format!("{dump} one | head -c 1000000"), ".");
    fails(&machine, "--run short", "one: the dump");
    forge(&machine, "none", "echo nothing", ".");
    fails(&machine, "--run none", "the dump is broken");
    forge(&machine, "other", &format!("{dump} one"), ".run = \"fewer\"");
    fails(&machine, "--run other", "the manifest of the run other is another one's");
    fails(&machine, "--run nosuch", "has no complete run 'nosuch'");
    // More files than were stored are none; fewer than the manifest says are missing.
    forge(&machine, "files", &format!("{dump} one"), ".files.count += 1000");
    fails(&machine, "--run files", "and 10");

    machine.ok(&format!("{RESTIC}; restic forget -q $(restic snapshots --json --tag forged | jq -r '.[].id')"));
    // Of the log: what lay between two shipments is gone.
    machine.ok(&format!(
        "rm /data/postgresql-wal/15-main/0*; psql -U postgres one -qc 'INSERT INTO note VALUES (0)'; appliance backup ship
         {RESTIC}; restic forget -q $(restic snapshots --json --tag part=point | jq -r 'sort_by(.time)[0].id')"
    ));
    fails(&machine, "", "of PostgreSQL's log is not in the repository");
    // And what is left of the repository is good.
    let told = machine.ok(&format!("appliance backup drill --run {good} && appliance backup status"));
    assert!(told.contains("passed") && !told.contains("FAILED"), "{told}");

    // Of the repository: bits of the file that holds the dump, or all of it.
    let pack = machine.ok(&format!(
        "{RESTIC}; tree=$(restic snapshots --json --tag run={good},part=database | jq -r '.[0].tree')
         blob=$(restic cat blob $tree | jq -r '.nodes[0].content[0]')
         pack=$(restic find --show-pack-id --blob $blob | grep -o 'pack [0-9a-f]*' | head -1 | cut -d' ' -f2); find /srv/target/restic/data -name \"$pack\""
    ));
    let pack = pack.trim();
    assert!(pack.starts_with("/srv/target"), "{pack}");
    machine.ok(&format!(
        "cp -p {pack} /root/pack; chmod u+w {pack}; rm -rf /var/lib/appliance/backup/cache
         python3 -c 'b = bytearray(open(\"{pack}\", \"rb\").read()); b[::65536] = bytes(x ^ 1 for x in b[::65536]); open(\"{pack}\", \"wb\").write(b)'"
    ));
    fails(&machine, &format!("--run {good}"), "could not fetch the database");
    machine.ok(&format!("rm {pack}"));
    fails(&machine, &format!("--run {good}"), "could not fetch the database");
    machine.ok(&format!("cp -p /root/pack {pack}; appliance backup drill --run {good} && appliance backup status"));
}

#[test]
fn a_drill_without_room_counts_and_a_wrong_count_fails_it() {
    let machine = Machine::boot_small("drill-small", 2000);
    start(&machine, ", continuous: no");
    machine.ok("appliance backup run; fallocate -l $(($(stat -f -c '%a * %S' /var) - 240 * 1048576)) /var/most");
    let told = machine.ok("appliance backup drill 2>&1");
    assert!(
        told.contains(", passed (") && told.contains("rows counted in the dump; there was no room to restore it"),
        "{told}"
    );
    forge(
        &machine,
        "fewer",
        "psql -U postgres one -qc 'DELETE FROM note WHERE n = 7'; pg_dump -U postgres -Fc -Z0 one",
        ".",
    );
    fails(
        &machine,
        "--run fewer",
        "the dump is not what was stored: - table public.note: 40000 rows; + table public.note: 39999 rows",
    );
}

/// Functions of the app's that fit better what pg_amcheck calls than the extension's own; each leaves a file if it runs as a superuser.
const PLANTED: &str = "SET ROLE app;
    CREATE FUNCTION public.bt_index_check(index oid, heapallindexed boolean) RETURNS void LANGUAGE plpgsql AS
        $$BEGIN EXECUTE 'COPY (SELECT 1) TO PROGRAM ''touch /tmp/canary'''; END$$;
    CREATE FUNCTION public.verify_heapam(relation oid, on_error_stop boolean, check_toast boolean, skip text, startblock bigint,
        endblock bigint, OUT blkno bigint, OUT offnum integer, OUT attnum integer, OUT msg text) RETURNS SETOF record LANGUAGE plpgsql AS
        $$BEGIN EXECUTE 'COPY (SELECT 1) TO PROGRAM ''touch /tmp/canary'''; END$$;";

#[test]
fn nothing_of_the_apps_runs_as_superuser_in_a_drill() {
    let machine = Machine::boot("drill-intruder");
    start(&machine, "");
    // An extension of the operator's, where the app may make things.
    machine.put("/root/planted.sql", PLANTED, 0o644);
    machine.ok("systemctl stop appliance-ship.timer; psql -U postgres one -qc 'CREATE EXTENSION amcheck SCHEMA public'
         psql -U postgres one -v ON_ERROR_STOP=1 -qf /root/planted.sql");
    // It would work where the superuser calls them.
    machine.sh("/usr/lib/postgresql/15/bin/pg_amcheck -U postgres --no-dependent-toast one");
    machine.ok("rm /tmp/canary && appliance backup run && appliance backup ship");
    let told = machine.ok("appliance backup drill 2>&1");
    assert!(told.contains(", passed (") && told.contains("as they were shipped last"), "{told}");
    assert_eq!(machine.sh("ls /tmp/canary").code, 2, "something of the app's ran as postgres");
}
