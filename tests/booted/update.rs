//! `appliance update` as a user runs it: the notes app's commits one after the other, under load where nothing may be lost.

use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The branch that the env names; what it points to is what is pushed.
const BRANCH: &str = "live";

/// Pushes a version to the branch.
pub fn push(machine: &Machine, version: &str) -> String {
    machine.ok(&format!("runuser -u app -- git -C /srv/notes.git update-ref refs/heads/{BRANCH} refs/heads/{version}"));
    machine.ok(&format!("git -C /srv/work rev-parse {version}")).trim().to_owned()
}

/// A host on which v1 runs.
pub fn start_v1(name: &str) -> Machine {
    let machine = Machine::boot(name);
    install_notes(&machine);
    push(&machine, "v1");
    machine.put("/app/env.yml", env_yml(&machine, BRANCH), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    machine
}

pub fn version(machine: &Machine) -> String {
    let (code, body) = get(machine, "/notes");
    assert_eq!(code, 200, "{body}");
    let value: serde_json::Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("not JSON: {body}"));
    value["version"].as_str().expect("a version").to_owned()
}

/// The ledger as `appliance releases` tells it.
pub fn ledger(machine: &Machine) -> serde_json::Value {
    let text = machine.ok("appliance releases --json");
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"))
}

/// The database as text, without the key that pg_dump makes up each time, and without how far sequences are: a server that is cut off
/// leaves out the numbers that it had put by.
pub fn database(machine: &Machine) -> String {
    dump(machine, "")
}

/// The same without the times at which migrations ran.
pub fn migrated(machine: &Machine) -> String {
    dump(machine, "--exclude-table-data=django_migrations")
}

fn dump(machine: &Machine, options: &str) -> String {
    machine.ok(&format!("pg_dump -U postgres {options} notes | grep -v -e '^.restrict' -e '^.unrestrict' -e 'pg_catalog.setval' | sha256sum"))
}

/// Nothing is left over: containers, images, temporary files, databases, slots.
pub fn assert_clean(machine: &Machine) {
    let containers = machine.ok("docker ps -a --format '{{.Names}}' | sort");
    assert_eq!(containers, "notes_beat_1\nnotes_memcached_1\nnotes_redis_1\nnotes_web_1\nnotes_worker_1\n");
    let left = machine.ok(
        "find /data /app /run /var/www /etc/nginx /var/lib/appliance -xdev \\( -name '.appliance-*' -o -name 'appliance-private-*' -o -name \
         '*.part' -o -name '*.pending' -o -path '/run/appliance/bridged/*' \\) -print | sort",
    );
    assert_eq!(left, "");
    let releases = ledger(machine);
    assert!(releases["in_flight"].is_null(), "{releases}");
    let known: Vec<String> = ["current", "previous"]
        .iter()
        .filter_map(|which| releases[which]["commit"].as_str().map(|commit| commit[..12].to_owned()))
        .collect();
    for tag in machine.ok("docker images notes/app --format '{{.Tag}}'").lines().filter(|tag| *tag != "latest") {
        assert!(
            known.iter().any(|commit| commit.starts_with(tag) || tag.starts_with(commit.as_str())),
            "{tag} is left"
        );
    }
    let head = machine.ok("runuser -u app -- git -C /app/notes rev-parse HEAD");
    assert_eq!(Some(head.trim()), releases["current"]["commit"].as_str());
}

fn wrk(machine: &Machine, seconds: u32) -> Child {
    let mut command = Command::new("wrk");
    command.args(["-t", "2", "-c", "20", "-d", &format!("{seconds}s"), "--timeout", "20s", "--latency"]);
    command.arg(format!("https://{}/notes", machine.address()));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("wrk can be run (make installs it)")
}

/// What wrk counted: requests a second, and everything that was no 2xx.
fn counted(load: Child) -> (f64, String) {
    let output = load.wait_with_output().expect("wrk ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Requests/sec:"))
        .and_then(|rate| rate.trim().parse().ok());
    let bad: Vec<&str> =
        text.lines().filter(|line| line.contains("Socket errors") || line.contains("Non-2xx")).collect();
    (rate.unwrap_or_else(|| panic!("wrk said: {text}")), bad.join("\n"))
}

/// Hands in jobs until it is told to stop; gives back their names.
fn hand_in(machine: &Machine, stop: &AtomicBool) -> Vec<String> {
    let mut names = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let name = format!("job{}", names.len());
        let url = format!("https://{}/jobs", machine.address());
        let (code, body) = curl(machine, &["--data-urlencode", &format!("name={name}"), &url]);
        assert_eq!(code, 202, "{name}: {body}");
        names.push(name);
        // The one worker takes a third of a second for each.
        std::thread::sleep(Duration::from_millis(600));
    }
    names
}

