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
    flight = json.load(open('/app/etc/ledger.json'))['in_flight']
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
}
