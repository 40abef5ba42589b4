//! Options of a service, by what Docker really made of them. A privileged container is looked at whether or not it starts: it needs
//! every capability, which a machine for tests may not have.

use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use serde_json::json;
use std::time::Duration;

const COMPOSE: &str = r#"
services:
  all:
    image: stub:1
    entrypoint: [/bin/sh, -c]
    command: ['trap "exit 0" TERM; while true; do /bin/busybox sleep 1; done']
    user: "0:0"
    working_dir: /tmp
    hostname: box
    domainname: example.test
    stop_signal: SIGINT
    tty: true
    stdin_open: true
    init: true
    read_only: true
    cap_add: [NET_ADMIN]
    cap_drop: [CHOWN, KILL]
    security_opt: ["no-new-privileges:true"]
    group_add: ["7"]
    devices: ["/dev/null:/dev/nothing:rw", {source: /dev/zero, target: /dev/nil, permissions: r}]
    device_cgroup_rules: ["c 1:3 mr"]
    dns: 9.9.9.9
    dns_opt: [timeout:3]
    dns_search: [example.test]
    extra_hosts: ["one:10.1.1.1", "two=fd00::2", "host:host-gateway"]
    ipc: private
    userns_mode: host
    sysctls: {net.core.somaxconn: 1024}
    tmpfs: [/run, "/scratch:size=64k"]
    ulimits: {nproc: 4000, nofile: {soft: 1000, hard: 2000}}
    logging: {driver: json-file, options: {max-size: 1m}}
    shm_size: 32m
    mem_limit: 128m
    mem_reservation: 64m
    memswap_limit: 256m
    cpus: 0.5
    cpu_shares: 512
    pids_limit: 100
    oom_score_adj: 100
    volumes:
      - /nameless
      - {type: bind, source: ./data, target: /bound, read_only: true}
      - {type: volume, source: named, target: /named, volume: {nocopy: true}}
      - {type: tmpfs, target: /memory, tmpfs: {size: 64k}}
  deployed:
    image: stub:1
    deploy:
      resources: {limits: {cpus: "0.25", memory: 64m, pids: 50}, reservations: {memory: 32m}}
      restart_policy: {condition: on-failure}
  alone:
    image: stub:1
    network_mode: none
  apart:
    image: stub:1
    network_mode: host
    pid: host
    uts: host
    cpu_period: 50000
    cpu_quota: 25000
    cpuset: "0"
    extra_hosts: {three: [10.1.1.3, 10.1.1.4]}
    logging: {options: {tag: mine}}
  many:
    image: stub:1
    stop_grace_period: 7s
    runtime: runc
    ipc: host
    network_mode: "container:outside"
    deploy: {replicas: 2, resources: {reservations: {cpus: "0.5"}}}
    volumes: [{type: tmpfs, target: /memory, tmpfs: {mode: 0700}}, {type: volume, source: called, target: /called}, "./shared:/shared:ro,z"]
  within:
    image: stub:1
    pid: "container:outside"
    ipc: "container:outside"
    restart: "on-failure:3"
    mem_swappiness: 10
    oom_kill_disable: false
    mem_limit: 64m
  powerful: {image: stub:1, privileged: true, profiles: [powerful]}
volumes: {named: , called: {name: called-so}}
"#;

