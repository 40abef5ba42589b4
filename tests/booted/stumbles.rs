//! Starts on a host that cannot be prepared: for a moment, for good, and while the app runs already. Every effect that can fail at a start is
//! walked through in `src/supervise/walk_tests.rs`.

use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

/// A file that a step writes.
const FILE: &str = "/etc/sysctl.d/60-appliance.conf";

/// What the supervisor has said since a time, in seconds.
fn said_since(machine: &Machine, since: &str) -> String {
    machine.ok(&format!("journalctl --no-pager -o cat -u appliance-supervisor --since @{}", since.trim()))
}

#[test]
fn a_host_that_cannot_be_prepared_takes_no_running_app_down_and_is_tried_again() {
    let machine = Machine::boot("stumbles");
    start_notes(&machine, "v1");
    wait_for_phase(&machine, "running");
    keep_note(&machine, "before");
    let look = "docker inspect -f '{{.Id}} {{.State.StartedAt}}' $(docker ps -q) | sort";
    let before = machine.ok(look);

    // A supervisor that is replaced, as by a new version of the package.
    machine.ok(&format!("rm {FILE} && mkdir {FILE}"));
    let since = machine.ok("date +%s");
    machine.ok("systemctl restart appliance-supervisor");
    wait_for_phase(&machine, "running");
    let said = said_since(&machine, &since);
    assert!(said.contains("starting again in 8 s") && said.contains("the app runs on"), "{said}");
    assert!(said.contains(&format!("{FILE} is a directory, but must be a file; move it away")), "{said}");
    assert_eq!(machine.ok(look), before, "the containers are the same, and were not restarted");
    assert_eq!((get(&machine, "/health").0, notes(&machine)), (200, vec!["before".to_owned()]));
    assert!(machine.sh("test -e /run/appliance-failed").code != 0);

    // A start that meets it, until somebody, or something, has mended it.
    let since = machine.ok("date +%s");
    machine.ok("systemctl stop appliance && systemctl start --no-block appliance");
    wait_for("the start to be tried again", Duration::from_secs(60), || {
        let said = said_since(&machine, &since);
        if said.contains("starting again in") { Ok(()) } else { Err(said) }
    });
    machine.ok(&format!("rmdir {FILE}"));
    wait_for_phase(&machine, "running");
    assert_eq!(notes(&machine), ["before"]);
    assert!(machine.ok(&format!("cat {FILE}")).contains("ip_nonlocal_bind = 1"));

    // What does not pass ends as failed, with its reason.
    machine
        .ok(&format!("systemctl stop appliance && rm {FILE} && mkdir {FILE} && systemctl start --no-block appliance"));
    let text = wait_for_end(&machine, "failed", 4);
    assert!(text.contains("The host could not be prepared"), "{text}");
    let flag = machine.get("/run/appliance-failed");
    assert!(flag.contains("is a directory, but must be a file"), "{flag}");
    machine.ok(&format!("rmdir {FILE} && appliance recover --start"));
    wait_for_phase(&machine, "running");
    assert_eq!(notes(&machine), ["before"]);
}
