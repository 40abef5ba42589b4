//! Whom git believes: a server that is known by its key, and commits and tags that are signed with a known one.

use super::checkout::{COMPOSE, commit, env, git, refused, version};
use super::update::ledger;
use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

/// The env with more lines under `git:` (four spaces in).
fn ask(machine: &Machine, more: &str) {
    let mut env = env(machine, "keep").replace("file:///srv/g\n", &format!("ssh://git@127.0.0.1:2222/srv/g\n{more}"));
    if more.contains("branch:") {
        env = env.replace("    branch: main\n", "");
    }
    machine.put("/app/env.yml", env, 0o600);
    machine.ok("test ! -e /run/active-env.yml || appliance env activate");
}

/// Runs an ssh server with a new key; gives back its line for known_hosts.
fn serve(machine: &Machine) -> String {
    machine.ok(
        "systemctl stop git-ssh 2>/dev/null; set -e; mkdir -p /run/sshd; rm -f /root/host_key*; ssh-keygen -q -t ed25519 -N '' -f /root/host_key; \
         systemd-run -q --unit=git-ssh /usr/sbin/sshd -D -f /dev/null -p 2222 -o ListenAddress=127.0.0.1 -o HostKey=/root/host_key -o PidFile=none",
    );
    wait_for("the ssh server", Duration::from_secs(20), || {
        let out = machine.sh("ssh-keyscan -p 2222 -t ed25519 127.0.0.1 2>/dev/null | grep ed25519");
        if out.code == 0 { Ok(()) } else { Err(out.all()) }
    });
    format!("[127.0.0.1]:2222 {}", machine.ok("cut -d' ' -f1,2 /root/host_key.pub").trim())
}

/// A host that gets its app by ssh.
fn boot(name: &str) -> Machine {
    let machine = Machine::boot(name);
    machine.ok("mkdir -p /srv/g && chown app:app /srv/g");
    git(&machine, "init -q -b main .");
    commit(&machine, "one");
    // Put there by root, as an operator does.
    machine.ok(
        "set -e; mkdir -p /app/.ssh && ssh-keygen -q -t ed25519 -N '' -f /app/.ssh/id_ed25519; useradd --create-home --home-dir /srv/git-home \
         --shell /bin/sh git; usermod -p '*' git; mkdir /srv/git-home/.ssh; cp /app/.ssh/id_ed25519.pub /srv/git-home/.ssh/authorized_keys; \
         chown -R git /srv/git-home; git config --system --add safe.directory /srv/g; git config --system --add safe.directory /srv/g/.git",
    );
    machine
}

#[test]
fn a_server_is_met_once_and_pinned_where_the_env_says_by_which_key() {
    let machine = boot("ssh");
    let first = serve(&machine);
    ask(&machine, "");
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    let said = machine.ok("journalctl -u appliance-supervisor --no-pager -o cat");
    assert!(said.contains("a git server was met for the first time") && said.contains("[127.0.0.1]:2222"), "{said}");

    // Pinned: it is what the env says that counts, not who was met.
    let other = "[127.0.0.1]:2222 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5mN1Bc0AtMqWWzxrQGFgpyLYXh0Dkn7QX8Y3d2s6bq";
    ask(&machine, &format!("    host_keys: ['{other}']\n"));
    commit(&machine, "two");
    refused(&machine, "Host key verification failed");
    ask(&machine, &format!("    host_keys: ['{other}', '{first}']\n"));
    machine.ok("appliance update");
    assert_eq!(version(&machine), "two");

    // Somebody else answers in its place.
    let second = serve(&machine);
    commit(&machine, "three");
    refused(&machine, "Host key verification failed");
    ask(&machine, "");
    refused(&machine, "Host key verification failed");
    ask(&machine, &format!("    host_keys: ['{second}']\n"));
    machine.ok("appliance update");
    assert_eq!(version(&machine), "three");
}

/// Signs as somebody, with ssh or OpenPGP.
fn signed(machine: &Machine, version: &str, options: &str) -> String {
    commit(machine, version);
    git(machine, &format!("{options} commit -q --amend --no-edit -S"));
    git(machine, "rev-parse HEAD").trim().to_owned()
}

fn with_ssh(who: &str) -> String {
    format!("-c gpg.format=ssh -c user.signingkey=/srv/keys/{who}")
}

