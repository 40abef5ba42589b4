//! What goes wrong with backups: targets that are away, full or damaged, sources that are gone, a run that is killed. The apps go on in all of
//! it, and no run is listed that cannot be restored.

use crate::host::Machine;
use crate::host::sample::{Random, is_soak, seed};
use crate::host::several::*;

const KEY: &str = "canary-key-of-the-repository-0123456789";

fn env_to(url: &str) -> String {
    env_yml(&format!("  backup: {{url: '{url}', continuous: no, encrypt: {KEY}}}\n"), &instance("two", ""))
}

/// A host with two apps, each with a table of notes and a file in its vault; its own sshd is the target.
fn start_two(machine: &Machine) {
    install(machine);
    machine.ok(
        "mkdir -p /srv/target /root/.ssh && chmod 700 /root/.ssh && systemctl unmask -q ssh.service ssh.socket && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519 \
         && cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys && systemctl start ssh",
    );
    machine.put("/app/env.yml", env_to("sftp://root@127.0.0.1//srv/target"), 0o600);
    machine.ok("systemctl start appliance");
    for app in ["one", "two"] {
        wait_for_app(machine, app, "running");
        machine.ok(&format!(
            "psql -U postgres {app} -qc 'CREATE TABLE note AS SELECT generate_series(1, 100) AS n; ALTER TABLE note OWNER TO {app}'; \
             for n in $(seq 40); do echo $n > /data/{app}-storage-vault/$n; done"
        ));
    }
}

fn runs(machine: &Machine) -> Vec<(String, String)> {
    let listed = machine.ok("appliance backup list --json");
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("it is JSON");
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().expect("a text").to_owned();
    listed.as_array().into_iter().flatten().map(|row| (text(row, "run"), text(row, "app"))).collect()
}

/// What a run says that does not come to be.
fn refused(machine: &Machine, expected: &str) {
    let before = containers(machine);
    let out = machine.sh("appliance backup run");
    assert!(out.code == 1 && out.stderr.contains(expected), "{expected}: {}", out.all());
    let status = machine.sh("appliance backup status");
    assert!(status.code == 1 && status.stdout.contains("trouble"), "{}", status.all());
    for told in [&out.all(), &status.all()] {
        assert!(!told.contains(KEY), "the key is told");
    }
    assert_eq!(containers(machine), before, "no app knows of it");
}

