//! Client certificates, from the command that makes the CA to nginx that lets somebody in or not: issued, imported, revoked within
//! a second, optional and mandatory; a CA below another one, and one that the app made.

use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::time::{Duration, Instant};

const SSL: &str = "  ssl:\n    letsencrypt: {enabled: no}\n";

/// What the app is told of a client who comes with a certificate: nginx's answer code, the verdict and the serial number.
fn visit(machine: &Machine, pem: &str) -> (String, String, String) {
    let with = if pem.is_empty() { String::new() } else { format!("--cert {pem} --key {pem}") };
    let out = machine.sh(&format!(
        "curl -sk -m 20 {with} -w '\\n%{{http_code}}' --resolve {DOMAIN}:443:127.0.0.1 https://{DOMAIN}/x"
    ));
    let (body, code) = out.stdout.rsplit_once('\n').unwrap_or(("", ""));
    let seen: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let header = |name: &str| {
        let mut all = seen["headers"].as_array().into_iter().flatten();
        all.find(|pair| pair[0] == name).and_then(|pair| pair[1].as_str()).unwrap_or("").to_owned()
    };
    (code.to_owned(), header("x-ssl-client-verify"), header("x-ssl-client-serial"))
}

fn is(seen: &(String, String, String), code: &str, verdict: &str) -> bool {
    seen.0 == code && seen.1 == verdict
}

/// Issues a certificate and unpacks it as a client would import it; its serial number.
fn issue(machine: &Machine, name: &str, file: &str, more: &str) -> String {
    let out = machine.ok(&format!("cd /root && appliance cert ca issue '{name}' --out {file}.p12 {more}"));
    let field = |name: &str| {
        let line = out.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}: {out}"));
        line.trim().to_owned()
    };
    let legacy = if more.contains("--legacy") { "-legacy" } else { "" };
    machine.ok(&format!(
        "cd /root && [ \"$(stat -c %a {file}.p12)\" = 600 ] && P='{}' openssl pkcs12 {legacy} -in {file}.p12 -nodes -passin env:P -out {file}.pem 2>/dev/null",
        field("password")
    ));
    field("serial")
}

