//! Certificates when things go wrong around them: a server that limits, refuses names or takes its time, a full disk, a wrong
//! clock, a key in wrong hands; what dehydrated left; and a server of another make.

use crate::host::acme::*;
use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

const LIMITS: &str = include_str!("../host/limits.py");
const PEBBLE: &str = "https://localhost:14000/dir";
const LIMITED: &str = "https://localhost:14001/dir";
const CA: &str = "/root/pebble/ca.pem";

/// A host with the app on it, whose env names an ACME server.
fn start_with(machine: &Machine, directory: &str, ca: &str, hosts: &str) {
    install_notes(machine);
    machine.put("/app/env.yml", env_with_acme(machine, directory, ca, hosts, ""), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(machine, "running");
}

fn orders(machine: &Machine) -> usize {
    machine.sh("grep -c 'POST /order-plz' /root/pebble/requests.log").stdout.trim().parse().unwrap_or(0)
}

fn renew_refused(machine: &Machine, with: &str, why: &str) {
    let out = machine.sh(&format!("{with} appliance cert renew"));
    assert!(out.code == 1 && out.stderr.contains(why), "{}", out.all());
}

#[test]
fn limits_a_full_disk_and_a_wrong_clock_cost_no_certificate() {
    let machine = Machine::boot("acme-limits");
    let names = install_pebble(&machine);
    // It validates late, uses authorizations again, and never issues for one of the names.
    let trouble =
        Pebble { validation_sleep_s: 3, reuse: 100, blocked: vec!["blocked.example.test"], ..Pebble::default() };
    let server = start_pebble(&machine, &trouble);
    machine.put("/root/pebble/limits.py", LIMITS, 0o600);
    let limits = machine.spawn("exec python3 /root/pebble/limits.py /root/pebble");
    start_with(&machine, LIMITED, CA, "blocked.example.test more.example.test");
    wait_for_names(&machine, &["more.example.test", DOMAIN]);
    assert_sound(&machine);
    wait_for("the warning", Duration::from_secs(20), || {
        let told = machine.ok("journalctl --no-pager -o cat -u appliance-supervisor");
        if told.contains("left out of the certificate: blocked.example.test") { Ok(()) } else { Err(told) }
    });

    // 429: nobody asks again before the time is up, not even by hand, nor after a restart; then it goes on.
    // Longer than a supervisor takes to come up on a busy machine.
    machine.put("/root/pebble/limit", "60", 0o600);
    let before = (served(&machine), orders(&machine));
    renew_refused(&machine, "", "the server limits orders until");
    renew_refused(&machine, "", "limits orders until");
    // A new name makes an order due; its limit still holds.
    machine.put("/app/env.yml", env_with_acme(&machine, LIMITED, CA, "late.example.test more.example.test", ""), 0o600);
    machine.ok("systemctl restart appliance-supervisor");
    wait_for_phase(&machine, "running");
    assert_eq!((served(&machine), orders(&machine)), (before.0.clone(), before.1 + 1), "it was asked once");
    machine.ok("rm /root/pebble/limit");
    // And then it orders by itself.
    wait_for_names(&machine, &["late.example.test", "more.example.test", DOMAIN]);
    wait_for("the end of the limit", Duration::from_secs(90), || {
        let out = machine.sh("appliance cert renew");
        if out.code == 0 { Ok(()) } else { Err(out.all()) }
    });
    assert_ne!(served(&machine), before.0);
    assert_sound(&machine);

    // A full disk: with no room at all nothing is ordered; with some, whatever could be written is whole.
    machine
        .ok("cp -a /data/etc /root/etc && mount -t tmpfs -o size=1m tmpfs /data/etc && cp -a /root/etc/. /data/etc/ && \
             cp -a /data/appliance/host/acme /data/etc/orders && mount --bind /data/etc/orders /data/appliance/host/acme");
    let (before, asked) = (served(&machine), orders(&machine));
    for room_kb in [0, 4, 8, 12, 16, 20] {
        machine.ok(&format!(
            "rm -f /data/etc/filler; dd if=/dev/zero of=/data/etc/filler bs=4k status=none 2>/dev/null; \
             [ {room_kb} = 0 ] || truncate -s -{room_kb}k /data/etc/filler"
        ));
        let out = machine.sh("appliance cert renew");
        assert!(out.code == 0 || out.stderr.contains("No space left on device"), "{room_kb}: {}", out.all());
        assert_sound(&machine);
        if room_kb == 0 {
            assert!(out.code == 1 && orders(&machine) == asked && served(&machine) == before, "{}", out.all());
        }
    }
    machine.ok("rm /data/etc/filler && appliance cert renew");
    assert_sound(&machine);
    assert_ne!(served(&machine), before);
    // Without its mount the directory is what it was before: that is what lies there now, on a real disk.
    machine.ok(
        "set -e; rm -rf /root/etc; cp -a /data/etc /root/etc; umount /data/appliance/host/acme; umount /data/etc
         cp -a /root/etc/. /data/etc/; cp -a /data/etc/orders/. /data/appliance/host/acme/; rm -r /data/etc/orders; systemctl reload nginx",
    );

    // A clock far ahead: everything looks expired, so a self-signed one serves; once it is set, the issued one is back,
    // without a new order. Before the year that we were made in nothing is done at all.
    let good = machine.ok("appliance cert show");
    let asked = orders(&machine);
    machine.ok("faketime -f +20y appliance prepare --step tls");
    assert!(machine.ok("appliance cert show").contains("issuer   self-signed"));
    assert_sound(&machine);
    renew_refused(&machine, "faketime -f +20y", "could not talk to the ACME server");
    machine.ok("appliance prepare");
    assert_eq!(machine.ok("appliance cert show"), good);
    assert_eq!(orders(&machine), asked);
    renew_refused(&machine, "faketime '2010-01-01 00:00:00'", "the clock says it is before 2024");
    // What was noted in the future does not hold the next try back.
    machine.ok("appliance cert renew");
    assert_sound(&machine);

    // A key in wrong hands: another certificate first, then the old one is revoked.
    let old = machine.ok("openssl x509 -in /app/etc/server.cert.pem -noout -serial").trim().replace("serial=", "");
    machine.ok("appliance cert revoke");
    assert_sound(&machine);
    let said = machine.ok(&format!("curl -s --cacert {CA} https://localhost:15000/cert-status-by-serial/{old}"));
    assert!(said.contains("\"Status\":\"Revoked\"") || said.contains("\"Status\": \"Revoked\""), "{said}");
    let new = machine.ok("openssl x509 -in /app/etc/server.cert.pem -noout -serial").trim().replace("serial=", "");
    assert_ne!(new, old);
    let said = machine.ok(&format!("curl -s --cacert {CA} https://localhost:15000/cert-status-by-serial/{new}"));
    assert!(said.contains("Valid"), "{said}");
    stop_pebble(&machine, server);
    stop(limits);
    stop(names);
}

#[test]
fn what_dehydrated_left_is_taken_over_and_a_revoked_certificate_is_replaced() {
    let machine = Machine::boot("acme-old");
    let names = install_pebble(&machine);
    let server = start_pebble(&machine, &Pebble::default());
    // As the appliance before us ran it: its own nginx answers the challenges.
    machine.ok(&format!(
        "set -e; mkdir -p /data/etc/dehydrated /app; ln -s /data/etc /app/etc; mkdir -p /var/www/html/.well-known/acme-challenge; cd /app/etc/dehydrated
         printf 'CA={PEBBLE}\\nCHALLENGETYPE=http-01\\nWELLKNOWN=/var/www/html/.well-known/acme-challenge\\nBASEDIR=/app/etc/dehydrated\\n\
                 KEY_ALGO=rsa\\nKEYSIZE=2048\\nACCOUNT_KEY_ALGO=prime256v1\\nCONTACT_EMAIL=a@example.test\\n' > config
         export CURL_CA_BUNDLE={CA}; systemctl start nginx
         dehydrated -f config --register --accept-terms; dehydrated -f config -c -d {DOMAIN}"
    ));
    let old = machine.ok(&format!("openssl x509 -in /app/etc/dehydrated/certs/{DOMAIN}/cert.pem -noout -serial"));
    let accounts = machine.ok(&format!(
        "curl -s --cacert {CA} https://localhost:15000/roots/0 | head -c 30; ls /app/etc/dehydrated/accounts"
    ));
    start_with(&machine, PEBBLE, CA, "");
    // Its certificate serves from the first moment on: no self-signed one in between, no order.
    wait_for("the site's certificate", Duration::from_secs(20), || {
        let now = served(&machine);
        if now == old { Ok(()) } else { Err(now) }
    });
    assert_eq!(machine.ok("openssl x509 -in /app/etc/server.cert.pem -noout -serial"), old, "{accounts}");
    assert_sound(&machine);

    // Its account is ours now: the server lets us revoke what it ordered, which only that account may.
    machine.ok("appliance cert renew");
    assert_ne!(served(&machine), old);
    let thumb = |key: &str| machine.ok(&format!("openssl pkey -pubout -outform DER {key} | sha256sum"));
    let kept = machine.ok("jq -r .key_pkcs8 /data/appliance/host/acme/account-*.json | tr '_-' '/+' | sed 's/$/==/' | base64 -di 2>/dev/null | openssl pkey -inform DER -pubout -outform DER | sha256sum");
    assert_eq!(kept, thumb("-in /app/etc/dehydrated/accounts/*/account_key.pem"));

    // Revoked elsewhere: the server's renewal information says so, and it is replaced without anybody asking for it.
    let before = served(&machine);
    machine
        .ok(&format!("CURL_CA_BUNDLE={CA} dehydrated -f /app/etc/dehydrated/config --revoke /app/etc/server.cert.pem"));
    machine.ok("systemctl restart appliance-supervisor");
    wait_for("a renewal by itself", Duration::from_secs(60), || {
        let now = served(&machine);
        if now != before { Ok(()) } else { Err(now) }
    });
    assert_sound(&machine);
    stop_pebble(&machine, server);
    stop(names);
}

#[test]
fn a_server_of_another_make_issues_too() {
    let machine = Machine::boot("acme-caddy");
    // Caddy asks the system's resolver.
    machine.ok("echo 127.0.0.1 more.example.test >> /etc/hosts");
    let (server, directory, root) = start_caddy(&machine);
    start_with(&machine, directory, root, "more.example.test");
    wait_for_names(&machine, &["more.example.test", DOMAIN]);
    assert_sound(&machine);
    let before = served(&machine);
    machine.ok("appliance cert renew");
    assert_ne!(served(&machine), before);
    machine
        .ok(&format!("curl -sf --cacert {root} -o /dev/null --resolve {DOMAIN}:443:127.0.0.1 https://{DOMAIN}/health"));
    machine.ok("appliance cert revoke");
    assert_sound(&machine);
    stop(server);
}
