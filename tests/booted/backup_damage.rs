//! A repository that is damaged, locked by others, or cut off from the database in the middle: it is found and said, no wrong file is handed
//! out as right, and what comes after is whole.

use super::shipping::{start, until, write_notes};
use crate::host::Machine;
use crate::host::sample::{Random, seed};

/// The kinds of files that a repository has, where they lie, and what a run says of one that is damaged.
const KINDS: [(&str, &str, &str); 5] = [
    ("config", "-path '*/restic/config'", "is damaged"),
    ("key", "-path '*/restic/keys/*'", "the repository's key file is damaged"),
    (
        "snapshot",
        "-path '*/restic/snapshots/*'",
        "is damaged; move that file out of the repository's directory snapshots",
    ),
    ("index", "-path '*/restic/index/*'", "the repository's index is damaged; make it anew"),
    ("pack", "-path '*/restic/data/*'", ""),
];

#[test]
fn a_bit_that_flips_in_any_kind_of_file_is_found_and_no_wrong_file_is_handed_out() {
    let machine = Machine::boot("backup-damage");
    start(&machine);
    machine.ok("systemctl stop appliance-ship.timer");
    write_notes(&machine, 1..=3);
    machine.ok("head -c 3000000 /dev/urandom > /data/one-storage-vault/large; appliance backup run");
    write_notes(&machine, 4..=4);
    machine.ok("appliance backup ship; appliance backup verify; cp -a /srv/target /srv/good");
    let sums = "find . -type f -exec sha256sum {} + | sort";
    let right = machine.ok(&format!("cd /data/one-storage-vault; {sums}"));
    let mut random = Random::of(seed());
    for (kind, find, said) in KINDS {
        let files = machine.ok(&format!("find /srv/target -type f {find} | sort"));
        let files: Vec<&str> = files.lines().collect();
        let file = files[random.below(files.len())];
        // A key file is JSON, and what stands first in it is for people; the key itself comes last.
        let part = if kind == "key" { 600 + random.below(300) } else { random.below(1000) };
        let flip = format!(
            "b = bytearray(open(\"{file}\", \"rb\").read()); b[len(b) * {part} // 1000] ^= 1; open(\"{file}\", \"wb\").write(b)"
        );
        machine
            .ok(&format!("chmod u+w {file}; python3 -c '{flip}'; rm -rf /var/lib/appliance/backup/cache /root/found"));
        let out = machine.sh("appliance backup verify");
        println!("{kind} {file} at {part}/1000: {}", out.stderr.trim());
        assert_eq!(out.code, 1, "{kind}: {}", out.all());
        // What can be restored is right, and what is not says so.
        let out = machine.sh("appliance backup restore --files --to /root/found /data/one-storage-vault");
        println!("{kind}: restored with {}: {}", out.code, out.stderr.trim());
        if out.code == 0 {
            let found = machine.ok(&format!("cd /root/found/data/one-storage-vault; {sums}"));
            let expected: Vec<&str> = right.lines().filter(|line| !line.ends_with("./4")).collect();
            assert_eq!(found.lines().collect::<Vec<_>>(), expected, "{kind}");
        }
        // Nothing is removed from a repository of which not all can be read.
        let before = machine.ok("find /srv/target -type f -path '*/snapshots/*' | wc -l");
        let run = machine.sh("appliance backup run");
        println!("{kind}: a run ends with {}: {}", run.code, run.stderr.lines().last().unwrap_or(""));
        let status = machine.sh("appliance backup status");
        // Of the data a part is read behind each run; all of it by verify.
        if kind != "pack" {
            assert_eq!(run.code, 1, "{kind}: {}", run.all());
            assert!(status.code == 1 && status.stdout.contains("trouble"), "{kind}: {}", status.all());
            assert!(run.stderr.contains(said), "{kind}: {}", run.all());
        }
        let after = machine.ok("find /srv/target -type f -path '*/snapshots/*' | wc -l");
        let count = |text: &str| text.trim().parse::<usize>().expect("a number");
        assert!(count(&after) >= count(&before), "{kind}");
        // As docs/backup.md has it.
        let heal = match kind {
            "index" => "set -e; systemctl stop appliance-ship.timer; eval \"$(appliance backup key)\"; restic rebuild-index; appliance backup verify
                systemctl start appliance-ship.timer; systemctl stop appliance-ship.timer"
                .to_owned(),
            "snapshot" => format!("mv {file} /root"),
            _ => String::new(),
        };
        if !heal.is_empty() {
            machine.ok(&heal);
            // It may have been the last run's: that is told once.
            machine.ok("appliance backup run || appliance backup run; appliance backup verify");
        }
        machine.ok("rm -r /srv/target; cp -a /srv/good /srv/target; rm -rf /var/lib/appliance/backup/cache");
    }
    machine.sh("appliance backup run");
    machine.ok("appliance backup run && appliance backup drill && appliance backup verify && appliance backup status");
}

#[test]
fn who_locks_the_repository_is_said_and_a_dump_that_is_cut_off_is_none() {
    let machine = Machine::boot("backup-locked");
    start(&machine);
    machine.ok("systemctl stop appliance-ship.timer");
    write_notes(&machine, 1..=3);
    machine.ok("appliance backup run");
    let runs = || machine.ok("appliance backup list --json | jq length");
    let before = runs();

    // Somebody ends the database's session in the middle of the dump.
    machine.ok(
        "psql -U postgres one -qc 'CREATE TABLE wide AS SELECT n, repeat(md5(n::text), 20) AS t FROM generate_series(1, 200000) n; ALTER TABLE wide OWNER TO app'
         systemd-run -q --unit=cut appliance backup run",
    );
    until(
        &machine,
        "psql -U postgres -Atqc \"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'pg_dump'\" | grep -qx 1",
    );
    until(&machine, "! systemctl is-active -q cut");
    let said = machine.ok("journalctl -u cut -o cat");
    assert!(said.contains("could not store the database of one"), "{said}");
    let status = machine.sh("appliance backup status");
    assert!(status.code == 1 && status.stdout.contains("could not store the database of one"), "{}", status.all());
    assert_eq!(runs(), before);

    // Another host's restic holds the repository for itself, and dies: nobody can know whether it still works there.
    machine.ok(
        "set -e; eval \"$(appliance backup key)\"; restic unlock
         systemd-run -q --unit=other -E RESTIC_REPOSITORY -E RESTIC_PASSWORD -E HOME=/root unshare --uts sh -c 'hostname somebody-else; exec restic --limit-download 1 check --read-data'",
    );
    until(&machine, "ls /srv/target/restic/locks | grep -q . && systemctl kill -s KILL other");
    let out = machine.sh("appliance backup run");
    println!("{}", out.all());
    assert!(out.code == 1 && out.stderr.contains("somebody-else"), "{}", out.all());
    let status = machine.sh("appliance backup status");
    assert!(status.code == 1 && status.stdout.contains("somebody-else"), "{}", status.all());
    machine.ok("eval \"$(appliance backup key)\"; restic unlock --remove-all; appliance backup run && appliance backup status && appliance backup verify");
}
