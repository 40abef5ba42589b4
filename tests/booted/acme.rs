//! Certificates by ACME, from a real server (Pebble, with faults) on the host: first issue, names that change or cannot be
//! validated, renewal, a server that is down, has forgotten us or wants a binding, and kills at any moment.

use crate::host::acme::*;
use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

fn env(machine: &Machine, hosts: &str, more: &str) -> String {
    env_with_acme(machine, "https://localhost:14000/dir", "/root/pebble/ca.pem", hosts, more)
}

#[test]
fn certificates_are_got_kept_and_never_missing() {
    let machine = Machine::boot("acme");
    let names = install_pebble(&machine);
    // One request in five is refused for its nonce.
    let server = start_pebble(&machine, &Pebble { nonce_reject: 20, ..Pebble::default() });
    install_notes(&machine);
    machine.put("/app/env.yml", env(&machine, "", ""), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    // The address among the allowed hosts cannot be ordered; the name can.
    wait_for_names(&machine, &[DOMAIN]);
    assert_sound(&machine);
    // A visitor who knows the authority trusts the site, once nginx has loaded it.
    wait_for("a trusted site", Duration::from_secs(20), || {
        let out = machine.sh(&format!(
            "curl -sk https://localhost:15000/roots/0 > /root/root.pem; curl -s --cacert /root/root.pem -o /dev/null -w '%{{http_code}}' \
             --resolve {DOMAIN}:443:127.0.0.1 https://{DOMAIN}/health"
        ));
        if out.stdout == "200" { Ok(()) } else { Err(out.all()) }
    });
    let account = machine.ok("cat /data/appliance/host/acme/account-*.json");
    assert_eq!(machine.ok("stat -c %a /data/appliance/host/acme/account-*.json").trim(), "600");
    assert_eq!(machine.ok("ls -A /var/lib/appliance/acme"), "", "challenges are taken away");
    let first = served(&machine);
    machine.ok("systemctl restart appliance-supervisor");
    wait_for_phase(&machine, "running");
    assert_eq!(machine.ok("appliance prepare"), "nothing to do\n");
    assert_eq!(served(&machine), first, "a good one is not ordered again");

    // A new name, and one that cannot be validated: that one is left out and told.
    machine.ok("curl -s -d '{\"host\": \"bad.example.test.\"}' http://127.0.0.1:8055/set-servfail");
    machine.put("/app/env.yml", env(&machine, "bad.example.test more.example.test", ""), 0o600);
    machine.ok("systemctl restart appliance-supervisor");
    wait_for_names(&machine, &["more.example.test", DOMAIN]);
    assert_sound(&machine);
    wait_for("the warning", Duration::from_secs(20), || {
        let told = machine.ok("journalctl --no-pager -o cat -u appliance-supervisor");
        if told.contains("left out of the certificate: bad.example.test") { Ok(()) } else { Err("not told".to_owned()) }
    });
    assert_eq!(machine.ok("cat /data/appliance/host/acme/account-*.json"), account, "the account is kept");

    // Killed at growing moments: there is always a pair that nginx can load, and the next one gets through.
    for milliseconds in [5, 50, 150, 300, 450, 600, 900] {
        machine.sh(&format!("timeout -s KILL {} appliance cert renew", f64::from(milliseconds) / 1000.0));
        assert_sound(&machine);
    }
    // Who else reads the certificate is restarted with it, where it runs; only its name counts here.
    machine.ok("printf '[Service]\\nExecStart=/bin/sleep infinity\\n' > /etc/systemd/system/stunnel4.service && systemctl daemon-reload && systemctl start stunnel4");
    let reader = || machine.ok("systemctl show -p MainPID --value stunnel4");
    let (before, pid) = (served(&machine), reader());
    machine.ok("appliance cert renew");
    assert_ne!(reader(), pid, "stunnel4 was not restarted");
    let pid = reader();
    assert_eq!(machine.ok("appliance prepare"), "nothing to do\n");
    assert_eq!(reader(), pid);
    assert_sound(&machine);
    wait_for("nginx to serve the new one", Duration::from_secs(20), || {
        let now = served(&machine);
        if now != before { Ok(()) } else { Err(now) }
    });

    // The server is down: what is there stays, and it is said why.
    stop_pebble(&machine, server);
    let before = served(&machine);
    let out = machine.sh("appliance cert renew");
    assert!(
        out.code == 1 && out.stderr.contains("could not talk to the ACME server https://localhost:14000/dir"),
        "{}",
        out.all()
    );
    assert_eq!(served(&machine), before);
    assert_sound(&machine);

    // It comes back without a memory, with certificates that live 90 s: the account is made anew, and then they are
    // renewed by themselves.
    let server = start_pebble(&machine, &Pebble { validity_s: 90, ..Pebble::default() });
    let out = machine.sh("appliance cert renew");
    assert!(out.code == 1 && out.stderr.contains("does not know our account"), "{}", out.all());
    machine.ok("appliance cert renew");
    assert_ne!(machine.ok("cat /data/appliance/host/acme/account-*.json"), account);
    machine.ok("systemctl restart appliance-supervisor");
    wait_for_phase(&machine, "running");
    let before = served(&machine);
    wait_for("a renewal by itself", Duration::from_secs(150), || {
        let now = served(&machine);
        if now != before { Ok(()) } else { Err(now) }
    });
    assert_sound(&machine);
    stop_pebble(&machine, server);

    // One that wants a binding: without it nobody is let in, with it they are.
    let server = start_pebble(&machine, &Pebble { wants_binding: true, ..Pebble::default() });
    machine.sh("appliance cert renew");
    let out = machine.sh("appliance cert renew");
    assert!(
        out.code == 1
            && out.stderr.contains("could get no account at the ACME server")
            && out.stderr.contains("externalAccountBinding"),
        "{}",
        out.all()
    );
    machine.put("/app/env.yml", env(&machine, "", &format!(", eab: {{kid: kid-1, key: {EAB_KEY}}}")), 0o600);
    machine.ok("appliance env activate && appliance cert renew");
    wait_for_names(&machine, &[DOMAIN]);
    assert_sound(&machine);
    let journal = machine.ok("journalctl --no-pager -o cat");
    assert!(!journal.contains(EAB_KEY), "the binding's key is in the journal");
    stop_pebble(&machine, server);
    stop(names);
}
