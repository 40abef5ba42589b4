//! Backups: a run that is whole, a host that burns, and another one in its place; with restic, PostgreSQL and Docker as they are.

use crate::host::apps::wait_for_phase;
use crate::host::several::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

const KEY: &str = "canary-key-of-the-repository-0123456789";

/// One app, whose backups go to a directory of the host's.
fn env(url: &str) -> String {
    let backup = format!("  backup: {{url: '{url}', continuous: no, encrypt: {KEY}}}\n");
    env_yml(&backup, "").replace("apps:\n  - name: one\n", "app:\n    name: one\n")
}

fn rows(machine: &Machine) -> String {
    machine.ok("psql -U postgres one -Atqc 'SELECT count(*), coalesce(sum(n), 0) FROM note'")
}

fn write_note(machine: &Machine, n: u32) {
    machine.ok(&format!("psql -U postgres one -qc 'INSERT INTO note VALUES ({n})'"));
}

fn start_with_notes(machine: &Machine, url: &str) {
    install(machine);
    machine.ok("mkdir -p /srv/target");
    machine.put("/app/env.yml", env(url), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(machine, "running");
    machine.ok("psql -U postgres one -qc 'CREATE TABLE note (n int); ALTER TABLE note OWNER TO app'");
    machine.ok("docker exec one_web_1 sh -c 'echo in the volume > /kept/note'; echo in the vault > /data/one-storage-vault/note");
    machine.ok("ln -s /etc/shadow /data/one-storage-vault/link");
}

#[test]
fn a_host_that_burned_is_back_on_a_new_one() {
    let machine = Machine::boot("backup-old");
    start_with_notes(&machine, "file:///srv/target");
    let planned = machine
        .ok("systemctl show -P TimersCalendar appliance-backup.timer; systemctl is-active appliance-backup.timer");
    assert!(planned.contains("22:30:00") && planned.ends_with("active\n"), "{planned}");
    let out = machine.sh("appliance backup status");
    assert!(out.code == 1 && out.stdout.contains("last complete run  none"), "{}", out.all());

    // What a run holds is what was there when it began.
    (1..=17).for_each(|n| write_note(&machine, n));
    machine.ok("appliance cert ca init && cd /root && appliance cert ca issue Eva");
    machine.ok("systemctl start appliance-backup.service");
    let status = machine.ok("appliance backup status");
    assert!(status.contains("last complete run  2") && !status.contains("trouble"), "{status}");
    assert!(
        machine.get("/var/lib/prometheus/node-exporter/appliance-backup.prom").contains("backup_last_success_time 1")
    );
    write_note(&machine, 100);
    let second = machine.ok("appliance backup run 2>&1");
    assert!(second.contains(", 18 rows, "), "{second}");
    write_note(&machine, 1000);
    let listed: serde_json::Value =
        serde_json::from_str(&machine.ok("appliance backup list --json")).expect("it is JSON");
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
    nothing_tells_the_key(&machine);
    let (release, certificate) = (ledger(&machine), certificate(&machine, "one"));

    // A file of the first run, beside what there is; and its database in the place of the app's.
    let first = listed[1]["run"].as_str().expect("it has an id").to_owned();
    machine.ok(&format!("appliance backup restore --files --to /root/found --run {first} /data/one-storage-vault"));
    assert_eq!(machine.get("/root/found/data/one-storage-vault/note"), "in the vault\n");
    assert_eq!(machine.ok("readlink /root/found/data/one-storage-vault/link"), "/etc/shadow\n", "a link is a link");
    let out = machine.sh("appliance backup restore --files --to /root/found");
    assert!(out.code == 1 && out.stderr.contains("is not empty"), "{}", out.all());
    machine.ok(&format!("appliance backup restore --database --run {first} --yes"));
    assert_eq!((rows(&machine).as_str(), visit(&machine, "one", "/").0), ("17|153\n", 200));
    let out = machine.sh("appliance backup recover --yes");
    assert!(out.code == 1 && out.stderr.contains("a recovery is for a host that is not"), "{}", out.all());

    // It burns. Of another one there is nothing but the target, the repository and env.yml.
    let kept = carry(&machine);
    drop(machine);
    let machine = Machine::boot("backup-new");
    machine.put_directory(kept.path().to_str().expect("a path"), "/srv/kept");
    // The app's git server is away: the release comes out of the backup.
    machine.ok("tar -xf /srv/kept/target.tar -C /srv && rm -r /srv/kept && mv /srv/several /srv/away");
    machine.put("/app/env.yml", env("file:///srv/target").replace(KEY, "a-wrong-key-of-the-same-length"), 0o600);
    let out = machine.sh("appliance backup recover --yes");
    assert!(out.code == 1 && out.stderr.contains("it was made with another key"), "{}", out.all());
    machine.put("/app/env.yml", env("file:///srv/target"), 0o600);

    // Cut off in its middle, it keeps the appliance from starting with half, and is run again.
    machine.ok("systemd-run -q --unit=recovery appliance backup recover --yes");
    wait_for("the recovery to have begun", Duration::from_secs(60), || {
        let out = machine.sh("test -e /data/appliance/host/recovering");
        if out.code == 0 { Ok(()) } else { Err(machine.sh("journalctl -u recovery -o cat --no-pager").all()) }
    });
    machine.ok("systemctl kill -s KILL recovery; systemctl start appliance || true");
    wait_for("the appliance to say why it does not start", Duration::from_secs(30), || {
        let out = machine.sh("appliance status");
        let is_told = out.code == 3 && out.stdout.contains("A recovery from the backup is not done");
        if is_told { Ok(()) } else { Err(out.all()) }
    });
    machine.ok("systemctl stop appliance");
    let out = machine.ok("appliance backup recover --yes 2>&1");
    assert!(out.contains("everything is back"), "{out}");
    assert_eq!(rows(&machine), "18|253\n", "the newest run");
    assert_eq!((visit(&machine, "one", "/").0, ledger(&machine)), (200, release));
    assert_eq!(crate::host::several::certificate(&machine, "one"), certificate);
    assert_eq!(
        machine.ok("docker exec one_web_1 cat /kept/note; cat /data/one-storage-vault/note"),
        "in the volume\nin the vault\n"
    );
    assert!(machine.ok("appliance cert ca list").contains("Eva"));
    machine.ok("mv /srv/away /srv/several; chown -R app:app /srv/several");
    assert_eq!(machine.ok("appliance plan"), "nothing to do\n");
    // It writes on from there, and the old one would not.
    write_note(&machine, 1);
    machine.ok("appliance backup run");
    machine.ok("cp /etc/machine-id /root/own; tr 0-9a-f 1-9a-f0 < /root/own > /etc/machine-id");
    let out = machine.sh("appliance backup run");
    assert!(out.code == 1 && out.stderr.contains("the repository belongs to another host"), "{}", out.all());
    let status = machine.sh("appliance backup status");
    assert!(status.code == 1 && status.stdout.contains("belongs to another host"), "{}", status.all());
    machine.ok("appliance backup adopt --yes && appliance backup run && appliance backup verify");
}

/// The target and the app's repository, as a file of this machine's.
fn carry(machine: &Machine) -> tempfile::TempDir {
    let kept = tempfile::tempdir().expect("a directory");
    let tar = kept.path().join("target.tar");
    machine.ok("tar -cf /root/target.tar -C /srv target several");
    machine.fetch_file("/root/target.tar", &tar);
    kept
}

#[test]
fn a_host_of_the_next_debian_takes_over_with_its_restic_and_its_postgresql() {
    let machine = Machine::boot("backup-twelve");
    start_with_notes(&machine, "file:///srv/target");
    (1..=5).for_each(|n| write_note(&machine, n));
    machine.ok("appliance backup run");
    let kept = carry(&machine);
    drop(machine);
    let machine = Machine::boot_trixie("backup-thirteen");
    machine.put_directory(kept.path().to_str().expect("a path"), "/srv/kept");
    machine.ok("tar -xf /srv/kept/target.tar -C /srv && rm -r /srv/kept && chown -R app:app /srv/several");
    machine.put("/app/env.yml", env("file:///srv/none/here"), 0o600);
    let out = machine.sh("appliance backup recover --yes");
    assert!(out.code == 1 && out.stderr.contains("the backup's target does not answer"), "{}", out.all());
    machine.put("/app/env.yml", env("file:///srv/target").replace(KEY, "a-wrong-key-of-the-same-length"), 0o600);
    let out = machine.sh("appliance backup recover --yes");
    assert!(out.code == 1 && out.stderr.contains("it was made with another key"), "{}", out.all());
    machine.put("/app/env.yml", env("file:///srv/target"), 0o600);
    // Without the appliance's help, where it was never started.
    assert_eq!(
        machine.ok("eval \"$(appliance backup key)\"; restic dump --tag part=database latest /database.pgdump | pg_restore -f - | grep -c '^[1-5]$'"),
        "5\n"
    );
    let out = machine.ok("appliance backup recover --yes 2>&1");
    assert!(out.contains("everything is back"), "{out}");
    assert_eq!((rows(&machine).as_str(), visit(&machine, "one", "/").0), ("5|15\n", 200));
    assert!(machine.ok("psql -U postgres -Atqc 'SHOW server_version'").starts_with("17."));
    // It writes into the same repository, reads what it has written, and what the other one has.
    write_note(&machine, 6);
    machine.ok("appliance backup run && appliance backup verify && appliance backup status");
    assert_eq!(machine.ok("appliance backup list --json | jq length"), "2\n");
    machine.ok("psql -U postgres one -qc 'DELETE FROM note'; appliance backup restore --database --yes");
    assert_eq!(rows(&machine), "6|21\n");
}

/// The ledger's current commit.
fn ledger(machine: &Machine) -> String {
    let text = machine.get("/data/appliance/apps/one/ledger.json");
    let ledger: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    ledger["current"]["commit"].as_str().expect("there is a release").to_owned()
}

/// Neither a log nor a status nor the repository's own names hold the key.
fn nothing_tells_the_key(machine: &Machine) {
    let told = machine.ok(
        "journalctl --no-pager -o cat; appliance backup status; appliance status; ls -R /srv/target /run/appliance",
    );
    assert!(!told.contains(KEY), "the key is told");
    assert!(machine.ok("appliance backup key").contains(KEY), "who asks for it gets it");
    let restic = machine.ok("eval \"$(appliance backup key)\"; restic snapshots | tail -1");
    assert!(restic.contains("8 snapshots"), "{restic}");
}
