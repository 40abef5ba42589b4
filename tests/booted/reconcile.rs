//! The stack becomes what the compose file says: only what changed is touched, and `plan` says beforehand what and why.

use crate::host::Machine;
use crate::host::apps::*;

const COMPOSE: &str = r#"
services:
  a:
    image: stub:1
    stop_grace_period: 1s
    environment: {LEVEL: info, API_TOKEN: canary-one-8Vx3, FROM_FILE: "${HIDDEN}"}
    volumes: ["kept:/kept", /nameless]
  b:
    image: stub:1
    stop_grace_period: 1s
    scale: 3
    networks: [back]
  c: {image: stub:1, stop_grace_period: 1s, depends_on: [a]}
  tool: {image: stub:1, stop_grace_period: 1s, profiles: [debug]}
networks:
  back: {labels: {colour: red}}
  theirs: {external: true, name: of-somebody}
volumes: {kept: }
"#;

/// Every container's name and id.
fn ids(machine: &Machine) -> Vec<(String, String)> {
    let text = machine.ok("docker ps -a --no-trunc --format '{{.Names}} {{.ID}}' | sort");
    let pair = |line: &str| line.split_once(' ').map(|(name, id)| (name.to_owned(), id.to_owned()));
    text.lines().filter_map(pair).collect()
}

fn names(machine: &Machine) -> Vec<String> {
    ids(machine).into_iter().map(|(name, _)| name).collect()
}

/// Names of containers that are other ones than before.
fn changed(before: &[(String, String)], after: &[(String, String)]) -> Vec<String> {
    after.iter().filter(|pair| !before.contains(pair)).map(|(name, _)| name.clone()).collect()
}

fn put(machine: &Machine, compose: &str) {
    machine.put("/data/etc/rec/docker-compose.yml", compose, 0o644);
}

fn restart(machine: &Machine) {
    machine.ok("systemctl restart appliance");
    wait_for_phase(machine, "running");
}