#[test]
fn what_is_wrong_with_a_target_or_a_source_is_told_and_no_app_minds() {
    let machine = Machine::boot("backup-faults");
    start_two(&machine);
    let to = |url: &str| {
        machine.put("/app/env.yml", env_to(url), 0o600);
        machine.ok("appliance env activate");
    };
    // Over ssh, with both apps.
    machine.ok("appliance env activate; appliance backup run");
    assert_eq!(runs(&machine).iter().map(|(_, app)| app.as_str()).collect::<Vec<_>>(), ["two", "one"]);
    machine.ok("systemctl stop ssh ssh.socket 2>/dev/null; pkill -x sshd || true");
    refused(&machine, "the backup's target does not answer");
    machine.ok("systemctl start ssh");
    let told = machine.ok("appliance backup run --json && appliance backup status >/dev/null");
    let told: serde_json::Value = serde_json::from_str(&told).expect("it is JSON");
    assert_eq!((&told[0]["files"]["in_vault"], &told[0]["app"]), (&40.into(), &"one".into()), "{told}");

    // What an app does before a run, and what it leaves out.
    let own = |exec: &str| {
        let backup =
            format!("  backup: {{url: 'sftp://root@127.0.0.1//srv/target', continuous: no, encrypt: {KEY}}}\n");
        let of_two =
            format!("    backup: {{exclude: [cache, '*/thumbnails'], exec: {{service: web, command: {exec}}}}}\n");
        machine.put("/app/env.yml", env_yml(&backup, &instance("two", &of_two)), 0o600);
        machine.ok("appliance env activate");
    };
    machine
        .ok("cd /data/two-storage-vault; mkdir -p cache d/thumbnails e; touch cache/x d/thumbnails/x d/kept e/cache");
    own("[sh, -c, 'echo ready > /kept/ready']");
    machine.ok("appliance backup run; appliance backup restore --app two --files --to /root/two");
    let found = machine.ok("cd /root/two; find . -type f -path '*/two-storage-vault/*/*' | sort; cat var/lib/docker/volumes/two_kept/_data/ready");
    assert_eq!(found, "./data/two-storage-vault/d/kept\n./data/two-storage-vault/e/cache\nready\n");
    own("[sh, -c, 'echo canary-of-the-command >&2; exit 7']");
    refused(
        &machine,
        "two: app.backup.exec failed, so nothing was stored: sh in web ended with 7:\ncanary-of-the-command",
    );
    machine.ok("rm -r /data/two-storage-vault/[a-z]*");
    to("sftp://root@127.0.0.1//srv/target");

    // A file system that is not mounted, one that others can write, a key that does not fit.
    to("file:///mnt/nothing/here");
    refused(&machine, "the backup's target does not answer");
    assert_eq!(machine.ok("ls /mnt"), "", "nothing is written around what is not mounted");
    machine.ok("mkdir -p /srv/open && chmod 777 /srv/open");
    to("file:///srv/open");
    refused(&machine, "/srv/open can be written by others than root");
    to("sftp://root@127.0.0.1//srv/target");

    // A vault that is gone, or has lost half: the other app is stored all the same.
    machine.ok("mv /data/one-storage-vault /data/away");
    refused(&machine, "one: /data/one-storage-vault is not there; is its file system mounted?");
    machine.ok("mkdir /data/one-storage-vault");
    refused(&machine, "/data/one-storage-vault holds 0 files, and held 40 at the last run");
    machine
        .ok("appliance backup run --accept-loss; rmdir /data/one-storage-vault; mv /data/away /data/one-storage-vault");
    let of = |app: &str| runs(&machine).iter().filter(|(_, of)| of == app).count();
    assert_eq!((of("one"), of("two")), (5, 6));

    // One app goes back; the other serves as before.
    let other = containers_of(&machine, &["one"]);
    machine.ok("psql -U postgres two -qc 'DELETE FROM note'; psql -U postgres one -qc 'DELETE FROM note WHERE n > 50'");
    let visitors = Visitors::of(&machine, "one", 20);
    machine.ok("appliance backup restore --app two --database --yes");
    visitors.all_served();
    assert_eq!(machine.ok("psql -U postgres two -Atqc 'SELECT count(*) FROM note'"), "100\n");
    assert_eq!(machine.ok("psql -U postgres one -Atqc 'SELECT count(*) FROM note'"), "50\n");
    assert_eq!(containers_of(&machine, &["one"]), other);
    let out = machine.sh("appliance backup restore --database --yes");
    assert!(out.code == 1 && out.stderr.contains("this host has several apps: one, two"), "{}", out.all());

    // Full, and a bit that flipped where it lies.
    machine.ok("mkdir /mnt/small && mount -t tmpfs -o size=8m,mode=755 tmpfs /mnt/small");
    machine.ok("head -c 20000000 /dev/urandom > /data/one-storage-vault/large");
    to("file:///mnt/small");
    refused(&machine, "wrote last is not there any more; is its file system mounted?");
    let out = machine.sh("appliance backup run --new-repository");
    assert!(out.code == 1 && out.stderr.contains("no space left on device"), "{}", out.all());
    machine.ok("mount -o remount,size=200m /mnt/small && appliance backup run && appliance backup verify");
    // In all of them: one that the full target cut off belongs to nothing.
    let packs = machine.ok("find /mnt/small/restic/data -type f -size +1M");
    for pack in packs.lines() {
        let flip = format!(
            "b = bytearray(open(\"{pack}\", \"rb\").read()); b[500000] ^= 1; open(\"{pack}\", \"wb\").write(b)"
        );
        machine.ok(&format!("chmod u+w {pack}; python3 -c '{flip}'"));
    }
    let out = machine.sh("appliance backup verify");
    assert!(out.code == 1 && out.stderr.contains("the repository is damaged"), "{}", out.all());
}

#[test]
fn a_run_that_is_killed_is_none_and_all_that_are_listed_can_be_restored() {
    let machine = Machine::boot("backup-kills");
    start_two(&machine);
    machine.ok(
        "appliance env activate; head -c 3000000 /dev/urandom > /data/one-storage-vault/large; appliance backup run",
    );
    let mut random = Random::of(seed());
    for _ in 0..if is_soak() { 200 } else { 6 } {
        let after = random.below(4000);
        // All of it at once, as by a power cut; or this program alone.
        let whom = if random.below(2) == 0 { "all" } else { "main" };
        machine.ok(&format!(
            "echo {after} >> /data/two-storage-vault/changes; systemctl start --no-block appliance-backup; sleep {}.{:03}; \
             systemctl kill -s KILL --kill-who={whom} appliance-backup || true",
            after / 1000,
            after % 1000
        ));
        machine.sh("systemctl stop appliance-backup; systemctl reset-failed appliance-backup");
    }
    machine.ok("appliance backup run && appliance backup verify");
    let script = "set -e; eval \"$(appliance backup key)\"; eval \"restic() { command restic $(appliance backup key | sed -n \"s/^# beside: restic //p\") \\\"\\$@\\\"; }\"
        for id in $(restic snapshots --json --tag part=manifest | jq -r '.[].id'); do
            restic dump $id /manifest.json > /root/m; D=$(jq -r .database.snapshot /root/m); F=$(jq -r .files.snapshot /root/m)
            restic dump $D /database.pgdump > /root/d; pg_restore --data-only --table=note -f - /root/d | grep -c '^[0-9]'
            restic ls $F | grep -c storage-vault/40$
        done";
    let told = machine.ok(script);
    let counts: Vec<&str> = told.lines().collect();
    assert_eq!(counts.len(), 2 * runs(&machine).len());
    assert!(counts.chunks(2).all(|pair| pair == ["100", "1"]), "{told}");
    // Nothing stays behind: no process, no lock, no transaction.
    assert_eq!(
        machine.ok("pgrep -x restic || true; eval \"$(appliance backup key)\"; ls /srv/target/restic/locks"),
        ""
    );
    let held = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
    assert_eq!(machine.ok(&format!("psql -U postgres -Atqc \"{held}\"")), "0\n");
}
