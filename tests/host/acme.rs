//! ACME servers on a host: Pebble with its faults and the names that it resolves, a second one of another make (caddy's), and
//! what can be seen of a certificate from outside.

use super::apps::{DOMAIN, env_yml};
use super::{Machine, wait_for};
use std::process::Child;
use std::time::Duration;

pub const EAB_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// How Pebble is started, and which of its faults it has.
pub struct Pebble {
    pub validity_s: u32,
    /// Only accounts that are bound to one elsewhere.
    pub wants_binding: bool,
    /// How many requests of a hundred are refused for their nonce.
    pub nonce_reject: u32,
    /// How long it waits before it validates, at most.
    pub validation_sleep_s: u32,
    /// How many authorizations of a hundred are used again.
    pub reuse: u32,
    /// Names that it never issues for.
    pub blocked: Vec<&'static str>,
}

impl Default for Pebble {
    fn default() -> Pebble {
        let (validity_s, blocked) = (7_776_000, Vec::new());
        Pebble { validity_s, wants_binding: false, nonce_reject: 0, validation_sleep_s: 0, reuse: 0, blocked }
    }
}

/// A certificate for the server itself, and names that lead to this host.
pub fn install_pebble(machine: &Machine) -> Child {
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
         -defaultIPv4 127.0.0.1 > /root/pebble/names.log 2>&1",
    )
}

/// Starts the server, which knows nobody after each start.
pub fn start_pebble(machine: &Machine, wanted: &Pebble) -> Child {
    let config = serde_json::json!({ "pebble": {
        "listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000",
        "certificate": "/root/pebble/api.pem", "privateKey": "/root/pebble/api.key", "httpPort": 80, "tlsPort": 443,
        "ocspResponderURL": "", "externalAccountBindingRequired": wanted.wants_binding,
        "certificateValidityPeriod": wanted.validity_s, "domainBlocklist": wanted.blocked,
        "externalAccountMACKeys": { "kid-1": EAB_KEY },
        "profiles": { "default": { "description": "the usual one", "validityPeriod": wanted.validity_s } },
    }});
    machine.put("/root/pebble/config.json", config.to_string(), 0o600);
    let sleep = match wanted.validation_sleep_s {
        0 => "PEBBLE_VA_NOSLEEP=1".to_owned(),
        seconds => format!("PEBBLE_VA_SLEEPTIME={seconds}"),
    };
    let child = machine.spawn(&format!(
        "{sleep} PEBBLE_AUTHZREUSE={} PEBBLE_WFE_NONCEREJECT={} exec pebble -strict -config /root/pebble/config.json \
         -dnsserver 127.0.0.1:8053 > /root/pebble/log 2>&1",
        wanted.reuse, wanted.nonce_reject
    ));
    wait_for_directory(machine, "--cacert /root/pebble/ca.pem https://localhost:14000/dir");
    child
}

pub fn stop_pebble(machine: &Machine, mut server: Child) {
    machine.ok("pkill -x pebble");
    drop(server.wait());
}

/// Ends a program that was spawned on the host.
pub fn stop(mut child: Child) {
    drop(child.kill());
    drop(child.wait());
}

fn wait_for_directory(machine: &Machine, curl: &str) {
    wait_for("the ACME server", Duration::from_secs(30), || {
        let out = machine.sh(&format!("curl -sf {curl}"));
        if out.code == 0 { Ok(()) } else { Err(out.all()) }
    });
}

/// Caddy as a certificate authority: its directory and its root, once it answers.
pub fn start_caddy(machine: &Machine) -> (Child, &'static str, &'static str) {
    machine.put(
        "/root/caddy/Caddyfile",
        "{\n auto_https disable_redirects\n admin off\n skip_install_trust\n}\n\
         https://localhost:14443 {\n tls internal\n acme_server {\n  lifetime 6h\n }\n}\n",
        0o600,
    );
    let child = machine.spawn(
        "cd /root/caddy && HOME=/root/caddy XDG_DATA_HOME=/root/caddy/data exec caddy run --config Caddyfile --adapter caddyfile > log 2>&1",
    );
    let directory = "https://localhost:14443/acme/local/directory";
    wait_for_directory(machine, &format!("-k {directory}"));
    (child, directory, "/root/caddy/data/caddy/pki/authorities/local/root.crt")
}

/// The notes app's env with certificates by ACME; `more` are further keys under `acme:`, beginning with a comma.
pub fn env_with_acme(machine: &Machine, directory: &str, ca: &str, hosts: &str, more: &str) -> String {
    let acme = format!("    acme: {{directory: '{directory}', ca: {ca}, email: admin@example.test{more}}}\n");
    let text = env_yml(machine, "v1").replace("    letsencrypt: {enabled: no}\n", &acme);
    text.replace(&format!("allowed_hosts: {DOMAIN} "), &format!("allowed_hosts: {DOMAIN} {hosts} "))
}

/// What `cert show` says, once the certificate is an authority's.
pub fn shown(machine: &Machine) -> serde_json::Value {
    let out = machine.ok("appliance cert show --json");
    serde_json::from_str(&out).unwrap_or_else(|_| panic!("not JSON: {out}"))
}

/// The serial number of the certificate that nginx really serves.
pub fn served(machine: &Machine) -> String {
    machine.ok(&format!(
        "echo | openssl s_client -connect 127.0.0.1:443 -servername {DOMAIN} 2>/dev/null | openssl x509 -noout -serial"
    ))
}

pub fn wait_for_names(machine: &Machine, names: &[&str]) {
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
pub fn assert_sound(machine: &Machine) {
    machine.ok("set -e; cd /app/etc; nginx -t -q
         [ \"$(openssl x509 -in server.cert.pem -noout -pubkey)\" = \"$(openssl pkey -in server.key.pem -pubout)\" ]
         [ \"$(stat -L -c %a server.key.pem)\" = 600 ]");
}
