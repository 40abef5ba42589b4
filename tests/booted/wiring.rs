//! Networks, volumes, secrets, configs, ports, namespaces, several files: by what Docker really made of them.

use crate::host::Machine;
use crate::host::apps::*;
use serde_json::{Value, json};

const COMPOSE: &str = r#"
include: [more/compose.yml]
x-stub: &stub {image: stub:1, stop_grace_period: 1s}
services:
  web:
    <<: *stub
    networks:
      front: {aliases: [shop, www], ipv4_address: 172.31.7.10, priority: 10}
      back: {link_local_ips: [169.254.7.7]}
    ports: ["127.0.0.1:8081:5000", "5353:53/udp", "9000-9001:8080", {target: 8443, published: 8443, host_ip: 127.0.0.1, protocol: tcp}]
    expose: ["7000-7001", 7002/udp]
    secrets: [token, {source: key, target: /etc/key, uid: "7", gid: "8", mode: 0400}]
    configs: [{source: text, target: /etc/text.conf}, {source: variable, target: /etc/variable}, file]
    volumes: ["plain:/plain", "sized:/sized:ro", "theirs:/theirs", "/srv/mounts:/mounts:rslave"]
    env_file: [{path: a.env}, {path: no.env, required: false}, {path: raw.env, format: raw}]
    environment: {OWN: "1"}
    healthcheck: {test: "exit 0", interval: 3s, timeout: 4s, retries: 5, start_period: 6s}
    labels: [one=1, two=2]
    container_name: the-shop
    depends_on: [db]
  peer: {<<: *stub, network_mode: "service:web", entrypoint: [/bin/busybox, sleep, "100000"]}
  inner: {<<: *stub, pid: "service:db", ipc: "service:db"}
  db: {<<: *stub, networks: [back], ipc: shareable, healthcheck: {disable: true}}
  old: {<<: *stub, network_mode: bridge, links: ["first:f"]}
  first: {<<: *stub, network_mode: bridge}
  small:
    extends: {file: more/base.yml, service: base}
    command: [own]
    networks: [back]
    links: ["db:d"]
    depends_on: {optional: {condition: service_healthy, required: false}}
  optional: {<<: *stub, profiles: [never]}
  six: {<<: *stub, networks: {six: {ipv6_address: "fd77:1::10"}, apart: {}}}
  built:
    build:
      context: src
      dockerfile: sub/Dockerfile
      args: {WHO: me}
      labels: {made: here}
      network: none
      target: last
      cache_from: [nobody/cache:1]
networks:
  six: {enable_ipv6: true, ipam: {config: [{subnet: "fd77:1::/64"}, {subnet: 172.31.9.0/24}]}}
  apart: {driver: bridge, ipam: {driver: default, options: {kind: own}, config: [{subnet: 172.31.8.0/24}]}}
  front:
    driver: bridge
    driver_opts: {com.docker.network.bridge.name: br-shop}
    ipam: {config: [{subnet: 172.31.7.0/24, gateway: 172.31.7.1, ip_range: 172.31.7.128/25, aux_addresses: {printer: 172.31.7.20}}]}
    labels: {kind: front}
  back: {internal: true, attachable: true, name: backstage}
volumes:
  plain: {labels: {kind: plain}}
  sized: {driver: local, driver_opts: {type: tmpfs, device: tmpfs, o: size=1m}}
  theirs: {external: true, name: of-somebody}
secrets:
  token: {environment: TOKEN}
  key: {file: ./key.txt}
configs:
  text: {content: "level=$LEVEL\n"}
  variable: {environment: LEVEL}
  file: {file: ./file.conf}
"#;

