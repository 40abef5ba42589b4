//! Updates that are cut off: at the beginning and in the middle of each stage, by a killed updater (which may leave locks
//! of git behind), a killed Docker or PostgreSQL, a power cut, and by somebody who stops the appliance.
//! Afterwards the app is wholly the old or wholly the new one, and the database the one that belongs to it. `make test` takes a
//! sample, by a seed that is printed; `make soak` takes all.

use super::update::{assert_clean, database, ledger, migrated, push, start_v1, version};
use crate::host::apps::*;
use crate::host::sample::{Random, seed};
use crate::host::{Machine, wait_for};
use std::time::Duration;

/// How an update is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    Updater,
    /// The updater is killed, and with it a git that held its locks.
    Locks,
    Docker,
    Postgres,
    Power,
    /// Somebody stops the appliance, and starts it again later.
    Hand,
}

const BLOWS: [Blow; 6] = [Blow::Updater, Blow::Locks, Blow::Docker, Blow::Postgres, Blow::Power, Blow::Hand];

/// What kind of update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Migrating,
    /// Its migration fails, and it is cut off while it goes back.
    Failing,
}

/// When: at the beginning of the stage, or so many per cent into the time that it took before.
#[derive(Debug, Clone, Copy)]
struct Case {
    kind: Kind,
    stage: &'static str,
    percent: u64,
    blow: Blow,
}

const PLAIN: [&str; 5] = ["fetch", "build", "start", "gate", "switch"];
const MIGRATING: [&str; 7] = ["fetch", "build", "dump", "migrate", "start", "gate", "switch"];
const FAILING: [&str; 1] = ["undo"];
/// How many cases a sample has.
const SAMPLE: usize = 6;

fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kind, stages) in [(Kind::Plain, &PLAIN[..]), (Kind::Migrating, &MIGRATING[..]), (Kind::Failing, &FAILING[..])]
    {
        for stage in stages {
            for percent in [0, 50] {
                for blow in BLOWS {
                    cases.push(Case { kind, stage, percent, blow });
                }
            }
        }
    }
    cases
}

/// Updates, waits on the host for a stage, then for a while: nothing is as quick from outside, and the update must not be ahead.
const WAIT: &str = r#"
import json, subprocess, sys, time
stage, wait = sys.argv[1], float(sys.argv[2])
def update():
    said = open("/root/update.log", "w")
    return subprocess.Popen(["appliance", "update", "--force"], stdin=subprocess.DEVNULL, stdout=said, stderr=said)
updater = update()
end = time.time() + 180
while time.time() < end:
    # A Docker that was killed before had lost a port, and was restarted for it: that update was undone.
    if updater.poll() and "for no container" in open("/root/update.log").read():
        updater = update()
    try:
        flight = json.load(open("/data/appliance/apps/notes/ledger.json"))["in_flight"]
    except (OSError, ValueError):
        continue
    if flight and flight["stage"] == stage:
        time.sleep(wait)
        sys.exit(0)
    time.sleep(0.001)
sys.exit(open("/root/update.log").read())
"#;

fn strike(machine: &Machine, case: &Case, took_ms: u64) {
    let wait = took_ms as f64 / 1000.0 * case.percent as f64 / 100.0;
    machine.ok(&format!("python3 /root/wait.py {} {wait}", case.stage));
    match case.blow {
        // One that has ended already was quick; what it left is looked at all the same.
        Blow::Updater => drop(machine.sh("pkill -9 -f '^appliance update'")),
        Blow::Locks => {
            machine.sh("pkill -9 -f '^appliance update'");
            machine.ok(LOCKS);
        }
        Blow::Postgres => machine.ok("kill -9 $(head -n 1 /var/lib/postgresql/15/main/postmaster.pid)").clear(),
        Blow::Hand => machine.ok("systemctl stop appliance").clear(),
        Blow::Docker => drop(machine.sh("pkill -9 -x dockerd")),
        Blow::Power => {
            machine.power_cut();
            machine.start();
        }
    }
    wait_for("the updater's end", Duration::from_secs(180), || {
        let lives = machine.sh("pgrep -fa '^appliance update'");
        if lives.code == 1 { Ok(()) } else { Err(lives.all()) }
    });
    if case.blow == Blow::Hand {
        assert_eq!(machine.ok("docker ps -q"), "", "{case:?}: it is stopped, whatever the update had in mind");
        machine.ok("systemctl start appliance");
    }
}