#[test]
fn without_a_migration_no_request_and_no_job_is_lost() {
    let machine = start_v1("update");
    keep_note(&machine, "from v1");
    let commit = push(&machine, "v2");
    let waits = machine.sh("appliance update --check --json");
    assert!(
        waits.code == 2 && waits.stdout.contains(&commit) && waits.stdout.contains("\"migration\": false"),
        "{}",
        waits.all()
    );

    let stop = AtomicBool::new(false);
    let ((rate, bad), names, out) = std::thread::scope(|scope| {
        let load = wrk(&machine, 60);
        let jobs = scope.spawn(|| hand_in(&machine, &stop));
        let out = machine.sh("appliance update");
        let counted = counted(load);
        stop.store(true, Ordering::Relaxed);
        (counted, jobs.join().expect("every job is taken"), out)
    });
    println!("{rate} requests/s, {} jobs\n{}", names.len(), out.all());
    assert_eq!(out.code, 0, "{}", out.all());
    assert_eq!(bad, "");
    assert!(rate >= 200.0, "{rate} requests/s are too few to say something");
    assert_eq!(version(&machine), "v2");
    assert_eq!(notes(&machine), ["from v1"]);
    wait_for("all jobs", Duration::from_secs(60), || {
        let (_, body) = get(&machine, "/jobs");
        let done: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let odd: Vec<&String> = names.iter().filter(|name| done[name.as_str()] != 1).collect();
        if odd.is_empty() { Ok(()) } else { Err(format!("{odd:?} of {body}")) }
    });
    assert_clean(&machine);
    wait_for("the supervisor to take the release up", Duration::from_secs(20), || {
        let seen = status(&machine);
        if seen["commit"] == commit.as_str() && seen["phase"]["name"] == "running" {
            Ok(())
        } else {
            Err(seen.to_string())
        }
    });

    // Nothing new is nothing to do.
    let started = machine.ok("docker inspect -f '{{.State.StartedAt}}' $(docker ps -q)");
    assert!(machine.ok("appliance update").contains("nothing new"));
    assert_eq!(machine.sh("appliance update --check").code, 0);
    assert_eq!(machine.ok("docker inspect -f '{{.State.StartedAt}}' $(docker ps -q)"), started);
    // What dies is started again by the release that is current now.
    machine.ok("docker kill notes_web_1");
    wait_for("the web service", Duration::from_secs(60), || match get(&machine, "/health") {
        (200, body) if body.contains("v2") => Ok(()),
        other => Err(format!("{other:?}")),
    });

    // Back and forth, without losing anything either.
    let load = wrk(&machine, 45);
    assert_eq!(machine.sh("appliance rollback").code, 0);
    let (_, bad) = counted(load);
    assert_eq!((version(&machine).as_str(), bad.as_str()), ("v1", ""));
    let refused = machine.ok("appliance update");
    assert!(refused.contains("not tried again"), "{refused}");
    assert_eq!(machine.sh("appliance rollback").code, 0);
    assert_eq!(version(&machine), "v2");
    assert_clean(&machine);
}