fn prepare(machine: &Machine) {
    let at = |name: &str| format!("/data/etc/wire/{name}");
    machine.put(&at(".env"), "TOKEN=canary-token-3Jq8\nLEVEL=high\n", 0o600);
    machine.put(&at("key.txt"), "canary-key-6Rt2\n", 0o600);
    machine.put(&at("file.conf"), "of a file\n", 0o644);
    machine.put(&at("a.env"), "A=\"one\ntwo\" # comment\nB=${LEVEL}er\nOWN=0\n", 0o644);
    machine.put(&at("raw.env"), "RAW=\"$LEVEL\" # all of it\n", 0o644);
    machine.put(
        &at("more/compose.yml"),
        "services: {more: {image: stub:1, volumes: ['./here:/here'], hostname: $NAME}}\n",
        0o644,
    );
    // A second file, merged into the first: a value that it changes, one that it takes away, one that it replaces.
    machine.put(
        &at("docker-compose.override.yml"),
        "services:\n  first:\n    labels: {from: override}\n    stop_grace_period: 2s\n  web: {ports: !override [\"127.0.0.1:8081:5000\", \"5353:53/udp\", \
         \"9000-9001:8080\", \"127.0.0.1:8444:8443\"], labels: {two: !reset null}}\n",
        0o644,
    );
    machine.put(&at("more/.env"), "NAME=included\n", 0o644);
    machine.put(
        &at("more/base.yml"),
        "services: {base: {image: stub:1, init: true, volumes: ['./there:/there'], command: [theirs]}}\n",
        0o644,
    );
    let dockerfile = "FROM stub:1 AS first\nRUN [\"/bin/busybox\", \"touch\", \"/first\"]\nFROM stub:1 AS last\nARG WHO\nENV WHO=$WHO\nCOPY \
                      --from=first /first /first\nRUN [\"/bin/sh\", \"-c\", \"! /bin/busybox ip route | /bin/busybox grep -q default\"]\n\
                      FROM last AS after\nENV WRONG=1\n";
    machine.put(&at("src/sub/Dockerfile"), dockerfile, 0o644);
    machine.ok("mkdir -p /srv/mounts; docker volume create of-somebody");
}

fn inside(machine: &Machine, container: &str, command: &str) -> String {
    machine.ok(&format!("docker exec {container} /bin/busybox {command}"))
}

