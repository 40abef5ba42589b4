//! `env create` and `env package` on a host, and what they made read back with real tools on this machine.

use crate::host::{Machine, rootfs::run, wait_for};
use std::path::Path;
use std::time::Duration;

/// Counts directories that hold secrets for a while.
const LEFT: &str = "ls -d /tmp/appliance-private-* /run/appliance-private-* 2>/dev/null | wc -l";

/// The bytes of a file of the host.
fn fetch(machine: &Machine, path: &str, to: &Path) {
    machine.fetch_file(path, to);
}

#[test]
fn a_new_env_is_good_and_its_drive_paper_and_archive_hold_the_same_bytes() {
    let machine = Machine::boot("papers");
    let directory = tempfile::tempdir().expect("a directory can be made");
    let here = |name: &str| directory.path().join(name);
    let path = |name: &str| here(name).display().to_string();

    for template in ["app", "ecs"] {
        machine.ok(&format!("appliance env create new.example.test /root/{template}.yml --template {template}"));
        let out = machine.sh(&format!("appliance env check /root/{template}.yml"));
        let warnings = out.stderr.lines().filter(|line| line.contains(": warning: "));
        let is_known = |line: &&str| line.contains("has no effect: ") || line.contains("nobody is told when");
        let mut unexpected = warnings.filter(|line| !is_known(line)).peekable();
        assert!(out.code == 0 && unexpected.peek().is_none(), "{}", out.all());
        assert!(out.stderr.contains("nobody is told when something goes wrong"), "{}", out.all());
        assert_eq!(machine.ok(&format!("stat -c %a /root/{template}.yml")).trim(), "600");
        // The schema for editors takes it too.
        let schema = serde_json::from_str(&machine.ok("appliance env schema")).expect("the schema is JSON");
        let judge = jsonschema::validator_for(&schema).expect("the schema is one");
        let made: serde_json::Value =
            serde_yaml::from_str(&machine.get(&format!("/root/{template}.yml"))).expect("the file is YAML");
        assert!(
            judge.is_valid(&made),
            "{:?}",
            judge.iter_errors(&made).map(|error| error.to_string()).collect::<Vec<_>>()
        );
    }
    let text = machine.get("/root/app.yml");
    let again = machine.sh("appliance env create new.example.test /root/app.yml");
    assert!(again.code == 1 && again.stderr.contains("is there already"), "{}", again.all());
    assert_eq!(machine.get("/root/app.yml"), text, "it was overwritten");
    assert_eq!(machine.sh("pgrep gpg-agent").code, 1, "gpg's agent was left behind");
    assert_eq!(machine.ok(LEFT).trim(), "0", "keys were left behind");

    // The record in DNS is the key's own, and the keys are as strong as said.
    let private = block(&text, "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----");
    std::fs::write(here("dkim.pem"), private).expect("the key can be written");
    let public = run("openssl", &["pkey", "-in", &path("dkim.pem"), "-pubout"]);
    let public: String = public.lines().filter(|line| !line.starts_with('-')).collect();
    let record = text
        .lines()
        .find(|line| line.contains("default._domainkey.new.example.test. IN TXT"))
        .expect("the record is there");
    let published: String = record.split('"').skip(1).step_by(2).collect();
    assert_eq!(published, format!("v=DKIM1; k=rsa; s=email; p={public}"));
    assert!(run("openssl", &["pkey", "-in", &path("dkim.pem"), "-noout", "-text"]).contains("(2048 bit"));
    for record in [" IN A ", " IN MX 10 ", "v=spf1 ", "v=DMARC1;", "in-addr.arpa. IN PTR new.example.test."] {
        assert!(text.lines().any(|line| line.starts_with('#') && line.contains(record)), "{record} is missing");
    }
    let secret = block(&text, "-----BEGIN PGP PRIVATE KEY BLOCK-----", "-----END PGP PRIVATE KEY BLOCK-----");
    std::fs::write(here("backup.asc"), secret).expect("the key can be written");
    let shown = run("gpg", &["--homedir", &path(""), "--with-colons", "--show-keys", &path("backup.asc")]);
    assert!(shown.contains("sec:-:3072:1:"), "{shown}");
    let other = machine.ok("appliance env create new.example.test /root/other.yml && cat /root/other.yml");
    let differ = |begin: &str, end: &str| assert_ne!(block(&text, begin, end), block(&other, begin, end));
    differ("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----");
    differ("SECRET_KEY=", "\n");

    // Own values, hostile templates.
    machine.put("/root/more.yml", "appliance:\n  standby: yes\n  sentry: {dsn: 'https://k@sentry.example.test/1'}\napp: {git: {source: 'git@git.example.test:x.git'}}\nusers: [default]\n", 0o600);
    machine.ok("appliance env create more.example.test /root/more-env.yml --extra /root/more.yml");
    let shown = machine.ok("ENV_YML=/root/more-env.yml appliance env show --format env appliance,app");
    for line in [
        "APPLIANCE_STANDBY=true",
        "APPLIANCE_SENTRY_DSN=https://k@sentry.example.test/1",
        "APP_GIT_SOURCE=git@git.example.test:x.git",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is missing");
    }
    machine.put("/root/bad.yml", "appliance: {domain: 'a b'}\n", 0o600);
    let out = machine.sh("appliance env create more.example.test /root/bad-env.yml --extra /root/bad.yml");
    assert!(
        out.code == 1
            && out.stderr.contains("nothing was written")
            && out.stderr.contains("'appliance.domain' is 'a b'"),
        "{}",
        out.all()
    );
    assert_eq!(machine.sh("test -e /root/bad-env.yml").code, 1);
    for template in [
        "{{ openpgp('x; rm') }}",
        "{{ nothing }}",
        "{% for x in range(100000000) %}x{% endfor %}",
        "{% include '/etc/shadow' %}",
    ] {
        machine.put("/root/template", template, 0o600);
        let out =
            machine.sh_for(60, "appliance env create more.example.test /root/bad-env.yml --template /root/template");
        assert!(out.code == 1 && !out.stderr.contains("panicked"), "{template}: {}", out.all());
    }

    let out = machine.sh("printf 'appliance: {domain: other.example.test}' > /root/o.yml; appliance env create more.example.test /root/bad-env.yml --extra /root/o.yml");
    assert!(out.code == 1 && out.stderr.contains("the DNS records are for more.example.test"), "{}", out.all());
    // Interrupted in the middle, nothing secret stays: no file, no directory, no agent.
    for delay in ["0.05", "0.2", "0.4", "0.7", "1.1"] {
        machine
            .sh(&format!("timeout -s INT {delay} appliance env create more.example.test /root/cut.yml --template ecs"));
        assert_eq!(machine.ok(LEFT).trim(), "0", "keys were left behind after {delay} s");
    }
    wait_for("gpg's agents to go", Duration::from_secs(10), || {
        let left = machine.sh("pgrep -a gpg-agent");
        if left.code == 1 { Ok(()) } else { Err(left.all()) }
    });

    // The package.
    run(
        "gpg",
        &[
            "--homedir",
            &path(""),
            "--batch",
            "--quiet",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
            "--quick-generate-key",
            "op@example.test",
        ],
    );
    let keys = run("gpg", &["--homedir", &path(""), "--armor", "--export", "op@example.test"]);
    machine.put("/root/kit/gpgkeys.txt", keys, 0o644);
    let env = machine.ok("cat /root/ecs.yml") + "# a last line: ä € \u{1f600}\n";
    machine.put("/root/kit/env.yml", &env, 0o600);
    let out = machine.ok("cd /root/kit && appliance env package env.yml");
    let archive = out
        .lines()
        .find(|line| line.contains(".tar.gz.gpg"))
        .and_then(|line| line.split(": ").next())
        .expect("it names the archive");
    assert!(archive.starts_with("/root/kit/new.example.test.env.20"), "{out}");
    assert_eq!(
        machine.ok("stat -c %a /root/kit/env-cidata.iso /root/kit/env.yml.pdf /root/kit/*.gpg"),
        "600\n600\n600\n"
    );
    assert_eq!(machine.ok(LEFT).trim(), "0", "secrets were left behind");
    for (from, to) in
        [("/root/kit/env-cidata.iso", "seed.iso"), ("/root/kit/env.yml.pdf", "env.pdf"), (archive, "kit.gpg")]
    {
        fetch(&machine, from, &here(to));
    }
    // The drive: label, and the files by both of its directory trees.
    let probe = run("blkid", &["-p", "-o", "export", &path("seed.iso")]);
    assert!(probe.contains("LABEL=cidata") && probe.contains("TYPE=iso9660"), "{probe}");
    for tree in ["-R", "-J"] {
        assert_eq!(run("isoinfo", &[tree, "-x", "/user-data", "-i", &path("seed.iso")]), env);
        let meta = run("isoinfo", &[tree, "-x", "/meta-data", "-i", &path("seed.iso")]);
        assert!(
            meta.starts_with("instance-id: iid-") && meta.contains("\nlocal-hostname: new.example.test\n"),
            "{meta}"
        );
    }
    // The paper, by the command that is printed on it.
    let printed = run("pdftotext", &["-layout", &path("env.pdf"), "-"]);
    let command: Vec<&str> = printed.lines().skip_while(|line| !line.contains("zbarimg --quiet")).take(2).collect();
    assert_eq!(command.len(), 2, "{printed}");
    let pictures = printed.lines().find(|line| line.contains("pdftoppm")).expect("it says how pictures are made");
    let pictures = pictures.replace("env.yml.pdf", "env.pdf");
    run("sh", &["-ec", &format!("cd '{}'; {}; {} 2>/dev/null", path(""), pictures.trim(), command.join("\n"))]);
    assert_eq!(std::fs::read_to_string(here("env.yml")).expect("it was read back"), env);
    // The archive.
    run(
        "sh",
        &[
            "-ec",
            &format!(
                "cd '{0}'; gpg --homedir '{0}' --quiet --batch --decrypt kit.gpg > kit.tar.gz; mkdir kit; tar -xzf kit.tar.gz -C kit",
                path("")
            ),
        ],
    );
    assert_eq!(std::fs::read_to_string(here("kit/env.yml")).expect("it is in the archive"), env);
    assert_eq!(
        std::fs::read(here("kit/env-cidata.iso")).expect("it is there"),
        std::fs::read(here("seed.iso")).expect("it is there")
    );
    run("gpgconf", &["--homedir", &path(""), "--kill", "all"]);

    // One's own meta-data; and what cannot be packaged is said before anything is written.
    machine.put("/root/kit/meta-data.custom", "instance-id: mine\n", 0o600);
    machine.ok("cd /root/kit && rm gpgkeys.txt env-cidata.iso && appliance env package env.yml");
    fetch(&machine, "/root/kit/env-cidata.iso", &here("own.iso"));
    assert_eq!(run("isoinfo", &["-R", "-x", "/meta-data", "-i", &path("own.iso")]), "instance-id: mine\n");
    machine.ok("cd /root/kit && rm *.iso *.pdf *.gpg && sed -i 1d env.yml");
    let out = machine.sh("cd /root/kit && appliance env package env.yml");
    assert!(out.code == 1 && out.stderr.contains("'#cloud-config'"), "{}", out.all());
    machine.put("/root/kit/env.yml", &env, 0o600);
    machine.put("/root/kit/gpgkeys.txt", "no key\n", 0o600);
    let out = machine.sh("cd /root/kit && appliance env package env.yml");
    assert!(out.code == 1 && out.stderr.contains("gpgkeys.txt"), "{}", out.all());
    assert_eq!(machine.ok("ls /root/kit"), "env.yml\ngpgkeys.txt\nmeta-data.custom\n");
}

/// The part of a text between two marks, both included, without its indentation.
fn block(text: &str, begin: &str, end: &str) -> String {
    let from = text.find(begin).unwrap_or_else(|| panic!("{begin} is missing"));
    let to = from + text[from..].find(end).unwrap_or_else(|| panic!("{end} is missing")) + end.len();
    text[from..to].lines().map(|line| format!("{}\n", line.trim_start())).collect()
}
