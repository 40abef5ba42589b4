//! From env.yml to an app that answers on https, through restarts and reboots; and without an env.

use crate::host::apps::*;
use crate::host::patience::stretched;
use crate::host::{Machine, wait_for};
use std::time::{Duration, Instant};

#[test]
fn the_app_comes_up_and_a_note_survives_restart_and_reboot() {
    let machine = Machine::boot("comes-up");
    start_notes(&machine, "v1");
    wait_for_phase(&machine, "running");
    keep_note(&machine, "first <note>");
    assert_eq!(notes(&machine), ["first <note>"]);
    let (code, page) = get(&machine, "/");
    assert!(code == 200 && page.contains("Notes v1") && page.contains("first &lt;note&gt;"), "{code} {page}");

    let status = status(&machine);
    let services = status["services"].as_array().expect("a list of services");
    assert_eq!(services.len(), 5);
    assert!(services.iter().all(|service| service["health"] == "healthy"), "{services:?}");
    let head = machine.ok("runuser -u app -- git -C /srv/notes.git rev-parse v1");
    assert_eq!(status["commit"], head.trim());
    let text = machine.ok("appliance status");
    assert!(text.contains("running since") && text.contains(head.trim()), "{text}");

    // http leads to https; a name that is not ours gets nothing.
    let (code, _) = curl(&machine, &[&format!("http://{}/x", machine.address())]);
    assert_eq!(code, 301);
    let (code, _) =
        curl(&machine, &["--header", "Host: other.example.test", &format!("https://{}/", machine.address())]);
    assert_eq!(code, 0, "a strange host name is answered");

    // The names and labels that people and docker compose know.
    let names = machine.ok("docker ps --format '{{.Names}}' | sort | tr '\\n' ' '");
    assert_eq!(names.trim(), "notes_beat_1 notes_memcached_1 notes_redis_1 notes_web_1 notes_worker_1");
    let label = machine.ok("docker inspect -f '{{index .Config.Labels \"com.docker.compose.service\"}} {{.HostConfig.RestartPolicy.Name}}' notes_web_1");
    assert_eq!(label.trim(), "web no");

    machine.ok("systemctl restart appliance");
    wait_for_phase(&machine, "running");
    assert_eq!(notes(&machine), ["first <note>"]);

    machine.reboot();
    wait_for_phase(&machine, "running");
    assert_eq!(notes(&machine), ["first <note>"]);
    assert_eq!(machine.ok("hostname").trim(), DOMAIN);
}

#[test]
fn without_an_env_the_page_says_what_was_tried_and_the_file_then_starts_it() {
    let machine = Machine::boot("no-env");
    machine.reboot();
    wait_for("the status page", Duration::from_secs(60), || {
        let (code, body) = curl(&machine, &[&format!("http://{}/", machine.address())]);
        if code == 503 && body.contains("env.yml: there is no such file") && body.contains("$ENV_YML: not set") {
            Ok(())
        } else {
            Err(format!("{code} {body}"))
        }
    });
    assert_eq!(phase(&machine), ("standby".to_owned(), 3));
    assert_eq!(machine.ok("systemctl show -p Result --value appliance-supervisor").trim(), "success");
    assert_eq!(machine.sh("test -e /run/appliance-failed").code, 1, "standby writes no flag");
    start_notes(&machine, "v1");
    wait_for_phase(&machine, "running");
    assert_eq!(get(&machine, "/health").0, 200);
}