/// Compares what is at each pointer; what Docker adds of its own does not count.
fn check(from: &Value, expected: &[(&str, Value)]) {
    let wrong = expected.iter().filter(|(pointer, wanted)| from.pointer(pointer) != Some(wanted));
    let wrong: Vec<String> =
        wrong.map(|(pointer, wanted)| format!("{pointer} is {:?}, not {wanted}", from.pointer(pointer))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn docker_has_what_the_files_say() {
    let machine = Machine::boot("wiring");
    prepare(&machine);
    start_stack(&machine, "wire", COMPOSE);

    let web = inspect(&machine, "the-shop");
    let ports = json!({
        "5000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8081"}],
        "53/udp": [{"HostIp": "", "HostPort": "5353"}],
        "8080/tcp": [{"HostIp": "", "HostPort": "9000-9001"}],
        "8443/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8444"}],
    });
    check(
        &web,
        &[
            ("/HostConfig/PortBindings", ports),
            ("/HostConfig/NetworkMode", json!("wire_front")),
            ("/HostConfig/RestartPolicy/Name", json!("no")),
            ("/NetworkSettings/Networks/wire_front/IPAddress", json!("172.31.7.10")),
            ("/NetworkSettings/Networks/wire_front/IPAMConfig/IPv4Address", json!("172.31.7.10")),
            ("/NetworkSettings/Networks/backstage/IPAMConfig/LinkLocalIPs", json!(["169.254.7.7"])),
            ("/Config/Healthcheck/Test", json!(["CMD-SHELL", "exit 0"])),
            ("/Config/Healthcheck/Interval", json!(3_000_000_000_i64)),
            ("/Config/Healthcheck/Timeout", json!(4_000_000_000_i64)),
            ("/Config/Healthcheck/StartPeriod", json!(6_000_000_000_i64)),
            ("/Config/Healthcheck/Retries", json!(5)),
            ("/Config/Labels/one", json!("1")),
            ("/Config/Labels/com.docker.compose.service", json!("web")),
        ],
    );
    assert_eq!(web.pointer("/Config/Labels/two"), None, "the second file takes it away");
    let first = inspect(&machine, "wire_first_1");
    check(&first, &[("/Config/Labels/from", json!("override")), ("/Config/StopTimeout", json!(2))]);
    let exposed = web.pointer("/Config/ExposedPorts").and_then(Value::as_object).expect("ports are exposed");
    for port in ["7000/tcp", "7001/tcp", "7002/udp", "53/udp"] {
        assert!(exposed.contains_key(port), "{port} is not among {exposed:?}");
    }
    let aliases = web.pointer("/NetworkSettings/Networks/wire_front/Aliases").expect("aliases").to_string();
    assert!(["\"web\"", "\"shop\"", "\"www\""].iter().all(|alias| aliases.contains(alias)), "{aliases}");
    let env = web.pointer("/Config/Env").expect("an environment").to_string();
    for variable in [r#""A=one\ntwo""#, r#""B=higher""#, r#""OWN=1""#, r#""RAW=\"$LEVEL\" # all of it""#] {
        assert!(env.contains(variable), "{variable} is not in {env}");
    }
    assert_eq!(machine.ok("docker inspect -f '{{json .Config.Healthcheck}}' wire_db_1").trim(), r#"{"Test":["NONE"]}"#);

    // Secrets and configs as the container sees them; what stands in no file lies in memory, behind root's door.
    assert_eq!(inside(&machine, "the-shop", "cat /run/secrets/token").trim(), "canary-token-3Jq8");
    assert_eq!(inside(&machine, "the-shop", "stat -c '%a %u %g' /etc/key").trim(), "400 7 8");
    assert_eq!(inside(&machine, "the-shop", "cat /etc/key").trim(), "canary-key-6Rt2");
    assert_eq!(inside(&machine, "the-shop", "cat /etc/text.conf").trim(), "level=high");
    assert_eq!(inside(&machine, "the-shop", "cat /file").trim(), "of a file");
    assert_eq!(inside(&machine, "the-shop", "cat /etc/variable"), "high");
    assert!(
        machine.sh("docker exec the-shop /bin/sh -c 'echo x > /run/secrets/token'").code != 0,
        "they are read-only"
    );
    assert_eq!(machine.ok("stat -c '%a %U' /run/appliance/grants-wire").trim(), "700 root");
    assert_eq!(machine.ok("findmnt -n -o FSTYPE --target /run/appliance/grants-wire").trim(), "tmpfs");
    assert!(!web.to_string().contains("canary"), "a secret is in what docker inspect tells");

    // Networks and volumes.
    let network = |name: &str| -> Value {
        serde_json::from_str::<Value>(&machine.ok(&format!("docker network inspect {name}"))).expect("JSON")[0].clone()
    };
    let pool = json!([{"Subnet": "172.31.7.0/24", "IPRange": "172.31.7.128/25", "Gateway": "172.31.7.1",
                       "AuxiliaryAddresses": {"printer": "172.31.7.20"}}]);
    check(
        &network("wire_front"),
        &[
            ("/IPAM/Config", pool),
            ("/Options/com.docker.network.bridge.name", json!("br-shop")),
            ("/Labels/kind", json!("front")),
            ("/Internal", json!(false)),
        ],
    );
    check(
        &network("wire_apart"),
        &[("/Driver", json!("bridge")), ("/IPAM/Driver", json!("default")), ("/IPAM/Options", json!({"kind": "own"}))],
    );
    check(&network("wire_six"), &[("/EnableIPv6", json!(true)), ("/IPAM/Config/1/Subnet", json!("fd77:1::/64"))]);
    let six = inspect(&machine, "wire_six_1");
    check(&six, &[("/NetworkSettings/Networks/wire_six/GlobalIPv6Address", json!("fd77:1::10"))]);
    check(&network("backstage"), &[("/Internal", json!(true)), ("/Attachable", json!(true))]);
    assert_eq!(machine.sh("docker network inspect wire_default").code, 0, "the included service is in it");
    let volume = |name: &str| -> Value {
        serde_json::from_str::<Value>(&machine.ok(&format!("docker volume inspect {name}"))).expect("JSON")[0].clone()
    };
    check(&volume("wire_plain"), &[("/Labels/kind", json!("plain"))]);
    check(&volume("wire_sized"), &[("/Options", json!({"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}))]);
    let mounts = web["Mounts"].as_array().expect("mounts");
    let at = |target: &str| mounts.iter().find(|mount| mount["Destination"] == target).unwrap_or(&Value::Null);
    assert_eq!(at("/theirs")["Name"], "of-somebody");
    assert_eq!((&at("/mounts")["Propagation"], &at("/sized")["RW"]), (&json!("rslave"), &json!(false)));

    // Shared namespaces, old links, what was extended and included, what was built.
    assert_eq!(inside(&machine, "wire_peer_1", "wget -q -O- http://127.0.0.1:5000/").trim(), "stub");
    let db = inspect(&machine, "wire_db_1");
    let id = db["Id"].as_str().expect("an id");
    let inner = inspect(&machine, "wire_inner_1");
    for key in ["PidMode", "IpcMode"] {
        let mode = inner["HostConfig"][key].as_str().expect("a mode");
        assert!(mode == "container:wire_db_1" || mode == format!("container:{id}"), "{mode}");
    }
    assert!(inside(&machine, "wire_inner_1", "ps").lines().filter(|line| line.contains("stub")).count() >= 2);
    assert_eq!(inside(&machine, "wire_old_1", "wget -q -O- http://f:5000/").trim(), "stub");
    assert_eq!(inside(&machine, "wire_small_1", "wget -q -O- http://d:5000/").trim(), "stub");
    let small = inspect(&machine, "wire_small_1");
    check(
        &small,
        &[
            ("/HostConfig/Init", json!(true)),
            ("/HostConfig/Binds", json!(["/app/etc/wire/more/there:/there:rw"])),
            ("/Config/Cmd", json!(["own"])),
        ],
    );
    let more = inspect(&machine, "wire_more_1");
    check(
        &more,
        &[("/Config/Hostname", json!("included")), ("/HostConfig/Binds", json!(["/app/etc/wire/more/here:/here:rw"]))],
    );
    let built = inspect(&machine, "wire_built_1");
    check(&built, &[("/Config/Labels/made", json!("here"))]);
    let env = built["Config"]["Env"].to_string();
    assert!(env.contains("WHO=me") && !env.contains("WRONG"), "{env}");
    inside(&machine, "wire_built_1", "test -e /first");
    // By BuildKit, with what it says as it goes.
    let said = machine.ok("journalctl -u appliance-supervisor -o cat --no-pager");
    assert!(said.contains("build built: [last"), "{said}");
    assert!(said.contains("importing cache manifest from nobody/cache:1"), "{said}");

    let plan = machine.sh("appliance plan");
    assert_eq!((plan.code, plan.stdout.as_str()), (0, "nothing to do\n"), "{}", plan.all());

    // A secret that changed: its service alone is made anew. A reboot, which empties memory, brings all of it back.
    let before = machine.ok("docker inspect -f '{{.Id}}' wire_db_1");
    machine.put("/data/etc/wire/key.txt", "canary-key-second\n", 0o600);
    let plan = machine.sh("appliance plan").stdout;
    assert!(plan.contains("recreate: secrets.key: (hidden) -> (hidden)") && !plan.contains("wire_db_1"), "{plan}");
    machine.reboot();
    wait_for_phase(&machine, "running");
    assert_eq!(inside(&machine, "the-shop", "cat /etc/key").trim(), "canary-key-second");
    assert_eq!(inside(&machine, "the-shop", "cat /run/secrets/token").trim(), "canary-token-3Jq8");
    assert_eq!(machine.ok("docker inspect -f '{{.Id}}' wire_db_1"), before);

    // A key that this engine is too old for is an error that names it, not a key that is passed over.
    let newer = COMPOSE.replace("start_period: 6s}", "start_period: 6s, start_interval: 1s}");
    machine.put("/data/etc/wire/docker-compose.yml", newer, 0o644);
    let said = machine.sh("appliance plan").all();
    assert!(
        said.contains("docker-compose.yml:17:")
            && said.contains("'services.web.healthcheck.start_interval' needs Docker's API 1.44"),
        "{said}"
    );
    // What is somebody else's and is not there is said, not made.
    machine.put("/data/etc/wire/docker-compose.yml", COMPOSE.replace("name: of-somebody", "name: of-nobody"), 0o644);
    let said = machine.sh("appliance plan");
    assert!(said.code == 1 && said.stderr.contains("the volume of-nobody is external"), "{}", said.all());
    assert_ne!(machine.sh("docker volume inspect of-nobody").code, 0);
    // A directory that must be there and is not.
    let lacking = COMPOSE.replace(
        r#""/srv/mounts:/mounts:rslave""#,
        "{type: bind, source: /srv/no, target: /no, bind: {create_host_path: false}}",
    );
    machine.put("/data/etc/wire/docker-compose.yml", lacking, 0o644);
    machine.ok("systemctl restart appliance");
    let said = wait_for_end(&machine, "failed", 4);
    assert!(said.contains("/srv/no"), "{said}");
    assert_eq!(machine.sh("test -e /srv/no").code, 1);
}
