//! What follows from containers' deaths, up to the failed state and out of it again.

use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

/// Kills a service's process as a crash would end it, and waits until the supervisor has started it anew.
fn kill(machine: &Machine, service: &str) {
    let pid = pid(machine, service).unwrap_or_else(|| panic!("{service} does not run"));
    machine.ok(&format!("kill -9 {pid}"));
}

/// The service's process id on the host, if it runs.
fn pid(machine: &Machine, service: &str) -> Option<u32> {
    let pid = machine.sh(&format!("docker inspect -f '{{{{.State.Pid}}}}' notes_{service}_1")).stdout;
    pid.trim().parse().ok().filter(|pid| *pid != 0)
}

fn wait_for_restart(machine: &Machine, service: &str, before: u32) {
    wait_for(&format!("{service} to be restarted"), Duration::from_secs(60), || match pid(machine, service) {
        Some(now) if now != before => Ok(()),
        other => Err(format!("{other:?}, before {before}")),
    });
}

#[test]
fn a_death_is_answered_six_degrade_and_six_of_a_routed_service_fail() {
    let machine = Machine::boot("deaths");
    start_notes(&machine, "v1");
    wait_for_phase(&machine, "running");

    let before = pid(&machine, "worker").expect("the worker runs");
    kill(&machine, "worker");
    wait_for_restart(&machine, "worker", before);
    assert_eq!(phase(&machine), ("running".to_owned(), 0));

    for _ in 0..6 {
        let before = pid(&machine, "beat").expect("beat runs");
        kill(&machine, "beat");
        wait_for_restart(&machine, "beat", before);
    }
    wait_for("the degraded state", Duration::from_secs(30), || {
        let text = machine.sh("appliance status");
        if text.code == 0 && text.stdout.contains("degraded: beat keeps dying") { Ok(()) } else { Err(text.all()) }
    });
    assert_eq!(get(&machine, "/health").0, 200, "the app goes on");

    for round in 1..=6 {
        let before = pid(&machine, "web").expect("web runs");
        kill(&machine, "web");
        if round < 6 {
            wait_for_restart(&machine, "web", before);
        }
    }
    wait_for("the failed state", Duration::from_secs(60), || {
        let seen = phase(&machine);
        if seen == ("failed".to_owned(), 4) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    wait_for("the supervisor's end", Duration::from_secs(60), || {
        let state = machine.ok("systemctl show -p ExecMainStatus,ActiveState appliance-supervisor");
        if state.contains("ExecMainStatus=4") && state.contains("ActiveState=failed") { Ok(()) } else { Err(state) }
    });
    assert!(machine.get("/run/appliance-failed").contains("web died more than 5 times"));
    assert_eq!(machine.ok("docker ps -q"), "", "the stack is stopped");
    let (code, body) = get(&machine, "/");
    assert!(code == 503 && body.contains("Out of service") && !body.contains("web died"), "{code} {body}");

    // While the flag is there nothing starts.
    machine.ok("systemctl restart appliance");
    wait_for("the refusal", Duration::from_secs(60), || {
        let state = machine.ok("systemctl show -p ExecMainStatus,ActiveState appliance-supervisor");
        if state.contains("ExecMainStatus=4") && state.contains("ActiveState=failed") { Ok(()) } else { Err(state) }
    });
    assert_eq!(machine.ok("docker ps -q"), "");

    let said = machine.ok("appliance recover");
    assert!(said.contains("web died more than 5 times"), "{said}");
    assert_eq!(phase(&machine), ("standby".to_owned(), 3));
    machine.ok("appliance recover --start");
    wait_for_phase(&machine, "running");
    assert_eq!(get(&machine, "/health").0, 200);
}

#[test]
fn docker_restarted_and_a_container_removed_by_hand() {
    let machine = Machine::boot("docker-gone");
    start_notes(&machine, "v1");
    wait_for_phase(&machine, "running");
    machine.ok("docker rm -f notes_worker_1");
    wait_for("the worker to be made again", Duration::from_secs(60), || {
        pid(&machine, "worker").map(|_| ()).ok_or_else(|| "gone".to_owned())
    });
    machine.ok("systemctl restart docker");
    wait_for("all services to be healthy again", Duration::from_secs(120), || {
        let status = status(&machine);
        let healthy = status["services"]
            .as_array()
            .is_some_and(|all| all.len() == 5 && all.iter().all(|service| service["health"] == "healthy"));
        if healthy && get(&machine, "/health").0 == 200 { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(phase(&machine), ("running".to_owned(), 0));
    // With live-restore Docker's restart is no death of a container, and none is started anew.
    machine.put("/etc/docker/daemon.json", "{\"live-restore\": true}", 0o644);
    machine.ok("systemctl reload docker");
    let started = "docker inspect -f '{{.Name}} {{.State.StartedAt}}' $(docker ps -q) | sort";
    let before = machine.ok(started);
    machine.ok("systemctl restart docker");
    wait_for("the supervisor to have Docker again", Duration::from_secs(60), || {
        let said =
            machine.ok("journalctl -u appliance-supervisor -o cat --no-pager | grep -c 'Docker cannot be reached'");
        let seen = phase(&machine);
        if said.trim() != "1" && seen == ("running".to_owned(), 0) { Ok(()) } else { Err(format!("{said} {seen:?}")) }
    });
    assert_eq!(get(&machine, "/health").0, 200);
    assert_eq!(machine.ok(started), before);

    // A service without a route, which the env calls critical.
    let env = env_yml(&machine, "v1").replace("  settings:", "  critical: [beat]\n  settings:");
    machine.put("/app/env.yml", env, 0o600);
    machine.ok("systemctl restart appliance");
    wait_for_phase(&machine, "running");
    for round in 1..=6 {
        let before = pid(&machine, "beat").expect("beat runs");
        if round == 6 {
            // It does not answer SIGTERM, so stopping the stack takes its whole grace period.
            machine.ok(&format!("kill -STOP {}", pid(&machine, "web").expect("web runs")));
        }
        kill(&machine, "beat");
        if round < 6 {
            wait_for_restart(&machine, "beat", before);
        }
    }
    wait_for("the failed flag", Duration::from_secs(60), || {
        let out = machine.sh("cat /run/appliance-failed");
        if out.stdout.contains("beat died more than 5 times") { Ok(()) } else { Err(out.all()) }
    });
    // Whoever stops the supervisor meanwhile does not wait for that.
    machine.ok("systemctl stop appliance-supervisor");
    assert_eq!(machine.ok("systemctl show -p Result --value appliance-supervisor"), "exit-code\n", "it was not killed");
    assert!(pid(&machine, "web").is_some(), "web was still to be stopped");
    let said = machine.sh("appliance status").stdout;
    assert!(said.contains("beat died more than 5 times"), "{said}");
    machine.ok("systemctl stop appliance");
    assert_eq!(machine.ok("docker ps -q"), "");
}
