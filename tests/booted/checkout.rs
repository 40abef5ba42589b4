//! What git brings: local changes, rewritten and vanished branches, submodules, LFS; and who may update when.

use super::update::ledger;
use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

/// Small, and quick to be healthy; its label tells the versions apart.
pub const COMPOSE: &str = "services:\n  a:\n    image: stub:1\n    labels: {version: 'VERSION'}\n    stop_grace_period: 1s\n    healthcheck: \
                       {test: exit 0, interval: 1s}\n";

pub fn git(machine: &Machine, command: &str) -> String {
    machine.ok(&format!(
        "cd /srv/g && runuser -u app -- git -c user.name=M -c user.email=m@example.test -c protocol.file.allow=always {command}"
    ))
}

/// Commits a version with what else was changed; gives back its commit.
pub fn commit(machine: &Machine, version: &str) -> String {
    machine.put("/srv/g/compose.yml", COMPOSE.replace("VERSION", version), 0o644);
    machine.ok("chown -R app:app /srv/g");
    git(machine, "add -A");
    git(machine, &format!("commit -q -m {version}"));
    git(machine, "rev-parse HEAD").trim().to_owned()
}

pub fn version(machine: &Machine) -> String {
    machine.ok("docker inspect -f '{{.Config.Labels.version}}' g_a_1").trim().to_owned()
}

pub fn env(machine: &Machine, local: &str) -> String {
    mirror_env(machine, "")
        .replace("name: mirror", "name: g")
        .replace("file:///srv/mirror\n", &format!("file:///srv/g\n    local: {local}\n"))
}

pub fn refused(machine: &Machine, expected: &str) {
    let was = version(machine);
    let out = machine.sh("appliance update");
    assert!(out.code == 1 && out.stderr.contains(expected), "no '{expected}': {}", out.all());
    assert!(!out.all().contains('\x1b'), "colours, though this is no terminal: {}", out.all());
    assert!(!out.all().contains("visitors reach the app"), "they did all the time: {}", out.all());
    assert_eq!(version(machine), was, "the old version runs on");
    assert!(ledger(machine)["in_flight"].is_null());
}

/// As somebody who works in the checkout.
pub fn checkout(machine: &Machine, command: &str) -> String {
    machine.ok(&format!("cd /app/g && runuser -u app -- git -c user.name=L -c user.email=l@example.test {command}"))
}

