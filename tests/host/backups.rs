//! How long backups take, beside what one would type by hand, in the same run: a database of 1 GB and 50,000 files, into repositories on the
//! same disk.

use super::Machine;
use super::apps::wait_for_phase;
use super::several::{env_yml, install};

const ROWS: u32 = 7_000_000;

/// Wall time and processor time of a command, in seconds.
fn timed(machine: &Machine, command: &str) -> (f64, f64) {
    let told = machine.ok(&format!(
        "bash -c 'TIMEFORMAT=\"%R %U %S\"; time {{ ({command}) >/dev/null 2>/root/said; }}' 2>&1 || cat /root/said"
    ));
    let numbers: Vec<f64> = told.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [wall, user, system] = numbers[..] else { panic!("{command}: {told}") };
    (wall, user + system)
}

fn bytes(machine: &Machine) -> u64 {
    machine.ok("du -sb /srv/target | cut -f1").trim().parse().expect("a number")
}

pub fn backups() -> Vec<(&'static str, String, &'static str)> {
    let machine = Machine::boot("bench-backups");
    install(&machine);
    machine.ok("mkdir -p /srv/target /srv/peer");
    let backup =
        "  backup: {url: 'file:///srv/target', encrypt: a-password-of-thirty-two-letters, drill: {enabled: no}}\n";
    machine.put("/app/env.yml", env_yml(backup, "").replace("apps:\n  - name: one\n", "app:\n    name: one\n"), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    machine.ok(&format!(
        "systemctl stop appliance-ship.timer
         psql -U postgres one -qc \"CREATE TABLE note AS SELECT n, md5(n::text) || md5((n + 1)::text) || md5((n * 7)::text) AS t FROM generate_series(1, {ROWS}) n\" \
              -c 'ALTER TABLE note ADD PRIMARY KEY (n)' -c 'ALTER TABLE note OWNER TO app' -c 'VACUUM ANALYZE note' -c CHECKPOINT
         cd /data/one-storage-vault; for d in $(seq 50); do mkdir $d; head -c 4000000 /dev/urandom | split -b 4000 -a 3 - $d/f; done; sync"
    ));
    let size = machine.ok("psql -U postgres one -Atqc \"SELECT pg_size_pretty(pg_database_size('one'))\"; find /data/one-storage-vault -type f | wc -l");
    let peer = "export RESTIC_REPOSITORY=/srv/peer RESTIC_PASSWORD=x GOGC=20; set -o pipefail";
    machine.ok(&format!("{peer}; restic init -q").replace("; set -o pipefail", ""));
    let by_hand = format!(
        "{peer}; pg_dump -U postgres -Fc -Z0 one | restic backup -q --stdin --stdin-filename /d && restic backup -q /data/one-storage-vault"
    );
    let mut rows = vec![("backups: what there is", size.replace('\n', " "), "database, and files")];
    let (hand, _) = timed(&machine, &by_hand);
    // The first shipment would make the base backup that the run makes now: it is no part of what is typed by hand.
    let (first, _) = timed(&machine, "appliance backup run");
    rows.push((
        "backups: first run",
        format!("{first:.1} s, by hand {hand:.1} s"),
        "the base backup and a check of the repository included",
    ));
    let (hand, _) = timed(&machine, &by_hand);
    let (again, cpu) = timed(&machine, "appliance backup run");
    let ratio = again / hand;
    rows.push((
        "backups: nothing changed",
        format!("{again:.1} s ({cpu:.1} s of processor), by hand {hand:.1} s, ratio {ratio:.2}"),
        "aim: at most 10 s; with base backup and check",
    ));
    machine.ok("sed -i 's/drill:/continuous: no, drill:/' /app/env.yml; appliance env activate");
    let (without, _) = timed(&machine, "appliance backup run");
    rows.push((
        "backups: nothing changed, no base backup",
        format!("{without:.1} s, ratio {:.2}", without / hand),
        "aim: ratio at most 1.15",
    ));
    machine.ok("sed -i 's/continuous: no, //' /app/env.yml; appliance env activate; appliance prepare >/dev/null; systemctl stop appliance-ship.timer; appliance backup ship");
    let before = bytes(&machine);
    let mut shipped: Vec<(f64, f64)> = (0..5)
        .map(|n| {
            machine.ok(&format!("psql -U postgres one -qc 'UPDATE note SET t = t WHERE n = {}'", n + 1));
            timed(&machine, "appliance backup ship")
        })
        .collect();
    let grown = (bytes(&machine) - before) / 5;
    shipped.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (wall, cpu) = shipped[2];
    rows.push((
        "backups: a shipment of one row",
        format!("{wall:.1} s ({cpu:.1} s of processor), {grown} bytes"),
        "aim: at most 2 s of processor, 5 KB; the files are looked through",
    ));
    let restore = format!(
        "{peer}; createdb -U postgres peer && restic dump latest --path /d /d | pg_restore -U postgres --no-owner -d peer && restic restore -q latest --path /data/one-storage-vault --target /srv/restored"
    );
    let (hand, _) = timed(&machine, &restore);
    machine.ok("dropdb -U postgres peer; rm -rf /srv/restored");
    let (drill, _) = timed(&machine, "appliance backup drill");
    rows.push((
        "backups: a drill",
        format!("{drill:.1} s, restoring by hand {hand:.1} s"),
        "counted, indexes checked, and all once more from base and log",
    ));
    rows
}
