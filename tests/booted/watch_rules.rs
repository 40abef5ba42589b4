//! What is wrong is found: each rule that a host like this can break is broken, seen to be told, and seen to be over. Limits, levels, quiet
//! hours and the dead man's switch are an env's.

use crate::host::apps::*;
use crate::host::receivers::{self, SECRET, taken};
use crate::host::{Machine, wait_for};
use serde_json::Value;
use std::time::Duration;

/// The notes app's env with channels of every kind and limits that are soon reached.
fn env(machine: &Machine, branch: &str) -> String {
    let hour = |shift: &str| machine.ok(&format!("date -d '{shift}' +%H:%M")).trim().to_owned();
    let quiet = format!("{}-{}", hour("-2 hours"), hour("+4 hours"));
    let signed = format!("secret: {SECRET}");
    let alert = format!(
        "  alert:
    mail: {{to: ops@example.test, from: host@example.test, smtp: 'smtp://127.0.0.1:2525', severity: error}}
    webhooks:
      - {{name: ops, url: 'http://127.0.0.1:8099/hook', {signed}}}
      - {{name: night, url: 'http://127.0.0.1:8099/night', {signed}, format: slack, quiet: '{quiet}'}}
      - {{name: away, url: 'http://127.0.0.1:7/hook'}}
    alive: http://127.0.0.1:8099/alive
    rules:
      database.transaction: 1m
      database.connections: 1%
      backup.old: 1m
      alert.alive: 1m
      reboot.waiting: 1m
      alert.undelivered: 1m
      alert.untested: 1m
      update.missed: off
"
    );
    let text = env_yml(machine, branch);
    let (before, after) = text.split_once("  sentry:\n").expect("it names one");
    let after = after.split_once('\n').expect("it has a DSN").1;
    format!("{before}{alert}{after}")
}

/// How often the channel `ops` was told that of an alert.
fn told(machine: &Machine, key: &str, event: &str) -> usize {
    let (rule, subject) = key.split_once(':').unwrap_or((key, ""));
    let is_it = |one: &&Value| one["rule"] == rule && one["subject"] == subject && one["event"] == event;
    taken(machine, "webhook").iter().filter(is_it).count()
}

fn wait_for_word(machine: &Machine, key: &str, event: &str) {
    wait_for(&format!("{key} {event}"), Duration::from_secs(300), || match told(machine, key, event) {
        1 => Ok(()),
        _ => Err(format!("{}\n{:?}", machine.sh("appliance alert list").all(), taken(machine, "webhook"))),
    });
}

/// What is known of an alert, told or not.
fn wait_for_alert(machine: &Machine, key: &str, is_there: bool) {
    wait_for(&format!("{key}: {is_there}"), Duration::from_secs(200), || {
        let out = machine.sh("appliance alert list --json");
        let all: Vec<Value> = serde_json::from_str(&out.stdout).map_err(|_| out.all())?;
        if all.iter().any(|one| one["key"] == key) == is_there { Ok(()) } else { Err(out.all()) }
    });
}

