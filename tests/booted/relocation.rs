//! PostgreSQL's and Docker's data move to their volumes, with everything in them, whatever is killed; and are found there again.

use crate::host::apps::*;
use crate::host::drive::{Drive, put_lib_on};
use crate::host::{Machine, wait_for};
use std::time::Duration;

fn rows(machine: &Machine) -> String {
    machine.ok("runuser -u postgres -- psql -At -d precious -c 'SELECT count(*), sum(n), md5(string_agg(t, $$$$ ORDER BY n)) FROM r'")
}

fn images(machine: &Machine) -> String {
    machine.ok("docker images --no-trunc --format '{{.ID}} {{.Repository}}:{{.Tag}}' | sort")
}

fn prepare(machine: &Machine) -> String {
    machine.ok("appliance prepare --step storage")
}

#[test]
fn data_moves_to_its_volumes_whatever_is_killed() {
    let machine = Machine::boot("relocation");
    let lib = Drive::of_size(&machine, "ext4", "lib", "3G", "true");
    let data = Drive::of_size(&machine, "ext4", "ecs-data", "800M", "true");
    let volatile = Drive::of_size(&machine, "ext4", "ecs-volatile", "3G", "true");
    put_lib_on(&machine, lib.device());
    machine.ok(
        "runuser -u postgres -- psql -qc 'CREATE DATABASE precious'
         runuser -u postgres -- psql -qd precious -c \"CREATE TABLE r AS SELECT n, md5(n::text) t FROM generate_series(1, 200000) n\"",
    );
    let (rows_before, images_before) = (rows(&machine), images(&machine));
    assert!(rows_before.starts_with("200000|"), "{rows_before}");
    // Things that a plain copy would lose.
    machine.ok(
        "cd /var/lib/postgresql && echo x > 'a file' && ln 'a file' linked && setfattr -n user.k -v v linked 2>/dev/null || true
         mkdir -p /var/lib/docker/odd && cd /var/lib/docker/odd && mknod whiteout c 0 0 && mkfifo pipe && truncate -s 1G hole && \
         install -m 4755 /bin/true setuid",
    );
    let compose = "services:\n  a: {image: stub:1, stop_grace_period: 1s}\n";
    put_stack(&machine, "moved", compose);
    machine.ok("rm -rf /data /volatile");
    // A host that was never prepared has a plan too.
    let planned = machine.sh("appliance plan --step storage");
    assert!(planned.code == 2 && planned.stdout.contains("move to /data/postgresql ("), "{}", planned.all());
    let env = machine.get("/app/env.yml").replace("data: yes", "data: no").replace("volatile: yes", "volatile: no");
    machine.put("/app/env.yml", &env, 0o600);
    for drive in [&data, &volatile] {
        let number = drive.device().trim_start_matches("/dev/loop");
        machine.ok(&format!("test -e {0} || mknod {0} b 7 {number}", drive.device()));
    }

    // The volumes are found by their labels. One that is too full is told before anything stops.
    machine.ok(&format!("mkdir /volatile; mount {} /volatile; fallocate -l $(($(df -B1 --output=avail /volatile | tail -1) - 100000000)) /volatile/fill", volatile.device()));
    let docker = machine.ok("systemctl show -p MainPID docker.service");
    let refused = machine.sh("appliance prepare --step storage");
    assert!(
        refused.code == 1
            && refused.all().contains("/var/lib/docker takes")
            && refused.all().contains("nothing was stopped or moved"),
        "{}",
        refused.all()
    );
    assert_eq!(machine.ok("systemctl show -p MainPID docker.service"), docker);
    machine.ok("rm /volatile/fill");
    let planned = machine.sh("appliance plan --step storage");
    assert!(planned.code == 2 && planned.stdout.contains("move to /volatile/docker ("), "{}", planned.all());

    // PostgreSQL has moved already: once more, from the beginning, with kills.
    machine.ok(
        "set -e; systemctl stop 'postgresql@*' postgresql; rm /var/lib/postgresql; cp -a /data/postgresql /var/lib/postgresql; rm -rf /data/postgresql
         systemctl start postgresql",
    );
    let mut killed = 0;
    for tenths in (1..200).step_by(4) {
        // Only itself: what it has started must not go on without it.
        let out = machine.sh(&format!(
            "appliance prepare --step storage & p=$!; timeout {}.{} tail --pid=$p -f /dev/null; kill -9 $p 2>/dev/null; wait $p",
            tenths / 10,
            tenths % 10
        ));
        if out.code == 0 {
            break;
        }
        assert_eq!(out.code, 137, "{}", out.all());
        killed += 1;
        // Whole in one of the two places.
        let whole = "test -e /var/lib/postgresql/15/main/PG_VERSION || test -e /data/postgresql/15/main/PG_VERSION || test -e /data/postgresql.moving/15/main/PG_VERSION";
        machine.ok(whole);
    }
    println!("killed {killed} times");
    assert!(killed >= 3, "only {killed} runs were killed: nothing was tried");
    assert_eq!(rows(&machine), rows_before);
    assert_eq!(images(&machine), images_before);
    assert_eq!(machine.ok("readlink /var/lib/postgresql /var/lib/docker"), "/data/postgresql\n/volatile/docker\n");
    assert_eq!(
        machine.ok(
            "ls -d /var/lib/*.moved /data/*.moving /volatile/*.moving /var/lib/appliance/*.json 2>/dev/null | wc -l"
        ),
        "0\n"
    );
    assert_eq!(
        machine.ok("cd /data/postgresql && stat -c %h linked && cd /volatile/docker/odd && stat -c '%n %a %F %s %t' hole pipe setuid whiteout && du -m hole | cut -f1"),
        "2\nhole 644 regular file 1073741824 0\npipe 644 fifo 0 0\nsetuid 4755 regular file SIZE 0\nwhiteout 644 character special file 0 0\n0\n"
            .replace("SIZE", machine.ok("stat -c %s /bin/true").trim())
    );
    machine.ok("rm -r /volatile/docker/odd");
    assert_eq!(prepare(&machine), "nothing to do\n");
    for unit in ["docker.service", "postgresql@15-main.service"] {
        let unit_file = machine.ok(&format!("systemctl cat {unit}"));
        assert!(unit_file.contains("ConditionPathIsMountPoint=/"), "{unit}: {unit_file}");
    }
    machine.put("/data/etc/moved/docker-compose.yml", compose, 0o644);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");

    // What lies on the root disk under a running app, as an earlier version left it, moves only once the app is stopped.
    machine.ok(
        "set -e; systemctl stop 'postgresql@*' postgresql; rm /var/lib/postgresql; cp -a /data/postgresql /var/lib/postgresql
         rm -rf /data/postgresql/*; systemctl start postgresql",
    );
    let running = "docker inspect -f '{{.Id}} {{.State.StartedAt}}' $(docker ps -q); systemctl show -p MainPID postgresql@15-main docker";
    let before = machine.ok(running);
    let said = prepare(&machine);
    assert!(!said.contains("move to"), "{said}");
    assert_eq!(machine.ok(running), before);
    machine.ok("systemctl stop appliance");
    assert!(prepare(&machine).contains("move to /data/postgresql ("));
    assert_eq!(rows(&machine), rows_before);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");

    // Another host comes to volumes that have data already: theirs counts, its own is put aside.
    machine.ok("set -e; systemctl stop appliance; systemctl stop 'postgresql@*' postgresql; rm /var/lib/postgresql
         install -d -o postgres -g postgres /var/lib/postgresql/15; echo fresh > /var/lib/postgresql/15/fresh");
    let said = prepare(&machine);
    assert!(said.contains("use what is on the volume (/data/postgresql)"), "{said}");
    assert_eq!(rows(&machine), rows_before);
    assert_eq!(machine.ok("cat /var/lib/postgresql.before-*/15/fresh"), "fresh\n");

    // The volume for what can be done without was lost, and somebody made and mounted a new one: Docker begins anew on it.
    machine.ok(&format!(
        "set -e; systemctl stop appliance docker.socket docker.service; umount /volatile
         mkfs.ext4 -q -F -L ecs-volatile {0}; mount {0} /volatile; systemctl start --no-block appliance",
        volatile.device()
    ));
    wait_for("Docker on the new volume", Duration::from_secs(60), || {
        let out = machine.sh("docker info >/dev/null && test -d /volatile/docker/image");
        if out.code == 0 { Ok(()) } else { Err(out.all()) }
    });
    machine.ok("systemctl stop appliance");

    machine.ok(
        "systemctl stop docker.socket docker.service postgresql.service; umount /data /volatile; umount -l /var/lib",
    );
    machine.power_off();
    drop((lib, data, volatile));
}
