//! Several apps on one host: each with what is its own, and none touched by what becomes of another.

use crate::host::acme;
use crate::host::several::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

#[test]
fn instances_come_up_side_by_side_with_what_is_their_own() {
    let machine = Machine::boot("several");
    start(&machine);
    for app in APPS {
        let (code, body) = visit(&machine, app, "/x");
        assert!(code == 200 && body.contains(&format!("[\"host\", \"{app}.example.test\"]")), "{app}: {code} {body}");
        let inside = machine.ok(&format!("appliance exec --app {app} -T web -- env"));
        for own in [
            format!("SETTINGS=canary-{app}\n"),
            format!("NAMES={app}.example.test\n"),
            format!("DATABASE_URL=postgres://{app}:"),
        ] {
            assert!(inside.contains(&own), "{own}: {inside}");
        }
        let others = APPS.iter().filter(|other| **other != app);
        others.for_each(|other| assert!(!inside.contains(&format!("canary-{other}")), "{inside}"));
    }
    // What is run twice has nothing to do.
    assert_eq!(machine.ok("appliance plan"), "nothing to do\n");
    assert_eq!(machine.ok("appliance prepare"), "nothing to do\n");
    let before = containers(&machine);
    assert_eq!(machine.ok("appliance apply"), "nothing to do\n");
    machine.ok("systemctl restart appliance-supervisor");
    APPS.iter().for_each(|app| wait_for_app(&machine, app, "running"));
    assert_eq!(containers(&machine), before, "a supervisor that is replaced touches no container");

    commands_know_the_apps(&machine);
    machine.reboot();
    APPS.iter().for_each(|app| wait_for_app(&machine, app, "running"));
    APPS.iter().for_each(|app| assert_eq!(visit(&machine, app, "/").0, 200));
}

/// What covers all, what must be told which, and what is said to whoever gets it wrong.
fn commands_know_the_apps(machine: &Machine) {
    assert_eq!(machine.ok("appliance app list --names"), "one\ntwo\nthree\n");
    let list = machine.ok("appliance app list");
    assert!(list.lines().filter(|line| line.contains("running") && line.contains("1/1")).count() == 3, "{list}");
    let status = machine.sh("appliance status --json");
    let told: serde_json::Value = serde_json::from_str(&status.stdout).expect("it is JSON");
    let names: Vec<&str> =
        told["apps"].as_array().into_iter().flatten().filter_map(|app| app["app"].as_str()).collect();
    assert_eq!((names, status.code, &told["phase"]["name"]), (APPS.to_vec(), 0, &"running".into()), "{told}");
    assert_eq!(machine.ok("appliance ps --json | grep -c '\"app\"'"), "3\n");
    machine.ok("for app in one three; do docker exec ${app}_web_1 sh -c \"echo said by $app > /proc/1/fd/1\"; done");
    wait_for("the lines of both", Duration::from_secs(20), || {
        let lines = machine.ok("appliance logs --tail 50");
        let has = |app: &str| lines.contains(&format!("{app}/web | said by {app}"));
        if has("one") && has("three") { Ok(()) } else { Err(lines) }
    });
    let out = machine.sh("appliance exec web -- true");
    assert!(
        out.code == 1 && out.stderr.contains("several apps: one, two, three; say which one, with --app NAME"),
        "{}",
        out.all()
    );
    let out = machine.sh("appliance exec --app four web -- true");
    assert!(out.code == 1 && out.stderr.contains("no app 'four'; it has: one, two, three"), "{}", out.all());
    assert_eq!(machine.ok("APPLIANCE_APP=two appliance exec -T web -- printenv SETTINGS"), "canary-two\n");
    assert!(machine.ok("appliance update --app two").contains("two: nothing new"));
    let all = machine.ok("appliance update --check; appliance releases; appliance cert show --app three");
    assert!(all.contains("nothing waits") && all.contains("current") && all.contains("three.example.test"), "{all}");
    let dump = machine.ok("appliance database dump --app two");
    assert!(dump.starts_with("/data/two-pgdump/two-"), "{dump}");
    let words = machine.ok(
        "bash -c '. /usr/share/bash-completion/completions/appliance; COMP_WORDS=(appliance status --app \"t\"); COMP_CWORD=3; _appliance appliance t --app; echo ${COMPREPLY[*]}'",
    );
    assert_eq!(words, "two three\n");
}

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

