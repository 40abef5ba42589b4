//! No secret of env.yml, and no password that was made, is where it does not belong.

use crate::host::Machine;
use crate::host::apps::*;

#[test]
fn no_secret_reaches_journal_status_arguments_or_readable_files() {
    let machine = Machine::boot("secrets");
    install_notes(&machine);
    machine.put("/app/env.yml", env_yml(&machine, "v1"), 0o600);
    // The arguments of every process that ever shows up while the host is prepared and the app comes up.
    let mut sampler = machine.spawn(
        "while [ ! -e /root/enough ]; do cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; done > /root/arguments",
    );
    machine.ok("appliance env check");
    // A plan for a host that was never prepared: everything, and nothing of it done.
    let plan = machine.sh("appliance plan");
    assert!(
        plan.code == 2 && plan.stdout.contains("/data/notes-storage-vault") && plan.stdout.contains("create database"),
        "{}",
        plan.all()
    );
    assert_eq!(machine.sh("ls -d /data /app/etc /etc/sysctl.d/60-appliance.conf 2>/dev/null").stdout, "");
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    machine.ok("appliance prepare; appliance plan; appliance ps; systemctl stop appliance; systemctl start appliance");
    wait_for_phase(&machine, "running");
    // A repository that asks for a password which it then does not take.
    let wrong = "http://me:canary-git-5Xw1@127.0.0.1:9/x.git";
    machine.ok("rm /data/appliance/apps/*/ledger.json");
    machine.put("/app/env.yml", env_yml(&machine, "v1").replace("file:///srv/notes.git", wrong), 0o600);
    machine.ok("systemctl restart appliance");
    wait_for_another_try(&machine, "could not fetch");
    let status = machine.sh("appliance status; appliance status --json").all();
    assert!(status.contains("(secret)@127.0.0.1:9"), "{status}");
    machine.ok("touch /root/enough");
    drop(sampler.wait());

    let password = machine.get("/app/etc/notes/database_url.env");
    let password = password
        .split(':')
        .nth(2)
        .and_then(|rest| rest.split('@').next())
        .expect("the URL holds a password")
        .to_owned();
    let mut secrets: Vec<&str> = CANARIES.to_vec();
    secrets.extend(["canary-git-5Xw1", &password]);
    assert!(
        machine.ok("wc -c < /root/arguments").trim().parse::<u64>().is_ok_and(|size| size > 100_000),
        "the sampler saw something"
    );
    for secret in secrets {
        assert!(!status.contains(secret), "{secret} is in the status");
        let found = machine.sh(&format!("journalctl --no-pager --all --output=export | grep -aF -e '{secret}'"));
        assert!(found.code == 1, "{secret} is in the journal: {}", found.all());
        let found = machine.sh(&format!("grep -aF -e '{secret}' /root/arguments"));
        assert!(found.code == 1, "{secret} was an argument");
        // Files whose mode lets everybody read; of those, the ones that another user really can (a closed directory above).
        let readable = "find / /run /tmp -xdev -path /proc -prune -o -path /root -prune -o -type f -perm -o+r -print0";
        let found = machine.sh(&format!(
            "{readable} | xargs -0 grep -laF -e '{secret}' | while read -r f; do runuser -u nobody -- test -r \"$f\" && echo \"$f\"; done"
        ));
        assert_eq!(found.stdout, "", "{secret} is in a file that everybody can read");
        let found = machine.sh(&format!("docker image history --no-trunc notes/app:latest | grep -aF -e '{secret}'"));
        assert_eq!(found.code, 1, "{secret} is in the image");
    }
    for (path, expected) in [
        ("/run/active-env.yml", "600 root root"),
        // A script of user app's may read it; nobody but root writes it.
        ("/app/etc/notes/database_url.env", "640 root app"),
        ("/etc/extra.secret", "600 root root"),
        ("$(readlink -f /app/etc/server.key.pem)", "600 root root"),
        ("/data/appliance", "700 root root"),
        ("/data/appliance/apps/notes/ledger.json", "600 root root"),
    ] {
        assert_eq!(machine.ok(&format!("stat -c '%a %U %G' {path}")).trim(), expected, "{path}");
    }
    assert_eq!(machine.ok("stat -c %a /var/lib/docker").trim(), "710");
}
