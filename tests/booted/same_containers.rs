//! The way back of an update without a migration: what ran before is not made again from what has changed meanwhile, neither the env
//! nor the image behind a tag.

use super::checkout::{env, git, version};
use crate::host::Machine;
use crate::host::apps::*;

/// Two services that end at once if their env, or their image, is bad: one is replaced beside the old one, the other in its place.
const COMPOSE: &str = "services:\n  a: &a\n    image: kept:1\n    labels: {version: 'VERSION'}\n    stop_grace_period: 1s\n    \
                       environment: {MODE: '${G_SETTINGS:-good}', VERSION: 'VERSION'}\n    \
                       entrypoint: [/bin/busybox, sh, -c, 'test \"$$MODE\" = good && test -z \"$$BAD\" && exec /bin/busybox sleep 100000']\n    \
                       healthcheck: {test: exit 0, interval: 1s}\n  b:\n    <<: *a\n    volumes: ['data:/data']\nvolumes: {data: }\n";

fn push(machine: &Machine, version: &str) {
    machine.put("/srv/g/compose.yml", COMPOSE.replace("VERSION", version), 0o644);
    machine.ok("chown -R app:app /srv/g");
    git(machine, "add -A");
    git(machine, &format!("commit -q -m {version}"));
}

fn ids(machine: &Machine) -> String {
    machine.ok("docker inspect -f '{{.Id}} {{.Image}} {{.State.StartedAt}}' g_a_1 g_b_1")
}

fn image(machine: &Machine, reference: &str) -> String {
    machine.ok(&format!("docker image inspect -f '{{{{.Id}}}}' {reference}")).trim().to_owned()
}

#[test]
fn what_ran_before_a_failed_update_is_not_made_again_from_a_bad_env_or_image() {
    let machine = Machine::boot("same-containers");
    machine.ok("mkdir -p /srv/g && chown app:app /srv/g; docker tag stub:1 kept:1");
    git(&machine, "init -q -b main .");
    push(&machine, "one");
    machine.put("/app/env.yml", env(&machine, "keep"), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    let (before, good) = (ids(&machine), image(&machine, "kept:1"));

    // An env that the app dies of: the containers of before have its old values, and go on.
    machine.put("/app/env.yml", format!("{}  settings: bad\n", env(&machine, "keep")), 0o600);
    machine.ok("appliance env activate");
    let out = machine.sh("appliance update");
    assert!(out.code == 1 && out.stderr.contains("the old release runs again"), "{}", out.all());
    assert_eq!(ids(&machine).lines().next(), before.lines().next(), "what was not touched is not made again");
    let environment = machine.ok("docker inspect -f '{{.Config.Env}} {{.State.Status}}' g_b_1");
    assert!(environment.contains("MODE=good") && environment.contains("running"), "{environment}");
    machine.put("/app/env.yml", env(&machine, "keep"), 0o600);
    machine.ok("appliance env activate");

    // A bad image behind the same tag, as `pull_policy: always` would bring it.
    let before = ids(&machine);
    machine.ok("printf 'FROM kept:1\\nENV BAD=1\\n' | docker build -q -t kept:1 -");
    let bad = image(&machine, "kept:1");
    assert_ne!(bad, good);
    push(&machine, "two");
    let out = machine.sh("appliance update");
    assert!(out.code == 1 && out.stderr.contains("the old release runs again"), "{}", out.all());
    assert_eq!((version(&machine).as_str(), ids(&machine).lines().next()), ("one", before.lines().next()));
    assert_eq!(machine.ok("docker inspect -f '{{.Image}}' g_a_1 g_b_1"), format!("{good}\n{good}\n"));

    // A container that must be made anew is of the release's image too, and so is the whole stack after a restart.
    machine.ok("docker rm -f g_a_1");
    machine.ok("systemctl restart appliance");
    wait_for_phase(&machine, "running");
    assert_eq!(machine.ok("docker inspect -f '{{.Image}}' g_a_1 g_b_1"), format!("{good}\n{good}\n"));

    // A version that runs on another image, and back to the one before with its own.
    machine.ok("printf 'FROM stub:1\\nENV NEWER=1\\n' | docker build -q -t kept:1 -");
    let newer = image(&machine, "kept:1");
    push(&machine, "three");
    machine.ok("appliance update");
    assert_eq!(machine.ok("docker inspect -f '{{.Image}}' g_a_1"), format!("{newer}\n"));
    machine.ok("appliance rollback --yes");
    assert_eq!(version(&machine), "one");
    assert_eq!(machine.ok("docker inspect -f '{{.Image}}' g_a_1 g_b_1"), format!("{good}\n{good}\n"));
}
