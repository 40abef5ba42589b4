//! The steps vault and packages: the keyring holds the keys of the env and no others, and what `extra.packages` names is installed.

use super::packages::{NEWER, installed, newer};
use crate::host::Machine;
use crate::host::apps::*;

/// A new secret key, armored.
fn key(machine: &Machine, name: &str) -> String {
    machine.ok(&format!(
        "set -e; export GNUPGHOME=$(mktemp -d); gpg --batch --quiet --passphrase '' --quick-gen-key '{name} <{name}@example.test>' ed25519 default never
         gpg --batch --armor --export-secret-keys; gpgconf --kill all; rm -r $GNUPGHOME"
    ))
}

fn indented(key: &str) -> String {
    key.lines().map(|line| format!("    {line}\n")).collect()
}

/// Whose keys are in the keyring, asked as the app's user in its containers.
fn names(machine: &Machine) -> String {
    machine.ok(
        "setpriv --reuid 1000 --regid 1000 --clear-groups gpg --homedir /data/vault-gpg --batch --list-secret-keys --with-colons 2>/dev/null \
         | grep ^uid | cut -d: -f10 | cut -d' ' -f1 | sort | tr '\\n' ' '; setpriv --reuid 1000 --regid 1000 --clear-groups gpgconf --homedir /data/vault-gpg --kill all",
    )
}

#[test]
fn the_keyring_follows_the_env_and_packages_are_installed() {
    let machine = Machine::boot("vault");
    put_stack(&machine, "vault", "services:\n  a: {image: stub:1}\n");
    let plain = machine.get("/app/env.yml");
    let (first, sign, second) = (key(&machine, "first"), key(&machine, "sign"), key(&machine, "second"));
    let with =
        |encrypt: &str| format!("{plain}  vault_encrypt: |\n{}  vault_sign: |\n{}", indented(encrypt), indented(&sign));
    machine.put("/app/env.yml", with(&first), 0o600);
    machine.ok("appliance prepare --step env; appliance prepare --step storage");
    let said = machine.ok("appliance prepare --step vault");
    assert!(said.contains("make the keyring anew with 2 keys") && !said.contains("PRIVATE"), "{said}");
    assert_eq!(names(&machine), "first sign ");
    assert_eq!(machine.ok("find /data/vault-gpg ! -user 1000 | wc -l; stat -c %a /data/vault-gpg"), "0\n700\n");
    assert_eq!(machine.ok("appliance prepare --step vault"), "nothing to do\n");
    assert_eq!(machine.sh("pgrep -f '[g]pg-agent --homedir /data/vault-gpg'").code, 1, "no agent stays");
    // Somebody else's files in it are not the keys'.
    machine.ok("echo kept > /data/vault-gpg/note");
    machine.put("/app/env.yml", with(&second), 0o600);
    machine.ok("appliance prepare --step vault");
    assert_eq!(names(&machine), "second sign ");
    assert_eq!(machine.ok("cat /data/vault-gpg/note"), "kept\n");
    // What a container leaves there as GnuPG's configuration runs nothing on the host.
    machine.ok("cd /data/vault-gpg && printf '#!/bin/sh\\ntouch /var/tmp/ran\\nexec gpg-agent \"$@\"\\n' > agent && chmod 755 agent && rm -f appliance.sha256
                for f in gpg.conf gpg-agent.conf common.conf; do echo 'agent-program /data/vault-gpg/agent' > $f; done; chown -R 1000:1000 .");
    machine.ok("appliance prepare --step vault");
    assert_eq!(machine.sh("test -e /var/tmp/ran").code, 1, "a program of the container's ran");
    machine.ok("cd /data/vault-gpg && rm agent gpg.conf gpg-agent.conf common.conf");
    assert_eq!(names(&machine), "second sign ");
    // Killed anywhere, the next run makes it whole.
    machine.put("/app/env.yml", with(&first), 0o600);
    for milliseconds in [20, 60, 120, 200, 300, 450] {
        machine.sh(&format!("timeout -s KILL 0.{milliseconds:03} appliance prepare --step vault"));
    }
    machine.ok("appliance prepare --step vault");
    assert_eq!(names(&machine), "first sign ");
    // A key that is none is told by its name, without what it holds.
    machine.put(
        "/app/env.yml",
        with("-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nhush\n-----END PGP PRIVATE KEY BLOCK-----\n"),
        0o600,
    );
    let refused = machine.sh("appliance prepare --step vault");
    assert!(
        refused.code != 0
            && refused.all().contains("the key of 'vault_encrypt' cannot be taken in")
            && !refused.all().contains("hush"),
        "{}",
        refused.all()
    );
    assert_eq!(names(&machine), "first sign ", "what was there stays until the new keys are known to be good");

    machine.put("/root/newer.sh", NEWER, 0o644);
    newer(&machine, 1, "jq");
    machine.ok("dpkg --purge jq >/dev/null; rm -rf /var/lib/apt/lists/*");
    let named = plain.replace("appliance:\n", "appliance:\n  extra: {packages: [jq, git]}\n");
    machine.put("/app/env.yml", &named, 0o600);
    let planned = machine.sh("appliance plan --step packages");
    assert!(planned.code == 2 && planned.stdout.contains("jq") && !planned.stdout.contains("git"), "{}", planned.all());
    machine.ok("appliance prepare --step packages");
    assert!(installed(&machine, "jq").contains("+newer1 install ok installed"));
    assert_eq!(machine.ok("appliance prepare --step packages"), "nothing to do\n");
    machine.put("/app/env.yml", named.replace("jq, git", "no-such-package"), 0o600);
    let refused = machine.sh("appliance prepare --step packages");
    assert!(refused.code != 0 && refused.all().contains("could not install no-such-package"), "{}", refused.all());
}