/// Does something to one app while others have visitors: all of these are served, and their containers stay as they are.
fn beside(machine: &Machine, others: &[&str], what: &str, event: impl FnOnce()) {
    println!("{what}");
    let before = containers_of(machine, others);
    assert_eq!(before.len(), others.len(), "{before:?}");
    let visitors: Vec<Visitors> = others.iter().map(|app| Visitors::of(machine, app, 20)).collect();
    event();
    visitors.into_iter().for_each(Visitors::all_served);
    assert_eq!(containers_of(machine, others), before, "{what}");
}

#[test]
fn what_becomes_of_one_app_never_touches_another() {
    let machine = Machine::boot("several-apart");
    install(&machine);
    push(&machine, "two", "true > /srv/several/two");
    let own = "    git: {source: 'file:///srv/several', branch: two}\n    migrate: {service: web, command: python3 /srv/migrate.py}\n";
    let entries = [instance("two", own), instance("three", "")];
    machine.put("/app/env.yml", env_yml("", &entries.concat()), 0o600);
    machine.ok("systemctl start appliance");
    APPS.iter().for_each(|app| wait_for_app(&machine, app, "running"));

    beside(&machine, &["one", "three"], "two fails in its migration, and goes back", || {
        push(
            &machine,
            "two",
            "echo 'import sys; sys.exit(7)' > migrate.py; mkdir -p migrations; true > migrations/0002",
        );
        let out = machine.sh("appliance update --app two");
        assert!(out.code == 1 && out.stderr.contains("the old release runs again"), "{}", out.all());
        wait_for_app(&machine, "two", "running");
    });
    beside(&machine, &["one", "two"], "three dies again and again, until it has failed", || {
        wait_for("three to have failed", Duration::from_secs(120), || {
            machine.sh("kill -9 $(docker inspect -f '{{.State.Pid}}' three_web_1)");
            let seen = phase(&machine, "three");
            if seen == "failed" { Ok(()) } else { Err(seen) }
        });
    });
    assert!(machine.get("/run/appliance/failed/three").contains("web died more than 5 times"));
    assert_eq!(machine.sh("test -e /run/appliance-failed").code, 1, "the flag of the host is not up");
    let status = machine.sh("appliance status");
    assert!(status.code == 4 && status.stdout.contains("warning   the app three does not serve"), "{}", status.all());
    assert_eq!((visit(&machine, "three", "/").0, visit(&machine, "one", "/").0), (503, 200));
    let out = machine.sh("appliance update --app three");
    assert!(out.code == 1 && out.stderr.contains("appliance recover --app three"), "{}", out.all());
    // It stays failed for a supervisor that is replaced, and comes back by itself once somebody has looked.
    machine.ok("systemctl restart appliance-supervisor");
    wait_for_app(&machine, "one", "running");
    wait_for_app(&machine, "three", "failed");
    beside(&machine, &["one", "two"], "three is recovered", || {
        machine.ok("appliance recover --app three");
        wait_for_app(&machine, "three", "running");
    });
    beside(&machine, &["two", "three"], "one is updated, killed now and then", || {
        push(&machine, "next", "sed -i 's/VERSION: \"v1\"/VERSION: \"v2\"/' compose.yml");
        machine.ok("cd /srv/several; runuser -u app -- git branch -q -f live next 2>/dev/null || runuser -u app -- git reset -q --hard next");
        for seconds in ["0.4", "1.5", "4"] {
            machine.sh(&format!("timeout -s KILL {seconds} appliance update --app one"));
        }
        machine.ok("appliance update --app one");
        wait_for_app(&machine, "one", "running");
        assert_eq!(machine.ok("appliance exec --app one -T web -- printenv VERSION"), "v2\n");
        assert_eq!(machine.ok("appliance exec --app three -T web -- printenv VERSION"), "v1\n");
    });
    // It is an instance of the same software, which apply brings to its newest version, too.
    machine.ok("appliance update --app three");
    beside(&machine, &["one", "two", "three"], "four is added, killed now and then", || {
        machine.ok("appliance app add four --like three --domain four.example.test --write");
        for seconds in ["0.2", "0.7"] {
            machine.sh(&format!("timeout -s KILL {seconds} appliance apply"));
        }
        machine.ok("appliance apply");
        wait_for_app(&machine, "four", "running");
    });
    assert_eq!(visit(&machine, "four", "/").0, 200);
    beside(&machine, &["one", "two", "four"], "three is taken out, killed now and then", || {
        // Nothing changes for four, whatever it is like now.
        let four = instance("four", "").replace("canary-four", "canary-three");
        let entries = [instance("two", own), four];
        machine.put("/app/env.yml", env_yml("", &entries.concat()), 0o600);
        for seconds in ["0.2", "0.7"] {
            machine.sh(&format!("timeout -s KILL {seconds} appliance apply"));
        }
        machine.ok("appliance apply");
        wait_for("three to be stopped", Duration::from_secs(60), || {
            let left = machine.ok("docker ps --format '{{.Names}}'");
            if left.contains("three_") { Err(left) } else { Ok(()) }
        });
    });
    assert_eq!(visit(&machine, "three", "/").0, 0, "its name is nobody's");
    let status = machine.ok("appliance status");
    assert!(status.contains("left over  three"), "{status}");
}

