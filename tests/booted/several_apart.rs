//! Several apps on one host: what becomes of one, from a failed migration to its removal, and that no other is touched by it.

use crate::host::several::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

/// Does something to one app while others have visitors: all of these are served, and their containers stay as they are.
fn beside(machine: &Machine, others: &[&str], what: &str, event: impl FnOnce()) {
    println!("{what}");
    let before = containers_of(machine, others);
    assert_eq!(before.len(), others.len(), "{before:?}");
    let visitors: Vec<Visitors> = others.iter().map(|app| Visitors::of(machine, app, 20)).collect();
    event();
    visitors.into_iter().for_each(Visitors::all_served);
    assert_eq!(containers_of(machine, others), before, "{what}");
}

#[test]
fn what_becomes_of_one_app_never_touches_another() {
    let machine = Machine::boot("several-apart");
    install(&machine);
    push(&machine, "two", "true > /srv/several/two");
    let own = "    git: {source: 'file:///srv/several', branch: two}\n    migrate: {service: web, command: python3 /srv/migrate.py}\n";
    let entries = [instance("two", own), instance("three", "")];
    machine.put("/app/env.yml", env_yml("", &entries.concat()), 0o600);
    machine.ok("systemctl start appliance");
    APPS.iter().for_each(|app| wait_for_app(&machine, app, "running"));

    beside(&machine, &["one", "three"], "two fails in its migration, and goes back", || {
        push(
            &machine,
            "two",
            "echo 'import sys; sys.exit(7)' > migrate.py; mkdir -p migrations; true > migrations/0002",
        );
        let out = machine.sh("appliance update --app two");
        assert!(out.code == 1 && out.stderr.contains("the old release runs again"), "{}", out.all());
        wait_for_app(&machine, "two", "running");
    });
    beside(&machine, &["one", "two"], "three dies again and again, until it has failed", || {
        wait_for("three to have failed", Duration::from_secs(120), || {
            machine.sh("kill -9 $(docker inspect -f '{{.State.Pid}}' three_web_1)");
            let seen = phase(&machine, "three");
            if seen == "failed" { Ok(()) } else { Err(seen) }
        });
    });
    assert!(machine.get("/run/appliance/failed/three").contains("web died more than 5 times"));
    assert_eq!(machine.sh("test -e /run/appliance-failed").code, 1, "the flag of the host is not up");
    let status = machine.sh("appliance status");
    assert!(status.code == 4 && status.stdout.contains("warning   the app three does not serve"), "{}", status.all());
    assert_eq!((visit(&machine, "three", "/").0, visit(&machine, "one", "/").0), (503, 200));
    let out = machine.sh("appliance update --app three");
    assert!(out.code == 1 && out.stderr.contains("appliance recover --app three"), "{}", out.all());
    // It stays failed for a supervisor that is replaced, and comes back by itself once somebody has looked.
    machine.ok("systemctl restart appliance-supervisor");
    wait_for_app(&machine, "one", "running");
    wait_for_app(&machine, "three", "failed");
    beside(&machine, &["one", "two"], "three is recovered", || {
        machine.ok("appliance recover --app three");
        wait_for_app(&machine, "three", "running");
    });
    beside(&machine, &["two", "three"], "one is updated, killed now and then", || {
        push(&machine, "next", "sed -i 's/VERSION: \"v1\"/VERSION: \"v2\"/' compose.yml");
        machine.ok("cd /srv/several; runuser -u app -- git branch -q -f live next 2>/dev/null || runuser -u app -- git reset -q --hard next");
        for seconds in ["0.4", "1.5", "4"] {
            machine.sh(&format!("timeout -s KILL {seconds} appliance update --app one"));
        }
        machine.ok("appliance update --app one");
        wait_for_app(&machine, "one", "running");
        assert_eq!(machine.ok("appliance exec --app one -T web -- printenv VERSION"), "v2\n");
        assert_eq!(machine.ok("appliance exec --app three -T web -- printenv VERSION"), "v1\n");
    });
    // It is an instance of the same software, which apply brings to its newest version, too.
    machine.ok("appliance update --app three");
    beside(&machine, &["one", "two", "three"], "four is added, killed now and then", || {
        machine.ok("appliance app add four --like three --domain four.example.test --write");
        for seconds in ["0.2", "0.7"] {
            machine.sh(&format!("timeout -s KILL {seconds} appliance apply"));
        }
        machine.ok("appliance apply");
        wait_for_app(&machine, "four", "running");
    });
    assert_eq!(visit(&machine, "four", "/").0, 200);
    beside(&machine, &["one", "two", "four"], "three is taken out, killed now and then", || {
        // Nothing changes for four, whatever it is like now.
        let four = instance("four", "").replace("canary-four", "canary-three");
        let entries = [instance("two", own), four];
        machine.put("/app/env.yml", env_yml("", &entries.concat()), 0o600);
        for seconds in ["0.2", "0.7"] {
            machine.sh(&format!("timeout -s KILL {seconds} appliance apply"));
        }
        machine.ok("appliance apply");
        wait_for("three to be stopped", Duration::from_secs(60), || {
            let left = machine.ok("docker ps --format '{{.Names}}'");
            if left.contains("three_") { Err(left) } else { Ok(()) }
        });
    });
    assert_eq!(visit(&machine, "three", "/").0, 0, "its name is nobody's");
    let status = machine.ok("appliance status");
    assert!(status.contains("left over  three"), "{status}");
}

