//! Several apps on one host: what one of them, or its visitors, cannot reach of another.

use crate::host::acme;
use crate::host::several::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

#[test]
fn nothing_of_another_app_is_reached_from_inside_a_container() {
    let machine = Machine::boot("several-walls");
    start(&machine);
    machine.ok("appliance exec --app one -T web -- sh -c 'echo canary-file > /kept/canary'");
    machine.ok("psql -U postgres one -qc 'CREATE TABLE canary AS SELECT 7 AS n; ALTER TABLE canary OWNER TO one'");
    let inside = |script: &str| {
        machine.sh(&format!("docker exec -i two_web_1 python3 - <<'END'\nimport os, socket, sys\n{script}\nEND\n"))
    };
    let psql = |user: &str, database: &str| {
        inside(&format!(
            "import psycopg2, re\nown = re.match('postgres://two:(.*)@(.*):5432/two', os.environ['DATABASE_URL'])\n\
             c = psycopg2.connect(host=own[2], user='{user}', password=own[1], dbname='{database}', connect_timeout=5).cursor()\n\
             c.execute('SELECT current_user')\nprint(c.fetchone())"
        ))
    };
    let own = psql("two", "two");
    assert!(own.code == 0 && own.stdout.contains("two"), "its own database is reached: {}", own.all());
    for (user, database) in
        [("two", "one"), ("one", "one"), ("postgres", "one"), ("two", "postgres"), ("two", "template1")]
    {
        let out = psql(user, database);
        assert!(out.code != 0 && out.all().contains("no pg_hba.conf entry"), "{user} in {database}: {}", out.all());
    }
    // Not even with the other one's password, or the role itself from this host.
    let url = machine.ok("cat /app/etc/one/database_url.env");
    let out = inside(&format!(
        "import psycopg2\npsycopg2.connect('{}', connect_timeout=5)",
        url.trim().trim_start_matches("DATABASE_URL=")
    ));
    assert!(out.code != 0 && out.all().contains("no pg_hba.conf entry"), "{}", out.all());
    let url =
        machine.ok("sed 's/^DATABASE_URL=//; s/172.17.0.1/127.0.0.1/; s#/two$#/one#' /app/etc/two/database_url.env");
    let out = machine.sh(&format!("psql '{}' -c 'SELECT 1'", url.trim()));
    assert!(out.code != 0 && out.stderr.contains("permission denied for database"), "{}", out.all());

    // Its containers, by their own address, by the host's, and by name.
    let address = machine.ok("docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' one_web_1");
    let gateway = machine.ok("docker inspect -f '{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}' one_web_1");
    let connect = |to: &str, port: u16| inside(&format!("socket.create_connection(('{to}', {port}), 3)\nprint('in')"));
    let own = machine.ok("docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' two_web_1");
    assert_eq!(connect(own.trim(), 5000).stdout, "in\n", "the test itself can connect");
    for to in [address.trim(), gateway.trim(), "172.17.0.1", "one_web_1", "one.example.test"] {
        let out = connect(to, 5000);
        assert!(out.code != 0 && !out.stdout.contains("in"), "{to}: {}", out.all());
    }
    let loopback = machine.ok("docker port one_web_1 5000");
    assert!(loopback.starts_with("127.") && !loopback.starts_with("127.0.0.1"), "{loopback}");

    // Files: volumes, variables, secrets.
    let seen = inside(
        "print(os.listdir('/kept'), [line for line in open('/proc/mounts') if '/data' in line or '/app' in line])",
    );
    assert!(seen.stdout.starts_with("[] []"), "{}", seen.all());
    let processes = inside(
        "for number in (entry for entry in os.listdir('/proc') if entry.isdigit()):\n    try: print(number, open(f'/proc/{number}/environ').read())\n    except OSError: pass",
    );
    assert!(!processes.stdout.contains("canary-one") && processes.stdout.contains("canary-two"), "{}", processes.all());
    // What root keeps of one is nobody else's to read; each app's file of its own is the host user app's, who runs no container.
    for path in [
        "/data/appliance/apps/one/ledger.json",
        "/data/appliance/apps/one/tls/server.key.pem",
        "/run/appliance/status/one.json",
    ] {
        let out = machine.sh(&format!("runuser -u nobody -- cat {path}"));
        assert!(out.code != 0, "{path}: {}", out.all());
    }
}

