//! `appliance apply`: what `plan` shows is what it does, and nothing else.

use super::checkout::{commit, env, git, version};
use crate::host::{Machine, wait_for};
use std::time::Duration;

/// The rows of a plan, but for its head: step, what, object, change.
fn plan(machine: &Machine) -> Vec<String> {
    let out = machine.sh("appliance plan");
    assert!([0, 2].contains(&out.code), "{}", out.all());
    assert_eq!(out.code == 0, out.stdout == "nothing to do\n", "{}", out.all());
    let rows = out.stdout.lines().filter(|line| !line.starts_with("STEP") && *line != "nothing to do");
    rows.map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn nothing_is_left(machine: &Machine) {
    assert_eq!(plan(machine), Vec::<String>::new());
    assert_eq!(machine.sh("systemctl is-active appliance-supervisor").stdout, "active\n");
    let before = machine.ok("docker ps -q --no-trunc; systemctl show -p MainPID appliance-supervisor");
    assert_eq!(machine.ok("appliance apply"), "nothing to do\n");
    assert_eq!(machine.ok("docker ps -q --no-trunc; systemctl show -p MainPID appliance-supervisor"), before);
}

#[test]
fn an_edited_env_is_planned_and_applied() {
    let machine = Machine::boot("apply");
    machine.ok("mkdir -p /srv/g && chown app:app /srv/g");
    git(&machine, "init -q -b main .");
    let one = commit(&machine, "one");
    let short = |commit: &str| commit[..12].to_owned();
    let first = env(&machine, "keep");
    machine.put("/app/env.yml", &first, 0o600);

    // A host on which nothing ran yet.
    let planned = plan(&machine);
    assert!(planned.contains(&format!("release release g make the first: {}", short(&one))), "{planned:#?}");
    let out = machine.sh("appliance apply");
    assert!(out.code == 0 && out.stdout.ends_with("running\n"), "{}", out.all());
    assert_eq!(version(&machine), "one");
    nothing_is_left(&machine);

    // A newer version, and another env: both are planned, and neither is touched by that.
    let two = commit(&machine, "two");
    machine.put("/app/env.yml", first.replace("  allowed_hosts: ", "  allowed_hosts: other.example.test "), 0o600);
    let planned = plan(&machine);
    let row = format!("release release g update: {} -> {}, with this env.yml", short(&one), short(&two));
    assert!(planned.contains(&row) && planned.iter().any(|row| row.contains("/etc/nginx/")), "{planned:#?}");
    assert_eq!(version(&machine), "one");
    let has = |commit: &str| {
        machine.sh(&format!("git -c safe.directory='*' --git-dir=/data/appliance-git/g cat-file -e {commit}")).code == 0
    };
    assert!(has(&one) && !has(&two), "a plan fetches nothing");
    let out = machine.ok("appliance apply");
    assert!(out.contains("/etc/nginx/") && out.contains(&format!("{} runs now", short(&two))), "{out}");
    assert_eq!(version(&machine), "two");
    assert_eq!(machine.sh("appliance env diff").code, 0, "it is the active one");
    // nginx closes the connection to whoever asks for another name, and curl ends with an error then.
    machine.ok("curl -sk --resolve other.example.test:443:127.0.0.1 https://other.example.test/");
    nothing_is_left(&machine);

    // The env alone, while the server is away: it is said that nobody knows of a newer version, and the env comes into force.
    machine.put("/app/env.yml", &first, 0o600);
    machine.ok("mv /srv/g /srv/gone");
    let out = machine.sh("appliance plan");
    assert!(out.code == 2 && out.stderr.contains("whether there is a newer version is not known"), "{}", out.all());
    assert!(out.stdout.contains("with this env.yml"), "{}", out.all());
    let out = machine.sh("appliance apply");
    assert!(out.code == 0 && out.stderr.contains("whether there is a newer version is not known"), "{}", out.all());
    assert_eq!(machine.sh("appliance env diff").code, 0);
    assert_eq!(version(&machine), "two");
    machine.ok("mv /srv/gone /srv/g");
    nothing_is_left(&machine);

    // A file of the operator's beside the commit's: the containers that it concerns are replaced.
    machine.put(
        "/data/etc/g/docker-compose.yml",
        "include: [{path: /app/g/compose.yml}]\nservices: {b: {image: 'stub:1', command: sleep 1d}}\n",
        0o644,
    );
    let planned = plan(&machine);
    assert!(planned.iter().any(|row| row.starts_with("stack container g_b_1")), "{planned:#?}");
    let out = machine.sh("appliance apply");
    assert!(out.code == 0 && out.stdout.contains("g_b_1"), "{}", out.all());
    machine.ok("docker inspect g_b_1");
    machine.ok("rm /data/etc/g/docker-compose.yml && appliance apply");
    assert_ne!(machine.sh("docker inspect g_b_1").code, 0);
    nothing_is_left(&machine);

    // A version that does not come up: it ends with an error, the old one runs, and nothing waits any more.
    let sick = super::checkout::COMPOSE
        .replace("exit 0, interval: 1s", "exit 1, interval: 1s, timeout: 1s, retries: 1")
        .replace("VERSION", "sick");
    machine.put("/srv/g/compose.yml", sick, 0o644);
    machine.ok("chown -R app:app /srv/g");
    git(&machine, "add -A");
    git(&machine, "commit -q -m sick");
    let out = machine.sh("appliance apply");
    assert!(out.code == 1 && version(&machine) == "two", "{}", out.all());
    nothing_is_left(&machine);

    // Back to an env that a release was made with, and what somebody stopped by hand: neither is left to do for ever.
    machine.put("/app/env.yml", first.replace("  allowed_hosts: ", "  allowed_hosts: third.example.test "), 0o600);
    machine.ok("appliance apply");
    machine.put("/app/env.yml", &first, 0o600);
    machine.ok("appliance apply");
    // A stop counts as one by hand once the supervisor that has just been started listens.
    wait_for("the supervisor to see a stop by hand", Duration::from_secs(30), || {
        let kept = machine.sh("docker stop g_a_1 >/dev/null; cat /run/appliance/stopped-by-hand-g 2>/dev/null").stdout;
        if kept.trim().is_empty() { Err("nothing is kept".to_owned()) } else { Ok(()) }
    });
    nothing_is_left(&machine);
    machine.ok("docker start g_a_1");

    // Standby, and out of it.
    machine.put("/app/env.yml", first.replace("appliance:\n", "appliance:\n  standby: true\n"), 0o600);
    let out = machine.sh("appliance apply");
    assert_eq!((out.code, machine.ok("docker ps -q").as_str()), (3, ""), "{}", out.all());
    machine.put("/app/env.yml", &first, 0o600);
    let out = machine.sh("appliance apply");
    assert!(out.code == 0 && version(&machine) == "two", "{}", out.all());
    nothing_is_left(&machine);

    // Another app's data are there, and a branch that is none: told, and nothing is done.
    for (from, to, said) in
        [("name: g", "name: h", "belongs to the app 'g'"), ("branch: main", "branch: nowhere", "has no nowhere")]
    {
        let other = first.replace(from, to);
        assert_ne!(other, first);
        machine.put("/app/env.yml", &other, 0o600);
        let out = machine.sh("appliance apply");
        assert!(out.code == 1 && out.stderr.contains(said), "{}", out.all());
    }
    machine.put("/app/env.yml", &first, 0o600);
    machine.ok("appliance apply");

    // A broken env is told as everywhere, and a failed appliance is left alone.
    machine.put("/app/env.yml", "appliance: [\n", 0o600);
    let out = machine.sh("appliance apply");
    assert!(out.code == 1 && out.stderr.contains("/app/env.yml:2:1: error"), "{}", out.all());
    machine.put("/app/env.yml", &first, 0o600);
    machine.ok("echo mine > /run/appliance-failed");
    let out = machine.sh("appliance apply");
    assert!(out.code == 1 && out.stderr.contains("has failed (mine)"), "{}", out.all());
    machine.ok("appliance recover");

    // Stopped: it starts.
    machine.ok("systemctl stop appliance");
    let out = machine.ok("appliance apply --json");
    let value: serde_json::Value = serde_json::from_str(&out).expect("it is JSON");
    assert_eq!(value["phase"]["name"], "running", "{out}");
    assert_eq!(version(&machine), "two");
}