/// What a killed git leaves.
const LOCKS: &str =
    "for user in appliance-git app; do [ $user = app ] && repository=/data/git/notes || repository=/data/appliance-git/notes
  cd $repository && for lock in index HEAD config packed-refs shallow refs/remotes/origin/live refs/heads/x; do
  mkdir -p $(dirname $lock); touch $lock.lock; chown -R $user: $(dirname $lock); done; done; chgrp app /data/appliance-git/notes";

/// Wholly one or the other; says which.
fn settled(machine: &Machine, case: &Case, old: &str, new: &str, digests: &[String; 2]) -> String {
    wait_for("the appliance to settle", Duration::from_secs(240), || {
        let (phase, _) = phase(machine);
        let releases = machine.sh("appliance releases --json").stdout;
        let releases: serde_json::Value = serde_json::from_str(&releases).unwrap_or_default();
        // A Docker that has just been killed took the containers with it before the supervisor can say so.
        let (code, _) = get(machine, "/notes");
        if phase == "running" && releases["in_flight"].is_null() && releases["current"].is_object() && code == 200 {
            return Ok(());
        }
        if phase == "failed" {
            panic!(
                "{case:?} ended failed: {}",
                machine.sh("appliance status; journalctl -u appliance-supervisor -n 60 --no-pager").all()
            );
        }
        Err(format!("{phase} {} {code}", releases["in_flight"]))
    });
    let is = version(machine);
    let commit = ledger(machine)["current"]["commit"].as_str().expect("a commit").to_owned();
    let named = machine.ok(&format!("git -C /srv/work rev-parse {is}"));
    assert_eq!(commit, named.trim(), "{case:?}: the ledger says another release than the one that answers");
    assert!(is == old || is == new, "{case:?}: {is}");
    // The old one to the letter; a new one has been migrated at another time.
    let (has, wanted) = if is == new { (migrated(machine), &digests[1]) } else { (database(machine), &digests[0]) };
    assert_eq!(&has, wanted, "{case:?}: the database is not the one of {is}");
    assert_clean(machine);
    is
}

#[test]
fn an_update_that_is_cut_off_anywhere_is_finished_or_undone() {
    let seed = seed();
    let mut random = Random::of(seed);
    let mut cases = all();
    match std::env::var("APPLIANCE_MATRIX").as_deref() {
        Ok("all") => {}
        // These stages' cases, or those with a migration, for looking closer.
        Ok(words) => cases.retain(|case| {
            words.split(',').any(|word| word == case.stage || word == "migrating" && case.kind == Kind::Migrating)
        }),
        Err(_) => {
            while cases.len() > SAMPLE {
                cases.remove(random.below(cases.len()));
            }
        }
    }
    println!("seed {seed}: {} cases", cases.len());
    let machine = start_v1("cut-off");
    machine.put("/root/wait.py", WAIT, 0o644);
    keep_note(&machine, "kept");
    let mut rows = Vec::new();
    for (kind, old, new) in [(Kind::Plain, "v1", "v2"), (Kind::Migrating, "v2", "v3"), (Kind::Failing, "v3", "v4")] {
        if !cases.iter().any(|case| case.kind == kind) {
            continue;
        }
        // Once without a blow: how long the stages take, and what the database is like before and after.
        push(&machine, old);
        machine.ok("appliance update --force");
        let before = database(&machine);
        push(&machine, new);
        let out = machine.sh("appliance update --force");
        assert_eq!(out.code == 0, kind != Kind::Failing, "{}", out.all());
        let digests = [before, migrated(&machine)];
        let took = ledger(&machine)["last"]["took_ms"].clone();
        if kind != Kind::Failing {
            machine.ok("appliance rollback --yes");
        }
        for case in cases.iter().filter(|case| case.kind == kind) {
            assert_eq!(version(&machine), old, "before {case:?}");
            strike(&machine, case, took[case.stage].as_u64().unwrap_or(0));
            let is = settled(&machine, case, old, new, &digests);
            println!("{case:?}: {is}");
            rows.push(format!("{:8} {:>3} % {:?}: {is}", case.stage, case.percent, case.blow));
            if is == new {
                machine.ok("appliance rollback --yes");
            }
        }
    }
    println!("seed {seed}\n{}", rows.join("\n"));
}