#[test]
fn each_app_has_its_own_certificate_and_asks_its_own_clients() {
    let machine = Machine::boot("several-tls");
    let names = acme::install_pebble(&machine);
    let server = acme::start_pebble(&machine, &acme::Pebble::default());
    machine.ok("curl -s -d '{\"host\": \"two.example.test.\"}' http://127.0.0.1:8055/set-servfail");
    install(&machine);
    let entries: String = APPS[1..].iter().map(|app| instance(app, "")).collect();
    let acme =
        "    acme: {directory: 'https://localhost:14000/dir', ca: /root/pebble/ca.pem, email: admin@example.test}\n";
    let env = env_yml("", &entries).replace("    letsencrypt: {enabled: no}\n", acme);
    machine.put("/app/env.yml", env.as_str(), 0o600);
    machine.ok("systemctl start appliance");
    APPS.iter().for_each(|app| wait_for_app(&machine, app, "running"));
    for app in ["one", "three"] {
        wait_for(&format!("the certificate of {app}"), Duration::from_secs(60), || {
            let seen = certificate(&machine, app);
            let is_it = seen.contains("Pebble Intermediate") && seen.contains(&format!("DNS:{app}.example.test"));
            if is_it && seen.matches("DNS:").count() == 1 { Ok(()) } else { Err(seen) }
        });
    }
    // Whose name cannot be validated spoils no other's, and is served all the same.
    let seen = certificate(&machine, "two");
    assert!(!seen.contains("Pebble") && seen.contains("DNS:two.example.test"), "{seen}");
    assert_eq!(visit(&machine, "two", "/").0, 200);
    assert_eq!(machine.ok("appliance prepare"), "nothing to do\n");

    // Clients' certificates: wanted by one app, not known to another.
    machine.ok("appliance cert ca init --app two && appliance cert ca init --app three");
    let mandatory =
        env.replace("settings: canary-two\n", "settings: canary-two\n    ssl: {client_certs_mandatory: yes}\n");
    machine.put("/app/env.yml", mandatory, 0o600);
    machine.ok("appliance apply");
    for app in ["two", "three"] {
        let out = machine.ok(&format!("cd /root && appliance cert ca issue --app {app} Eva --out {app}.p12"));
        let password =
            out.lines().find_map(|line| line.strip_prefix("password")).expect("a password is told").trim().to_owned();
        machine.ok(&format!(
            "cd /root && P='{password}' openssl pkcs12 -in {app}.p12 -nodes -passin env:P -out {app}.pem 2>/dev/null"
        ));
    }
    // The timer's: a list that is gone is signed anew, whosever it is.
    machine.ok("rm /data/three-ca/crl.pem; systemctl start appliance-crl && test -s /data/three-ca/crl.pem && test -s /data/two-ca/crl.pem");
    assert_eq!(
        machine.ok("appliance cert --app two ca list | grep -c valid; appliance cert ca list --app one"),
        "1\nnothing was issued yet\n"
    );
    let visit_with = |app: &str, pem: &str| {
        let with = if pem.is_empty() { String::new() } else { format!("--cert /root/{pem}.pem --key /root/{pem}.pem") };
        let name = domain(app);
        machine
            .sh(&format!(
                "curl -sk -m 20 -o /dev/null -w '%{{http_code}}' {with} --resolve {name}:443:127.0.0.1 https://{name}/x"
            ))
            .stdout
    };
    wait_for("two to ask for certificates", Duration::from_secs(60), || {
        let seen = [
            visit_with("two", ""),
            visit_with("two", "two"),
            visit_with("two", "three"),
            visit_with("one", ""),
            visit_with("three", "three"),
        ];
        if seen == ["400", "200", "400", "200", "200"] { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    // A session that was begun with another app opens nothing, whatever the client calls the app it wants then.
    for version in ["tls1_2", "tls1_3"] {
        let script = format!(
            "cd /root; rm -f session; (printf 'GET / HTTP/1.1\\r\\nHost: three.example.test\\r\\n\\r\\n'; sleep 1) | openssl s_client -{version} -connect 127.0.0.1:443 \
             -servername three.example.test -cert three.pem -key three.pem -sess_out session >/dev/null 2>&1; \
             (printf 'GET / HTTP/1.1\\r\\nHost: two.example.test\\r\\nConnection: close\\r\\n\\r\\n'; sleep 1) | openssl s_client -{version} -connect 127.0.0.1:443 \
             -servername two.example.test -sess_in session -ign_eof 2>/dev/null"
        );
        let out = machine.sh(&script).stdout;
        assert!(out.contains("HTTP/1.1 400") && !out.contains("200 OK"), "{version}: {out}");
    }
    // Nor does a connection that names one app to TLS and another one to nginx, with a certificate that the first one takes.
    for (inner, outer) in [("two", "three"), ("three", "two")] {
        let mixed = format!(
            "(printf 'GET / HTTP/1.1\\r\\nHost: {inner}.example.test\\r\\nConnection: close\\r\\n\\r\\n'; cat) | timeout 10 openssl s_client -quiet -connect 127.0.0.1:443 \
             -servername {outer}.example.test -cert /root/{outer}.pem -key /root/{outer}.pem 2>/dev/null"
        );
        let out = machine.sh(&mixed).stdout;
        assert!(
            out.contains("HTTP/1.1 4") && !out.contains(&format!("\"{inner}.example.test\"")),
            "{inner} by {outer}: {out}"
        );
    }
    acme::stop_pebble(&machine, server);
    acme::stop(names);
}

#[test]
fn an_app_takes_nothing_that_was_somebody_elses_before() {
    let machine = Machine::boot("several-claims");
    install(&machine);
    machine.put("/app/env.yml", env_yml("", &instance("two", "")), 0o600);
    machine.ok("systemctl start appliance");
    ["one", "two"].iter().for_each(|app| wait_for_app(&machine, app, "running"));
    let others = containers_of(&machine, &["one", "two"]);

    // A role of an operator's, with a database: a new app of that name neither gets its password nor what it owns.
    machine.ok(
        "cd /; runuser -u postgres -- psql -qc \"CREATE ROLE three LOGIN PASSWORD 'mine'\" -c 'CREATE DATABASE books OWNER three'",
    );
    machine.put("/app/env.yml", env_yml("", &[instance("two", ""), instance("three", "")].concat()), 0o600);
    let out = machine.sh("appliance apply");
    assert!(
        out.code == 1 && out.all().contains("PostgreSQL has a role three that the appliance has not made"),
        "{}",
        out.all()
    );
    assert_eq!(machine.ok("psql -U postgres -Atc \"SELECT count(*) FROM pg_database WHERE datname = 'three'\""), "0\n");
    machine.ok("PGPASSWORD=mine psql -h 127.0.0.1 -U three books -Atc 'SELECT 1'");
    machine.ok("cd /; runuser -u postgres -- psql -qc 'DROP DATABASE books' -c 'DROP ROLE three'");
    machine.ok("appliance recover --app three --start || appliance apply");
    wait_for_app(&machine, "three", "running");

    // A new release that wants what another app has is told so, and the old one runs on.
    push(&machine, "greedy", "sed -i 's|    build: .|    build: .\\n    container_name: one_web_1|' compose.yml");
    let entries =
        [instance("two", "    git: {source: 'file:///srv/several', branch: greedy}\n"), instance("three", "")];
    machine.put("/app/env.yml", env_yml("", &entries.concat()), 0o600);
    let out = machine.sh("appliance apply");
    assert!(out.code == 1 && out.all().contains("one_web_1"), "{}", out.all());
    assert_eq!(containers_of(&machine, &["one", "two"]), others);
    wait_for_app(&machine, "two", "running");
    assert_eq!(visit(&machine, "two", "/").0, 200);
}
