//! Images from a real registry: with a login, by tag and by digest, and what happens while the registry is away.

use crate::host::Machine;
use crate::host::apps::*;

const REGISTRY: &str = "127.0.0.1:15005";
const PASSWORD: &str = "canary-registry-4Gs7";

/// A registry that asks for a login, as a unit that can be stopped.
fn install_registry(machine: &Machine) {
    machine.put(
        "/root/registry.yml",
        "version: 0.1\nstorage: {filesystem: {rootdirectory: /srv/registry}, delete: {enabled: true}}\nhttp: {addr: 127.0.0.1:15005}\n\
         auth: {htpasswd: {realm: team, path: /root/htpasswd}}\n",
        0o600,
    );
    machine.ok(&format!(
        "python3 -W ignore -c 'import crypt; print(\"me:\" + crypt.crypt(\"{PASSWORD}\", crypt.mksalt(crypt.METHOD_BLOWFISH, \
         rounds=32)).replace(\"$2b$\", \"$2y$\"))' > /root/htpasswd"
    ));
    start_registry(machine);
    machine.ok(&format!(
        "set -e; echo {PASSWORD} | docker login -u me --password-stdin {REGISTRY} 2>/dev/null
         for tag in 1 2; do docker tag stub:1 {REGISTRY}/team/stub:$tag; docker push -q {REGISTRY}/team/stub:$tag; docker rmi {REGISTRY}/team/stub:$tag; done"
    ));
}

fn start_registry(machine: &Machine) {
    machine.ok("systemctl reset-failed registry 2>/dev/null; systemd-run -q --unit=registry docker-registry serve /root/registry.yml");
    crate::host::wait_for("the registry", std::time::Duration::from_secs(30), || {
        let code = machine.sh(&format!("curl -s -o /dev/null -w '%{{http_code}}' http://{REGISTRY}/v2/")).stdout;
        if code == "401" { Ok(()) } else { Err(code) }
    });
}

fn journal(machine: &Machine) -> String {
    machine.ok("journalctl -u appliance-supervisor -o cat --no-pager")
}

fn compose(machine: &Machine, image: &str, policy: &str) {
    let text = format!("services:\n  a: {{image: '{image}', pull_policy: {policy}, stop_grace_period: 1s}}\n");
    machine.put("/data/etc/img/docker-compose.yml", text, 0o644);
}

/// As a first start: without a release that is known.
fn start_anew(machine: &Machine) {
    machine.ok("systemctl stop appliance; rm -f /data/appliance/apps/*/ledger.json; journalctl --rotate -q; appliance recover >/dev/null; systemctl start appliance");
}