#[test]
fn docker_has_every_option_of_the_file() {
    let machine = Machine::boot("options");
    machine.ok("docker run -d --ipc shareable --name outside stub:1");
    start_stack(&machine, "opts", COMPOSE);
    let (all, apart) = (inspect(&machine, "opts_all_1"), inspect(&machine, "opts_apart_1"));
    let (deployed, alone) = (inspect(&machine, "opts_deployed_1"), inspect(&machine, "opts_alone_1"));
    let (many, within) = (inspect(&machine, "opts_many_2"), inspect(&machine, "opts_within_1"));
    let outside = format!("container:{}", inspect(&machine, "outside")["Id"].as_str().expect("an id"));
    let mut wrong = Vec::new();
    for (from, pointer, expected) in [
        (&all, "/Config/Entrypoint", json!(["/bin/sh", "-c"])),
        (&all, "/Config/User", json!("0:0")),
        (&all, "/Config/WorkingDir", json!("/tmp")),
        (&all, "/Config/Hostname", json!("box")),
        (&all, "/Config/Domainname", json!("example.test")),
        (&all, "/Config/StopSignal", json!("SIGINT")),
        (&all, "/Config/Tty", json!(true)),
        (&all, "/Config/OpenStdin", json!(true)),
        (&all, "/HostConfig/Init", json!(true)),
        (&all, "/HostConfig/ReadonlyRootfs", json!(true)),
        (&all, "/HostConfig/CapAdd", json!(["NET_ADMIN"])),
        (&all, "/HostConfig/CapDrop", json!(["CHOWN", "KILL"])),
        (&all, "/HostConfig/SecurityOpt", json!(["no-new-privileges:true"])),
        (&all, "/HostConfig/GroupAdd", json!(["7"])),
        (
            &all,
            "/HostConfig/Devices",
            json!([
                { "PathOnHost": "/dev/null", "PathInContainer": "/dev/nothing", "CgroupPermissions": "rw" },
                { "PathOnHost": "/dev/zero", "PathInContainer": "/dev/nil", "CgroupPermissions": "r" }
            ]),
        ),
        (&all, "/HostConfig/DeviceCgroupRules", json!(["c 1:3 mr"])),
        (&all, "/HostConfig/Dns", json!(["9.9.9.9"])),
        (&all, "/HostConfig/DnsOptions", json!(["timeout:3"])),
        (&all, "/HostConfig/DnsSearch", json!(["example.test"])),
        (&all, "/HostConfig/ExtraHosts", json!(["one:10.1.1.1", "two:fd00::2", "host:host-gateway"])),
        (&all, "/HostConfig/IpcMode", json!("private")),
        (&all, "/HostConfig/UsernsMode", json!("host")),
        (&all, "/HostConfig/Sysctls", json!({ "net.core.somaxconn": "1024" })),
        (&all, "/HostConfig/Tmpfs", json!({ "/run": "", "/scratch": "size=64k", "/memory": "size=65536" })),
        (
            &all,
            "/HostConfig/Ulimits",
            json!([{ "Name": "nofile", "Soft": 1000, "Hard": 2000 }, { "Name": "nproc", "Soft": 4000, "Hard": 4000 }]),
        ),
        (&all, "/HostConfig/LogConfig", json!({ "Type": "json-file", "Config": { "max-size": "1m" } })),
        (&all, "/HostConfig/ShmSize", json!(32 << 20)),
        (&all, "/HostConfig/Memory", json!(128 << 20)),
        (&all, "/HostConfig/MemoryReservation", json!(64 << 20)),
        (&all, "/HostConfig/MemorySwap", json!(256 << 20)),
        (&all, "/HostConfig/NanoCpus", json!(500_000_000)),
        (&all, "/HostConfig/CpuShares", json!(512)),
        (&all, "/HostConfig/PidsLimit", json!(100)),
        (&all, "/HostConfig/OomScoreAdj", json!(100)),
        // What nobody asked for is Docker's own.
        (&all, "/HostConfig/Privileged", json!(false)),
        (&all, "/HostConfig/PidMode", json!("")),
        (&apart, "/HostConfig/PidMode", json!("host")),
        (&apart, "/HostConfig/NetworkMode", json!("host")),
        (&alone, "/HostConfig/NetworkMode", json!("none")),
        (&apart, "/HostConfig/UTSMode", json!("host")),
        (&apart, "/HostConfig/CpuPeriod", json!(50_000)),
        (&apart, "/HostConfig/CpuQuota", json!(25_000)),
        (&apart, "/HostConfig/CpusetCpus", json!("0")),
        (&apart, "/HostConfig/ExtraHosts", json!(["three:10.1.1.3", "three:10.1.1.4"])),
        (&apart, "/HostConfig/LogConfig/Type", json!("journald")),
        (&apart, "/HostConfig/LogConfig/Config/tag", json!("mine")),
        (&apart, "/Config/Tty", json!(false)),
        (&all, "/Config/Volumes", json!({ "/nameless": {} })),
        (&all, "/HostConfig/Binds", json!(["/app/etc/opts/data:/bound:ro", "opts_named:/named:rw,nocopy"])),
        (&deployed, "/HostConfig/NanoCpus", json!(250_000_000)),
        (&deployed, "/HostConfig/Memory", json!(64 << 20)),
        (&deployed, "/HostConfig/MemoryReservation", json!(32 << 20)),
        (&deployed, "/HostConfig/PidsLimit", json!(50)),
        (&many, "/Config/StopTimeout", json!(7)),
        (&many, "/HostConfig/Runtime", json!("runc")),
        (&many, "/HostConfig/IpcMode", json!("host")),
        (&many, "/HostConfig/NetworkMode", json!(outside)),
        (&many, "/HostConfig/CpuShares", json!(512)),
        (&many, "/HostConfig/Tmpfs", json!({ "/memory": "mode=700" })),
        (&many, "/HostConfig/Binds", json!(["called-so:/called:rw", "/app/etc/opts/shared:/shared:ro,z"])),
        (&within, "/HostConfig/MemorySwappiness", json!(10)),
    ] {
        if from.pointer(pointer) != Some(&expected) {
            wrong.push(format!("{pointer} is {:?}, not {expected}", from.pointer(pointer)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for key in ["PidMode", "IpcMode"] {
        let mode = within["HostConfig"][key].as_str().expect("a mode");
        assert!(mode == outside || mode == "container:outside", "{mode}");
    }
    // Inside, where it counts.
    assert_eq!(machine.ok("docker exec opts_all_1 /bin/busybox hostname").trim(), "box");
    assert_eq!(machine.ok("docker exec opts_all_1 /bin/busybox cat /proc/sys/net/core/somaxconn").trim(), "1024");
    assert!(machine.sh("docker exec opts_all_1 /bin/busybox touch /etc/x").all().contains("Read-only"));
    machine.ok("docker exec opts_all_1 /bin/busybox touch /scratch/x");
    // on-failure: one that is told to go, and goes well, has ended.
    // The kill itself may go down with what it ends.
    let kill = machine.sh("docker exec opts_deployed_1 /bin/busybox kill -TERM 1");
    assert!([0, 137].contains(&kill.code), "{}", kill.all());
    wait_for("its end", Duration::from_secs(20), || {
        let state = machine.ok("docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' opts_deployed_1");
        if state.trim() == "exited 0" { Ok(()) } else { Err(state) }
    });
    machine.ok("docker start opts_deployed_1");
    // Nothing differs from what is wanted, and a changed option recreates that one alone.
    let out = machine.sh("appliance plan");
    assert_eq!((out.code, out.stdout.as_str()), (0, "nothing to do\n"), "{}", out.all());

    // Made, whether or not this machine lets it run.
    machine.put("/data/etc/opts/.env", "COMPOSE_PROFILES=powerful\n", 0o644);
    machine.ok("systemctl restart appliance");
    wait_for("the privileged container", Duration::from_secs(60), || {
        let made = machine.sh("docker inspect -f '{{.HostConfig.Privileged}}' opts_powerful_1");
        if made.stdout.trim() == "true" { Ok(()) } else { Err(made.all()) }
    });
}
