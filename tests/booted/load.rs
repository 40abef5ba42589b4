//! A thousand visitors at once across ten reloads of nginx.

use crate::host::Machine;
use crate::host::apps::*;
use crate::host::load::load;

#[test]
fn a_thousand_connections_see_ten_reloads_as_nothing_but_answers() {
    let machine = Machine::boot("load");
    start_mirror(&machine, "  ssl:\n    letsencrypt: {enabled: no}\n");
    let seen = load(&machine, "/x", 1000, 22, 10);
    // And no fewer ports than before are left for the next thousand.
    let after = load(&machine, "/x", 1000, 10, 0);
    assert!(after.requests > 1000 && after.refused == 0, "{after:?}");
    // An answer that is no success is none. What nginx closes under a reload is counted in the bench, and is bounded here.
    assert!(seen.requests > 2000 && seen.refused == 0 && seen.connect == 0 && seen.timeout == 0, "{seen:?}");
    assert!(seen.closed < seen.requests / 10, "{seen:?}");
    let log = machine
        .sh("grep -c -e 'worker_connections are not enough' -e 'Too many open files' -e 'Cannot assign requested address' /var/log/nginx/error.log")
        .stdout;
    assert_eq!(log.trim(), "0", "nginx ran out of something");
    // What an operator sets is theirs: nginx takes each of these only once.
    machine.ok("sed -i '1i worker_rlimit_nofile 10000;' /etc/nginx/nginx.conf && appliance prepare && nginx -t -q");
    assert!(!machine.get("/etc/nginx/modules-enabled/90-appliance.conf").contains("worker_rlimit_nofile"));
    assert_eq!(machine.ok("appliance prepare"), "nothing to do\n");
}
