//! A disk on which nothing is left: what runs goes on, nothing is begun, and everything recovers once there is room again.

use super::update::{assert_clean, ledger, push, version};
use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

/// Takes every block that is left, and those that what runs gives back meanwhile: the file system frees some only after a while.
fn fill(machine: &Machine) {
    machine.sh("dd if=/dev/zero of=/var/fill bs=1M; sync");
    wait_for("the disk to be full", Duration::from_secs(60), || {
        machine.sh("dd if=/dev/zero of=/var/fill2 bs=4k oflag=append conv=notrunc; sync");
        let out = machine.sh("dd if=/dev/zero of=/var/fill3 bs=4k count=1 oflag=append conv=notrunc");
        if out.code != 0 && out.stderr.contains("No space left") { Ok(()) } else { Err(out.all()) }
    });
}

fn started(machine: &Machine, service: &str) -> String {
    machine.ok(&format!("docker inspect -f '{{{{.Id}}}} {{{{.State.StartedAt}}}}' notes_{service}_1"))
}

#[test]
fn a_full_disk_stops_nothing_that_runs_and_is_recovered_from_without_help() {
    let machine = Machine::boot_small("full", 2000);
    install_notes(&machine);
    push(&machine, "v1");
    machine.put("/app/env.yml", env_yml(&machine, "live"), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    keep_note(&machine, "before");
    push(&machine, "v2");

    // Not enough for an update: it says so, and nothing has happened.
    machine.ok("fallocate -l $(($(stat -f -c '%a * %S' /var) - 100 * 1048576)) /var/most");
    let web = started(&machine, "web");
    let out = machine.sh("appliance update");
    assert!(out.code == 1 && out.stderr.contains("too little room for the update"), "{}", out.all());
    assert_eq!((started(&machine, "web"), version(&machine).as_str()), (web.clone(), "v1"));

    fill(&machine);
    let pid = machine.ok("systemctl show -p MainPID --value appliance-supervisor");
    // An update cannot even write down that it begins; a supervisor that has to start again does.
    let out = machine.sh("appliance update");
    assert!(out.code == 1 && out.stderr.contains("No space left"), "{}", out.all());
    machine.ok("systemctl kill -s KILL --kill-whom=main appliance-supervisor");
    wait_for("the next supervisor", Duration::from_secs(60), || {
        let now = machine.ok("systemctl show -p MainPID --value appliance-supervisor");
        let phase = phase(&machine).0;
        if now != pid && now.trim() != "0" && phase == "running" { Ok(()) } else { Err(format!("{now} {phase}")) }
    });
    assert_eq!((started(&machine, "web"), notes(&machine)), (web, vec!["before".to_owned()]));

    // What dies now may not come back at once, the database included.
    machine.ok("kill -9 $(docker inspect -f '{{.State.Pid}}' notes_worker_1)");
    machine.ok("kill -9 $(head -n 1 /var/lib/postgresql/*/main/postmaster.pid)");
    wait_for("the death of the database to be seen", Duration::from_secs(30), || {
        let restarts = machine.ok("systemctl show -p NRestarts --value postgresql@15-main").trim().to_owned();
        if restarts == "0" { Err(restarts) } else { Ok(()) }
    });

    machine.ok("rm /var/most /var/fill /var/fill2 /var/fill3");
    wait_for("everything to be back", Duration::from_secs(180), || {
        let (code, body) =
            curl(&machine, &["--data-urlencode", "text=after", &format!("https://{}/notes", machine.address())]);
        let up = machine.ok("docker ps --format '{{.Names}} {{.Status}}'");
        let phase = phase(&machine).0;
        let is_up = up.contains("notes_worker_1") && !up.contains("unhealthy") && phase == "running";
        if code == 201 && is_up { Ok(()) } else { Err(format!("{code} {body} {up} {phase}")) }
    });
    assert!(notes(&machine).starts_with(&["before".to_owned()]));
    assert!(ledger(&machine)["in_flight"].is_null());
    machine.ok("appliance update");
    assert_eq!(version(&machine), "v2");
    assert_clean(&machine);
}
