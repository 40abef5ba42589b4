//! Preparing twice changes nothing, and a plan touches nothing.

use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::collections::BTreeSet;
use std::io::Read;
use std::time::Duration;

/// Every file that preparing could touch, with what would show a touch.
const FILES: &str = "find /etc /app /data/etc /data /volatile /root /usr /var/www /run/active-env.yml /run/appliance-failed -xdev \
                     -not -path '/data/postgresql/*' -printf '%p %T@ %C@ %i %m %U %G\\n' 2>/dev/null | sort -u";
const UNITS: &str = "systemctl show -p Id,InvocationID,StateChangeTimestampMonotonic,NRestarts nginx docker postgresql@15-main \
                     appliance appliance-supervisor systemd-hostnamed";

fn objects(json: &str) -> BTreeSet<String> {
    let entries: Vec<serde_json::Value> = serde_json::from_str(json).unwrap_or_else(|_| panic!("not a plan: {json}"));
    entries
        .iter()
        .map(|entry| format!("{} {}", entry["what"].as_str().unwrap_or("?"), entry["object"].as_str().unwrap_or("?")))
        // A kept env has the time in its name.
        .map(|object| match object.split_once("/env-history/") {
            Some((_, name)) => format!("kept env {}", name.split('-').next().unwrap_or("?")),
            None => object,
        })
        .collect()
}

#[test]
fn the_second_prepare_does_nothing_and_a_plan_names_what_follows_and_touches_nothing() {
    let machine = Machine::boot("prepare");
    start_notes(&machine, "v1");
    wait_for_phase(&machine, "running");
    // hostnamed leaves by itself when nobody needs it; from then on its state stands still.
    wait_for("hostnamed to be idle", Duration::from_secs(90), || {
        let state = machine.sh("systemctl is-active systemd-hostnamed").stdout;
        if state.trim() == "inactive" { Ok(()) } else { Err(state) }
    });
    let (files, units) = (machine.ok(FILES), machine.ok(UNITS));
    assert_eq!(machine.ok("appliance prepare"), "nothing to do\n");
    assert_eq!(machine.ok(UNITS), units, "a unit was restarted or reloaded");
    let after = machine.ok(FILES);
    let changed: Vec<&str> = after.lines().filter(|line| !files.contains(line)).collect();
    assert!(changed.is_empty(), "files changed: {changed:#?}");
    let plan = machine.sh("appliance plan");
    assert_eq!((plan.code, plan.stdout.as_str()), (0, "nothing to do\n"));

    let other = env_yml(&machine, "v1").replace(DOMAIN, "other.example.test");
    let differs = |machine: &Machine| {
        let text = machine.ok("appliance status");
        let json = machine.ok("appliance status --json | jq .env_differs");
        assert_eq!(text.contains("another one than the active env"), json == "true\n", "{text}{json}");
        json == "true\n"
    };
    assert!(!differs(&machine));
    machine.put("/app/env.yml", other, 0o600);
    assert!(differs(&machine));
    let (files, units) = (machine.ok(FILES), machine.ok(UNITS));
    // inotify sees what no comparison of before and after would: a file that is written and put back.
    let mut file_watch = machine.spawn(
        "timeout 20 inotifywait -m -r -q -e create -e modify -e attrib -e moved_to -e delete --format 'touched %w%f %e' \
         /etc /app /data/etc /var/www /run/appliance /root 2>/dev/null & timeout 20 docker events --format 'docker {{.Type}} {{.Action}}' \
         | grep -v -e exec_ -e health_status & wait",
    );
    wait_for("the watchers", Duration::from_secs(10), || {
        let running = machine.sh("pgrep -xc inotifywait; pgrep -xc docker").stdout;
        if running.starts_with('1') && !running.contains("\n0") { Ok(()) } else { Err(running) }
    });
    let plan = machine.sh("appliance plan --json");
    assert_eq!(plan.code, 2, "{}", plan.all());
    machine.ok("pkill -x inotifywait; pkill -x docker; true");
    let mut seen = String::new();
    file_watch
        .stdout
        .take()
        .expect("the watchers' output")
        .read_to_string(&mut seen)
        .expect("the watchers' output is text");
    drop(file_watch.wait());
    assert_eq!(seen, "", "the plan touched something");
    assert_eq!(machine.ok(UNITS), units);
    assert_eq!(machine.ok(FILES), files);
    let expected = [
        "kept env 000002",
        "file /run/active-env.yml",
        "setting host name",
        "file /etc/hosts",
        "file /app/etc/server.cert.pem",
        "file /app/etc/server.key.pem",
        "file /app/etc/server.cert.dhparam.pem",
        "file /etc/nginx/conf.d/appliance.conf",
        "unit nginx.service",
        "container notes_web_1",
        "container notes_worker_1",
        "container notes_beat_1",
        "release notes",
    ];
    assert_eq!(objects(&plan.stdout), expected.map(str::to_owned).into(), "{}", plan.stdout);

    // What was planned for the host is what is done.
    machine.ok("appliance prepare");
    assert!(!differs(&machine));
    let rest = machine.sh("appliance plan --json");
    assert!(
        objects(&rest.stdout).iter().all(|object| object.starts_with("container ") || object == "release notes"),
        "{}",
        rest.stdout
    );
    let (code, _) =
        curl(&machine, &["--header", "Host: other.example.test", &format!("https://{}/health", machine.address())]);
    assert_eq!(code, 200, "nginx serves the new name");
    machine.ok("systemctl restart appliance");
    wait_for_phase(&machine, "running");
    let (code, _) =
        curl(&machine, &["--header", "Host: other.example.test", &format!("https://{}/health", machine.address())]);
    assert_eq!(code, 200);

    // What stands in the environment of whoever calls it changes neither which programs run nor whom they ask.
    let shadowed = "psql pg_dump git nft docker systemctl nginx findmnt lsblk openssl sysctl hostnamectl";
    machine.ok(&format!(
        "set -e; mkdir /srv/evil; for p in {shadowed}; do printf '#!/bin/sh\\ntouch /srv/evil/was-run\\n' > /srv/evil/$p; done; chmod +x /srv/evil/*
         PATH=/srv/evil:$PATH sh -c psql; rm /srv/evil/was-run"
    ));
    let hostile = "PATH=/srv/evil:$PATH DOCKER_HOST=tcp://127.0.0.1:9 PGHOST=/srv/evil PGSERVICE=evil GIT_DIR=/srv/evil \
                   BASH_ENV=/srv/evil/git LC_ALL=de_DE";
    for command in ["prepare", "plan", "update --check"] {
        let out = machine.sh(&format!("{hostile} appliance {command}"));
        assert!([0, 2].contains(&out.code), "{command}: {}", out.all());
        assert_eq!(
            machine.sh("test -e /srv/evil/was-run").code,
            1,
            "{command} ran a program of its caller's: {}",
            out.all()
        );
    }
}