/// The serial number and the names of the certificate that an app's visitors get.
fn certificate(machine: &Machine, app: &str) -> String {
    let name = domain(app);
    machine.ok(&format!(
        "echo | openssl s_client -connect 127.0.0.1:443 -servername {name} 2>/dev/null | openssl x509 -noout -issuer -ext subjectAltName"
    ))
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
    acme::stop_pebble(&machine, server);
    acme::stop(names);
}

#[test]
fn a_host_with_one_app_becomes_one_with_several_and_no_container_restarts() {
    let machine = Machine::boot("several-moved");
    install(&machine);
    let alone = env_yml("", "").replace("apps:\n  - name: one\n", "app:\n    name: one\n");
    machine.put("/app/env.yml", alone, 0o600);
    machine.ok("systemctl start appliance");
    crate::host::apps::wait_for_phase(&machine, "running");
    machine.ok("psql -U postgres one -qc 'CREATE TABLE kept AS SELECT 7 AS n; ALTER TABLE kept OWNER TO app'");
    let before = containers_of(&machine, &["one"]);
    let url = machine.ok("cat /app/etc/one/database_url.env");
    assert!(url.contains("postgres://app:"), "{url}");
    let certificate_before = certificate(&machine, "one");
    machine.ok("appliance cert ca init && cd /root && appliance cert ca issue Eva");

    let visitors = Visitors::of(&machine, "one", 25);
    machine.put("/app/env.yml", env_yml("", &instance("two", "")), 0o600);
    machine.ok("appliance apply");
    visitors.all_served();
    for app in ["one", "two"] {
        wait_for_app(&machine, app, "running");
        assert_eq!(visit(&machine, app, "/").0, 200);
    }
    assert_eq!(containers_of(&machine, &["one"]), before);
    assert_eq!(
        machine.ok("cat /app/etc/one/database_url.env"),
        url,
        "its role stays, since all in its database is that role's"
    );
    assert_eq!(certificate(&machine, "one"), certificate_before);
    assert!(machine.ok("appliance cert ca list --app one").contains("Eva"));
    assert!(machine.ok("appliance cert ca revoke Eva --app one").contains("is revoked"));
    // nginx loads the new list by itself.
    wait_for("nothing to be left to do", Duration::from_secs(30), || {
        let planned = machine.sh("appliance plan").stdout;
        if planned == "nothing to do\n" { Ok(()) } else { Err(planned) }
    });
    machine.reboot();
    for app in ["one", "two"] {
        wait_for_app(&machine, app, "running");
        assert_eq!(visit(&machine, app, "/").0, 200);
    }
    assert_eq!(machine.ok("psql -U postgres one -Atqc 'SELECT n FROM kept'"), "7\n");
}

