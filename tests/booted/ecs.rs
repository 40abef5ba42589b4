//! ECS's own compose file: version 2, links, the bridge network, names with dots. The images are stand-ins.

use crate::host::Machine;
use crate::host::apps::*;

/// The services and keys of the old appliance's stack, written anew.
const COMPOSE: &str = r#"version: "2"
services:
  ecs.web:
    build: {context: ecs, args: [http_proxy]}
    image: ecs/ecs
    command: simple
    network_mode: "bridge"
    expose: ["8017"]
    ports: ["127.0.0.1:5000:5000"]
    links: [redis, memcached]
    environment: ["ECS_SETTINGS=${ECS_SETTINGS}", "ECS_USERSWITCHER_ENABLED=${ECS_USERSWITCHER_ENABLED}"]
    env_file: [service_urls.env, database_url.env]
    volumes:
      - /data/ecs-storage-vault:/app/ecs-storage-vault
      - /data/ecs-ca:/app/ecs-ca
      - /data/ecs-gpg:/app/ecs-gpg
      - /volatile/ecs-cache:/app/ecs-cache
  ecs.worker:
    image: ecs/ecs
    command: worker
    network_mode: "bridge"
    depends_on: [ecs.web]
    links: [redis, memcached]
    environment: ["ECS_SETTINGS=${ECS_SETTINGS}"]
    env_file: [service_urls.env, database_url.env]
  ecs.smtpd:
    image: ecs/ecs
    command: smtpd
    network_mode: "bridge"
    ports: ["127.0.0.1:5025:8025"]
    links: [redis, memcached]
    env_file: [service_urls.env, database_url.env]
  ecs.beat:
    image: ecs/ecs
    command: run /app/env/bin/celery -A ecs beat -l info
    network_mode: "bridge"
    depends_on: [ecs.worker]
    links: [redis, memcached]
    env_file: [service_urls.env, database_url.env]
  uwsgi-exporter:
    image: timonwong/uwsgi-exporter
    command: --stats.uri http://ecs_ecs.web_1:8017
    network_mode: "bridge"
    ports: ["172.17.0.1:9117:9117"]
    depends_on: [ecs.web]
    links: [ecs.web]
  memcached:
    image: memcached
    command: memcached -m 128m -I 5m
    network_mode: "bridge"
  memcached-exporter:
    image: prom/memcached-exporter
    command: --memcached.address ecs_memcached_1:11211
    network_mode: "bridge"
    ports: ["172.17.0.1:9150:9150"]
    links: [memcached]
  redis:
    image: redis:3
    network_mode: "bridge"
    volumes: ["/volatile/redis:/data"]
  redis_exporter:
    image: oliver006/redis_exporter
    command: -redis.addr redis://ecs_redis_1:6379
    network_mode: "bridge"
    ports: ["172.17.0.1:9121:9121"]
    links: [redis]
  pdfas:
    build: {context: pdfas, args: [http_proxy]}
    image: ecs/pdfas
    mem_limit: 1144m
    network_mode: "bridge"
    environment: ["HOSTNAME=${APPLIANCE_DOMAIN}"]
    volumes: ["/app/etc/server.cert.pem:/app/import/server.cert.pem:ro"]
    ports: ["127.0.0.1:5095:8080"]
"#;

const START: &str = "#!/bin/sh\nif [ \"$1\" = migrate ]; then echo migrated; exit 0; fi\nexec /bin/stub \"$@\"\n";

