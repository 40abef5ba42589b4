//! Certificates by ACME, from a real server (Pebble, with faults) on the host: first issue, names that change or cannot be
//! validated, renewal, a server that is down, has forgotten us or wants a binding, and kills at any moment.

use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::process::Child;
use std::time::Duration;

const EAB_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// A certificate for the server itself, and names that lead to this host.
fn install_pebble(machine: &Machine) -> Child {
    machine.ok(
        "mkdir -p /root/pebble && cd /root/pebble
         openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout ca.key -out ca.pem -subj /CN=api -addext basicConstraints=critical,CA:TRUE \
           -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
         openssl req -newkey rsa:2048 -nodes -keyout api.key -out api.csr -subj /CN=localhost 2>/dev/null
         printf 'subjectAltName=DNS:localhost' > ext
         openssl x509 -req -in api.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -out api.pem -extfile ext 2>/dev/null",
    );
    machine.spawn(
        "exec pebble-challtestsrv -http01 '' -https01 '' -tlsalpn01 '' -dns01 127.0.0.1:8053 -management 127.0.0.1:8055 -defaultIPv6 '' \
         -defaultIPv4 127.0.0.1",
    )
}

/// Starts the server, which knows nobody after each start.
fn start_pebble(machine: &Machine, validity_s: u32, wants_binding: bool, nonce_reject: u32) -> Child {
    let config = serde_json::json!({ "pebble": {
        "listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000",
        "certificate": "/root/pebble/api.pem", "privateKey": "/root/pebble/api.key", "httpPort": 80, "tlsPort": 443,
        "ocspResponderURL": "", "externalAccountBindingRequired": wants_binding, "certificateValidityPeriod": validity_s,
        "externalAccountMACKeys": { "kid-1": EAB_KEY },
    }});
    machine.put("/root/pebble/config.json", config.to_string(), 0o600);
    let child = machine.spawn(&format!(
        "PEBBLE_VA_NOSLEEP=1 PEBBLE_AUTHZREUSE=0 PEBBLE_WFE_NONCEREJECT={nonce_reject} exec pebble -strict -config /root/pebble/config.json \
         -dnsserver 127.0.0.1:8053 2>&1"
    ));
    wait_for("the ACME server", Duration::from_secs(30), || {
        let out = machine.sh("curl -sf --cacert /root/pebble/ca.pem https://localhost:14000/dir");
        if out.code == 0 { Ok(()) } else { Err(out.all()) }
    });
    child
}

fn stop_pebble(machine: &Machine, mut server: Child) {
    machine.ok("pkill -x pebble");
    drop(server.wait());
}

fn env(machine: &Machine, hosts: &str, more: &str) -> String {
    let acme = format!(
        "    acme: {{directory: 'https://localhost:14000/dir', ca: /root/pebble/ca.pem, email: admin@example.test{more}}}\n"
    );
    let text = env_yml(machine, "v1").replace("    letsencrypt: {enabled: no}\n", &acme);
    text.replace(&format!("allowed_hosts: {DOMAIN} "), &format!("allowed_hosts: {DOMAIN} {hosts} "))
}

/// What `cert show` says, once the certificate is an authority's.
fn shown(machine: &Machine) -> serde_json::Value {
    let out = machine.ok("appliance cert show --json");
    serde_json::from_str(&out).unwrap_or_else(|_| panic!("not JSON: {out}"))
}

/// The serial number of the certificate that nginx really serves.
fn served(machine: &Machine) -> String {
    machine.ok(&format!(
        "echo | openssl s_client -connect 127.0.0.1:443 -servername {DOMAIN} 2>/dev/null | openssl x509 -noout -serial"
    ))
}

fn wait_for_names(machine: &Machine, names: &[&str]) {
    wait_for("the certificate", Duration::from_secs(120), || {
        let told = shown(machine);
        if told["self_signed"] == false && told["names"] == serde_json::json!(names) {
            Ok(())
        } else {
            Err(told.to_string())
        }
    });
}

/// Key and certificate belong together, nginx can load them, and what it serves is what lies there.
fn assert_sound(machine: &Machine) {
    machine.ok("set -e; cd /app/etc; nginx -t -q
         [ \"$(openssl x509 -in server.cert.pem -noout -pubkey)\" = \"$(openssl pkey -in server.key.pem -pubout)\" ]
         [ \"$(stat -L -c %a server.key.pem)\" = 600 ]");
}

#[test]
fn certificates_are_got_kept_and_never_missing() {
    let machine = Machine::boot("acme");
    let mut names = install_pebble(&machine);
    // One request in five is refused for its nonce.
    let server = start_pebble(&machine, 7_776_000, false, 20);
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
    let account = machine.ok("cat /app/etc/acme/account-*.json");
    assert_eq!(machine.ok("stat -c %a /app/etc/acme/account-*.json").trim(), "600");
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
    assert_eq!(machine.ok("cat /app/etc/acme/account-*.json"), account, "the account is kept");

    // Killed at growing moments: there is always a pair that nginx can load, and the next one gets through.
    for milliseconds in [5, 50, 150, 300, 450, 600, 900] {
        machine.sh(&format!("timeout -s KILL {} appliance cert renew", f64::from(milliseconds) / 1000.0));
        assert_sound(&machine);
    }
    let before = served(&machine);
    machine.ok("appliance cert renew");
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
    let server = start_pebble(&machine, 90, false, 0);
    let out = machine.sh("appliance cert renew");
    assert!(out.code == 1 && out.stderr.contains("does not know our account"), "{}", out.all());
    machine.ok("appliance cert renew");
    assert_ne!(machine.ok("cat /app/etc/acme/account-*.json"), account);
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
    let server = start_pebble(&machine, 7_776_000, true, 0);
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
    drop(names.kill());
    drop(names.wait());
}
