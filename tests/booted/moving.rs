//! A disk as an ECS-Appliance leaves it, and what is said of it (docs/moving.md).

use super::update::{push, start_v1};
use crate::host::apps::*;

#[test]
fn data_of_a_postgresql_that_debian_lacks_is_set_aside_and_a_dump_put_back() {
    let machine = start_v1("moving");
    keep_note(&machine, "from before");
    machine.ok("appliance database dump /root/notes.pgdump; systemctl stop appliance");
    // The disk on another host: no state of this program, no cluster that is configured, and data that nothing here can read.
    machine.ok(
        "set -e; pg_dropcluster --stop 15 main; rm -rf /etc/postgresql/15 /data/appliance /var/lib/appliance/postgres.json /data/etc/notes/database_url.env
         install -d -o postgres -g postgres -m 700 /var/lib/postgresql/9.5/main
         echo 9.5 > /var/lib/postgresql/9.5/main/PG_VERSION; chown postgres /var/lib/postgresql/9.5/main/PG_VERSION
         sed -i 's/^#cloud-config/#cloud-config\\nhttp_proxy: http:\\/\\/proxy.example.test:3128\\ntimezone: Europe\\/Vienna/' /app/env.yml",
    );
    machine.ok("systemctl start appliance");
    let said = wait_for_end(&machine, "failed", 4);
    assert!(said.contains("/var/lib/postgresql/9.5/main holds the data of PostgreSQL 9.5"), "{said}");
    assert!(said.contains("mv '/var/lib/postgresql/9.5/main' '/var/lib/postgresql/9.5/main.before'"), "{said}");
    for key in ["'http_proxy' has no effect", "'timezone' has no effect"] {
        assert!(said.contains(key), "{key} is not told of: {said}");
    }
    machine.ok("mv /var/lib/postgresql/9.5/main /var/lib/postgresql/9.5/main.before");
    push(&machine, "v1");
    machine.ok("appliance recover --start");
    wait_for_phase(&machine, "running");
    assert_eq!(notes(&machine), Vec::<String>::new());
    machine.ok("appliance database restore --yes /root/notes.pgdump");
    assert_eq!(notes(&machine), ["from before"]);
    assert_eq!(machine.get("/var/lib/postgresql/9.5/main.before/PG_VERSION"), "9.5\n", "it is still there");
    // It is no data that counts, at the next start either.
    machine.ok("systemctl restart appliance");
    wait_for_phase(&machine, "running");
    assert_eq!(notes(&machine), ["from before"]);
    // What a tunnel of before reads: chain, and parameters.
    let parameters = machine.get("/app/etc/server.cert.dhparam.pem");
    assert!(parameters.contains("BEGIN CERTIFICATE") && parameters.contains("BEGIN DH PARAMETERS"), "{parameters}");
    assert!(parameters.starts_with(machine.get("/app/etc/server.cert.pem").trim_end()), "{parameters}");
}
