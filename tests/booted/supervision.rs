//! The rules of supervision on the real engine. Each is proven with a paused clock in `supervise/judge_tests.rs`; here is what Docker
//! makes of it.

use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use serde_json::Value;
use std::time::Duration;

const COMPOSE: &str = r#"
x-stub: &stub
  image: stub:1
  stop_grace_period: 1s
services:
  plain: *stub
  sick:
    <<: *stub
    entrypoint: [/bin/sh, -c, "echo > /tmp/well; exec /bin/stub"]
    tmpfs: /tmp
    healthcheck: {test: [CMD, /bin/busybox, test, -e, /tmp/well], interval: 1s, timeout: 10s, retries: 2}
  hungry:
    <<: *stub
    entrypoint: [/bin/sh, -c, "while /bin/busybox [ ! -e /tmp/eat ]; do /bin/busybox sleep 1; done; /bin/busybox tail /dev/zero"]
    tmpfs: /tmp
    mem_limit: 16m
    memswap_limit: 16m
  job:
    <<: *stub
    entrypoint: [/bin/sh, -c, "echo ran >> /out/log"]
    volumes: ["out:/out"]
  after:
    <<: *stub
    volumes: ["out:/out"]
    depends_on: {job: {condition: service_completed_successfully}}
  db:
    <<: *stub
    healthcheck: {test: [CMD, /bin/busybox, "true"], interval: 2s, timeout: 10s}
  web:
    <<: *stub
    depends_on: {db: {condition: service_healthy, restart: true}}
  side:
    <<: *stub
    entrypoint: [/bin/busybox, sleep, "100000"]
    network_mode: service:web
volumes: {out: }
"#;

const SERVICES: [&str; 7] = ["plain", "sick", "hungry", "after", "db", "web", "side"];

fn name(service: &str) -> String {
    format!("sup_{service}_1")
}

fn started(machine: &Machine, service: &str) -> String {
    inspect(machine, &name(service))["State"]["StartedAt"].as_str().unwrap_or_default().to_owned()
}

fn pid(machine: &Machine, service: &str) -> u64 {
    inspect(machine, &name(service))["State"]["Pid"].as_u64().unwrap_or(0)
}

fn kill(machine: &Machine, service: &str) {
    machine.ok(&format!("kill -9 {}", pid(machine, service)));
}

/// Waits until a service was started after `before` and runs.
fn wait_for_start(machine: &Machine, service: &str, before: &str) -> String {
    wait_for(&format!("{service} to be started again"), Duration::from_secs(60), || {
        let state = inspect(machine, &name(service))["State"].clone();
        let started = state["StartedAt"].as_str().unwrap_or_default();
        if state["Running"] == true && started > before { Ok(()) } else { Err(state.to_string()) }
    });
    started(machine, service)
}

fn wait_until_all_run(machine: &Machine, but: &[&str]) {
    wait_for("all services to run", Duration::from_secs(120), || {
        let all = status(machine);
        let runs = |service: &&str| {
            let mut found = all["services"].as_array().into_iter().flatten();
            found.any(|known| known["service"] == **service && known["state"] == "running")
        };
        let lacking: Vec<&&str> =
            SERVICES.iter().filter(|name| !but.contains(name)).filter(|name| !runs(name)).collect();
        if lacking.is_empty() { Ok(()) } else { Err(format!("{lacking:?} of {all}")) }
    });
}

fn state_of(machine: &Machine, service: &str) -> String {
    let all = status(machine);
    let mut found = all["services"].as_array().into_iter().flatten();
    found.find(|known| known["service"] == service).map_or(Value::Null, |known| known["state"].clone()).to_string()
}

fn journal(machine: &Machine) -> String {
    machine.ok("journalctl -u appliance-supervisor -o cat --no-pager")
}

/// How often the job has run.
fn runs(machine: &Machine) -> usize {
    machine.ok("docker exec sup_after_1 /bin/busybox cat /out/log").lines().count()
}