/// Waits until a client is treated so, and prints how long that took: nothing that comes by the day would be in time.
fn until(machine: &Machine, pem: &str, code: &str, verdict: &str) {
    let begin = Instant::now();
    wait_for(&format!("{code} {verdict}"), Duration::from_secs(30), || {
        let seen = visit(machine, pem);
        if is(&seen, code, verdict) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    println!("{code} for {pem} after {:.1?}", begin.elapsed());
    // That was a worker that knows; those from before may answer the next one, until they are gone.
    let processors = machine.ok("nproc");
    wait_for("the end of the workers from before", Duration::from_secs(60), || {
        let workers = machine.sh("pgrep --full --count '^nginx: worker process'").stdout;
        if workers == processors { Ok(()) } else { Err(workers) }
    });
}

#[test]
fn clients_are_let_in_and_out_again() {
    let machine = Machine::boot("clients");
    start_mirror(&machine, SSL);
    assert!(is(&visit(&machine, ""), "200", "NONE"));
    let out = machine.sh("appliance cert ca issue Eva");
    assert!(out.code == 1 && out.stderr.contains("appliance cert ca init"), "{}", out.all());

    // A CA of its own; killed at any moment, the next one finishes, with one key.
    for milliseconds in [2, 5, 10, 20, 40] {
        machine.sh(&format!("timeout -s KILL {} appliance cert ca init", f64::from(milliseconds) / 1000.0));
    }
    machine.ok("appliance cert ca init");
    let key = machine.ok("sha256sum /data/client-ca/key.pem");
    assert!(machine.ok("appliance cert ca init").contains("is there already"));
    assert_eq!(machine.ok("sha256sum /data/client-ca/key.pem"), key);
    assert_eq!(machine.ok("stat -c '%a %U' /data/client-ca").trim(), "700 root");
    let text = machine.ok("openssl x509 -in /data/mirror-ca/ca.cert.pem -noout -text");
    for wanted in ["CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign"] {
        assert!(text.contains(wanted), "{text}");
    }
    machine.ok("openssl verify -CAfile /data/mirror-ca/ca.cert.pem -crl_check -CRLfile /data/mirror-ca/crl.pem /data/mirror-ca/ca.cert.pem");
    assert_eq!(machine.ok("stat -c '%a %U' /data/client-ca/key.pem").trim(), "600 root");
    assert!(machine.ok("readlink -f /app/etc/crl.pem /app/etc/ca.cert.pem").contains("/data/mirror-ca/crl.pem"));

    // Issued, packed, imported, and known to the app by its serial number.
    let eva = issue(&machine, "Eva Groß", "eva", "--email eva@example.test --days 30");
    let max = issue(&machine, "Max", "max", "--legacy");
    let text = machine.ok("openssl x509 -in /root/eva.pem -noout -text -nameopt utf8,sep_comma_plus");
    for wanted in
        ["Eva Groß", "email:eva@example.test", "TLS Web Client Authentication", "Digital Signature", "CA:FALSE"]
    {
        assert!(text.contains(wanted), "no {wanted}: {text}");
    }
    until(&machine, "/root/eva.pem", "200", "SUCCESS");
    assert_eq!(visit(&machine, "/root/eva.pem").2, eva);
    assert_eq!(visit(&machine, "/root/max.pem").2, max);
    // By address too, where no name is told before the certificate is asked for.
    let body =
        machine.ok(&format!("curl -sk --cert /root/eva.pem --key /root/eva.pem https://{}/x", machine.address()));
    assert!(body.contains("\"SUCCESS\""), "{body}");
    let out = machine.sh("cd /root && appliance cert ca issue Other --out eva.p12");
    assert!(out.code == 1 && out.stderr.contains("is there already"), "{}", out.all());
    assert!(!machine.ok("appliance cert ca list").contains("Other"), "what had no place to go is not issued");
    // Keys are in two files, and nowhere else that lasts.
    let keys = machine.ok(
        "grep -rlE 'BEGIN [A-Z ]*PRIVATE KEY' /data /run /var/log /tmp 2>/dev/null | grep -v -e '^/data/etc/' | sort",
    );
    assert_eq!(keys, "/data/client-ca/key.pem\n");

    // A session that is taken up again is one of somebody who was let in; it ends with the list's change.
    let visit_again = |sessions: &str| {
        machine.sh(&format!(
            "(printf 'GET /x HTTP/1.1\\r\\nHost: {DOMAIN}\\r\\nConnection: close\\r\\n\\r\\n'; sleep 1) | timeout 20 openssl s_client -tls1_2 -connect 127.0.0.1:443 \
             -servername {DOMAIN} -cert /root/eva.pem -key /root/eva.pem {sessions} 2>&1"
        ))
        .stdout
    };
    let first = visit_again("-sess_out /root/session");
    assert!(first.contains("New, TLSv1.2") && first.contains("\"SUCCESS\""), "{first}");
    let second = visit_again("-sess_in /root/session");
    assert!(second.contains("Reused, TLSv1.2") && second.contains("\"SUCCESS\""), "{second}");

    // Killed while revoking, at any moment: said again, it is done.
    for milliseconds in [3, 6, 9, 12, 20, 40] {
        machine
            .sh(&format!("timeout -s KILL {} appliance cert ca revoke 'Eva Groß'", f64::from(milliseconds) / 1000.0));
    }
    // Revoked: out within a second, counted from the end of the command; the others stay in.
    machine.ok("appliance cert ca revoke 'Eva Groß'");
    until(&machine, "/root/eva.pem", "400", "");
    // nginx lets its old workers answer for a tenth of a second more.
    wait_for("the old session to be refused", Duration::from_secs(5), || {
        let third = visit_again("-sess_in /root/session");
        let is_refused = !third.contains("Reused, TLSv1.2") && !third.contains("\"SUCCESS\"");
        if is_refused { Ok(()) } else { Err(third) }
    });
    assert!(is(&visit(&machine, "/root/max.pem"), "200", "SUCCESS") && is(&visit(&machine, ""), "200", "NONE"));
    let listed = machine.ok("appliance cert ca list --json");
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap_or_else(|_| panic!("not JSON: {listed}"));
    assert_eq!((&listed[0]["state"], &listed[1]["state"]), (&"revoked".into(), &"valid".into()), "{listed}");
    assert_eq!(machine.ok("appliance prepare"), "nothing to do\n");

    // While another command holds the lock, too.
    // As the appliance itself holds it: what is opened for writing wakes those who wait, also when its holder is killed.
    let mut holder = machine.spawn(
        "exec python3 -c \"import fcntl, time; f = open('/run/appliance/lock'); fcntl.flock(f, 2); g = open('/run/appliance/lock', 'r+'); time.sleep(300)\"",
    );
    wait_for("the lock to be held", Duration::from_secs(10), || {
        if machine.sh("flock -n /run/appliance/lock true").code != 0 { Ok(()) } else { Err("it is free".to_owned()) }
    });
    machine.ok(&format!("appliance cert ca revoke {max}"));
    until(&machine, "/root/max.pem", "400", "");
    machine.ok("pkill -KILL -f 'import fcnt[l]'");
    drop(holder.wait());

    // The list is signed anew by its timer's service: one that is a day old, or was lost; not one that is fresh.
    machine.ok("systemctl is-active appliance-crl.timer");
    let number = || machine.ok("openssl crl -in /data/mirror-ca/crl.pem -noout -crlnumber");
    let before = number();
    machine.ok("systemctl start appliance-crl.service");
    assert_eq!(number(), before);
    machine.ok("faketime -f +2d appliance cert ca refresh");
    assert_ne!(number(), before, "it is two days old then");
    // It was signed in the future, with which nobody would be let in: the supervisor has another one signed.
    let ida = issue(&machine, "Ida", "ida", "");
    wait_for("a list of today", Duration::from_secs(20), || {
        let times = machine.ok(
            "date +%s -d \"$(openssl crl -in /data/mirror-ca/crl.pem -noout -lastupdate | cut -d= -f2)\"; date +%s",
        );
        let seconds: Vec<i64> = times.lines().filter_map(|line| line.parse().ok()).collect();
        if seconds.len() == 2 && seconds[0] <= seconds[1] { Ok(()) } else { Err(times) }
    });
    until(&machine, "/root/ida.pem", "200", "SUCCESS");
    // Lost, it is signed anew by itself, and whoever was revoked is out all the time.
    machine.ok("rm /data/mirror-ca/crl.pem");
    wait_for("a new list", Duration::from_secs(60), || {
        assert!(is(&visit(&machine, "/root/eva.pem"), "400", ""));
        if machine.sh("test -e /data/mirror-ca/crl.pem").code == 0 { Ok(()) } else { Err("there is none".to_owned()) }
    });
    until(&machine, "/root/ida.pem", "200", "SUCCESS");

    // Broken, too.
    machine.ok("echo broken > /data/mirror-ca/crl.pem");
    wait_for("a whole list", Duration::from_secs(60), || {
        assert!(is(&visit(&machine, "/root/eva.pem"), "400", ""));
        let out = machine.sh("openssl crl -in /data/mirror-ca/crl.pem -noout");
        if out.code == 0 { Ok(()) } else { Err(out.all()) }
    });
    until(&machine, "/root/ida.pem", "200", "SUCCESS");

    // Mandatory: nobody without one, and without a CA that can be used, nobody at all.
    machine.put("/app/env.yml", mirror_env(&machine, &format!("{SSL}    client_certs_mandatory: true\n")), 0o600);
    machine.ok("systemctl restart appliance-supervisor");
    wait_for_phase(&machine, "running");
    until(&machine, "", "400", "");
    assert_eq!(visit(&machine, "/root/ida.pem"), ("200".to_owned(), "SUCCESS".to_owned(), ida));
    machine.ok("mv /data/mirror-ca/ca.cert.pem /root/ca.good");
    until(&machine, "/root/ida.pem", "503", "");
    assert_eq!(visit(&machine, "").0, "503");
    machine.ok("mv /root/ca.good /data/mirror-ca/ca.cert.pem");
    until(&machine, "/root/ida.pem", "200", "SUCCESS");

    // A container that writes there lets nobody in: neither by another CA, nor by a pipe that nginx would wait for.
    machine.ok(
        "cd /root && openssl req -x509 -newkey rsa:2048 -nodes -days 9 -keyout evil.key -out evil.crt -subj /CN=evil \
                -addext basicConstraints=critical,CA:TRUE 2>/dev/null; cat evil.key evil.crt > evil.pem
                cp -p /data/mirror-ca/ca.cert.pem ca.good; cp evil.crt /data/mirror-ca/ca.cert.pem",
    );
    until(&machine, "/root/evil.pem", "503", "");
    assert!(
        machine
            .ok("journalctl -u appliance-supervisor -o cat --no-pager")
            .contains("is not that of the appliance's own key")
    );
    machine.ok("cp -p /root/ca.good /data/mirror-ca/ca.cert.pem");
    until(&machine, "/root/ida.pem", "200", "SUCCESS");
    // Nor by one behind ours.
    machine.ok("cat /root/evil.crt >> /data/mirror-ca/ca.cert.pem; systemctl start appliance-crl");
    until(&machine, "/root/ida.pem", "503", "");
    assert_eq!(visit(&machine, "/root/evil.pem").0, "503");
    machine.ok("rm /data/mirror-ca/ca.cert.pem; mkfifo /data/mirror-ca/ca.cert.pem; timeout 60 systemctl reload nginx");
    assert_eq!(visit(&machine, "/root/ida.pem").0, "503");
    machine.ok("rm /data/mirror-ca/ca.cert.pem; mv /root/ca.good /data/mirror-ca/ca.cert.pem");
    until(&machine, "/root/ida.pem", "200", "SUCCESS");
}

#[test]
fn a_ca_below_another_one_and_a_ca_of_the_apps_own() {
    let machine = Machine::boot("clients-below");
    start_mirror(&machine, SSL);
    // The company's root, by openssl.
    machine.ok("mkdir /root/up && cd /root/up && openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -keyout key.pem -out root.pem -subj '/O=Company/CN=Root' \
           -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
         touch index.txt; echo 01 > number
         printf '[ca]\\ndefault_ca=d\\n[d]\\ndatabase=/root/up/index.txt\\ncrlnumber=/root/up/number\\ndefault_md=sha256\\ndefault_crl_days=30\\n' > ca.cnf
         openssl ca -config ca.cnf -gencrl -keyfile key.pem -cert root.pem -out root.crl 2>/dev/null
         appliance cert ca init --request ca.csr
         openssl req -in ca.csr -noout -verify -text > said 2>&1");
    let said = machine.get("/root/up/said");
    assert!(said.contains("verify OK") && said.contains("CA:TRUE, pathlen:0"), "{said}");
    let out = machine.sh("appliance cert ca issue Eva --out /root/eva.p12");
    assert!(out.code == 1 && out.stderr.contains("waits for its certificate"), "{}", out.all());
    let sign = |extensions: &str| {
        machine.ok(&format!(
            "cd /root/up && printf '{extensions}' > ext && openssl x509 -req -in ca.csr -CA root.pem -CAkey key.pem -CAcreateserial -days 900 -extfile ext -out sub.pem 2>/dev/null && cat sub.pem root.pem > chain.pem"
        ));
    };
    sign("basicConstraints=CA:FALSE\\n");
    let out = machine.sh("appliance cert ca init --signed /root/up/chain.pem --parent-crl /root/up/root.crl");
    assert!(out.code == 1 && out.stderr.contains("basicConstraints"), "{}", out.all());
    sign(
        "basicConstraints=critical,CA:TRUE,pathlen:0\\nkeyUsage=critical,keyCertSign,cRLSign\\nsubjectKeyIdentifier=hash\\n",
    );
    machine.ok("appliance cert ca init --signed /root/up/chain.pem --parent-crl /root/up/root.crl");
    let eva = issue(&machine, "Eva", "eva", "");
    until(&machine, "/root/eva.pem", "200", "SUCCESS");
    assert_eq!(visit(&machine, "/root/eva.pem").2, eva);
    machine.ok(&format!("appliance cert ca revoke {eva}"));
    until(&machine, "/root/eva.pem", "400", "");

    // One that the app made itself: used and watched, never changed.
    machine.ok("rm -r /data/client-ca && cd /data/mirror-ca && rm *.pem && cp /root/up/root.pem ca.cert.pem && cp /root/up/root.crl crl.pem
         openssl req -newkey rsa:2048 -nodes -keyout /root/own.key -out /root/own.csr -subj /CN=own 2>/dev/null
         openssl x509 -req -in /root/own.csr -CA /root/up/root.pem -CAkey /root/up/key.pem -days 9 -out /root/own.crt 2>/dev/null; cat /root/own.key /root/own.crt > /root/own.pem");
    until(&machine, "/root/own.pem", "200", "SUCCESS");
    let before = machine.ok("cd /data/mirror-ca && sha256sum * && stat -c %Y *");
    for command in ["init", "init --request /root/x", "issue Eva", "revoke Eva", "list"] {
        let out = machine.sh(&format!("cd /root && appliance cert ca {command}"));
        assert!(
            out.code == 1 && (out.stderr.contains("not the appliance's own") || out.stderr.contains("stays as it is")),
            "{command}: {}",
            out.all()
        );
    }
    machine.ok("appliance cert ca refresh && appliance prepare");
    assert_eq!(machine.ok("cd /data/mirror-ca && sha256sum * && stat -c %Y *"), before);
    let serial = machine.ok("openssl x509 -in /root/own.crt -noout -serial").trim().replace("serial=", "");
    machine.ok(&format!(
        "cd /root/up && printf 'R\\t301231235959Z\\t260101000000Z\\t{serial}\\tunknown\\t/CN=own\\n' > index.txt && \
         openssl ca -config ca.cnf -gencrl -keyfile key.pem -cert root.pem -out root.crl 2>/dev/null && cp root.crl /data/mirror-ca/crl.pem"
    ));
    until(&machine, "/root/own.pem", "400", "");
    // A list that is broken or gone is not ours to mend: nobody's certificate counts, so nobody who was revoked gets in by it.
    for damage in ["echo broken > crl.pem", "rm crl.pem"] {
        machine.ok(&format!("cd /data/mirror-ca && {damage}"));
        until(&machine, "/root/own.pem", "200", "NONE");
        machine.ok("cp /root/up/root.crl /data/mirror-ca/crl.pem");
        until(&machine, "/root/own.pem", "400", "");
    }
    // Nobody is told too late: a week before nobody would be let in, and when it is too late.
    let said = machine.sh("faketime -f +29d appliance cert ca refresh").all();
    assert!(said.contains("the revocation list for client certificates is good for"), "{said}");
}