#[test]
fn stopping_takes_the_stack_down_in_time_and_replacing_the_supervisor_does_not_touch_it() {
    let machine = Machine::boot("stop");
    start_notes(&machine, "v1");
    wait_for_phase(&machine, "running");
    let pids = "docker inspect -f '{{.Name}} {{.State.Pid}}' $(docker ps -q) | sort";
    let before = machine.ok(pids);
    machine.ok("systemctl restart appliance-supervisor");
    wait_for_phase(&machine, "running");
    machine.ok("kill -9 $(systemctl show -p MainPID --value appliance-supervisor)");
    wait_for("a new supervisor", Duration::from_secs(30), || {
        let status = status(&machine);
        if status["phase"]["name"] == "running" && status["stale"] == false { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(machine.ok(pids), before, "the containers kept their processes");
    assert_eq!(machine.ok("systemctl show -p StatusText --value appliance-supervisor").trim(), "running");
    // A reload of systemd takes extended limits back, so that a long start would be killed by it: there is one limit from the beginning.
    assert_eq!(machine.ok("systemctl show -p TimeoutStartUSec --value appliance-supervisor").trim(), "1d");
    assert_eq!(machine.ok("systemctl show -p TimeoutStopUSec --value appliance").trim(), "10min");
    // One that hangs is noticed by systemd and replaced.
    machine.put(
        "/run/systemd/system/appliance-supervisor.service.d/test.conf",
        "[Service]\nWatchdogSec=4\nTimeoutAbortSec=2\n",
        0o644,
    );
    machine.ok("systemctl daemon-reload; systemctl restart appliance-supervisor");
    wait_for_phase(&machine, "running");
    let main = "systemctl show -p MainPID --value appliance-supervisor";
    let hung = machine.ok(main);
    machine.ok(&format!("kill -STOP {}", hung.trim()));
    wait_for("the one that hangs to be replaced", Duration::from_secs(60), || {
        let now = machine.ok(main);
        let status = status(&machine);
        let is_new = now != hung && now.trim() != "0" && status["stale"] == false;
        if is_new && status["phase"]["name"] == "running" { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(machine.ok(pids), before, "the containers kept their processes");
    // Those that need others go first.
    let since = machine.ok("date +%s");
    machine.ok("systemctl stop appliance");
    let events = machine.ok(&format!(
        "docker events --since {} --until $(date +%s.%N) --filter event=die --format '{{{{.Actor.Attributes.name}}}}'",
        since.trim()
    ));
    let at = |name: &str| {
        let found = events.lines().position(|line| line == format!("notes_{name}_1"));
        found.unwrap_or_else(|| panic!("{name} did not stop: {events}"))
    };
    assert!(at("web") < at("worker") && at("worker") < at("redis"), "{events}");
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");

    // The worst case: nothing answers SIGTERM any more, so every level needs its whole grace period and then SIGKILL.
    machine.ok("kill -STOP $(docker inspect -f '{{.State.Pid}}' $(docker ps -q))");
    let started = Instant::now();
    machine.ok("systemctl stop appliance");
    assert!(started.elapsed() > Duration::from_secs(10), "nothing was frozen: {:?}", started.elapsed());
    assert!(started.elapsed() < stretched(Duration::from_secs(45)), "stopping took {:?}", started.elapsed());
    assert_eq!(machine.ok("docker ps -q"), "");
    assert_eq!(phase(&machine), ("standby".to_owned(), 3));
    let (code, body) = get(&machine, "/");
    assert!(code == 503 && body.contains("Not in service"), "{code} {body}");
}

#[test]
fn standby_starts_nothing() {
    let machine = Machine::boot("standby");
    install_notes(&machine);
    machine.put("/app/env.yml", env_yml(&machine, "v1").replace("appliance:\n", "appliance:\n  standby: YES\n"), 0o600);
    machine.ok("systemctl start appliance");
    wait_for("standby", Duration::from_secs(60), || {
        let seen = phase(&machine);
        if seen == ("standby".to_owned(), 3) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    assert_eq!(machine.ok("docker ps -aq"), "");
    wait_for("the status page", Duration::from_secs(20), || {
        let (code, body) = curl(&machine, &[&format!("http://{}/", machine.address())]);
        if code == 503 && body.contains("Not in service") { Ok(()) } else { Err(format!("{code} {body}")) }
    });
}