#[test]
fn only_what_changed_is_touched_and_the_plan_says_why() {
    let machine = Machine::boot("reconcile");
    machine.put("/data/etc/rec/.env", "HIDDEN=canary-two-5Wy7\n", 0o600);
    start_stack(&machine, "rec", COMPOSE);
    assert_eq!(names(&machine), ["rec_a_1", "rec_b_1", "rec_b_2", "rec_b_3", "rec_c_1"]);
    machine.ok("docker exec rec_a_1 /bin/sh -c 'echo precious > /kept/data; echo dear > /nameless/data'");
    let plan = machine.sh("appliance plan");
    assert_eq!((plan.code, plan.stdout.as_str()), (0, "nothing to do\n"), "{}", plan.all());
    // One of several is meant by its number.
    let of = |number: u32| machine.ok(&format!("appliance exec --index {number} b -- /bin/busybox hostname"));
    let name = |number: u32| machine.ok(&format!("docker inspect -f '{{{{.Config.Hostname}}}}' rec_b_{number}"));
    assert_eq!((of(1), of(2), of(3)), (name(1), name(2), name(3)));
    assert!(machine.sh("appliance exec --index 4 b -- true").stderr.contains("has no container 4 that runs"));

    // A value, a secret, a variable from beside the file; fewer of b; c goes, a profile comes.
    let next = COMPOSE
        .replace("LEVEL: info, API_TOKEN: canary-one-8Vx3", "LEVEL: debug, API_TOKEN: canary-three-2Kd6")
        .replace("scale: 3", "scale: 2")
        .replace("  c: {image: stub:1, stop_grace_period: 1s, depends_on: [a]}\n", "");
    put(&machine, &next);
    machine.put("/data/etc/rec/.env", "HIDDEN=canary-four-9Lm1\nCOMPOSE_PROFILES=debug\n", 0o600);
    let before = ids(&machine);
    let plan = machine.sh("appliance plan");
    assert_eq!(plan.code, 2, "{}", plan.all());
    for expected in [
        "recreate: environment.API_TOKEN: (hidden) -> (hidden), environment.FROM_FILE: (hidden) -> (hidden), \
         environment.LEVEL: info -> debug",
        "remove: one more than the service b asks for",
        "remove: no service of the compose file",
    ] {
        assert!(plan.stdout.contains(expected), "{expected} is not in\n{}", plan.stdout);
    }
    assert!(!plan.all().contains("canary"), "{}", plan.all());
    assert!(!plan.stdout.contains("rec_b_1") && !plan.stdout.contains("rec_b_2"), "{}", plan.stdout);
    assert_eq!(ids(&machine), before, "planning touches nothing");
    restart(&machine);
    assert_eq!(names(&machine), ["rec_a_1", "rec_b_1", "rec_b_2", "rec_tool_1"]);
    let after = ids(&machine);
    assert_eq!(changed(&before, &after), ["rec_a_1", "rec_tool_1"], "b's are the same containers");
    assert_eq!(machine.ok("docker exec rec_a_1 /bin/busybox cat /kept/data").trim(), "precious");
    assert_eq!(machine.ok("docker exec rec_a_1 /bin/busybox cat /nameless/data").trim(), "dear");
    let labels = machine.ok("docker inspect -f '{{index .Config.Labels \"appliance.config\"}}' rec_a_1");
    assert!(labels.contains("environment.LEVEL") && !labels.contains("canary"), "{labels}");

    // Up again, and a network with other options, which takes its containers with it.
    let next = next.replace("scale: 2", "scale: 4").replace("colour: red", "colour: blue");
    put(&machine, &next);
    let plan = machine.sh("appliance plan").stdout;
    assert!(
        plan.contains("recreate: its options changed") && plan.contains("not connected to the network rec_back"),
        "{plan}"
    );
    restart(&machine);
    assert_eq!(machine.ok("docker network inspect -f '{{index .Labels \"colour\"}}' rec_back").trim(), "blue");
    assert_eq!(names(&machine), ["rec_a_1", "rec_b_1", "rec_b_2", "rec_b_3", "rec_b_4", "rec_tool_1"]);
    let now = ids(&machine);
    assert!(changed(&after, &now).iter().all(|name| name.starts_with("rec_b")), "{now:?} {after:?}");

    // What is external is required, not made; once it is there, it is joined, and it is never removed.
    let next = next.replace("networks: [back]", "networks: [back, theirs]");
    put(&machine, &next);
    machine.ok("systemctl restart appliance");
    let said = wait_for_end(&machine, "failed", 4);
    assert!(said.contains("the network of-somebody is external, but Docker has none of that name"), "{said}");
    machine.ok("docker network create of-somebody; appliance recover --start");
    wait_for_phase(&machine, "running");
    let joined = machine.ok("docker inspect -f '{{json .NetworkSettings.Networks}}' rec_b_4");
    assert!(joined.contains("of-somebody") && joined.contains("rec_back"), "{joined}");
    let plan = machine.sh("appliance plan");
    assert_eq!(plan.code, 0, "{}", plan.all());

    // Killed between the old container and the new one: before the old one went, and after it.
    let before = ids(&machine);
    machine.ok("systemctl stop appliance; docker rename rec_a_1 rec_a_1.new
                docker create --name rec_b_1.new --label com.docker.compose.project=rec --label com.docker.compose.service=b stub:1
                systemctl start appliance");
    wait_for_phase(&machine, "running");
    assert_eq!(ids(&machine), before, "the one has its name again, the other is gone");
    assert_eq!(machine.ok("docker exec rec_a_1 /bin/busybox cat /nameless/data").trim(), "dear");
}

#[test]
fn copies_are_replaced_so_many_at_a_time_as_update_config_says() {
    let machine = Machine::boot("rolling");
    let compose = |level: u32| {
        format!(
            "services:\n  a:\n    image: stub:1\n    stop_grace_period: 1s\n    environment: {{LEVEL: '{level}'}}\n    deploy: {{replicas: 4, update_config: \
             {{parallelism: 2, delay: 3s}}}}\n"
        )
    };
    start_stack(&machine, "roll", &compose(1));
    let before = ids(&machine);
    machine.put("/data/etc/roll/docker-compose.yml", compose(2), 0o644);
    restart(&machine);
    let after = ids(&machine);
    assert_eq!(changed(&before, &after).len(), 4);
    // In seconds since the first of them.
    let times = machine.ok(
        "docker inspect -f '{{.State.StartedAt}}' $(docker ps -q) | python3 -c 'import sys; from datetime import datetime
times = sorted(datetime.fromisoformat(line.strip()[:26].rstrip(\"Z\")) for line in sys.stdin)
print(*[(time - times[0]).total_seconds() for time in times])'",
    );
    let times: Vec<f64> = times.split_whitespace().map(|time| time.parse().expect("a number")).collect();
    assert!(
        times[1] < 3.0 && times[2] - times[1] >= 3.0 && times[3] - times[2] < 3.0,
        "two and two, 3 s apart: {times:?}"
    );
}