#[test]
fn images_are_pulled_with_a_login_and_a_missing_registry_stops_nothing_that_is_there() {
    let machine = Machine::boot("images");
    install_registry(&machine);
    let (one, two) = (format!("{REGISTRY}/team/stub:1"), format!("{REGISTRY}/team/stub:2"));
    let digest = machine.ok(&format!(
        "curl -s -u me:{PASSWORD} -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' -D - -o /dev/null \
         http://{REGISTRY}/v2/team/stub/manifests/1 | tr -d '\\r' | sed -n 's/^Docker-Content-Digest: //Ip'"
    ));
    let pinned = format!("{REGISTRY}/team/stub@{}", digest.trim());
    // The stub's layers must come over the wire.
    machine.ok("docker save stub:1 -o /root/stub.tar; docker rmi -f $(docker images -q stub:1); docker image prune -f");

    put_stack(
        &machine,
        "img",
        &format!(
            "services:\n  a: {{image: '{one}', stop_grace_period: 1s}}\n  b: {{image: '{pinned}', stop_grace_period: 1s}}\n"
        ),
    );
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    let said = journal(&machine);
    assert!(said.contains(&format!("pull {one}: 1 of 1 layers")), "{said}");
    assert!(!said.contains(PASSWORD) && !machine.ok("appliance status --json").contains(PASSWORD));
    let ids = machine.ok("docker inspect -f '{{.Image}}' img_a_1 img_b_1");
    let ids: Vec<&str> = ids.lines().collect();
    assert_eq!(ids[0], ids[1], "the digest is that image");

    // The registry is away: a policy that would pull goes on with what is there, and says so.
    machine.ok("systemctl stop registry");
    compose(&machine, &one, "always");
    start_anew(&machine);
    wait_for_phase(&machine, "running");
    let said = journal(&machine);
    assert!(said.contains("going on with the one that is there"), "{said}");
    assert!(said.contains("trying again in 1 s") && said.contains("trying again in 8 s"), "{said}");

    // It is away for a moment, and what is wanted is not there: tried again until it is back.
    compose(&machine, &two, "missing");
    machine.ok("systemctl restart appliance");
    crate::host::wait_for("a first try", std::time::Duration::from_secs(60), || {
        let said = journal(&machine);
        if said.contains(&format!("could not pull {two}")) { Ok(()) } else { Err(said) }
    });
    start_registry(&machine);
    wait_for_phase(&machine, "running");
    assert_eq!(machine.ok("docker inspect -f '{{.Config.Image}}' img_a_1").trim(), two);

    // Somebody pushes another image under that name: not pulled while the one that is there is young enough, and then it is.
    let id = machine.ok(&format!("docker image inspect -f '{{{{.Id}}}}' {two}"));
    machine.ok(&format!(
        "set -e; docker tag {two} kept:1; printf 'FROM kept:1\\nLABEL newer=yes\\n' | docker build -q -t {two} - >/dev/null; docker push -q {two}; \
         docker tag kept:1 {two}; docker rmi kept:1; docker image prune -f"
    ));
    assert_eq!(machine.ok(&format!("docker image inspect -f '{{{{.Id}}}}' {two}")), id);
    for (policy, is_pulled) in [("weekly", false), ("missing", false), ("every_1s", true)] {
        compose(&machine, &two, policy);
        start_anew(&machine);
        wait_for_phase(&machine, "running");
        let now = machine.ok(&format!("docker image inspect -f '{{{{.Id}}}}' {two}"));
        assert_eq!(now != id, is_pulled, "{policy}");
    }
    assert_eq!(machine.ok("docker inspect -f '{{.Config.Labels.newer}}' img_a_1").trim(), "yes");

    // Nothing to pull with, nothing to pull, and not allowed to pull: each says so, at once.
    machine.ok(&format!("docker logout {REGISTRY}"));
    for (image, policy, expected) in [
        (format!("{REGISTRY}/team/stub:3"), "missing", "no basic auth credentials"),
        ("stub:nowhere".to_owned(), "never", "its pull_policy forbids to pull it"),
    ] {
        compose(&machine, &image, policy);
        start_anew(&machine);
        let said = wait_for_end(&machine, "standby", 3);
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
    // A running app is not taken down for it.
    compose(&machine, &two, "missing");
    start_anew(&machine);
    wait_for_phase(&machine, "running");
    // What was pulled for releases that are gone is gone too: the tag 1, the digest, and what the tag 2 was before. What somebody has
    // pulled by hand is not ours.
    let ids = machine.ok(&format!("docker images -aq --no-trunc {REGISTRY}/team/stub | sort -u"));
    assert_eq!(ids, machine.ok("docker inspect -f '{{.Image}}' img_a_1"));
    machine.ok(&format!(
        "echo {PASSWORD} | docker login -u me --password-stdin {REGISTRY} 2>/dev/null; docker pull -q {one}"
    ));
    compose(&machine, &two, "always");
    start_anew(&machine);
    wait_for_phase(&machine, "running");
    machine.ok(&format!("docker image inspect {one}"));
}

/// A build with contexts beside the main one: a directory, an image, and what another service builds.
const CONTEXTS: &str = "services:
  web:
    build:
      context: ./web
      additional_contexts:
        shared: ./shared
        base: docker-image://stub:1
        lib: service:lib
    stop_grace_period: 1s
  lib:
    build: ./lib
    stop_grace_period: 1s
";

#[test]
fn builds_know_other_contexts_and_images_that_nobody_needs_go() {
    let machine = Machine::boot("contexts");
    put_stack(&machine, "ctx", CONTEXTS);
    machine.put(
        "/data/etc/ctx/web/Dockerfile",
        "FROM base\nCOPY --from=shared sub/word /word\nCOPY --from=lib /made /made\nRUN --mount=type=bind,from=shared,target=/s cp /s/top /top\n",
        0o644,
    );
    machine.put("/data/etc/ctx/shared/sub/word", "from a directory", 0o644);
    machine.put("/data/etc/ctx/shared/top", "by a mount", 0o644);
    machine.put("/data/etc/ctx/shared/secret", "ignored", 0o644);
    machine.put("/data/etc/ctx/shared/.dockerignore", "secret\n", 0o644);
    machine.put("/data/etc/ctx/lib/Dockerfile", "FROM stub:1\nRUN echo from a service > /made\n", 0o644);
    // Of another project, and not an appliance's: neither is ours to remove.
    for label in ["com.docker.compose.project=other", "com.docker.compose.project=ctx"] {
        machine.ok(&format!("printf 'FROM stub:1\\nLABEL {label}\\n' | docker build -q -t keep-{} - ", label.len()));
    }
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    let said = machine.ok("docker exec ctx_web_1 /bin/busybox cat /word /made /top");
    assert_eq!(said, "from a directoryfrom a service\nby a mount");
    assert_ne!(machine.sh("docker exec ctx_web_1 /bin/busybox cat /secret").code, 0);

    // Another release: what the first one was made of goes, tags and all.
    let ours = "docker images --filter label=appliance.commit --format '{{.Repository}}:{{.Tag}}' | sort";
    let first = machine.ok(ours);
    let count = first.lines().count();
    assert!(first.contains("ctx-web:latest") && !first.contains("<none>"), "{first}");
    machine.ok("cd /srv/ctx && runuser -u app -- git -c user.name=M -c user.email=m@example.test commit -q --allow-empty -m next");
    machine.put("/data/etc/ctx/lib/Dockerfile", "FROM stub:1\nRUN echo changed > /made\n", 0o644);
    start_anew(&machine);
    wait_for_phase(&machine, "running");
    assert_eq!(machine.ok("docker exec ctx_web_1 /bin/busybox cat /made"), "changed\n");
    let second = machine.ok(ours);
    let old: Vec<&str> = first.lines().filter(|name| !name.ends_with(":latest") && second.contains(*name)).collect();
    assert!(old.is_empty() && second.lines().count() == count, "{first}\n{second}");
    assert_eq!(machine.ok("docker images -q 'keep-*' | wc -l").trim(), "2");
}