#[test]
fn deaths_of_every_kind_and_hands_of_every_kind() {
    let machine = Machine::boot("supervision");
    start_stack(&machine, "sup", COMPOSE);
    wait_until_all_run(&machine, &[]);
    assert_eq!(runs(&machine), 1);
    let job = inspect(&machine, "sup_job_1");
    assert_eq!((&job["State"]["ExitCode"], &job["State"]["Status"]), (&0.into(), &"exited".into()));
    let plan = machine.sh("appliance plan");
    assert_eq!(plan.code, 0, "a job that is done is as wanted: {}", plan.all());

    // A crash, one that is unhealthy, one without memory: each with its reason.
    let before = started(&machine, "plain");
    kill(&machine, "plain");
    wait_for_start(&machine, "plain", &before);
    let before = started(&machine, "sick");
    machine.ok("docker exec sup_sick_1 /bin/busybox rm /tmp/well");
    wait_for_start(&machine, "sick", &before);
    let before = started(&machine, "hungry");
    machine.ok("docker exec sup_hungry_1 /bin/busybox touch /tmp/eat");
    wait_for_start(&machine, "hungry", &before);
    let said = journal(&machine);
    for reason in [
        "restarting sup_plain_1: it ended with 137",
        "restarting sup_sick_1: it is unhealthy",
        "restarting sup_hungry_1: it ran out of memory",
    ] {
        assert!(said.contains(reason), "{reason} is not in\n{said}");
    }

    // What follows the database is restarted once that is healthy, and what lives in its network after it.
    let before = started(&machine, "side");
    kill(&machine, "db");
    wait_for_start(&machine, "side", &before);
    let (db, web, side) = (started(&machine, "db"), started(&machine, "web"), started(&machine, "side"));
    assert!(db < web && web < side, "{db} {web} {side}");
    machine.ok("docker exec sup_side_1 /bin/busybox wget -q -O- http://127.0.0.1:5000/");
    assert_eq!(state_of(&machine, "after"), "\"running\"");

    // A stop by hand wins: over the supervisor, and over the next supervisor.
    machine.ok("docker stop sup_plain_1");
    wait_for("the stop to be seen", Duration::from_secs(20), || {
        let state = state_of(&machine, "plain");
        if state.contains("stopped by hand") { Ok(()) } else { Err(state) }
    });
    let supervisor = machine.ok("systemctl show -p MainPID --value appliance-supervisor");
    machine.ok(&format!("kill -9 {}", supervisor.trim()));
    wait_for("another supervisor", Duration::from_secs(60), || {
        let now = machine.ok("systemctl show -p MainPID --value appliance-supervisor");
        let is_up = machine.sh("systemctl is-active --quiet appliance-supervisor").code == 0;
        if is_up && now != supervisor && now.trim() != "0" { Ok(()) } else { Err(now) }
    });
    // Another death is answered, this one is not.
    let before = started(&machine, "after");
    kill(&machine, "after");
    wait_for_start(&machine, "after", &before);
    assert_eq!(pid(&machine, "plain"), 0);

    // Removed by hand: a container, the network under all of them; a job that is done is not done again.
    machine.ok("docker rm -f sup_sick_1; docker rm sup_job_1");
    wait_until_all_run(&machine, &["plain"]);
    // Held, so that it does not mend one half while the other is still being taken away.
    machine.ok("p=$(systemctl show -p MainPID --value appliance-supervisor); kill -STOP $p
                for c in $(docker ps -q --filter network=sup_default); do docker network disconnect -f sup_default $c; done
                docker network rm sup_default; kill -CONT $p");
    wait_for("the network with all containers in it", Duration::from_secs(90), || {
        let inside = machine.sh("docker network inspect -f '{{range .Containers}}{{.Name}} {{end}}' sup_default").all();
        let lacking: Vec<&&str> = ["sick", "hungry", "after", "db", "web"]
            .iter()
            .filter(|service| !inside.contains(&name(service)))
            .collect();
        if lacking.is_empty() { Ok(()) } else { Err(format!("{lacking:?} are not among {inside}")) }
    });
    wait_until_all_run(&machine, &["plain"]);
    assert_eq!(pid(&machine, "plain"), 0, "it was stopped by hand");
    assert_eq!(runs(&machine), 1, "the job was done before its container was removed");

    // The daemon is gone for a minute. Its stopping everything is not a stop by hand; the one by hand is remembered.
    machine.ok("docker stop sup_after_1");
    let stopped = std::time::Instant::now();
    wait_for("the stop to be old enough to be told from the daemon's own", Duration::from_secs(60), || {
        if stopped.elapsed() > Duration::from_secs(32) { Ok(()) } else { Err("not yet".to_owned()) }
    });
    machine.ok("systemctl stop docker.socket docker.service");
    wait_for("the supervisor to say so", Duration::from_secs(30), || {
        let text = machine.sh("appliance status").all();
        if text.contains("waiting for Docker") { Ok(()) } else { Err(text) }
    });
    let gone = std::time::Instant::now();
    wait_for("a minute to pass, with the supervisor alive", Duration::from_secs(90), || {
        assert_eq!(machine.sh("systemctl is-active --quiet appliance-supervisor").code, 0);
        if gone.elapsed() > Duration::from_secs(60) { Ok(()) } else { Err("not yet".to_owned()) }
    });
    machine.ok("systemctl start docker.service");
    wait_until_all_run(&machine, &["after", "plain"]);
    wait_for_phase(&machine, "running");
    assert_eq!(pid(&machine, "after"), 0, "it was stopped by hand");

    // The next start starts everything.
    machine.ok("systemctl restart appliance");
    wait_for_phase(&machine, "running");
    wait_until_all_run(&machine, &[]);

    // A daemon that died so often that systemd gave it up is started again, and nothing waits for somebody to come.
    machine.ok("for n in 1 2 3 4 5 6 7 8; do
           systemctl kill -s KILL docker; systemctl start docker 2>/dev/null || true; journalctl --sync
           ! journalctl -u docker | grep -q 'Start request repeated too quickly' || exit 0
         done; systemctl show docker; exit 1");
    wait_until_all_run(&machine, &[]);
    wait_for_phase(&machine, "running");
}