#[test]
fn only_what_is_signed_with_a_known_key_is_used() {
    let machine = boot("signed");
    serve(&machine);
    machine.put("/srv/gpg", "#!/bin/sh\nexec gpg --homedir /app/.gnupg --batch \"$@\"\n", 0o755);
    machine.ok(
        "set -e; mkdir -p -m 700 /app/.gnupg; chown app /app/.gnupg; mkdir /srv/keys; for who in known other; do ssh-keygen -q -t ed25519 -N '' -C $who -f /srv/keys/$who; done; chown -R app /srv/keys; \
         for who in known other; do runuser -u app -- env HOME=/app gpg --batch --quiet --passphrase '' --quick-gen-key $who@example.test ed25519 sign never; done",
    );
    let public = |path: &str| machine.get(path).trim().to_owned();
    let ssh = public("/srv/keys/known.pub");
    let verify = format!("    verify: ['{ssh}']\n");

    // Nothing was signed yet: nothing runs, and it is said why.
    ask(&machine, &verify);
    machine.ok("systemctl start appliance");
    let said = wait_for_end(&machine, "standby", 3);
    assert!(said.contains("is not signed with a key of app.git.verify"), "{said}");
    signed(&machine, "two", &with_ssh("known"));
    machine.ok("systemctl restart appliance");
    wait_for_phase(&machine, "running");
    assert_eq!(version(&machine), "two");

    // Neither unsigned, nor by somebody else, nor by whoever is in app's own keyring.
    commit(&machine, "three");
    refused(&machine, "is not signed with a key of app.git.verify");
    signed(&machine, "four", &with_ssh("other"));
    refused(&machine, "is not signed with a key of app.git.verify");
    signed(&machine, "five", "-c gpg.program=/srv/gpg -c user.signingkey=known@example.test");
    refused(&machine, "is not signed with a key of app.git.verify");
    assert!(machine.sh("appliance update --check").stderr.contains("is not signed"));
    assert!(machine.sh("appliance update --force").stderr.contains("is not signed"));
    let six = signed(&machine, "six", &with_ssh("known"));
    machine.ok("appliance update");
    assert_eq!(
        (version(&machine).as_str(), ledger(&machine)["current"]["commit"].as_str()),
        ("six", Some(six.as_str()))
    );

    // An env file counts if it was signed, and not if somebody has put it into the checkout.
    machine.put("/app/g/planted.env", "PLANTED=1\n", 0o644);
    machine.ok("chown app:app /app/g/planted.env");
    machine.put("/srv/g/good.env", "GOOD=1\n", 0o644);
    let compose = COMPOSE.replace("VERSION", "files");
    let named = "    env_file: [good.env, {path: planted.env, required: false}]\n";
    machine.put("/srv/g/compose.yml", format!("{compose}{named}"), 0o644);
    git(&machine, "add -A");
    git(&machine, &format!("{} commit -q -m files -S", with_ssh("known")));
    machine.ok("appliance update");
    let variables = machine.ok("docker inspect -f '{{json .Config.Env}}' g_a_1");
    assert!(version(&machine) == "files" && variables.contains("GOOD=1"), "{variables}");
    assert!(!variables.contains("PLANTED"), "{variables}");
    let said = machine.ok("journalctl -u appliance-supervisor --no-pager -o cat; appliance plan --stack 2>&1");
    assert!(said.contains("/app/g/planted.env is not read: app.git.verify is set"), "{said}");
    let six = signed(&machine, "six", &with_ssh("known"));
    machine.ok("appliance update");
    assert_eq!((version(&machine).as_str(), ledger(&machine)["current"]["commit"] == six.as_str()), ("six", true));

    // OpenPGP, and then ssh is not asked for any more; what ran before may run again.
    let block = machine.ok("runuser -u app -- env HOME=/app gpg --armor --export known@example.test");
    let block: String = block.lines().map(|line| format!("      {line}\n")).collect();
    ask(&machine, &format!("    verify: |\n{block}"));
    signed(&machine, "seven", &with_ssh("known"));
    refused(&machine, "is not signed with a key of app.git.verify");
    signed(&machine, "eight", "-c gpg.program=/srv/gpg -c user.signingkey=other@example.test");
    refused(&machine, "is not signed with a key of app.git.verify");
    signed(&machine, "nine", "-c gpg.program=/srv/gpg -c user.signingkey=known@example.test");
    machine.ok("appliance update");
    assert_eq!(version(&machine), "nine");
    machine.ok("appliance rollback");
    assert_eq!(version(&machine), "six");
    // By name only: a repository that goes back to it must be believed.
    git(&machine, &format!("reset -q --hard {six}"));
    let out = machine.sh("appliance update --force");
    assert!(out.code == 1 && out.stderr.contains("is not signed"), "{}", out.all());
    git(&machine, "reset -q --hard ORIG_HEAD");

    // A tag in the place of a branch: its signature counts for the commit that it names, and for no other.
    let tenth = commit(&machine, "ten");
    git(&machine, "tag -a -m ten v10");
    ask(&machine, &format!("    branch: v10\n    verify: ['{ssh}']\n"));
    refused(&machine, "is not signed with a key of app.git.verify");
    git(&machine, &format!("{} tag -f -s -m ten v10", with_ssh("known")));
    let other = commit(&machine, "eleven");
    assert!(machine.sh(&format!("appliance update --to {other}")).stderr.contains("is not signed"));
    machine.ok("appliance update");
    assert_eq!(
        (version(&machine).as_str(), ledger(&machine)["current"]["commit"].as_str()),
        ("ten", Some(tenth.as_str()))
    );
    // The same signature under another name says nothing.
    git(&machine, "update-ref refs/tags/v12 refs/tags/v10");
    ask(&machine, &format!("    branch: v12\n    verify: ['{ssh}']\n"));
    refused(&machine, "is not signed with a key of app.git.verify");
    // A tag that was taken back is gone here too.
    git(&machine, "tag -d v12");
    refused(&machine, "has no v12");

    // An env that has become stricter than it was when the app was started does not take the orderly stop away.
    ask(&machine, "");
    machine.put("/app/g/own.env", "OWN=1\n", 0o644);
    machine.ok("chown app:app /app/g/own.env");
    let compose = COMPOSE.replace("VERSION", "own");
    machine.put("/srv/g/compose.yml", format!("{compose}    env_file: [own.env]\n"), 0o644);
    git(&machine, "add -A");
    git(&machine, "commit -q -m own");
    machine.ok("appliance update");
    assert_eq!(version(&machine), "own");
    ask(&machine, &verify);
    let since = machine.ok("date +%s");
    machine.ok("systemctl stop appliance");
    let said = machine.ok(&format!("journalctl -u appliance --since=@{} --no-pager -o cat", since.trim()));
    assert!(said.contains("container g_a_1: stop") && !said.contains("cannot be read"), "{said}");
}

