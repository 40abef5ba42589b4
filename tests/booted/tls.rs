//! What keeps https up when something is odd: the names of the self-signed certificate, a configuration that nginx refuses, doubtful
//! certificates of one's own, and connections whose two names do not agree.

use crate::host::Machine;
use crate::host::apps::*;

const SSL: &str = "  ssl:\n    letsencrypt: {enabled: no}\n";

#[test]
fn what_serves_stays_and_what_is_doubtful_is_told() {
    let machine = Machine::boot("tls");
    start_mirror(&machine, SSL);
    let names = machine.ok("openssl x509 -in /app/etc/server.cert.pem -noout -ext subjectAltName");
    assert!(names.contains(&format!("DNS:{DOMAIN}, IP Address:{}", machine.address())), "{names}");

    // nginx refuses the whole: the site on the disk and the one that answers stay as they were; mended, it goes on.
    let site = || machine.ok("sha256sum /etc/nginx/conf.d/appliance.conf");
    let before = site();
    machine.ok("echo 'no_such_directive on;' > /etc/nginx/conf.d/zz-broken.conf");
    let with_more = mirror_env(&machine, SSL).replace("allowed_hosts: ", "allowed_hosts: more.example.test ");
    machine.put("/app/env.yml", with_more, 0o600);
    let out = machine.sh("appliance prepare --step nginx");
    assert!(
        out.code == 1 && out.stderr.contains("nginx refuses the new configuration; the old one stays"),
        "{}",
        out.all()
    );
    assert!(out.stderr.contains("no_such_directive"), "{}", out.all());
    assert_eq!((site(), get(&machine, "/").0), (before.clone(), 200));
    machine.ok("rm /etc/nginx/conf.d/zz-broken.conf && appliance prepare");
    assert_ne!(site(), before);
    let answer =
        "curl -sk -o /dev/null -w '%{http_code}' --resolve more.example.test:443:127.0.0.1 https://more.example.test/";
    assert_eq!(machine.ok(answer), "200");

    // A certificate of one's own that nginx can load is taken, and what is doubtful about it is said.
    machine.ok(&format!(
        "set -e; mkdir -p /root/pki; cd /root/pki
         openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -keyout root.key -out root.pem -subj /CN=Root 2>/dev/null
         openssl req -newkey rsa:2048 -nodes -keyout host.key -out host.csr -subj /CN=x 2>/dev/null
         sign() {{ printf \"subjectAltName=$1\" > ext; openssl x509 -req -in host.csr -CA root.pem -CAkey root.key -CAcreateserial -days $2 -extfile ext 2>/dev/null; }}
         sign DNS:{DOMAIN} 10 > short.pem; sign DNS:other.example.test 300 > other.pem
         faketime '2020-01-01 00:00:00' sh -c 'openssl x509 -req -in host.csr -CA root.pem -CAkey root.key -CAcreateserial -days 9' > old.pem 2>/dev/null
         openssl req -x509 -newkey rsa:2048 -nodes -days 300 -keyout /dev/null -subj /CN=Stranger 2>/dev/null > stranger.pem
         cat short.pem stranger.pem root.pem > gap.pem",
    ));
    for (certificate, doubt) in [
        ("short.pem", "expires on"),
        ("other.pem", "does not hold for"),
        ("old.pem", "expired on 2020-01-10; browsers refuse it"),
        ("gap.pem", "number 1 was not issued by number 2, but by number 3"),
    ] {
        let own = format!("{SSL}    key: /root/pki/host.key\n    cert: /root/pki/{certificate}\n");
        machine.put("/app/env.yml", mirror_env(&machine, &own), 0o600);
        let out = machine.sh("appliance env check");
        let said = format!("warning: the certificate in 'appliance.ssl.cert' {doubt}");
        let is_said = out
            .all()
            .lines()
            .any(|line| line.contains("warning: the certificate in 'appliance.ssl.cert'") && line.contains(doubt));
        assert!(out.code == 0 && is_said, "wanted '{said}': {}", out.all());
        machine.ok("appliance prepare && nginx -t -q");
        let pinned = machine.ok("openssl x509 -in /app/etc/server.cert.pem -noout -fingerprint");
        assert_eq!(pinned, machine.ok(&format!("openssl x509 -in /root/pki/{certificate} -noout -fingerprint")));
    }

    // Two names that do not agree: with certificates of clients in play, nobody comes in by the door of another name.
    machine.ok("appliance cert ca init && appliance prepare");
    let code = |name: &str, host: &str| {
        let script = format!(
            "curl -sk --http1.1 -m 10 -o /dev/null -w '%{{http_code}}' --resolve {name}:443:127.0.0.1 -H 'Host: {host}' https://{name}/"
        );
        machine.sh(&script).stdout
    };
    assert_eq!(code(DOMAIN, "evil.example"), "421");
    assert_eq!(code("evil.example", "evil.example"), "000");
    assert_eq!(code(DOMAIN, DOMAIN), "200");
    // A name that nobody has counts as none, as with a visitor by address: the request's own name decides, and what that asks for.
    assert_eq!(code("evil.example", DOMAIN), "200");
    machine.put("/app/env.yml", mirror_env(&machine, &format!("{SSL}    client_certs_mandatory: true\n")), 0o600);
    machine.ok("appliance prepare");
    for (name, host, expected) in
        [("evil.example", DOMAIN, "400"), (DOMAIN, DOMAIN, "400"), (DOMAIN, "evil.example", "421")]
    {
        assert_eq!(code(name, host), expected, "{name}, {host}");
    }
}