/// What a host has of its apps: names of files, of what Docker, PostgreSQL and nginx know, and what is in the files that all share.
fn traces(machine: &Machine) -> String {
    machine.ok(
        "find /app /data /volatile /var/www /etc/nginx /etc/systemd/system /var/lib/prometheus /run/appliance -xdev \\( -path /data/postgresql -o -path /volatile/docker \
           -o -path '*/env-history' -o -path /data/removed-apps -o -path '/data/appliance/apps/one/*' -o -path '/data/appliance/apps/two/*' -o -path '*.git/*' \
           -o -path '/data/*git/one/*' -o -path '/data/*git/two/*' -o -path '/app/env.yml.*' -o -name '*.lock' \\) -prune -o -print | sort
         docker ps -a --format '{{.Names}}' | sort; docker network ls --format '{{.Name}}' | sort; docker volume ls --format '{{.Name}}' | sort
         docker images --format '{{.Repository}}' | sort -u; grep -v '^#' /etc/postgresql/15/main/pg_hba.conf | grep -o '^host *\"[a-z]*\" \"[a-z]*\"' | sort -u
         psql -U postgres -Atc 'SELECT datname FROM pg_database ORDER BY 1' -c \"SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1\"
         nft list table inet appliance | grep -c 'chain containers'",
    )
}

