//! Those who try to get further by the app's repository or its checkout: a container that has that mounted, user app, whoever writes
//! what is fetched. Nothing of theirs runs as root, or in the place of what was pushed.

use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

/// A repository of the app `g`, which has its checkout mounted where it can write.
const MOUNTED: &str = "services:\n  a:\n    image: stub:1\n    labels: {version: 'VERSION'}\n    volumes: ['.:/checkout', './data:/own']\n    \
                       stop_grace_period: 1s\n    healthcheck: {test: exit 0, interval: 1s}\n";

#[test]
fn a_container_that_writes_the_checkout_gets_no_further() {
    use super::checkout::{env, git};
    let machine = Machine::boot("intrudergit");
    machine.ok("mkdir -p /srv/g && chown app:app /srv/g");
    git(&machine, "init -q -b main .");
    let commit = |version: &str| {
        machine.put("/srv/g/compose.yml", MOUNTED.replace("VERSION", version), 0o644);
        machine.ok("chown -R app:app /srv/g");
        git(&machine, "add -A");
        git(&machine, &format!("commit -q -m {version}"));
    };
    // What would be left out of an archive is a part of the commit all the same.
    machine.put("/srv/g/.gitattributes", "kept export-ignore\n", 0o644);
    machine.put("/srv/g/kept", "kept\n", 0o644);
    commit("one");
    machine.put("/app/env.yml", env(&machine, "keep"), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    machine.ok("test -s /data/appliance/apps/g/source/kept");

    // As root in the container, which is root in the checkout: git's own files, compose files, variables, links, and locks.
    machine.ok("echo data > /app/g/data/mine; chmod 777 /app/g/data");
    let evil = "#!/bin/sh\nid -un >> /tmp/by-whom\n";
    machine.put("/app/g/evil.sh", evil, 0o777);
    machine.ok(
        "set -e; cd /app/g; rm -f .git; git init -q .; mkdir -p .git/hooks .git/info; cp evil.sh .git/hooks/post-checkout
         cp evil.sh .git/hooks/pre-commit; export GIT_DIR=/app/g/.git; git config core.fsmonitor /app/g/evil.sh; git config core.sshCommand /app/g/evil.sh
         git config filter.x.smudge /app/g/evil.sh; git config filter.x.clean /app/g/evil.sh; git config filter.x.required true
         echo '* filter=x' > .git/info/attributes; echo '* filter=x' >> .gitattributes
         printf '[submodule \"s\"]\\n path = s\\n url = ext::/app/g/evil.sh\\n update = !/app/g/evil.sh\\n' > .gitmodules
         printf 'services: {a: {privileged: true, volumes: [\"/root:/root-of-host\"]}}\\n' > compose.override.yml
         cp compose.override.yml docker-compose.override.yml; printf 'COMPOSE_FILE=compose.override.yml\\nHOME=/root\\n' > .env
         chown -R app:app /app/g",
    );
    commit("two");
    println!("{}", machine.ok("appliance update && systemctl restart appliance"));
    wait_for_phase(&machine, "running");
    assert_eq!(super::checkout::version(&machine), "two");
    assert_eq!(machine.sh("cat /tmp/by-whom").stdout, "", "nothing of the container's was run");
    let container = inspect(&machine, "g_a_1");
    assert_eq!(container["HostConfig"]["Privileged"], false);
    assert!(!container["HostConfig"]["Binds"].to_string().contains("/root"), "{}", container["HostConfig"]["Binds"]);
    assert_eq!(machine.get("/app/g/data/mine"), "data\n", "what the commit does not have is data, and stays");

    // Locks that a git was killed with, and a checkout that was cut off: the next start puts all of it in place.
    machine.ok(
        "set -e; systemctl stop appliance; cd /data/git/g
         for lock in index.lock HEAD.lock refs/remotes/origin/main.lock; do mkdir -p $(dirname $lock); touch $lock; done; chown -R app:app refs *.lock
         touch /data/appliance-git/g/packed-refs.lock; chown appliance-git: /data/appliance-git/g/packed-refs.lock
         echo broken > /app/g/compose.yml; rm /app/g/kept; rm /data/appliance/apps/g/checked-out; systemctl start appliance",
    );
    wait_for_phase(&machine, "running");
    assert_eq!(machine.get("/app/g/kept"), "kept\n");
    assert!(machine.get("/app/g/compose.yml").contains("two"));
    // What is no repository, in the place of one: it is put aside, and stops nothing.
    machine.ok(
        "set -e; rm -rf /app/g/.git; mkdir /app/g/.git; ln -s /root /app/g/.git/objects; chown -R app:app /app/g/.git",
    );
    commit("three");
    machine.ok("appliance update");
    assert_eq!(super::checkout::version(&machine), "three");

    // A link in the place of what it mounts, before it ends: Docker would follow it at the next start.
    machine.ok("mv /app/g/data /app/g/aside; ln -s /root /app/g/data; docker kill g_a_1");
    wait_for("the refusal", Duration::from_secs(60), || {
        let said = machine.ok("journalctl -u appliance-supervisor -o cat --no-pager");
        if said.contains("leads over the link /app/g/data") { Ok(()) } else { Err(said) }
    });
    assert_eq!(machine.ok("docker ps -q"), "", "nothing runs with the host's files");
    let out = machine.sh("appliance plan --stack");
    assert!(out.code == 1 && out.stderr.contains("leads over the link /app/g/data"), "{}", out.all());
    machine.ok("rm /app/g/data && mv /app/g/aside /app/g/data && appliance recover && systemctl restart appliance");
    wait_for_phase(&machine, "running");
}

#[test]
fn commits_that_user_app_makes_are_not_taken() {
    use super::checkout::{checkout, commit, env, git, version};
    let machine = Machine::boot("intrudercommit");
    machine.ok("mkdir -p /srv/g && chown app:app /srv/g");
    git(&machine, "init -q -b main .");
    let one = commit(&machine, "one");
    machine.put("/app/env.yml", env(&machine, "keep"), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");

    // One of its own, under every name that root could ask for.
    machine.ok("sed -i s/one/evil/ /app/g/compose.yml");
    checkout(&machine, "commit -q -a -m evil");
    let evil = checkout(&machine, "rev-parse HEAD").trim().to_owned();
    for name in ["refs/remotes/origin/main", "refs/heads/main", "refs/appliance/checked-out", "refs/tags/main"] {
        checkout(&machine, &format!("update-ref {name} {evil}"));
    }
    let out = machine.sh(&format!("appliance update --to {evil}"));
    assert!(out.code == 1 && out.stderr.contains("has no"), "{}", out.all());
    machine.ok("appliance update && systemctl restart appliance");
    wait_for_phase(&machine, "running");
    assert_eq!(version(&machine), "one");
    let in_ours = |what: &str| {
        machine.sh(&format!("git -c safe.directory='*' --git-dir=/data/appliance-git/g cat-file -e {what}"))
    };
    assert!(in_ours(&one).code == 0 && in_ours(&evil).code != 0, "only what the server sent is there");

    // A host of before has a repository of user app's alone. What is missing is taken from there by its id, with the server away.
    let as_before = "set -e; systemctl stop appliance; rm -f /data/appliance/apps/g/checked-out
         runuser -u app -- git --git-dir=/data/git/g repack -q -a -d; rm -r /data/git/g/objects/info/alternates /data/appliance-git";
    machine.ok(&format!("{as_before}; mv /srv/g /srv/gone; systemctl start appliance"));
    wait_for_phase(&machine, "running");
    assert_eq!(version(&machine), "one");
    assert!(in_ours(&one).code == 0 && in_ours(&evil).code != 0, "what was asked for, and nothing else");

    // A disk from a host where users have other numbers.
    machine.ok(
        "set -e; systemctl stop appliance; rm -f /data/appliance/apps/g/checked-out; chown -R 4321:4321 /data/git/g /data/appliance-git/g
         ln -s /etc/passwd /data/git/g/planted; systemctl start appliance",
    );
    wait_for_phase(&machine, "running");
    let owners = machine.ok("stat -c %U /data/git/g/HEAD /data/appliance-git/g/HEAD /etc/passwd; find /data/git/g /data/appliance-git/g -uid 4321");
    assert_eq!(owners, "app\nappliance-git\nroot\n");

    // And not if it is not what its id says.
    let forge = "set -e; cd /data/git/g/objects; mkdir -p aside; mv pack/*.pack aside; rm -f pack/*
         for pack in aside/*; do git --git-dir=/data/git/g unpack-objects -q < $pack; done
         python3 - $(git --git-dir=/data/git/g rev-parse ONE:compose.yml) <<P
import os, sys, zlib
path = sys.argv[1][:2] + '/' + sys.argv[1][2:]
real = zlib.decompress(open(path, 'rb').read())
os.chmod(path, 0o644)
open(path, 'wb').write(zlib.compress(real.replace(b'one', b'bad')))
P
         git --git-dir=/data/git/g show ONE:compose.yml | grep -q bad";
    machine.put("/root/forge", forge.replace("ONE", &one), 0o644);
    machine.ok(&format!(
        "{as_before}; mv /srv/gone /srv/g; runuser -u app -- sh < /root/forge; systemctl start appliance"
    ));
    wait_for_phase(&machine, "running");
    assert_eq!(
        (
            version(&machine).as_str(),
            machine.sh("grep -c bad /data/appliance/apps/g/source/compose.yml").stdout.as_str()
        ),
        ("one", "0\n")
    );
    commit(&machine, "two");
    machine.ok("appliance update");
    assert_eq!(version(&machine), "two");
}

#[test]
fn a_repository_gets_no_more_than_the_env_allows() {
    use super::checkout::{COMPOSE, commit, env, git, refused, version};
    let machine = Machine::boot("intruderrepo");
    machine.ok("mkdir -p /srv/g && chown app:app /srv/g; echo root:secret > /root/canary");
    git(&machine, "init -q -b main .");
    commit(&machine, "one");
    let env = env(&machine, "keep").replace("  name: g\n", "  name: g\n  allow: {privileged: no, binds: own}\n");
    machine.put("/app/env.yml", env, 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    let push = |more: &str| {
        machine.put("/srv/g/compose.yml", format!("{}{more}", COMPOSE.replace("VERSION", "two")), 0o644);
        machine.ok("chown -R app:app /srv/g");
        git(&machine, "add -A");
        git(&machine, "commit -q -m two");
    };
    // What somebody planted: in a directory of its data, by a container; a link in the commit; a volume of a time when more was allowed.
    machine.ok("mkdir -p /data/g-files && ln -s / /data/g-files/l && ln -s / /srv/g/x");
    machine.ok("docker volume create --label com.docker.compose.project=g --opt type=none --opt o=bind --opt device=/root g_old");
    machine.ok("ip link add lan0 type veth peer name lan1 && ip addr add 192.168.77.1/24 dev lan0 && ip link set lan1 up && ip link set lan0 up");
    let volume = |options: &str| format!("    volumes: ['v:/v']\nvolumes: {{v: {{{options}}}}}\n");
    for (more, named) in [
        ("    privileged: yes\n    volumes: ['/:/host']\n".to_owned(), "services.a.privileged, services.a.volumes: /;"),
        ("    env_file: /root/canary\n".to_owned(), "services.a.env_file: /root/canary;"),
        ("    env_file: ./x/root/canary\n".to_owned(), "leads out of"),
        (volume("driver_opts: {type: none, o: bind, device: /root}"), "volumes.v.driver_opts;"),
        (volume("driver_opts: {type: tmpfs, o: bind, device: /root}"), "volumes.v.driver_opts;"),
        (volume("external: true, name: g_old"), "volumes.v.external;"),
        (volume("name: g_old"), "the volume g_old stands for something else"),
        ("    networks: [n]\nnetworks: {n: {external: true, name: host}}\n".to_owned(), "networks.n.external;"),
        (
            "    networks: [n]\nnetworks: {n: {ipam: {config: [{subnet: 192.168.77.0/25}]}}}\n".to_owned(),
            "the host reaches 192.168.77.0/24 by lan0",
        ),
        ("    build: /root\n".to_owned(), "services.a.build.context: /root;"),
        ("    build: ./x/root\n".to_owned(), "leads over a link of the commit"),
        ("    build: {context: ., dockerfile: x/root/canary}\n".to_owned(), "leads over a link of the commit"),
        ("    volumes: ['./x/root:/r']\n".to_owned(), "leads over a link of the commit"),
        ("    secrets: [s]\nsecrets: {s: {file: ./x/root/canary}}\n".to_owned(), "leads over a link of the commit"),
        ("    volumes: ['/data/g-files/l/root:/r']\n".to_owned(), "leads over the link /data/g-files/l"),
        ("include: [/root/canary]\n".to_owned(), "/root/canary is not the app's"),
        ("    extends: {file: /root/canary, service: a}\n".to_owned(), "/root/canary is not the app's"),
        (
            "    volumes: ['/data/appliance:/a', '/var/run/docker.sock:/s']\n".to_owned(),
            "/data/appliance, services.a.volumes: /var/run",
        ),
    ] {
        push(&more);
        refused(&machine, named);
        assert!(!machine.ok("journalctl -o cat --no-pager").contains("root:secret"), "what the canary holds is told");
    }
    assert_eq!(machine.ok("docker ps -aq --filter label=com.docker.compose.project=g | wc -l"), "1\n");
    // What lies in its own directories it may have; a link there leads nowhere.
    push("    volumes: ['./data:/own', '/data/g-vault:/vault', 'v:/v']\nvolumes: {v: {}}\n");
    machine.ok("appliance update");
    assert_eq!(version(&machine), "two");
    // What is built is the commit, and nothing that lies beside it in the checkout.
    machine.put("/srv/g/Dockerfile", "FROM stub:1\nCOPY . /all\n", 0o644);
    machine.ok("runuser -u app -- sh -c 'echo FROM stub:1 > /app/g/planted'");
    push("  b: {build: .}\n");
    machine.ok("appliance update");
    machine.ok("docker exec g_b_1 /bin/busybox test -e /all/compose.yml");
    assert_eq!(machine.sh("docker exec g_b_1 /bin/busybox test -e /all/planted").code, 1, "the checkout was built");
    // A list of what is left out is read in the commit, too, and what it says is not told.
    machine.ok("ln -s /root/canary /srv/g/.dockerignore; echo 'root:secret[' > /root/canary");
    push("  b: {build: .}\n  c: {build: .}\n");
    refused(&machine, ".dockerignore");
    assert!(!machine.ok("journalctl -o cat --no-pager").contains("root:secret"), "what the canary holds is told");
    machine.ok("rm /srv/g/.dockerignore");
    // The first release of a repository is asked no less.
    machine.ok("systemctl stop appliance; rm -rf /data/appliance/apps/g");
    push("    pid: host\n");
    machine.ok("systemctl start appliance");
    let said = wait_for_end(&machine, "standby", 3);
    assert!(said.contains("services.a.pid"), "{said}");
    assert_eq!(machine.ok("docker ps -q"), "");
}

/// Commits on `main` of /srv/g with a submodule whose files belong outside of the checkout, by raw objects as no git would make them.
/// Its first argument says how, the second is the submodule's commit.
const OUTSIDE: &str = r#"
import os, subprocess, sys
def git(*args, data=None, cwd='/srv/g'):
    return subprocess.run(['git', '-c', 'safe.directory=*', '-C', cwd, *args], input=data, stdout=subprocess.PIPE, check=True).stdout.strip().decode()
def tree(entries, cwd='/srv/g'):
    raw = b''.join(mode.encode() + b' ' + name.encode() + b'\0' + bytes.fromhex(id) for mode, name, id in entries)
    return git('hash-object', '-t', 'tree', '-w', '--stdin', '--literally', data=raw, cwd=cwd)
def blob(text, cwd='/srv/g'):
    return git('hash-object', '-w', '--stdin', data=text.encode(), cwd=cwd)
def commit(tree, cwd='/srv/g'):
    return git('-c', 'user.name=E', '-c', 'user.email=e@example.test', 'commit-tree', '-m', 'evil', tree, cwd=cwd)
how, compose = sys.argv[1], git('rev-parse', 'good:compose.yml')
if how == 'magic':
    path = ':/root/outside'
    sub = sys.argv[2]
    entries = [('100644', 'compose.yml', compose), ('120000', ':', blob('/')), ('40000', 'root', tree([('160000', 'outside', sub)]))]
else:
    path = 'A'
    sub = commit(tree([('100644', 'l/pwned', blob('x', '/srv/sub')), ('100644', 'part', blob('y', '/srv/sub'))], '/srv/sub'), '/srv/sub')
    git('update-ref', 'refs/heads/main', sub, cwd='/srv/sub')
    link = blob('/root/outside')
    inside = ('40000', 'A', tree([('120000', 'l', link)])) if how == 'twice' else ('120000', 'A/l', link)
    entries = [('160000', 'A', sub), inside, ('100644', 'compose.yml', compose)]
modules = blob('[submodule "s"]\n path = %s\n url = http://127.0.0.1:8123/sub/.git\n' % path)
git('update-ref', 'refs/heads/main', commit(tree([('100644', '.gitmodules', modules)] + entries)))
git('update-server-info', cwd='/srv/sub')
"#;

#[test]
fn files_of_submodules_stay_below_the_checkout() {
    use super::checkout::{commit, env, git, version};
    let machine = Machine::boot("intrudersub");
    machine.ok(
        "set -e; mkdir -p /srv/g /root/outside && chown app:app /srv/g; mkdir /srv/sub && cd /srv/sub && git init -q -b main . && echo part > pwned \
         && git add -A && git -c user.name=M -c user.email=m@example.test commit -q -m part; git update-server-info; \
         systemd-run -q --unit=git-http python3 -m http.server --bind 127.0.0.1 --directory /srv 8123",
    );
    wait_for("the submodule's server", Duration::from_secs(20), || {
        let out = machine.sh("curl -sf http://127.0.0.1:8123/sub/.git/HEAD");
        if out.code == 0 { Ok(()) } else { Err(out.all()) }
    });
    git(&machine, "init -q -b main .");
    git(&machine, "submodule --quiet add http://127.0.0.1:8123/sub/.git lib/part");
    commit(&machine, "one");
    machine.put("/app/env.yml", env(&machine, "keep"), 0o600);
    // Whatever the shell of whoever updates says: user app and containers can read what is there.
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    let source = "/data/appliance/apps/g/source";
    assert_eq!(machine.get(&format!("{source}/lib/part/pwned")), "part\n");
    commit(&machine, "two");
    git(&machine, "branch -q good");
    machine.ok("umask 077; appliance update");
    assert_eq!(machine.ok("runuser -u app -- cat /app/g/lib/part/pwned"), "part\n");
    machine.ok("cd /app/g && runuser -u app -- git log -1 && runuser -u app -- git fsck --connectivity-only");

    // A host of before whose servers are away: everything is in the checkout's repositories.
    machine.ok(
        "set -e; systemctl stop appliance git-http; rm -f /data/appliance/apps/g/checked-out; mv /srv/g /srv/gone
         for repository in /data/git/g /data/git/g/submodules/*; do runuser -u app -- git --git-dir=$repository repack -q -a -d
         rm $repository/objects/info/alternates; done; rm -r /data/appliance-git; systemctl start appliance",
    );
    wait_for_phase(&machine, "running");
    assert_eq!(machine.get(&format!("{source}/lib/part/pwned")), "part\n");
    machine.ok("mv /srv/gone /srv/g; systemd-run -q --unit=git-http-2 python3 -m http.server --bind 127.0.0.1 --directory /srv 8123");
    wait_for("the submodule's server", Duration::from_secs(20), || {
        let out = machine.sh("curl -sf http://127.0.0.1:8123/sub/.git/HEAD");
        if out.code == 0 { Ok(()) } else { Err(out.all()) }
    });

    machine.put("/root/outside.py", OUTSIDE, 0o644);
    let before = version(&machine);
    for how in ["magic", "twice", "slash"] {
        machine.ok(&format!(
            "python3 /root/outside.py {how} $(git -C /srv/sub rev-parse HEAD) && chown -R app:app /srv/g"
        ));
        let out = machine.sh("appliance update").all();
        println!("{how}: {out}");
        assert!(how != "slash" || out.contains("files of its own"), "refused for what it is: {out}");
        assert_eq!(machine.ok("ls -A /root/outside"), "", "{how}: files are outside of the checkout");
    }
    assert_eq!(version(&machine), before);
}