#[test]
fn the_old_stack_comes_up_under_its_old_names() {
    let machine = Machine::boot("ecs");
    machine.put("/srv/work/Dockerfile", "FROM stub:1\nCOPY start /bin/start\nENTRYPOINT [\"/bin/start\"]\n", 0o644);
    machine.put("/srv/work/start", START, 0o755);
    machine.ok(
        "cd /srv/work && git init -q -b master . && git add -A && git -c user.name=E -c user.email=e@example.test commit -qm one && \
         git clone -q --bare . /srv/ecs.git && chown -R app:app /srv/ecs.git",
    );
    machine.put("/app/etc/ecs/docker-compose.yml", COMPOSE, 0o644);
    machine.put("/app/etc/ecs/pdfas/Dockerfile", "FROM stub:1\n", 0o644);
    // /app/etc becomes a link into /data; an old host has it already.
    machine.ok("mkdir -p /data && mv /app/etc /data/etc && ln -s /data/etc /app/etc");
    let env = format!(
        "#cloud-config\nappliance:\n  domain: ecs.example.test\n  allowed_hosts: ecs.example.test {}\n  storage:\n    ignore:\n      volatile: true\n      \
         data: true\necs:\n  git:\n    source: file:///srv/ecs.git\n  settings: |\n    SECRET_KEY = 'x'\n    DEBUG = False\n  userswitcher:\n    \
         enabled: No\n",
        machine.address()
    );
    machine.put("/app/env.yml", env, 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");

    let names = machine.ok("docker ps --format '{{.Names}}' | sort");
    let expected = "ecs_ecs.beat_1 ecs_ecs.smtpd_1 ecs_ecs.web_1 ecs_ecs.worker_1 ecs_memcached-exporter_1 ecs_memcached_1 ecs_pdfas_1 \
                    ecs_redis_1 ecs_redis_exporter_1 ecs_uwsgi-exporter_1";
    assert_eq!(names.split_whitespace().collect::<Vec<_>>().join(" "), expected);
    let (code, body) = get(&machine, "/");
    assert_eq!((code, body.trim()), (200, "stub"));
    let (code, _) = get(&machine, "/pdf-as-web/");
    assert_eq!(code, 404, "the stand-in answers, having no such page");
    let inspect =
        |format: &str, name: &str| machine.ok(&format!("docker inspect -f '{format}' {name}")).trim().to_owned();
    assert_eq!(inspect("{{.HostConfig.NetworkMode}} {{.HostConfig.Memory}}", "ecs_pdfas_1"), "bridge 1199570944");
    let environment = inspect("{{json .Config.Env}}", "ecs_ecs.web_1");
    assert!(
        environment.contains("ECS_SETTINGS=SECRET_KEY = 'x'\\nDEBUG = False")
            && environment.contains("ECS_USERSWITCHER_ENABLED=false"),
        "{environment}"
    );
    assert!(
        environment.contains("DATABASE_URL=postgres://app:")
            && environment.contains("REDIS_URL=redis://ecs_redis_1:6379/0"),
        "{environment}"
    );
    assert!(inspect("{{json .Config.Env}}", "ecs_pdfas_1").contains("HOSTNAME=ecs.example.test"));
    // Links resolve under the alias and the container's name.
    machine.ok("docker exec ecs_ecs.web_1 sh -c 'grep -q redis /etc/hosts && grep -q ecs_redis_1 /etc/hosts'");
    assert!(machine.ok("cat /data/appliance/apps/ecs/ledger.json").contains("\"migrated\": true"));
    assert_eq!(machine.sh("appliance plan").code, 0, "{}", machine.sh("appliance plan").all());

    // A linked container that died is back under its link.
    machine.ok("kill -9 $(docker inspect -f '{{.State.Pid}}' ecs_redis_1)");
    crate::host::wait_for("redis to run again", std::time::Duration::from_secs(30), || {
        let state = machine.ok("docker inspect -f '{{.State.Running}}' ecs_redis_1");
        if state.trim() == "true" { Ok(()) } else { Err(state) }
    });
    assert_eq!(get(&machine, "/").0, 200);

    // Without a file of its own, it runs on the one that the package brings; PDF-AS by its profile.
    machine.ok("docker tag stub:1 redis:7; docker tag stub:1 memcached:1; mv /data/etc/ecs/docker-compose.yml /root/
                systemctl restart appliance");
    wait_for_phase(&machine, "running");
    let names = || machine.ok("docker ps --format '{{.Names}}' | sort | tr '\\n' ' '").trim().to_owned();
    let without = "ecs_ecs.beat_1 ecs_ecs.smtpd_1 ecs_ecs.web_1 ecs_ecs.worker_1 ecs_memcached_1 ecs_redis_1";
    assert_eq!(names(), without);
    assert_eq!(get(&machine, "/").0, 200);
    machine.put("/data/etc/ecs/.env", "COMPOSE_PROFILES=pdfas\n", 0o644);
    machine.ok("systemctl restart appliance");
    wait_for_phase(&machine, "running");
    assert!(names().contains("ecs_pdfas_1"), "{}", names());
    assert_eq!(machine.sh("appliance plan").code, 0, "{}", machine.sh("appliance plan").all());
}