/// What a host has of its apps: names of files, of what Docker, PostgreSQL and nginx know, and what is in the files that all share.
fn traces(machine: &Machine) -> String {
    machine.ok(
        "find /app /data /volatile /var/www /etc/nginx /etc/systemd/system /var/lib/prometheus /run/appliance -xdev \\( -path /data/postgresql -o -path /volatile/docker \
           -o -path '*/env-history' -o -path /data/removed-apps -o -path '/data/appliance/apps/one/*' -o -path '/data/appliance/apps/two/*' -o -path '*.git/*' \
           -o -path '/data/*git/one/*' -o -path '/data/*git/two/*' -o -path '/app/env.yml.*' -o -name '*.lock' \\) -prune -o -print | sort
         docker ps -a --format '{{.Names}}' | sort; docker network ls --format '{{.Name}}' | sort; docker volume ls --format '{{.Name}}' | sort
         docker images --format '{{.Repository}}' | sort -u; grep -v '^#' /etc/postgresql/15/main/pg_hba.conf | grep -o '^host *\"[a-z]*\" \"[a-z]*\"' | sort -u
         psql -U postgres -Atc 'SELECT datname FROM pg_database ORDER BY 1' -c \"SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1\"
         nft list table inet appliance | grep -c 'chain containers'",
    )
}