#[test]
fn what_is_wrong_is_found_told_and_seen_to_be_over() {
    let machine = Machine::boot("watch-rules");
    install_notes(&machine);
    machine.ok("runuser -u app -- git -C /srv/notes.git update-ref refs/heads/live refs/heads/v1");
    receivers::start(&machine);
    machine.ok("touch /root/receivers/dead");
    let text = env(&machine, "live");
    machine.put("/app/env.yml", &text, 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    let rules = machine.ok("appliance alert rules");
    for (rule, limit) in [("database.transaction", "1m"), ("update.missed", "off"), ("disk.full", "5%")] {
        let is_it = |line: &str| {
            line.split_whitespace().take(3).eq([rule, line.split_whitespace().nth(1).unwrap_or(""), limit])
        };
        assert!(rules.lines().any(is_it), "{rules}");
    }

    // What needs a minute to be told is begun at once.
    machine.sh("systemd-run --quiet --unit=broken false");
    machine.ok("touch /run/reboot-required");
    machine.ok("echo $(($(date +%s) - 9 * 86400)) > /app/etc/tags/update_last_call");
    let out = machine.sh("appliance backup run");
    assert!(out.code != 0, "{}", out.all());
    let login = "$(sed -n 's/^DATABASE_URL=//p' /data/etc/notes/database_url.env | sed 's/@[^:]*:/@127.0.0.1:/')";
    machine.ok(&format!(
        "systemd-run --quiet --unit=long sh -c \"psql -c 'BEGIN; SELECT 1; SELECT pg_sleep(1500)' \\\"{login}\\\"\""
    ));
    machine.ok("mkdir -p /data/notes-ca && echo none > /data/notes-ca/ca.cert.pem");
    machine.ok("cp /app/env.yml /root/env.yml && echo '  broken: [' >> /app/env.yml");
    machine.sh("docker run --rm --network none -m 20m --entrypoint python3 notes/app -c 'bytearray(200 << 20)'");

    for key in [
        "unit.failed:broken.service",
        "reboot.waiting",
        "backup.trouble",
        "client-ca.expires:notes",
        "memory.oom",
        "alert.untested:night",
        "alert.undelivered:away",
        "backup.old",
        "database.transaction",
        "alert.alive",
    ] {
        wait_for_word(&machine, key, "fires");
    }
    // These two have to hold for minutes; that they are known is enough here.
    wait_for_alert(&machine, "env.broken", true);
    wait_for_alert(&machine, "database.connections", true);
    // What nobody wants to hear of is not even listed.
    wait_for_alert(&machine, "update.missed", false);
    assert_eq!(told(&machine, "update.missed", "fires"), 0);
    let listed = machine.sh("appliance alert list");
    assert!(listed.stdout.contains("/app/env.yml has an error at line "), "{}", listed.all());

    // By mail only errors, at night only what is critical: as Slack has it.
    let mails = taken(&machine, "mail");
    assert!(mails.len() >= 5, "{mails:?}");
    assert!(mails.iter().all(|mail| !mail["subject"].as_str().unwrap_or("").contains("warning")), "{mails:?}");
    wait_for("the critical ones at night", Duration::from_secs(30), || {
        let night = taken(&machine, "night");
        let texts: Vec<&str> = night.iter().filter_map(|one| one["text"].as_str()).collect();
        let all_critical = texts.iter().all(|text| text.starts_with("critical: "));
        assert!(all_critical, "{texts:?}");
        match ["no complete backup", "no client of notes"]
            .iter()
            .all(|part| texts.iter().any(|text| text.contains(part)))
        {
            true => Ok(()),
            false => Err(format!("{texts:?}")),
        }
    });

    // All is mended.
    machine.ok("systemctl reset-failed broken; rm /run/reboot-required /root/receivers/dead");
    machine.ok(
        "psql -U postgres -Atqc \"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1500)%' AND pid <> pg_backend_pid()\"",
    );
    machine.ok("rm -r /data/notes-ca; cp /root/env.yml /app/env.yml");
    for key in [
        "unit.failed:broken.service",
        "reboot.waiting",
        "client-ca.expires:notes",
        "alert.untested:night",
        "database.transaction",
        "alert.alive",
    ] {
        wait_for_word(&machine, key, "over");
    }
    wait_for_alert(&machine, "env.broken", false);
    let alive = || taken(&machine, "alive").len();
    assert!(alive() >= 1, "it is asked again");

    // An update that does not go through, and is not asked for any more.
    machine.ok("runuser -u app -- git -C /srv/notes.git update-ref refs/heads/live refs/heads/v4");
    let out = machine.sh("appliance update");
    assert!(out.code != 0, "{}", out.all());
    wait_for_word(&machine, "update.failed:notes", "fires");
    machine.ok("runuser -u app -- git -C /srv/notes.git update-ref refs/heads/live refs/heads/v1");
    machine.ok("appliance update");
    wait_for_word(&machine, "update.failed:notes", "over");
    assert_eq!(machine.ok("jq -r .last.outcome /data/appliance/apps/notes/ledger.json"), "withdrawn\n");

    // PostgreSQL is away; its unit is not failed, and what it does to the app is not looked at here.
    machine.ok("systemctl stop appliance && systemctl stop postgresql@15-main");
    machine.ok("echo it died too often > /run/appliance-failed; systemctl start appliance || true");
    wait_for_end(&machine, "failed", 4);
    machine.ok("systemctl stop postgresql@15-main");
    wait_for_alert(&machine, "database.away", true);
    machine.ok("systemctl start postgresql@15-main");
    wait_for_alert(&machine, "database.away", false);
}
