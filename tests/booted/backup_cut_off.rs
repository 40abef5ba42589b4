//! Backup commands that are killed anywhere, beside an app that goes on: no run that is listed cannot be restored, no restore is half done,
//! and nothing is left over.

use super::shipping::{notes, ship, start, until, write_notes};
use crate::host::apps::phase;
use crate::host::sample::{Random, is_soak, seed};
use crate::host::several::visit;
use crate::host::{Machine, wait_for};
use std::time::Duration;

/// What is cut off, and how long it may take, in milliseconds.
const VERBS: [(&str, usize); 8] = [
    ("run", 9000),
    ("restore --run $RUN --database --yes", 14_000),
    ("restore --at $AT --database --yes", 16_000),
    ("restore --run $RUN --database --dump", 3000),
    ("restore --files --to /root/found", 3000),
    ("drill", 9000),
    ("verify", 3000),
    ("adopt --yes", 1500),
];

const BLOWS: [&str; 4] = [
    "systemctl kill -s KILL --kill-whom=all killed",
    "systemctl kill -s KILL --kill-whom=main killed",
    "kill -9 $(head -n 1 /var/lib/postgresql/15/main/postmaster.pid)",
    "pkill -9 -x dockerd",
];

fn runs(machine: &Machine) -> Vec<String> {
    machine.ok("appliance backup list --json | jq -r '.[].run'").lines().map(str::to_owned).collect()
}

/// Waits until the app runs and answers, with no change under way.
fn settle(machine: &Machine, case: &str) {
    wait_for(&format!("the appliance to settle after {case}"), Duration::from_secs(240), || {
        let (phase, text) = phase(machine);
        let flight = machine.ok("jq -c .in_flight /data/appliance/apps/one/ledger.json");
        let code = visit(machine, "one", "/").0;
        if phase == "running" && flight == "null\n" && code == 200 {
            return Ok(());
        }
        assert_ne!(phase, "failed", "{case}: {text}");
        Err(format!("{phase} {flight} {code}"))
    });
    until(machine, "psql -U postgres one -Atqc 'SELECT 1'");
}

/// Each run that is listed can be restored, and nothing of what was cut off is left.
fn look(machine: &Machine) {
    until(machine, "appliance backup run");
    until(machine, "appliance backup ship");
    machine.ok("appliance backup verify && appliance backup drill && appliance backup status");
    machine.ok("rm -f /data/one-pgdump/one-backup-*.pgdump");
    for run in runs(machine) {
        let told = machine.ok(&format!("appliance backup drill --run {run} 2>/dev/null"));
        assert!(told.contains("passed") && told.contains("restored and compared"), "{told}");
    }
    let left = machine.ok(
        "ls -d /data/postgresql-rewind /data/postgresql-drill /data/one-pgdump/*.part /data/one-pgdump/one-fetched-* 2>/dev/null || true
         systemctl list-units --all --no-legend 'appliance-drilled*' 'appliance-rewind*'
         pgrep -xa restic || true; ls /srv/target/restic/locks",
    );
    assert_eq!(left, "", "nothing is left over");
    // One that was put aside may be looked at until the next update (docs/updates.md).
    let databases = machine
        .ok("psql -U postgres -Atqc \"SELECT datname FROM pg_database WHERE datname <> 'one_failed' ORDER BY 1\"");
    assert_eq!(databases, "one\npostgres\ntemplate0\ntemplate1\n");
}

#[test]
fn whatever_is_killed_no_restore_is_half_done_and_no_run_is_lost() {
    let machine = Machine::boot("backup-cut-off");
    start(&machine);
    machine.ok("systemctl stop appliance-ship.timer appliance-backup.timer");
    write_notes(&machine, 1..=3);
    machine.ok("appliance backup run");
    write_notes(&machine, 4..=4);
    ship(&machine);
    let at = machine.ok("sleep 1; date -u +%Y-%m-%dT%H:%M:%SZ; sleep 1");
    write_notes(&machine, 5..=5);
    ship(&machine);
    let run = runs(&machine).remove(0);
    let mut random = Random::of(seed());
    let mut first = random.below(VERBS.len());
    for round in 0..if is_soak() { 200 } else { VERBS.len() } {
        let (verb, longest) = VERBS[first];
        first = (first + 1) % VERBS.len();
        let (after, blow) = (random.below(longest), BLOWS[random.below(BLOWS.len())]);
        let n = 100 + u32::try_from(round).expect("a few");
        write_notes(&machine, n..=n);
        let args = verb.replace("$RUN", &run).replace("$AT", at.trim());
        machine.ok(&format!(
            "rm -rf /root/found /data/one-pgdump/one-backup-*.pgdump; systemd-run -q --unit=killed appliance backup {args}; sleep {}; {blow} || true
             while systemctl is-active -q killed; do sleep 0.2; done; systemctl reset-failed killed 2>/dev/null || true",
            after as f64 / 1000.0
        ));
        let case = format!("{verb} after {after} ms: {blow}");
        settle(&machine, &case);
        let now = machine.ok("psql -U postgres one -Atqc 'SELECT max(n), count(*) = count(DISTINCT n) FROM note'");
        let target = if verb.contains("$AT") { 4 } else { 3 };
        let (old, new) = (format!("{n}|t\n"), format!("{target}|t\n"));
        assert!(now == old || verb.contains("--yes") && now == new, "{case}: {now}");
        println!("{case}: {}", now.trim());
        if is_soak() && round % 20 == 19 {
            look(&machine);
        }
    }
    look(&machine);
    assert!(notes(&machine).ends_with('\n'));
}