/// A web server with the repository behind it, for those who know the password; the names of whoever asked are written down.
const HTTPS: &str = r#"
import base64, functools, http.server, ssl
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        right = "Basic " + base64.b64encode(b"me:canary-git-4Uz8").decode()
        if self.headers.get("Authorization") != right:
            self.send_response(401); self.send_header("WWW-Authenticate", 'Basic realm="git"'); self.send_header("Content-Length", "0"); self.end_headers()
            return
        super().do_GET()
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8443), functools.partial(Handler, directory="/srv"))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/root/cert.pem", "/root/key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

#[test]
fn https_asks_for_a_certificate_that_the_host_trusts_and_for_the_password() {
    let machine = Machine::boot("https");
    machine.ok("mkdir -p /srv/g && chown app:app /srv/g");
    git(&machine, "init -q -b main .");
    commit(&machine, "one");
    machine.put("/root/https.py", HTTPS, 0o644);
    machine.ok(
        "set -e; cp -a /srv/g/.git /srv/g.git; runuser -u app -- git -C /srv/g.git update-server-info; cd /root; \
         openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=git.example.test -addext \
         subjectAltName=DNS:git.example.test 2>/dev/null; echo 127.0.0.1 git.example.test >> /etc/hosts; systemd-run -q --unit=git-https \
         python3 /root/https.py",
    );
    wait_for("the server", Duration::from_secs(20), || {
        let out = machine.sh("curl -sfk -u me:canary-git-4Uz8 https://git.example.test:8443/g.git/HEAD");
        if out.code == 0 { Ok(()) } else { Err(out.all()) }
    });
    let ask = |password: &str| {
        let source = format!("https://me:{password}@git.example.test:8443/g.git\n");
        machine.put("/app/env.yml", env(&machine, "keep").replace("file:///srv/g\n", &source), 0o600);
    };
    ask("canary-git-4Uz8");
    machine.ok("systemctl start appliance");
    let said = wait_for_another_try(&machine, "certificate");
    assert!(!said.contains("canary"), "{said}");
    // The host learns to trust it.
    machine.ok("cp /root/cert.pem /usr/local/share/ca-certificates/git.crt && update-ca-certificates >/dev/null 2>&1; grep -q git.example.test \
                /etc/hosts || echo 127.0.0.1 git.example.test >> /etc/hosts");
    ask("canary-other-5Kw1");
    machine.ok("systemctl restart appliance");
    let said = wait_for_another_try(&machine, "Authentication failed");
    assert!(said.contains("could not fetch https://(secret)@git.example.test:8443/g.git"), "{said}");
    ask("canary-git-4Uz8");
    machine.ok("systemctl restart appliance");
    wait_for_phase(&machine, "running");
    assert_eq!(version(&machine), "one");
    let said = machine
        .ok("journalctl --no-pager -o cat; appliance status --json; cat /data/appliance-git/g/config /data/git/g/config /app/g/.git");
    assert!(!said.contains("canary-git") && !said.contains("canary-other"), "a password is told");

    // While git has the password: nobody but root sees it.
    machine.ok("systemctl kill --signal=STOP git-https");
    let mut update = machine.spawn("exec appliance update");
    let git = wait_for("git to ask the server", Duration::from_secs(30), || {
        let out = machine.sh("pgrep -x -u appliance-git git-remote-http");
        out.stdout.trim().parse::<u32>().map_err(|_| out.all())
    });
    let environment = format!("tr '\\0' '\\n' < /proc/{git}/environ");
    assert!(machine.ok(&environment).contains("canary-git"), "it is there to be seen");
    for user in ["app", "nobody"] {
        let out = machine.sh(&format!("runuser -u {user} -- sh -c \"{environment}\""));
        assert!(out.code != 0 && !out.all().contains("canary"), "{user} sees git's environment: {}", out.all());
    }
    machine.ok("systemctl kill --signal=CONT git-https");
    assert!(update.wait().expect("the update ends").success());
}