#[test]
fn local_changes_are_kept_and_what_cannot_be_fetched_stops_nothing() {
    let machine = Machine::boot("checkout");
    machine.ok("mkdir -p /srv/g && chown app:app /srv/g");
    git(&machine, "init -q -b main .");
    commit(&machine, "one");
    machine.put("/app/env.yml", env(&machine, "keep"), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");

    // A commit and a changed file of somebody's: both are in a branch afterwards, and the new version is as it was pushed.
    machine.put("/app/g/own.txt", "committed here", 0o644);
    machine.ok("chown app:app /app/g/own.txt");
    checkout(&machine, "add own.txt");
    checkout(&machine, "commit -q -m own");
    machine.ok("echo '# changed here' >> /app/g/compose.yml; printf '\\033]0;x\\007' > /app/g/unknown");
    let out = machine.sh("appliance app diff");
    let lines = ["own\n", "untracked  unknown\n", "+committed here\n", "+# changed here\n"];
    assert!(out.code == 2 && lines.iter().all(|line| out.stdout.contains(line)), "{}", out.all());
    machine.ok("rm /app/g/unknown");
    let two = commit(&machine, "two");
    let out = machine.ok("appliance update 2>&1");
    assert!(out.contains("somebody changed files in /app/g"), "{out}");
    let branch = checkout(&machine, "branch --list 'local-*' --format '%(refname:short)'");
    let kept = checkout(&machine, &format!("show {}:compose.yml", branch.trim()));
    assert!(kept.contains("# changed here") && version(&machine) == "two", "{kept}");
    assert_eq!(checkout(&machine, &format!("show {}:own.txt", branch.trim())), "committed here");
    assert_eq!(checkout(&machine, "rev-parse HEAD").trim(), two);
    let out = machine.ok("appliance app diff");
    assert!(
        out.contains("the files are the commit's") && out.contains(&format!("kept in    {}", branch.trim())),
        "{out}"
    );

    // Rewritten: followed.
    git(&machine, "reset -q --hard HEAD~1");
    machine.put("/srv/g/rewritten", "", 0o644);
    let three = commit(&machine, "three");
    machine.ok("appliance update");
    assert_eq!(
        (version(&machine).as_str(), ledger(&machine)["current"]["commit"].as_str()),
        ("three", Some(three.as_str()))
    );

    // A submodule, over a protocol that git takes for one.
    machine.ok(
        "set -e; mkdir -p /srv/sub && cd /srv/sub && git init -q -b main . && echo part > part && git add -A && git -c user.name=M -c \
         user.email=m@example.test commit -q -m part; git clone -q --bare /srv/sub /srv/sub.git; cd /srv/sub.git; git update-server-info; \
         systemd-run -q --unit=git-http python3 -m http.server --bind 127.0.0.1 --directory /srv 8123",
    );
    wait_for("the submodule's server", Duration::from_secs(20), || {
        let out = machine.sh("curl -sf http://127.0.0.1:8123/sub.git/HEAD");
        if out.code == 0 { Ok(()) } else { Err(out.all()) }
    });
    git(&machine, "submodule --quiet add http://127.0.0.1:8123/sub.git part");
    commit(&machine, "four");
    machine.ok("appliance update");
    assert_eq!((version(&machine).as_str(), machine.get("/app/g/part/part").as_str()), ("four", "part\n"));

    // Git LFS would leave small texts in the place of large files.
    machine.put("/srv/g/.gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n", 0o644);
    commit(&machine, "lfs");
    refused(&machine, "Git LFS");
    machine.ok("rm /srv/g/.gitattributes");
    // Nor would git serve a directory of somebody else's, as one that is shared with the host.
    commit(&machine, "five");
    machine.ok("chown -R nobody /srv/g; appliance update; chown -R app /srv/g");
    assert_eq!(version(&machine), "five");

    // The branch is gone, then the repository: the app runs on, and comes up again without it.
    git(&machine, "branch -q -m main elsewhere");
    refused(&machine, "has no main");
    git(&machine, "branch -q -m elsewhere main");
    machine.ok("mv /srv/g /srv/gone");
    refused(&machine, "could not fetch");
    machine.ok("systemctl restart appliance");
    wait_for_phase(&machine, "running");
    assert_eq!(version(&machine), "five");
    machine.ok("mv /srv/gone /srv/g");

    // Merged where the env says so, again with every version, and not where they contradict each other.
    machine.put("/app/env.yml", env(&machine, "merge"), 0o600);
    machine.ok("appliance env activate");
    machine.put("/app/g/local.txt", "mine", 0o644);
    machine.ok("chown app:app /app/g/local.txt");
    checkout(&machine, "add local.txt");
    checkout(&machine, "commit -q -m mine");
    for name in ["six", "seven"] {
        commit(&machine, name);
        machine.ok("appliance update");
        assert_eq!((version(&machine).as_str(), machine.get("/app/g/local.txt").as_str()), (name, "mine"));
        assert!(machine.ok("appliance update").contains("nothing new"));
        let out = machine.sh("appliance app diff");
        assert!(out.code == 2 && out.stdout.contains("+mine") && !out.stdout.contains("image:"), "{}", out.all());
    }
    machine.put("/srv/g/local.txt", "theirs", 0o644);
    commit(&machine, "eight");
    refused(&machine, "contradict");
    assert_eq!(machine.get("/app/g/local.txt"), "mine");
}

#[test]
fn one_update_at_a_time_by_hand_by_the_timer_or_not_at_all() {
    let machine = Machine::boot("timer");
    machine.ok("mkdir -p /srv/g && chown app:app /srv/g");
    git(&machine, "init -q -b main .");
    commit(&machine, "one");
    let at = |update: &str| env(&machine, "keep").replace("appliance:\n", &format!("appliance:\n  update: {update}\n"));
    machine.put("/app/env.yml", at("{oncalendar: 'Mon 02:17'}"), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    let next = machine.ok("systemctl show -p TimersCalendar --value appliance-update.timer");
    assert!(next.contains("Mon *-*-* 02:17:00") && next.matches("OnCalendar").count() == 1, "{next}");

    // What the timer does.
    commit(&machine, "two");
    machine.ok("systemctl start appliance-update.service");
    assert_eq!(version(&machine), "two");
    assert_eq!(machine.get("/app/etc/tags/last_running_g").len(), 40);
    assert!(machine.get("/app/etc/tags/update_last_call").trim().parse::<i64>().is_ok());
    let metrics = machine.get("/var/lib/prometheus/node-exporter/appliance.prom");
    for name in ["update_last_call", "g_last_update", "g_version{git_rev=\""] {
        assert!(metrics.contains(&format!("\n{name}")), "{name}: {metrics}");
    }
    assert!(machine.get("/app/etc/tags/g_last_update").trim().parse::<i64>().is_ok());

    // Two at once, a prepare and a restart among them: one after the other, and nothing is broken.
    commit(&machine, "three");
    let outs = machine.ok(
        "appliance update > /root/1 2>&1 & a=$!; appliance update > /root/2 2>&1 & b=$!; appliance prepare > /root/3 2>&1 & c=$!; \
         systemctl restart appliance-supervisor; for p in $a $b $c; do wait $p || echo failed; done; cat /root/1 /root/2 /root/3",
    );
    assert!(!outs.contains("failed"), "{outs}");
    assert!(outs.contains("runs now") && outs.contains("nothing new"), "{outs}");
    wait_for_phase(&machine, "running");
    assert_eq!(version(&machine), "three");

    // By the flag, which is used up.
    let id = machine.ok("docker inspect -f '{{.Id}}' g_a_1");
    machine.ok("mkdir -p /app/etc/flags; touch /app/etc/flags/force.update.g; appliance update");
    assert_eq!(machine.sh("test -e /app/etc/flags/force.update.g").code, 1);
    assert_eq!(machine.ok("docker inspect -f '{{.Id}}' g_a_1"), id, "nothing differs, so nothing is replaced");

    // Stopped or failed, the timer leaves the app alone.
    machine.ok("systemctl stop appliance");
    commit(&machine, "four");
    machine.ok("systemctl start appliance-update.service");
    assert_eq!(machine.ok("docker ps -q"), "");
    let out = machine.sh("appliance update");
    assert!(out.code == 1 && out.stderr.contains("the appliance is stopped"), "{}", out.all());

    // Off.
    machine.put("/app/env.yml", at("{automatic: no}"), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    assert_eq!(machine.sh("systemctl is-enabled appliance-update.timer").stdout.trim(), "masked");
    assert_eq!(machine.sh("systemctl is-active appliance-update.timer").stdout.trim(), "inactive");
}