#[test]
fn a_prepare_killed_anywhere_is_finished_by_the_next() {
    let machine = Machine::boot("killed");
    install_notes(&machine);
    machine.put("/app/env.yml", env_yml(&machine, "v1"), 0o600);
    // A fresh host each time would be slow; each kill comes later than the one before, until one run gets through.
    let mut finished = false;
    for milliseconds in [2, 5, 10, 20, 40, 80, 160, 400, 1000, 2500, 6000, 12000] {
        let seconds = f64::from(milliseconds) / 1000.0;
        let out = machine.sh(&format!("timeout -s KILL {seconds} appliance prepare"));
        machine.ok("! find /etc /app /data /var/www -xdev -name '*.conf' -size 0 | grep appliance");
        if out.code == 0 {
            finished = true;
            break;
        }
        assert_eq!(out.code, 137, "{}", out.all());
    }
    assert!(finished, "no run got through in 12 s");
    machine.ok("nginx -t -q");
    assert_eq!(machine.ok("find /etc /app /data /var/www -xdev -name '.appliance-*'"), "", "temporary files were left");
    assert_eq!(machine.ok("appliance prepare"), "nothing to do\n");
    let left = objects(&machine.sh("appliance plan --json").stdout);
    assert_eq!(left, ["release notes".to_owned()].into(), "nothing is left but the app itself");
}

#[test]
fn ssh_keys_come_and_go_and_others_stay() {
    let machine = Machine::boot("ssh");
    machine.ok("for k in mine new old; do ssh-keygen -q -t ed25519 -N '' -C $k -f /root/$k; done");
    let key = |name: &str| machine.get(&format!("/root/{name}.pub")).trim().to_owned();
    machine.ok("install -d -m 0755 /root/.ssh && cat /root/mine.pub /root/old.pub > /root/.ssh/authorized_keys");
    machine.ok("install -d /app/.ssh && cp /root/new /app/.ssh/id_ed25519");
    let keys = format!("ssh_authorized_keys: ['{}']\nssh_deprecated_keys: ['{}']\n", key("new"), key("old"));
    machine.put("/app/env.yml", format!("{keys}{}", env_yml(&machine, "v1")), 0o600);
    machine.ok("appliance prepare --step ssh");
    assert_eq!(machine.get("/root/.ssh/authorized_keys"), format!("{}\n{}\n", key("mine"), key("new")));
    assert_eq!(machine.get("/app/.ssh/authorized_keys"), format!("{}\n", key("new")));
    let access = machine.ok("stat -c '%a %U %n' /root/.ssh /root/.ssh/authorized_keys /app/.ssh /app/.ssh/authorized_keys /app/.ssh/id_ed25519");
    let expected = "700 root /root/.ssh\n600 root /root/.ssh/authorized_keys\n700 app /app/.ssh\n600 app /app/.ssh/authorized_keys\n600 app /app/.ssh/id_ed25519\n";
    assert_eq!(access, expected);
    assert_eq!(machine.ok("appliance prepare --step ssh"), "nothing to do\n");
}
