//! The commands about the app's database.

use super::update::{assert_clean, ledger, start_v1, version};
use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

fn databases(machine: &Machine) -> String {
    machine.ok("psql -U postgres -Atc \"SELECT datname FROM pg_database WHERE datname LIKE 'notes%' ORDER BY 1\"")
}

/// The notes that a dump holds.
fn dumped(machine: &Machine, file: &str) -> String {
    machine.ok(&format!(
        "set -e; createdb -U postgres look; trap 'dropdb -U postgres look' EXIT; pg_restore -U postgres --no-owner -d look '{file}'; \
         psql -U postgres -Atc 'SELECT text FROM notes_note' look"
    ))
}

/// Waits until a stage is in the ledger.
const WAIT: &str = "import json, sys, time
end = time.time() + 60
while time.time() < end:
    flight = json.load(open('/data/appliance/apps/notes/ledger.json'))['in_flight']
    if flight and flight['stage'] == 'migrate': sys.exit(0)
sys.exit(1)";

#[test]
fn a_database_is_dumped_and_made_anew_with_a_way_back() {
    let machine = start_v1("database");
    keep_note(&machine, "one");
    let file = machine.ok("appliance database dump").trim().to_owned();
    assert!(file.starts_with("/data/notes-pgdump/notes-20"), "{file}");
    assert_eq!(machine.ok(&format!("stat -c '%a %U' {file}")), "600 app\n");
    assert_eq!(dumped(&machine, &file), "one\n");
    assert!(machine.sh(&format!("appliance database dump {file}")).stderr.contains("is there already"));
    machine.ok("appliance database dump /root/mine.pgdump");
    assert_eq!(dumped(&machine, "/root/mine.pgdump"), "one\n");

    // Nobody agreed.
    let before = machine.ok("docker inspect -f '{{.Id}} {{.State.StartedAt}}' $(docker ps -q)");
    let out = machine.sh("appliance database reset");
    assert!(out.code == 1 && out.stderr.contains("nothing was done. With --yes it is"), "{}", out.all());
    assert_eq!(machine.ok("docker inspect -f '{{.Id}} {{.State.StartedAt}}' $(docker ps -q)"), before);
    assert_eq!(notes(&machine), ["one"]);

    // Cut off where the database has gone already: it is back as it was.
    let mut reset = machine.spawn("appliance database reset --yes");
    machine.ok(&format!("python3 -c \"{WAIT}\""));
    wait_for("the empty database", Duration::from_secs(60), || {
        let tables = machine
            .sh("psql -U postgres -Atc 'SELECT count(*) FROM pg_tables WHERE tablename = $$notes_note$$' notes")
            .all();
        if tables == "0\n" { Ok(()) } else { Err(tables) }
    });
    machine.ok("pkill -9 -f '^appliance database'");
    drop(reset.wait());
    wait_for("the old one", Duration::from_secs(120), || {
        let seen = (get(&machine, "/notes").0, phase(&machine).0, ledger(&machine)["in_flight"].is_null());
        if seen == (200, "running".to_owned(), true) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    assert_eq!(notes(&machine), ["one"]);

    let said = machine.ok("appliance database reset --yes");
    assert!(said.contains("the database notes is new"), "{said}");
    assert_eq!((notes(&machine), version(&machine).as_str()), (Vec::new(), "v1"));
    keep_note(&machine, "two");
    assert_eq!(databases(&machine), "notes\n");
    // Each of the two began with a dump of its own.
    let kept = machine.ok("ls /data/notes-pgdump/notes-reset-*");
    let kept: Vec<&str> = kept.lines().collect();
    assert_eq!(kept.len(), 2);
    assert_eq!(dumped(&machine, kept[1]), "one\n");
    wait_for_phase(&machine, "running");
    assert_clean(&machine);

    // No dump, a broken one, one that nobody can unpack: said before anything stops.
    let before = machine.ok("docker inspect -f '{{.Id}} {{.State.StartedAt}}' $(docker ps -q)");
    machine.ok(&format!("echo 'SELECT 1;' > /root/plain.sql; head -c 3000 {file} > /root/cut.pgdump; head -c 100 /dev/urandom | gzip > /root/noise.gz; \
                         gzip -c {file} | head -c 700 > /root/cut.gz"));
    for (name, expected) in [
        ("none", "/root/none is missing"),
        ("plain.sql", "it is no dump in pg_dump's custom format"),
        ("noise.gz", "it is no dump in pg_dump's custom format"),
        ("cut.pgdump", "/root/cut.pgdump cannot be put back"),
        ("cut.gz", "could not unpack /root/cut.gz"),
    ] {
        let out = machine.sh(&format!("appliance database restore --yes /root/{name}"));
        assert!(out.code == 1 && out.stderr.contains(expected), "{name}: {}", out.all());
    }
    assert_eq!(machine.ok("docker inspect -f '{{.Id}} {{.State.StartedAt}}' $(docker ps -q)"), before);
    assert_clean(&machine);

    // Of another host, where everything belongs to somebody else, packed.
    machine.ok(&format!(
        "set -e; createuser -U postgres ecs; createdb -U postgres -O ecs old; psql -q -U postgres old -c 'CREATE EXTENSION pg_stat_statements'; \
         pg_restore -U postgres --no-owner --role=ecs -l {file} | grep -v EXTENSION > /root/list; \
         pg_restore -U postgres --no-owner --role=ecs -L /root/list -d old {file}; psql -q -U postgres old -c 'GRANT ALL ON notes_note TO PUBLIC'; \
         pg_dump -U postgres --format=custom -Z0 old | gzip > /root/old.pgdump.gz; dropdb -U postgres old; dropuser -U postgres ecs"
    ));
    let out = machine.sh("appliance database restore /root/old.pgdump.gz");
    assert!(out.code == 1 && out.stderr.contains("nothing was done. With --yes it is"), "{}", out.all());
    machine.ok("appliance database restore --yes /root/old.pgdump.gz");
    assert_eq!(notes(&machine), ["one"]);
    keep_note(&machine, "three");
    let owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(machine.ok(&format!("psql -U postgres -Atc \"{owners}\" notes")), "app\n");
    assert_eq!(databases(&machine), "notes\n");
    assert_eq!(machine.sh("ls /data/notes-pgdump/restore.pgdump*").code, 2, "what was unpacked is gone");
    wait_for_phase(&machine, "running");
    assert_clean(&machine);
}
