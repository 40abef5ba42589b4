//! A repository and the hosts that come to it: an empty one that finds it filled, and one that finds it as it was the day before yesterday.

use super::shipping::{KEY, env, notes, ship, start, until, write_notes};
use crate::host::Machine;
use crate::host::apps::wait_for_phase;
use crate::host::sample::{Random, is_soak, seed};
use crate::host::several::*;

/// A new host with the target of another one, and an env.
fn new_host(name: &str, kept: &tempfile::TempDir, env: String) -> Machine {
    let machine = Machine::boot(name);
    machine.put_directory(kept.path().to_str().expect("a path"), "/srv/kept");
    machine.ok("tar -xf /srv/kept/target.tar -C /srv && rm -r /srv/kept");
    machine.put("/app/env.yml", env, 0o600);
    machine.ok("systemctl start appliance");
    machine
}

#[test]
fn an_empty_host_before_a_filled_repository_waits_for_somebody_to_say_what_is_meant() {
    let machine = Machine::boot("hosts-old");
    start(&machine);
    machine.ok("systemctl stop appliance-ship.timer; appliance backup run");
    write_notes(&machine, 1..=5);
    ship(&machine);
    machine.ok("appliance backup run; cp -a /srv/target /srv/older");
    write_notes(&machine, 6..=7);
    ship(&machine);
    machine.ok("appliance backup run");
    write_notes(&machine, 8..=8);
    ship(&machine);

    // Somebody puts the target back to what it was: what is there now is told to be older, and everything is stored anew.
    machine.ok("mv /srv/target /srv/newer; mv /srv/older /srv/target");
    let told = machine.ok("appliance backup ship 2>&1");
    assert!(told.contains("a new base backup is made") && told.contains("shipped what was written"), "{told}");
    let out = machine.sh("appliance backup run");
    let said = "was not in the repository any more: somebody has put an older state of it back";
    assert!(out.code == 1 && out.stderr.contains(said), "{}", out.all());
    let status = machine.sh("appliance backup status");
    assert!(status.code == 1 && status.stdout.contains(said), "{}", status.all());
    machine.ok("appliance backup drill && appliance backup run && appliance backup status && rm -r /srv/newer");

    let kept = tempfile::tempdir().expect("a directory");
    write_notes(&machine, 9..=9);
    ship(&machine);
    machine.ok("tar -cf /root/target.tar -C /srv target several");
    machine.fetch_file("/root/target.tar", &kept.path().join("target.tar"));
    drop(machine);

    // The new host does not begin empty, and writes nothing.
    let machine = new_host("hosts-new", &kept, env(""));
    wait_for_phase(&machine, "standby");
    let status = machine.sh("appliance status");
    assert_eq!(status.code, 3, "{}", status.all());
    for words in ["The backup holds the app one", "appliance backup recover", "adopt --begin-anew"] {
        assert!(status.stdout.contains(words), "{words}: {}", status.all());
    }
    assert_eq!((machine.ok("docker ps -aq").as_str(), visit(&machine, "one", "/").0), ("", 503));
    let out = machine.sh("appliance backup run");
    assert!(out.code == 1 && out.stderr.contains("the repository belongs to another host"), "{}", out.all());
    let out = machine.sh("appliance backup adopt --yes");
    assert!(
        out.code == 1 && out.stderr.contains("this host has nothing of what the repository holds"),
        "{}",
        out.all()
    );
    // Brought back, however often that is cut off; until it is done nothing of the app runs.
    let mut random = Random::of(seed());
    for _ in 0..if is_soak() { 40 } else { 4 } {
        let after = random.below(6500);
        let kill = match random.below(4) {
            0 => "systemctl kill -s KILL --kill-whom=all killed",
            1 => "systemctl kill -s KILL --kill-whom=main killed",
            2 => "kill -9 $(head -n 1 /var/lib/postgresql/15/main/postmaster.pid)",
            _ => "pkill -9 -x dockerd",
        };
        machine.ok(&format!(
            "systemctl stop appliance; systemd-run -q --unit=killed appliance backup recover --yes; sleep {}; {kill} || true
             systemctl stop killed 2>/dev/null || true",
            after as f64 / 1000.0
        ));
        // systemd gives up on what dies so often, and only a running appliance would start Docker all the same.
        machine.ok("systemctl reset-failed");
        until(&machine, "systemctl start docker postgresql@15-main && psql -U postgres -qc 'SELECT 1' && docker ps -q");
        let mark = "test -e /data/appliance/host/recovering";
        println!(
            "recover after {after} ms: {kill}: {}",
            machine.sh(&format!("{mark}; echo $?; journalctl -u killed -o cat -n 2")).stdout
        );
        if machine.sh(mark).code == 0 {
            machine.ok("systemctl start appliance");
            until(
                &machine,
                "said=$(appliance status); test $? = 3 && echo \"$said\" | grep -q 'A recovery from the backup is not done'",
            );
            assert_eq!(machine.ok("docker ps -q"), "");
        } else if machine.sh("jq -e .current /data/appliance/apps/one/ledger.json").code == 0 {
            break;
        }
    }
    machine.ok("systemctl stop appliance");
    let out = machine.sh("appliance backup recover --yes");
    if out.code != 0 {
        // One of them came to its end.
        assert!(out.stderr.contains("this host has a release of the app one already"), "{}", out.all());
        machine.ok("systemctl start appliance");
    }
    wait_for_phase(&machine, "running");
    assert_eq!((notes(&machine).as_str(), visit(&machine, "one", "/").0), ("9\n9\n", 200));
    assert_eq!(machine.ok("psql -U postgres one -Atqc 'SELECT count(*), count(DISTINCT n) FROM note'"), "9|9\n");
    assert_eq!(machine.sh("ls /data/postgresql-rewind /data/postgresql-drill").code, 2, "nothing is left over");
    machine.ok("appliance backup run && appliance backup verify");
    drop(machine);

    // Or it begins anew, and the runs of before stay. None of several apps begins before somebody says so, whichever the runs are of.
    let backup = format!("  backup: {{url: 'file:///srv/target', encrypt: {KEY}}}\n");
    let right = env_yml(&backup, &instance("two", ""));
    let machine = new_host("hosts-anew", &kept, right.replace("/srv/target", "/mnt/away/target"));
    until(&machine, "appliance status --app two | grep -q 'The backup cannot be asked whether it holds these apps'");
    // What was wrong in env.yml is mended; apply takes it up, for all that wait.
    machine.put("/app/env.yml", right, 0o600);
    machine.sh("appliance apply");
    for app in &APPS[..2] {
        until(&machine, &format!("appliance status --app {app} | grep -q 'The backup holds the app one'"));
    }
    assert_eq!(machine.ok("docker ps -aq"), "");
    let before = machine.ok("appliance backup list --json | jq length");
    machine.ok("appliance backup adopt --begin-anew --yes; appliance app start one; appliance app start two");
    APPS[..2].iter().for_each(|app| wait_for_app(&machine, app, "running"));
    let tables = "SELECT count(*) FROM pg_tables WHERE tablename = 'note'";
    assert_eq!(machine.ok(&format!("psql -U postgres one -Atqc \"{tables}\"")), "0\n");
    machine.ok("appliance backup run");
    let after: usize = machine.ok("appliance backup list --json | jq length").trim().parse().expect("a number");
    assert_eq!(after, before.trim().parse::<usize>().expect("a number") + 2);
    drop(machine);

    // A target that does not answer may hold anything.
    let machine = Machine::boot("hosts-away");
    install(&machine);
    machine.put("/app/env.yml", env("").replace("/srv/target", "/mnt/away/target"), 0o600);
    machine.ok("systemctl start appliance");
    until(&machine, "appliance status | grep -q 'standby: The backup cannot be asked whether it holds these apps'");
    let told = machine.ok("appliance backup adopt --begin-anew --yes 2>&1");
    assert!(told.contains("the apps may begin empty"), "{told}");
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
}
