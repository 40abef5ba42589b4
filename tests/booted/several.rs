//! Several apps on one host: each with what is its own, and none touched by what becomes of another.

use crate::host::Machine;
use crate::host::several::*;

#[test]
fn instances_come_up_side_by_side_with_what_is_their_own() {
    let machine = Machine::boot("several");
    start(&machine);
    for app in APPS {
        let (code, body) = visit(&machine, app, "/x");
        assert!(code == 200 && body.contains(&format!("[\"host\", \"{app}.example.test\"]")), "{app}: {code} {body}");
        let inside = machine.ok(&format!("appliance exec --app {app} -T web -- env"));
        assert!(inside.contains(&format!("SETTINGS=canary-{app}\n")), "{inside}");
        assert!(inside.contains(&format!("NAMES={app}.example.test\n")), "{inside}");
        assert!(inside.contains(&format!("DATABASE_URL=postgres://{app}:")), "{inside}");
    }
    println!("{}", machine.sh("appliance status; appliance status --json | head -c 3000; appliance ps; docker ps; ls /etc/nginx/conf.d; cat /etc/nginx/conf.d/appliance.conf; nft list table inet appliance; tail -12 /etc/postgresql/15/main/pg_hba.conf; psql -U postgres -Atc '\\l'; journalctl -u appliance-supervisor --no-pager -o cat | tail -60").all());
}
