//! Several apps on one host: each with what is its own, and none touched by what becomes of another.

use crate::host::several::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

#[test]
fn instances_come_up_side_by_side_with_what_is_their_own() {
    let machine = Machine::boot("several");
    start(&machine);
    for app in APPS {
        let (code, body) = visit(&machine, app, "/x");
        assert!(code == 200 && body.contains(&format!("[\"host\", \"{app}.example.test\"]")), "{app}: {code} {body}");
        let inside = machine.ok(&format!("appliance exec --app {app} -T web -- env"));
        for own in [
            format!("SETTINGS=canary-{app}\n"),
            format!("NAMES={app}.example.test\n"),
            format!("DATABASE_URL=postgres://{app}:"),
        ] {
            assert!(inside.contains(&own), "{own}: {inside}");
        }
        let others = APPS.iter().filter(|other| **other != app);
        others.for_each(|other| assert!(!inside.contains(&format!("canary-{other}")), "{inside}"));
    }
    // At rest each app listens to Docker's events, of containers and of networks, and nothing else is held open: a build's session would be
    // asked again and again whether it is there.
    wait_for("Docker to be left alone", Duration::from_secs(30), || {
        let held = machine.ok("ss -Hx state connected src unix:/run/docker.sock | wc -l; ss -Hx state connected src unix:/var/run/docker.sock | wc -l");
        let held: u32 = held.lines().filter_map(|line| line.trim().parse::<u32>().ok()).sum();
        if held == 2 * 3 { Ok(()) } else { Err(format!("{held} connections")) }
    });
    // What is run twice has nothing to do.
    assert_eq!(machine.ok("appliance plan"), "nothing to do\n");
    assert_eq!(machine.ok("appliance prepare"), "nothing to do\n");
    let before = containers(&machine);
    assert_eq!(machine.ok("appliance apply"), "nothing to do\n");
    machine.ok("systemctl restart appliance-supervisor");
    APPS.iter().for_each(|app| wait_for_app(&machine, app, "running"));
    assert_eq!(containers(&machine), before, "a supervisor that is replaced touches no container");

    commands_know_the_apps(&machine);
    machine.reboot();
    APPS.iter().for_each(|app| wait_for_app(&machine, app, "running"));
    APPS.iter().for_each(|app| assert_eq!(visit(&machine, app, "/").0, 200));
}

/// What covers all, what must be told which, and what is said to whoever gets it wrong.
fn commands_know_the_apps(machine: &Machine) {
    assert_eq!(machine.ok("appliance app list --names"), "one\ntwo\nthree\n");
    let list = machine.ok("appliance app list");
    assert!(list.lines().filter(|line| line.contains("running") && line.contains("1/1")).count() == 3, "{list}");
    let status = machine.sh("appliance status --json");
    let told: serde_json::Value = serde_json::from_str(&status.stdout).expect("it is JSON");
    let names: Vec<&str> =
        told["apps"].as_array().into_iter().flatten().filter_map(|app| app["app"].as_str()).collect();
    assert_eq!((names, status.code, &told["phase"]["name"]), (APPS.to_vec(), 0, &"running".into()), "{told}");
    assert_eq!(machine.ok("appliance ps --json | grep -c '\"app\"'"), "3\n");
    machine.ok("for app in one three; do docker exec ${app}_web_1 sh -c \"echo said by $app > /proc/1/fd/1\"; done");
    wait_for("the lines of both", Duration::from_secs(20), || {
        let lines = machine.ok("appliance logs --tail 50");
        let has = |app: &str| lines.contains(&format!("{app}/web | said by {app}"));
        if has("one") && has("three") { Ok(()) } else { Err(lines) }
    });
    let out = machine.sh("appliance exec web -- true");
    assert!(
        out.code == 1 && out.stderr.contains("several apps: one, two, three; say which one, with --app NAME"),
        "{}",
        out.all()
    );
    let out = machine.sh("appliance exec --app four web -- true");
    assert!(out.code == 1 && out.stderr.contains("no app 'four'; it has: one, two, three"), "{}", out.all());
    assert_eq!(machine.ok("APPLIANCE_APP=two appliance exec -T web -- printenv SETTINGS"), "canary-two\n");
    assert!(machine.ok("appliance update --app two").contains("two: nothing new"));
    let all = machine.ok("appliance update --check; appliance releases; appliance cert show --app three");
    assert!(all.contains("nothing waits") && all.contains("current") && all.contains("three.example.test"), "{all}");
    let dump = machine.ok("appliance database dump --app two");
    assert!(dump.starts_with("/data/two-pgdump/two-"), "{dump}");
    let words = machine.ok(
        "bash -c '. /usr/share/bash-completion/completions/appliance; COMP_WORDS=(appliance status --app \"t\"); COMP_CWORD=3; _appliance appliance t --app; echo ${COMPREPLY[*]}'",
    );
    assert_eq!(words, "two three\n");
}

#[test]
fn a_host_with_one_app_becomes_one_with_several_and_no_container_restarts() {
    let machine = Machine::boot("several-moved");
    install(&machine);
    let alone = env_yml("", "").replace("apps:\n  - name: one\n", "app:\n    name: one\n");
    machine.put("/app/env.yml", alone, 0o600);
    machine.ok("systemctl start appliance");
    crate::host::apps::wait_for_phase(&machine, "running");
    machine.ok("psql -U postgres one -qc 'CREATE TABLE kept AS SELECT 7 AS n; ALTER TABLE kept OWNER TO app'");
    let before = containers_of(&machine, &["one"]);
    let url = machine.ok("cat /app/etc/one/database_url.env");
    assert!(url.contains("postgres://app:"), "{url}");
    let certificate_before = certificate(&machine, "one");
    machine.ok("appliance cert ca init && cd /root && appliance cert ca issue Eva");

    let visitors = Visitors::of(&machine, "one", 25);
    machine.put("/app/env.yml", env_yml("", &instance("two", "")), 0o600);
    machine.ok("appliance apply");
    visitors.all_served();
    for app in ["one", "two"] {
        wait_for_app(&machine, app, "running");
        assert_eq!(visit(&machine, app, "/").0, 200);
    }
    assert_eq!(containers_of(&machine, &["one"]), before);
    assert_eq!(
        machine.ok("cat /app/etc/one/database_url.env"),
        url,
        "its role stays, since all in its database is that role's"
    );
    assert_eq!(certificate(&machine, "one"), certificate_before);
    assert!(machine.ok("appliance cert ca list --app one").contains("Eva"));
    assert!(machine.ok("appliance cert ca revoke Eva --app one").contains("is revoked"));
    // nginx loads the new list by itself.
    wait_for("nothing to be left to do", Duration::from_secs(30), || {
        let planned = machine.sh("appliance plan").stdout;
        if planned == "nothing to do\n" { Ok(()) } else { Err(planned) }
    });
    machine.reboot();
    for app in ["one", "two"] {
        wait_for_app(&machine, app, "running");
        assert_eq!(visit(&machine, app, "/").0, 200);
    }
    assert_eq!(machine.ok("psql -U postgres one -Atqc 'SELECT n FROM kept'"), "7\n");
}
