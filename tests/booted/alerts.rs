//! Somebody hears of it: by Sentry (bugsink), mail and a webhook, whatever is away, full or cut off meanwhile; each once.

use crate::host::apps::*;
use crate::host::bugsink::Bugsink;
use crate::host::receivers::{self, SECRET, env, taken};
use crate::host::{Machine, wait_for};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

const FULL: &str = "disk.full:/";

fn ids<'a>(all: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
    all.into_iter().map(|one| one["id"].as_str().expect("it has an identifier").to_owned()).collect()
}

/// The identifiers that the webhook has taken of an alert, in order, with what happened.
fn of_alert(machine: &Machine, event: &str) -> Vec<String> {
    let all = taken(machine, "webhook");
    let is_it = |one: &&Value| one["rule"] == "disk.full" && one["subject"] == "/" && one["event"] == event;
    ids(all.iter().filter(is_it))
}

fn listed(machine: &Machine, key: &str) -> Option<Value> {
    let all: Value = serde_json::from_str(&machine.sh("appliance alert list --json").stdout).unwrap_or_default();
    all.as_array().and_then(|all| all.iter().find(|one| one["key"] == key).cloned())
}

fn wait_for_alert(machine: &Machine, key: &str, phase: Option<&str>) {
    wait_for(&format!("{key} to be {phase:?}"), Duration::from_secs(240), || {
        let found = listed(machine, key);
        let seen = found.as_ref().and_then(|alert| alert["phase"].as_str());
        if seen == phase { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

fn fill(machine: &Machine) {
    machine.sh("dd if=/dev/zero of=/var/fill bs=1M; sync");
    wait_for("the disk to be full", Duration::from_secs(60), || {
        machine.sh("dd if=/dev/zero of=/var/fill2 bs=4k oflag=append conv=notrunc; sync");
        let out = machine.sh("dd if=/dev/zero of=/var/fill3 bs=4k count=1 oflag=append conv=notrunc");
        if out.code != 0 && out.stderr.contains("No space left") { Ok(()) } else { Err(out.all()) }
    });
}

#[test]
fn a_full_disk_is_told_once_to_each_whatever_is_away_and_so_is_its_end() {
    let machine = Machine::boot_small("alerts", 2000);
    install_notes(&machine);
    let address = machine.address();
    let (network, _) = address.rsplit_once('.').expect("it is an address");
    let mut bugsink = Bugsink::new(&format!("{network}.1"));
    bugsink.start();
    receivers::start(&machine);
    machine.put("/app/env.yml", env(&machine, &bugsink.dsn.clone()), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");

    // The real way, to each receiver, with its own answer.
    let said = machine.ok("appliance alert test");
    for answer in ["sentry took it: HTTP 200", "mail took it: 250 2.0.0 queued as 4711", "ops took it: HTTP 202 queued"]
    {
        assert!(said.contains(answer), "{said}");
    }
    let mails = taken(&machine, "mail");
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0]["to"], serde_json::json!(["ops@example.test", "second@example.test"]));
    assert!(mails[0]["subject"].as_str().is_some_and(|subject| subject.contains(DOMAIN)), "{}", mails[0]);
    let out = machine.sh("appliance alert test nobody");
    assert!(out.code == 1 && out.stderr.contains("there are: sentry, mail, ops"), "{}", out.all());
    // Something that a script says.
    machine.ok("appliance alert send warning 'the import was not complete'");
    wait_for("the script's words", Duration::from_secs(20), || {
        let all = [taken(&machine, "mail").len(), taken(&machine, "webhook").len()];
        if all == [2, 2] { Ok(()) } else { Err(format!("{all:?}")) }
    });
    // Secrets of receivers are in nothing that is shown.
    for shown in [
        "appliance alert channels --json",
        "appliance env show",
        "appliance env diff",
        "journalctl --no-pager",
        "appliance alert list --json",
    ] {
        let out = machine.sh(&format!("{shown} 2>&1 | grep -c '{SECRET}'"));
        assert_eq!(out.stdout.trim(), "0", "{shown}");
    }
    // Nobody but root reads or writes what is to be told.
    let out = machine.sh("runuser -u app -- ls /var/lib/appliance/alerts /var/lib/appliance/alerts/inbox");
    assert!(out.code != 0 && out.stdout.is_empty(), "{}", out.all());
    let modes = machine.ok("find /var/lib/appliance/alerts -perm /077 -o ! -user root");
    assert_eq!(modes, "");

    // Everybody is away, the disk is full to the last byte, and the power is cut.
    receivers::stop(&machine);
    bugsink.stop();
    // A report of the program's own waits, too.
    let out = machine.sh("mv /srv/notes.git /srv/away; appliance update; mv /srv/away /srv/notes.git");
    assert!(out.stderr.contains("/srv/notes.git"), "{}", out.all());
    fill(&machine);
    wait_for_alert(&machine, FULL, Some("firing"));
    let out = machine.sh("appliance alert list");
    assert!(out.code == 2 && out.stdout.contains("du -xh --max-depth=3 /"), "{}", out.all());
    machine.ok("appliance alert send critical 'said on a full disk'");
    // An app that cannot start for want of room keeps a boot from its end, and is not what is looked at here.
    machine.ok("systemctl disable --quiet appliance");
    machine.power_cut();
    machine.start();
    wait_for_alert(&machine, FULL, Some("firing"));
    bugsink.start();
    // They are back: each is told once, and the test, which is tried at once, ends the pause.
    machine.ok("truncate -s -1M /var/fill");
    receivers::start(&machine);
    machine.ok("appliance alert test");
    let said = |word: &str| -> Vec<String> {
        taken(&machine, "webhook")
            .iter()
            .filter(|one| one["summary"] == word)
            .map(|one| one["id"].to_string())
            .collect()
    };
    wait_for("all to be told", Duration::from_secs(120), || {
        let (fires, said) = (of_alert(&machine, "fires"), said("said on a full disk"));
        if fires.len() == 1 && said.len() == 1 { Ok(()) } else { Err(format!("{fires:?} {said:?}")) }
    });

    // Somebody sees to it, and then it is over.
    machine.ok(&format!("appliance alert ack {FULL} --for 24h"));
    assert!(listed(&machine, FULL).is_some_and(|alert| !alert["acknowledged_until"].is_null()));
    machine.ok("rm -f /var/fill /var/fill2 /var/fill3");
    wait_for_alert(&machine, FULL, None);
    wait_for("its end to be told", Duration::from_secs(60), || {
        let over = of_alert(&machine, "over");
        if over.len() == 1 { Ok(()) } else { Err(format!("{over:?}")) }
    });
    wait_for("nothing to wait", Duration::from_secs(60), || {
        let out = machine
            .ok("find /var/lib/appliance/alerts/inbox /var/lib/appliance/alerts/queue /run/appliance/alerts -type f");
        if out.is_empty() { Ok(()) } else { Err(out) }
    });

    let is_own =
        |one: &Value| one["alert"].is_null() && one["message"].as_str().is_some_and(|text| text.contains("An update"));
    assert!(bugsink.reports().iter().any(is_own), "{:?}", bugsink.reports());

    // Nothing was told twice, and everybody was told the same.
    let (mails, hooks, reports) = (taken(&machine, "mail"), taken(&machine, "webhook"), bugsink.reports());
    for (name, all) in [("mail", ids(&mails)), ("webhook", ids(&hooks)), ("sentry", ids(&reports))] {
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{name} was told something twice: {all:?}");
    }
    let alerts = |all: Vec<&Value>| ids(all).into_iter().collect::<BTreeSet<_>>();
    let of_hooks = alerts(hooks.iter().filter(|one| one["rule"] != "test").collect());
    let of_mails =
        alerts(mails.iter().filter(|one| !one["subject"].as_str().unwrap_or("").contains("a test of")).collect());
    let is_alert = |one: &&Value| one["alert"].as_str().is_some_and(|alert| alert != "test");
    let of_sentry = alerts(reports.iter().filter(is_alert).collect());
    assert!(of_hooks.len() >= 4, "{of_hooks:?}");
    assert_eq!(of_hooks, of_mails);
    assert_eq!(of_hooks, of_sentry);
    receivers::stop(&machine);
}

#[test]
fn each_is_told_though_another_is_away_and_what_is_wrong_is_found_by_itself() {
    let machine = Machine::boot("alerts-rules");
    install_notes(&machine);
    receivers::start(&machine);
    let webhook = "http://127.0.0.1:8099/hook";
    let (old, url) = ("http://canaryc0ffee00000000000000000001@127.0.0.1:9/1", "http://key@127.0.0.1:9/1");
    machine.put("/app/env.yml", env(&machine, old).replace(old, url), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    let told = |key: &str, event: &str| {
        let (rule, subject) = key.split_once(':').unwrap_or((key, ""));
        let is_it = |one: &&Value| one["rule"] == rule && one["subject"] == subject && one["event"] == event;
        taken(&machine, "webhook").iter().filter(is_it).count()
    };
    let wait_for_word = |key: &str, event: &str| {
        wait_for(&format!("{key} {event}"), Duration::from_secs(200), || {
            let all = taken(&machine, "webhook");
            if told(key, event) == 1 { Ok(()) } else { Err(format!("{all:?}")) }
        });
    };
    // Sentry's place is closed; the others are told all the same, and that it is closed is shown.
    let out = machine.sh("appliance alert test");
    assert!(out.code == 1 && out.stdout.contains("sentry did not take it: Connection refused"), "{}", out.all());
    assert!(out.stdout.contains("ops took it"), "{}", out.all());
    let channels = machine.ok("appliance alert channels");
    assert!(
        channels.lines().any(|line| line.trim_start().starts_with("sentry") && line.contains("Connection refused")),
        "{channels}"
    );

    // A file system without inodes.
    machine.ok("mkdir -p /volatile && mount -t tmpfs -o size=64m,nr_inodes=100 tmpfs /volatile && touch $(seq -f /volatile/%g 97)");
    // An app that fails, a certificate that ends, updates that nobody looked for.
    machine.ok("echo $(($(date +%s) - 9 * 86400)) > /app/etc/tags/update_last_call");
    wait_for_word("update.missed", "fires");
    machine.ok("date +%s > /app/etc/tags/update_last_call");
    wait_for_word("update.missed", "over");
    wait_for_word("disk.inodes:/volatile", "fires");
    machine.ok("umount /volatile");
    machine.ok("cd /app/etc && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -keyout server.key.pem -out server.cert.pem 2>&1");
    wait_for_word("certificate.expires:notes", "fires");
    let known = listed(&machine, "certificate.expires:notes").expect("it is listed");
    assert_eq!(known["severity"], "critical");
    machine.ok("appliance prepare --step tls");
    wait_for_word("certificate.expires:notes", "over");
    // Silenced: nobody is told.
    machine.ok("appliance alert silence update.missed --for 1h --why 'a test'");
    machine.ok("echo $(($(date +%s) - 9 * 86400)) > /app/etc/tags/update_last_call");
    wait_for_alert(&machine, "update.missed", Some("firing"));
    let before = told("update.missed", "fires");
    // The watch is killed at any moment: nothing is told twice.
    let pid = || machine.ok("systemctl show -p MainPID --value appliance-watch").trim().to_owned();
    for milliseconds in [0, 200, 700] {
        let before = pid();
        machine.ok(&format!("sleep {}; kill -9 {before}", f64::from(milliseconds) / 1000.0));
        wait_for("the next watch", Duration::from_secs(30), || {
            let (now, state) = (pid(), machine.sh("systemctl is-active appliance-watch").stdout);
            if now != before && now != "0" && state.trim() == "active" { Ok(()) } else { Err(format!("{now} {state}")) }
        });
    }
    // The app is put into the failed state; the receivers refuse for a while.
    machine.ok("touch /root/receivers/fail");
    machine.ok(
        "systemctl stop appliance; echo 'it died too often' > /run/appliance-failed; systemctl start appliance || true",
    );
    wait_for_end(&machine, "failed", 4);
    wait_for_alert(&machine, "app.failed:notes", Some("firing"));
    machine.ok("rm /root/receivers/fail");
    machine.sh("appliance alert test ops");
    wait_for_word("app.failed:notes", "fires");
    assert_eq!(told("update.missed", "fires"), before, "it was silenced");
    let silences = machine.ok("appliance alert silences");
    assert!(silences.contains("update.missed") && silences.contains("a test"), "{silences}");
    machine.ok("appliance alert unsilence update.missed");
    assert_eq!(machine.ok("appliance alert silences"), "nothing is silenced\n");
    assert_eq!(machine.sh("appliance alert unsilence update.missed").code, 1);
    wait_for("what is silenced no more", Duration::from_secs(60), || match told("update.missed", "fires") {
        count if count == before + 1 => Ok(()),
        count => Err(count.to_string()),
    });
    let all = ids(&taken(&machine, "webhook"));
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?} {webhook}");
}