#[test]
fn with_a_migration_everything_is_there_and_what_fails_leaves_no_trace() {
    let machine = start_v1("migrate");
    keep_note(&machine, "from v1");
    push(&machine, "v2");
    machine.ok("appliance update");
    let before = database(&machine);

    // Fails to build: what runs is untouched.
    let started = machine.ok("docker inspect -f '{{.Name}} {{.State.StartedAt}}' $(docker ps -q)");
    let v6 = push(&machine, "v6");
    let out = machine.sh("appliance update");
    assert!(out.code == 1 && out.stderr.contains("could not be built"), "{}", out.all());
    assert_eq!(machine.ok("docker inspect -f '{{.Name}} {{.State.StartedAt}}' $(docker ps -q)"), started);
    assert!(
        ledger(&machine)["failed"].as_array().is_some_and(|failed| failed.iter().any(|commit| *commit == v6.as_str()))
    );
    assert_clean(&machine);

    // A migration that there is no room for is refused before anything stops.
    push(&machine, "v3");
    machine.ok("mount -t tmpfs -o size=64m tmpfs /data/notes-pgdump");
    let out = machine.sh("appliance update");
    assert!(
        out.code == 1 && out.stderr.contains("too little room for the update: /data/notes-pgdump has 64 MB"),
        "{}",
        out.all()
    );
    assert_eq!(machine.ok("docker inspect -f '{{.Name}} {{.State.StartedAt}}' $(docker ps -q)"), started);
    machine.ok("umount /data/notes-pgdump");
    assert_clean(&machine);

    // A migration: the page meanwhile, then everything is there.
    assert!(machine.sh("appliance update --check --json").stdout.contains("\"migration\": true"));
    let stop = AtomicBool::new(false);
    let (out, (seen, order)) = std::thread::scope(|scope| {
        let look = scope.spawn(|| {
            let (mut seen, mut order) = (std::collections::BTreeSet::new(), Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let (code, body) = get(&machine, "/notes");
                seen.insert((code, body.contains("Updating")));
                order.push(code);
            }
            (seen, order)
        });
        let out = machine.sh("appliance update");
        stop.store(true, Ordering::Relaxed);
        (out, look.join().expect("the visitor comes back"))
    });
    assert_eq!(out.code, 0, "{}", out.all());
    assert!(out.all().contains("visitors see the status page"), "{}", out.all());
    assert!(seen.iter().all(|(code, _)| [200, 503].contains(code)), "{seen:?}");
    assert!(seen.contains(&(503, true)) && seen.contains(&(200, false)), "{seen:?}");
    // No visitor reaches the app between the beginning and the end of the migration.
    let turns = order.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(turns <= 2, "the page came and went: {order:?}");
    assert_eq!((version(&machine).as_str(), notes(&machine)), ("v3", vec!["from v1".to_owned()]));
    keep_note(&machine, "from v3");
    let migrated = database(&machine);
    assert_ne!(before, migrated);
    assert_clean(&machine);

    // Fails half way through its migration: back, and the database as it was; somebody who is not there is told.
    let v4 = push(&machine, "v4");
    machine.put("/root/sentry.py", super::releases::SENTRY, 0o644);
    let mut sentry = machine.spawn("python3 /root/sentry.py");
    wait_for("Sentry's address", Duration::from_secs(20), || {
        let out = machine.sh("curl -s -o /dev/null --data x http://127.0.0.1:9/");
        if out.code == 0 { Ok(()) } else { Err(out.all()) }
    });
    let out = machine.sh("appliance update");
    // Reports wait for as long as Sentry is away; a test is tried at once.
    machine.ok("appliance alert test sentry");
    let mut reports = String::new();
    wait_for("the report", Duration::from_secs(60), || {
        let out = machine.sh("grep -a 'An update failed' /root/reports");
        reports = out.stdout.clone();
        if out.code == 0 { Ok(()) } else { Err(out.all()) }
    });
    assert!(!reports.contains("this migration fails half way"), "what a container prints stays here: {reports}");
    assert!(
        reports.contains("migrate --noinput in web ended with 1:") && reports.contains("the old release runs again"),
        "{reports}"
    );
    assert!(
        !CANARIES.iter().any(|secret| !secret.starts_with("canaryc0ffee") && reports.contains(secret)),
        "{reports}"
    );
    machine.ok("touch /root/enough");
    drop(sentry.wait());
    assert!(out.code == 1 && out.stderr.contains("this migration fails half way"), "{}", out.all());
    assert!(out.stderr.contains("the old release runs again"), "{}", out.all());
    assert_eq!(database(&machine), migrated);
    assert_eq!((version(&machine).as_str(), notes(&machine).len()), ("v3", 2));
    assert!(
        ledger(&machine)["failed"].as_array().is_some_and(|failed| failed.iter().any(|commit| *commit == v4.as_str()))
    );
    assert!(machine.ok("appliance update").contains("failed before"));
    let kept =
        machine.ok("psql -U postgres -Atc \"SELECT datname FROM pg_database WHERE datname LIKE 'notes%' ORDER BY 1\"");
    assert_eq!(kept, "notes\nnotes_failed\n", "the failed database can be looked at");

    // Does not get through the gate: the old one never stopped serving.
    push(&machine, "v5");
    let load = wrk(&machine, 45);
    let out = machine.sh("appliance update");
    let (_, bad) = counted(load);
    assert!(out.code == 1 && out.stderr.contains("answers / with 500"), "{}", out.all());
    assert_eq!((version(&machine).as_str(), bad.as_str()), ("v3", ""));
    assert_clean(&machine);

    // Back behind the migration takes the database along, and says so.
    let out = machine.sh("appliance rollback");
    assert!(out.code == 1 && out.stderr.contains("what was written since then is lost"), "{}", out.all());
    assert_eq!(version(&machine), "v3");
    machine.ok("appliance rollback --yes");
    assert_eq!((version(&machine).as_str(), notes(&machine)), ("v2", vec!["from v1".to_owned()]));
    assert_eq!(database(&machine), before);
    // Forth again: by way of the migration.
    machine.ok("appliance rollback");
    assert_eq!((version(&machine).as_str(), notes(&machine)), ("v3", vec!["from v1".to_owned()]));
    assert_clean(&machine);
}
