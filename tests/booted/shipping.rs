//! What was written between runs: shipped every few minutes, brought back on another host and to a moment, and given up where it cannot be.

use crate::host::apps::wait_for_phase;
use crate::host::sample::{Random, is_soak, seed};
use crate::host::several::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

pub const KEY: &str = "canary-key-of-the-repository-0123456789";
pub const SPOOL: &str = "/data/postgresql-wal/15-main";

pub fn env(more: &str) -> String {
    let backup = format!("  backup: {{url: 'file:///srv/target', encrypt: {KEY}{more}}}\n");
    env_yml(&backup, "").replace("apps:\n  - name: one\n", "app:\n    name: one\n")
}

pub fn start(machine: &Machine) {
    install(machine);
    machine.ok("mkdir -p /srv/target");
    machine.put("/app/env.yml", env(""), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(machine, "running");
    machine.ok("psql -U postgres one -qc 'CREATE TABLE note (n int); ALTER TABLE note OWNER TO app'");
}

pub fn write_notes(machine: &Machine, numbers: std::ops::RangeInclusive<u32>) {
    for n in numbers {
        machine.ok(&format!(
            "psql -U postgres one -qc 'INSERT INTO note VALUES ({n})'; echo {n} > /data/one-storage-vault/{n}"
        ));
    }
}

pub fn notes(machine: &Machine) -> String {
    machine.ok("psql -U postgres one -Atqc 'SELECT max(n) FROM note'; ls /data/one-storage-vault | sort -n | tail -1")
}

pub fn ship(machine: &Machine) {
    let told = machine.ok("appliance backup ship 2>/dev/null");
    assert!(told.starts_with("shipped what was written until 2") && !told.contains("files"), "{told}");
}

/// Waits until a script ends well.
pub fn until(machine: &Machine, script: &str) {
    wait_for(script, Duration::from_secs(90), || {
        let out = machine.sh(script);
        if out.code == 0 { Ok(()) } else { Err(out.all()) }
    });
}

fn segments(machine: &Machine) -> usize {
    machine.ok(&format!("ls {SPOOL}")).lines().filter(|name| name.len() == 24).count()
}

#[test]
fn what_was_shipped_is_back_on_a_new_host_and_any_moment_of_it_on_the_old_one() {
    let machine = Machine::boot("ship-old");
    start(&machine);
    let told = machine.ok("appliance backup ship");
    assert!(told.contains("the first run is still to come"), "{told}");
    let timer =
        machine.ok("systemctl show -P TimersMonotonic appliance-ship.timer; systemctl is-active appliance-ship.timer");
    assert!(timer.contains("OnUnitInactiveUSec=5min") && timer.ends_with("active\n"), "{timer}");
    write_notes(&machine, 1..=5);
    machine.ok("systemctl stop appliance-ship.timer; appliance backup run");
    write_notes(&machine, 6..=10);
    ship(&machine);
    let moment = machine.ok("sleep 1; date -u +%Y-%m-%dT%H:%M:%SZ; sleep 1");
    write_notes(&machine, 11..=12);
    let release = machine.ok("jq -r .current.commit /data/appliance/apps/one/ledger.json");
    // Nobody but postgres and root sees what waits, or what is remembered of it.
    for path in [SPOOL, "/data/appliance/host/shipping.json"] {
        let out = machine.sh(&format!("setpriv --reuid app --regid app --clear-groups ls {path}"));
        assert!(out.code != 0 && out.stderr.contains("Permission denied"), "{path}: {}", out.all());
    }
    // While an update is at work only the log is shipped.
    let told = machine.ok("flock /run/appliance/update.lock appliance backup ship");
    assert!(told.contains("files were not, since an update or a run is at work"), "{told}");
    // A run that takes its time keeps no shipment waiting; what needs the repository for itself does.
    machine.ok(
        "systemd-run -q --unit=held psql -U postgres one -c 'BEGIN; LOCK TABLE note; SELECT pg_sleep(600)'; systemd-run -q --unit=night appliance backup run",
    );
    until(&machine, "journalctl -u night -o cat | grep -q 'counting what is in the database'");
    let told = machine.ok("appliance backup ship");
    assert!(told.contains("shipped what was written") && told.contains("files were not"), "{told}");
    assert_eq!(machine.ok("systemctl is-active night"), "active\n");
    machine.ok(
        "psql -U postgres -qc \"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'\"",
    );
    until(&machine, "! systemctl is-active -q night && appliance backup status");
    let told = machine.ok("flock /run/appliance/ship.lock appliance backup ship");
    assert!(told.contains("nothing was shipped: another backup command is at work"), "{told}");
    write_notes(&machine, 13..=17);
    ship(&machine);
    let status = machine.ok("appliance backup status");
    assert!(status.contains("shipped until      2"), "{status}");
    // At rest PostgreSQL writes nothing that would have to be shipped, once it has noted what was written before (LOG_SNAPSHOT_INTERVAL_MS).
    let mut before = 0;
    wait_for("shipping to have nothing to ship", Duration::from_secs(120), || {
        machine.ok("psql -U postgres -qc 'SELECT pg_sleep(17)' >/dev/null");
        ship(&machine);
        let now = segments(&machine);
        let is_quiet = now == std::mem::replace(&mut before, now);
        let last = format!("/usr/lib/postgresql/15/bin/pg_waldump {SPOOL}/$(ls {SPOOL} | grep -v backup | tail -1)");
        if is_quiet { Ok(()) } else { Err(machine.sh(&last).all()) }
    });

    // It is tried out whether all of this can be restored.
    machine.ok("appliance backup run");
    write_notes(&machine, 18..=18);
    ship(&machine);
    let told = machine.ok("appliance backup drill 2>/dev/null");
    assert!(
        told.contains(", passed (") && told.contains("one: run 2") && told.contains("as they were shipped last"),
        "{told}"
    );
    assert!(told.contains("restored and compared, ") && !told.contains(" 0 files compared"), "{told}");
    assert_eq!(
        machine.sh("ls /data/postgresql-drill; systemctl is-active appliance-drilled").code,
        3,
        "nothing is left of it"
    );
    assert!(
        machine.get("/var/lib/prometheus/node-exporter/appliance-backup.prom").contains("backup_drill_success_time 1")
    );

    // A file as it was then, of a shipment; others of the host's are none of this app's.
    machine.ok("echo changed > /data/one-storage-vault/9");
    ship(&machine);
    let told = machine.ok(&format!(
        "appliance backup restore --files --at {} --to /root/then /data/one-storage-vault",
        moment.trim()
    ));
    assert!(told.starts_with("files as they were shipped at 2"), "{told}");
    let then = machine.ok("cd /root/then/data/one-storage-vault; cat 9; ls | sort -n | tail -1");
    assert_eq!(then, "9\n10\n");
    let out = machine.sh("appliance backup restore --files --at 2020-01-01T00:00:00Z --to /root/never");
    assert!(out.code == 1 && out.stderr.contains("no files were shipped before"), "{}", out.all());

    // One row of a moment, beside what there is now.
    let dump = machine.ok(&format!("appliance backup restore --database --at {} --dump 2>/dev/null", moment.trim()));
    let dump = dump.trim().rsplit(' ').next().expect("it ends with a file").to_owned();
    machine.ok(&format!("cd /root; pg_restore --data-only --table=note --file=rows.sql {dump} && rm {dump}"));
    let found = machine.ok("grep -x '[0-9]*' /root/rows.sql | sort -n | tail -1");
    assert_eq!((found.as_str(), notes(&machine).as_str()), ("10\n", "18\n18\n"));

    // Back to a moment, and what came after it is in the dump.
    let out = machine.sh("appliance backup restore --database --at 2020-01-01T00:00:00Z --yes");
    assert!(out.code == 1 && out.stderr.contains("nothing was shipped before"), "{}", out.all());
    let out = machine.sh("appliance backup restore --database --at 2099-01-01T00:00:00Z --yes");
    assert!(out.code == 1 && out.stderr.contains("is behind what was shipped last"), "{}", out.all());
    machine.ok(&format!("appliance backup restore --database --at {} --yes", moment.trim()));
    assert_eq!(machine.ok("psql -U postgres one -Atqc 'SELECT max(n) FROM note'"), "10\n");
    assert_eq!(
        machine.sh("ls /data/postgresql-rewind; systemctl is-active appliance-rewind").code,
        3,
        "nothing is left of it"
    );
    write_notes(&machine, 19..=20);
    ship(&machine);
    write_notes(&machine, 99..=99);

    // It burns; what was shipped is there, with the release that ran, and what was not is not.
    let kept = tempfile::tempdir().expect("a directory");
    machine.ok("tar -cf /root/target.tar -C /srv target several");
    machine.fetch_file("/root/target.tar", &kept.path().join("target.tar"));
    drop(machine);
    let machine = Machine::boot("ship-new");
    machine.put_directory(kept.path().to_str().expect("a path"), "/srv/kept");
    machine.ok("tar -xf /srv/kept/target.tar -C /srv && rm -r /srv/kept && mv /srv/several /srv/away");
    machine.put("/app/env.yml", env(""), 0o600);
    let out = machine.ok("appliance backup recover --yes 2>&1");
    assert!(out.contains("everything is back"), "{out}");
    assert_eq!((notes(&machine).as_str(), visit(&machine, "one", "/").0), ("20\n20\n", 200));
    assert_eq!(
        machine.ok("psql -U postgres one -Atqc 'SELECT count(*) FROM note WHERE n BETWEEN 11 AND 18'"),
        "0\n",
        "they were gone by then"
    );
    assert_eq!(machine.ok("jq -r .current.commit /data/appliance/apps/one/ledger.json"), release);
    // This host's cluster is another one: it has a base of its own, and goes on.
    write_notes(&machine, 21..=21);
    ship(&machine);
    machine.ok("systemctl stop appliance-ship.timer; appliance backup verify && appliance backup status || appliance backup run");
}

#[test]
fn what_cannot_be_shipped_is_given_up_loudly_and_begun_anew() {
    let machine = Machine::boot("ship-faults");
    start(&machine);
    machine.ok("systemctl stop appliance-ship.timer; appliance backup run");
    write_notes(&machine, 1..=3);
    ship(&machine);
    let container = machine.ok("docker ps -q --no-trunc");

    // Somebody takes a segment away that was not shipped: a new base is made by itself.
    let before = machine.ok("date -u +%Y-%m-%dT%H:%M:%S.%NZ");
    let lost = machine
        .ok("psql -U postgres one -Atqc 'INSERT INTO note VALUES (4)' -c 'SELECT pg_walfile_name(pg_switch_wal())'");
    let lost = format!("{SPOOL}/{}", lost.trim());
    until(&machine, &format!("test -e {lost}"));
    machine.ok(&format!("rm {lost}"));
    write_notes(&machine, 5..=5);
    let told = machine.ok("appliance backup ship 2>&1");
    assert!(
        told.contains("is missing in /data/postgresql-wal/15-main") && told.contains("a new base backup is made"),
        "{told}"
    );
    // Into the gap nobody is brought back.
    let gap = machine.ok("date -u +%Y-%m-%dT%H:%M:%S.%NZ");
    write_notes(&machine, 6..=6);
    ship(&machine);
    let out = machine.sh(&format!("appliance backup restore --database --at {} --yes", before.trim()));
    assert!(out.code == 1 && out.stderr.contains("lies in a gap: changes were shipped until"), "{}", out.all());
    machine.ok(&format!("appliance backup restore --database --at {} --yes", gap.trim()));
    assert_eq!(machine.ok("psql -U postgres one -Atqc 'SELECT max(n) FROM note'"), "5\n");

    // The target is away, and the spool has room for little.
    machine.ok(&format!(
        "mv /srv/target /srv/away && mount -t tmpfs -o size=600m,uid=$(id -u postgres),mode=0700 tmpfs {SPOOL}"
    ));
    let out = machine.sh("appliance backup ship");
    assert!(out.code == 1, "{}", out.all());
    let status = machine.sh("appliance backup status");
    assert!(status.stdout.contains("the last attempt failed"), "{}", status.all());
    for n in 0..18 {
        machine.ok(&format!(
            "psql -U postgres one -qc \"INSERT INTO note VALUES ({n}); SELECT pg_switch_wal()\" >/dev/null"
        ));
    }
    until(
        &machine,
        "psql -U postgres -Atqc \"SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'\" | grep -qx 0",
    );
    assert!(segments(&machine) > 16);
    let out = machine.sh("appliance backup ship");
    assert!(out.code == 1, "{}", out.all());
    assert!(
        out.stderr.contains("MB of PostgreSQL's log wait in /data/postgresql-wal/15-main to be shipped"),
        "{}",
        out.all()
    );
    assert_eq!(segments(&machine), 0);
    assert_eq!(machine.ok("jq .base /data/appliance/host/shipping.json"), "null\n");
    machine.ok("mv /srv/away /srv/target");
    write_notes(&machine, 50..=51);
    ship(&machine);
    assert_eq!(machine.ok("docker ps -q --no-trunc").lines().count(), container.lines().count());
    let status = machine.ok("appliance backup status");
    assert!(!status.contains("failed"), "{status}");

    // It is switched off, and on again, without a restart of PostgreSQL.
    let since = machine.ok("psql -U postgres -Atqc 'SELECT pg_postmaster_start_time()'");
    for (more, library) in [(", continuous: no", ""), (", continuous: 1h", "basic_archive")] {
        machine.put("/app/env.yml", env(more), 0o600);
        machine.ok("appliance apply");
        assert_eq!(machine.ok("psql -U postgres -Atqc 'SHOW archive_library'").trim(), library);
    }
    assert_eq!(machine.ok("psql -U postgres -Atqc 'SELECT pg_postmaster_start_time()'"), since);
    assert!(machine.ok("systemctl show -P TimersMonotonic appliance-ship.timer").contains("OnUnitInactiveUSec=1h"));
}

#[test]
fn a_shipment_that_is_killed_is_none_and_what_follows_it_has_no_hole() {
    let machine = Machine::boot("ship-kills");
    start(&machine);
    machine.ok("systemctl stop appliance-ship.timer; appliance backup run");
    let mut random = Random::of(seed());
    let mut n = 0;
    for round in 0..if is_soak() { 200 } else { 8 } {
        n += 1;
        write_notes(&machine, n..=n);
        let after = random.below(2500);
        // All of it at once, as by a power cut; or this program alone; or PostgreSQL, which reads its log then.
        let kill = match random.below(3) {
            0 => "systemctl kill -s KILL --kill-whom=all killed",
            1 => "systemctl kill -s KILL --kill-whom=main killed",
            _ => "kill -9 $(head -n 1 /var/lib/postgresql/15/main/postmaster.pid)",
        };
        machine.ok(&format!(
            "systemd-run -q --unit=killed appliance backup ship; sleep {}; {kill} || true
             systemctl stop killed; systemctl reset-failed killed 2>/dev/null || true",
            after as f64 / 1000.0
        ));
        until(&machine, "psql -U postgres one -Atqc 'SELECT 1'");
        // What was cut off is no shipment, and the next one is whole; a dead process may have locked the repository before the first try.
        n += 1;
        write_notes(&machine, n..=n);
        until(&machine, "appliance backup ship");
        if round % 4 == 3 {
            let told = machine.ok("appliance backup drill 2>&1 && appliance backup verify");
            assert!(told.contains(", passed (") && told.contains("as they were shipped last"), "{told}");
        }
    }
    assert_eq!(machine.sh("ls /data/postgresql-rewind /data/postgresql-drill").code, 2, "nothing is left over");
    // A drill that is killed is not taken for one that has passed, and the next shipment takes away what it leaves.
    machine.ok("systemd-run -q --unit=killed appliance backup drill");
    until(&machine, "systemctl is-active --quiet appliance-drilled");
    let as_app = "setpriv --reuid app --regid app --clear-groups psql -h /data/postgresql-drill/socket -U postgres -c 'SELECT 1'";
    let out = machine.sh(as_app);
    assert!(out.code != 0 && out.stderr.contains("Permission denied"), "{}", out.all());
    let status = machine.ok("appliance backup status");
    assert!(status.contains("drill              running since 2") && !status.contains("FAILED"), "{status}");
    machine.ok("systemctl kill -s KILL --kill-whom=all killed");
    let status = machine.sh("appliance backup status");
    assert!(status.code == 1 && status.stdout.contains("FAILED: it was cut off"), "{}", status.all());
    until(&machine, "appliance backup ship");
    assert_eq!(
        machine.sh("ls /data/postgresql-drill; systemctl is-active appliance-drilled").code,
        3,
        "nothing is left of it"
    );
    machine.ok("appliance backup drill && appliance backup status");
}