#[test]
fn an_app_is_stopped_started_disabled_and_removed_with_all_its_traces() {
    let machine = Machine::boot("several-lives");
    install(&machine);
    let with = |entries: &[String]| machine.put("/app/env.yml", env_yml("", &entries.concat()), 0o600);
    let (two, three) = (instance("two", ""), instance("three", ""));
    with(std::slice::from_ref(&two));
    machine.ok("systemctl start appliance");
    ["one", "two"].iter().for_each(|app| wait_for_app(&machine, app, "running"));
    let before = traces(&machine);
    // One app that does not get through keeps no other from being added.
    let bad = instance("two", "    gate: [{command: {service: web, run: 'false', timeout: 1}}]\n");
    with(&[bad, three.clone()]);
    let out = machine.sh("appliance apply");
    assert!(out.code == 1 && out.stderr.contains("the app two: the update to"), "{}", out.all());
    wait_for_app(&machine, "three", "running");
    with(&[two.clone(), three.clone()]);
    machine.ok("appliance apply");
    machine.ok("docker exec three_web_1 sh -c 'echo kept > /kept/note'; psql -U postgres three -qc 'CREATE TABLE kept AS SELECT 7 AS n; ALTER TABLE kept OWNER TO three'");

    // Until told otherwise, over a restart and a reboot.
    let others = containers_of(&machine, &["one", "two"]);
    assert!(machine.ok("appliance app stop three").contains("appliance app start three"));
    assert_eq!((phase(&machine, "three").as_str(), visit(&machine, "three", "/").0), ("standby", 503));
    assert_eq!(machine.ok("docker ps --format '{{.Names}}' | grep -c three_ || true"), "0\n");
    machine.ok("systemctl restart appliance-supervisor");
    wait_for_app(&machine, "three", "standby");
    ["one", "two"].iter().for_each(|app| wait_for_app(&machine, app, "running"));
    assert_eq!(containers_of(&machine, &["one", "two"]), others);
    machine.reboot();
    wait_for_app(&machine, "two", "running");
    wait_for_app(&machine, "three", "standby");
    assert_eq!(visit(&machine, "three", "/").0, 503);
    assert_eq!(machine.sh("appliance status").code, 3);
    let others = containers_of(&machine, &["one", "two"]);
    assert!(machine.ok("appliance app start three").contains("three: running"));
    assert_eq!((visit(&machine, "three", "/").0, containers_of(&machine, &["one", "two"])), (200, others.clone()));

    // By the env.
    with(&[two.clone(), instance("three", "    enabled: no\n")]);
    machine.ok("appliance apply");
    wait_for_app(&machine, "three", "standby");
    wait_for("its containers to be stopped", Duration::from_secs(30), || {
        let left = machine.ok("docker ps --format '{{.Names}}'");
        if left.contains("three_") { Err(left) } else { Ok(()) }
    });
    assert_eq!((visit(&machine, "three", "/").0, visit(&machine, "one", "/").0), (503, 200));
    let said = machine
        .ok("sleep 2; journalctl -u appliance-supervisor -o cat | grep -c 'three: standby: the app is not enabled'");
    assert_eq!(said, "1\n", "it is stopped once");
    let out = machine.sh("appliance app start three");
    assert!(out.code == 1 && out.stderr.contains("enabled: false"), "{}", out.all());
    let out = machine.sh("appliance app remove three --yes");
    assert!(out.code == 1 && out.stderr.contains("names the app three"), "{}", out.all());

    // Out of the env: stopped, and its data stay.
    with(&[two]);
    machine.ok("appliance apply");
    assert!(machine.ok("appliance status").contains("left over  three"));
    let out = machine.sh("appliance app remove three </dev/null");
    assert!(out.code == 1 && out.stderr.contains("nothing was done"), "{}", out.all());
    machine.ok("appliance app remove three --yes");
    assert_eq!(
        machine
            .ok("docker ps -a --format '{{.Names}}'; docker network ls --format '{{.Name}}'; docker images")
            .matches("three")
            .count(),
        0
    );
    assert_eq!(
        machine.ok("psql -U postgres three -Atqc 'SELECT n FROM kept'; docker volume ls -q | grep three"),
        "7\nthree_kept\n"
    );
    let out = machine.sh("appliance app remove three --purge --yes two");
    assert!(out.code == 1 && out.stderr.contains("--yes three"), "{}", out.all());
    for seconds in ["0.1", "0.25", "0.5"] {
        machine.sh(&format!("timeout -s KILL {seconds} appliance app remove three --purge --yes three"));
    }
    machine.sh("appliance app remove three --purge --yes three");
    let dumps = machine.ok("ls /data/removed-apps");
    let dump = dumps
        .lines()
        .find(|name| name.starts_with("three-") && name.ends_with(".pgdump"))
        .unwrap_or_else(|| panic!("no dump: {dumps}"));
    assert!(machine.ok(&format!("pg_restore -f - /data/removed-apps/{dump}")).contains("CREATE TABLE public.kept"));
    machine.ok("appliance apply");
    // What only says that there was an update is the host's.
    let left: Vec<String> = traces(&machine)
        .lines()
        .filter(|line| !before.lines().any(|known| known == *line))
        .filter(|line| !line.ends_with("update_last_call") && !line.starts_with("/var/lib/prometheus"))
        .map(str::to_owned)
        .collect();
    assert_eq!(left, Vec::<String>::new(), "something is left of it");
    assert_eq!(machine.sh("find / -xdev -name '*three*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/usr/*' -not -path '/data/removed-apps/*' -not -path '/srv/*' | grep .").stdout, "");
    let now = traces(&machine);
    let gone: Vec<&str> = before.lines().filter(|line| !now.lines().any(|known| known == *line)).collect();
    assert_eq!(gone, Vec::<&str>::new(), "nothing else went with it");
    assert_eq!(containers_of(&machine, &["one", "two"]), others);
    let out = machine.sh("appliance app remove never --yes");
    assert!(out.code == 1 && out.stderr.contains("nothing is known of an app never"), "{}", out.all());
}