#[test]
fn an_app_is_stopped_started_disabled_and_removed_with_all_its_traces() {
    let machine = Machine::boot("several-lives");
    install(&machine);
    let with = |entries: &[String]| machine.put("/app/env.yml", env_yml("", &entries.concat()), 0o600);
    let (two, three) = (instance("two", ""), instance("three", ""));
    with(std::slice::from_ref(&two));
    machine.ok("systemctl start appliance");
    ["one", "two"].iter().for_each(|app| wait_for_app(&machine, app, "running"));
    let before = traces(&machine);
    // One app that does not get through keeps no other from being added.
    let bad = instance("two", "    gate: [{command: {service: web, run: 'false', timeout: 1}}]\n");
    with(&[bad, three.clone()]);
    let out = machine.sh("appliance apply");
    assert!(out.code == 1 && out.stderr.contains("the app two: the update to"), "{}", out.all());
    wait_for_app(&machine, "three", "running");
    with(&[two.clone(), three.clone()]);
    machine.ok("appliance apply");
    machine.ok("docker exec three_web_1 sh -c 'echo kept > /kept/note'; psql -U postgres three -qc 'CREATE TABLE kept AS SELECT 7 AS n; ALTER TABLE kept OWNER TO three'");

    // Until told otherwise, over a restart and a reboot.
    let others = containers_of(&machine, &["one", "two"]);
    assert!(machine.ok("appliance app stop three").contains("appliance app start three"));
    assert_eq!((phase(&machine, "three").as_str(), visit(&machine, "three", "/").0), ("standby", 503));
    assert_eq!(machine.ok("docker ps --format '{{.Names}}' | grep -c three_ || true"), "0\n");
    machine.ok("systemctl restart appliance-supervisor");
    wait_for_app(&machine, "three", "standby");
    ["one", "two"].iter().for_each(|app| wait_for_app(&machine, app, "running"));
    assert_eq!(containers_of(&machine, &["one", "two"]), others);
    machine.reboot();
    wait_for_app(&machine, "two", "running");
    wait_for_app(&machine, "three", "standby");
    assert_eq!(visit(&machine, "three", "/").0, 503);
    assert_eq!(machine.sh("appliance status").code, 3);
    let others = containers_of(&machine, &["one", "two"]);
    assert!(machine.ok("appliance app start three").contains("three: running"));
    assert_eq!((visit(&machine, "three", "/").0, containers_of(&machine, &["one", "two"])), (200, others.clone()));

    // By the env.
    with(&[two.clone(), instance("three", "    enabled: no\n")]);
    machine.ok("appliance apply");
    wait_for_app(&machine, "three", "standby");
    wait_for("its containers to be stopped", Duration::from_secs(30), || {
        let left = machine.ok("docker ps --format '{{.Names}}'");
        if left.contains("three_") { Err(left) } else { Ok(()) }
    });
    assert_eq!((visit(&machine, "three", "/").0, visit(&machine, "one", "/").0), (503, 200));
    let said = machine
        .ok("sleep 2; journalctl -u appliance-supervisor -o cat | grep -c 'three: standby: the app is not enabled'");
    assert_eq!(said, "1\n", "it is stopped once");
    let out = machine.sh("appliance app start three");
    assert!(out.code == 1 && out.stderr.contains("enabled: false"), "{}", out.all());
    let out = machine.sh("appliance app remove three --yes");
    assert!(out.code == 1 && out.stderr.contains("names the app three"), "{}", out.all());

    // Out of the env: stopped, and its data stay.
    with(&[two]);
    machine.ok("appliance apply");
    assert!(machine.ok("appliance status").contains("left over  three"));
    let out = machine.sh("appliance app remove three </dev/null");
    assert!(out.code == 1 && out.stderr.contains("nothing was done"), "{}", out.all());
    machine.ok("appliance app remove three --yes");
    assert_eq!(
        machine
            .ok("docker ps -a --format '{{.Names}}'; docker network ls --format '{{.Name}}'; docker images")
            .matches("three")
            .count(),
        0
    );
    assert_eq!(
        machine.ok("psql -U postgres three -Atqc 'SELECT n FROM kept'; docker volume ls -q | grep three"),
        "7\nthree_kept\n"
    );
    let out = machine.sh("appliance app remove three --purge --yes two");
    assert!(out.code == 1 && out.stderr.contains("--yes three"), "{}", out.all());
    for seconds in ["0.1", "0.25", "0.5"] {
        machine.sh(&format!("timeout -s KILL {seconds} appliance app remove three --purge --yes three"));
    }
    machine.sh("appliance app remove three --purge --yes three");
    let dumps = machine.ok("ls /data/removed-apps");
    let dump = dumps
        .lines()
        .find(|name| name.starts_with("three-") && name.ends_with(".pgdump"))
        .unwrap_or_else(|| panic!("no dump: {dumps}"));
    assert!(machine.ok(&format!("pg_restore -f - /data/removed-apps/{dump}")).contains("CREATE TABLE public.kept"));
    machine.ok("appliance apply");
    // What only says that there was an update is the host's.
    let left: Vec<String> = traces(&machine)
        .lines()
        .filter(|line| !before.lines().any(|known| known == *line))
        .filter(|line| !line.ends_with("update_last_call") && !line.starts_with("/var/lib/prometheus"))
        .map(str::to_owned)
        .collect();
    assert_eq!(left, Vec::<String>::new(), "something is left of it");
    assert_eq!(machine.sh("find / -xdev -name '*three*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/usr/*' -not -path '/data/removed-apps/*' -not -path '/srv/*' | grep .").stdout, "");
    let now = traces(&machine);
    let gone: Vec<&str> = before.lines().filter(|line| !now.lines().any(|known| known == *line)).collect();
    assert_eq!(gone, Vec::<&str>::new(), "nothing else went with it");
    assert_eq!(containers_of(&machine, &["one", "two"]), others);
    let out = machine.sh("appliance app remove never --yes");
    assert!(out.code == 1 && out.stderr.contains("nothing is known of an app never"), "{}", out.all());
}
