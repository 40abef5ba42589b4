//! `make demo`: a running appliance with the notes app on a booted host, and its URL. `make demo-stop` takes it away.
#![allow(clippy::disallowed_methods)] // Drives the machine from outside.

#[path = "host/mod.rs"]
mod host;

use host::{Machine, apps, machine};
use std::fs;

/// What the running demo left, so that it can be found and stopped.
const LEFT: &str = "/run/appliance-test/demo";

fn main() {
    host::ground::ON_DISK.store(true, std::sync::atomic::Ordering::Relaxed);
    let left = fs::read_to_string(LEFT).ok();
    let alive = left.as_deref().and_then(|left| left.split_whitespace().next()).is_some_and(machine::is_alive);
    match (std::env::args().nth(1).as_deref(), left) {
        (Some("stop"), Some(left)) => {
            machine::stop_detached(&left);
            fs::remove_file(LEFT).expect("the demo's mark can be removed");
            println!("The demo is stopped and removed.");
        }
        (Some("stop"), None) => println!("No demo is running."),
        (_, Some(left)) if alive => {
            let network =
                left.split_whitespace().nth(2).and_then(|id| id.strip_prefix("apl")).unwrap_or("1").to_owned();
            let leader = left.split_whitespace().nth(1).unwrap_or("?").to_owned();
            say(&format!("10.77.{network}.2"), &leader);
        }
        _ => start(),
    }
}

fn start() {
    println!(
        "Booting a host. The first time its root file system and the app's base image are built, which takes two minutes ..."
    );
    let machine = Machine::boot("demo");
    println!("Putting env.yml and the app's repository in place, starting the appliance; about half a minute ...");
    apps::start_notes_of_branch(&machine);
    apps::wait_for_phase(&machine, "running");
    apps::keep_note(&machine, "Hello from the demo");
    print!("\n{}\n", machine.ok("appliance status"));
    let (address, leader) = (machine.address(), machine.leader().to_string());
    fs::write(LEFT, machine.detach()).expect("the demo's mark can be written");
    say(&address, &leader);
}

fn say(address: &str, leader: &str) {
    println!(
        "The notes app answers on https://{address}/ (self-signed):\n\n    \
         curl -k https://{address}/notes\n    \
         curl -k -d text=hello https://{address}/notes\n\n\
         Look around on the host:\n\n    \
         on() {{ nsenter -t {leader} -m -u -i -n -p -C -- \"$@\"; }}\n    \
         on appliance status\n    \
         on appliance plan                      # nothing to do\n    \
         on sh -c 'echo \"# mine\" >> /app/env.yml'; on appliance plan; on appliance apply\n\n\
         Then update to a version that answers differently, and to one whose migration fails and is undone:\n\n    \
         push() {{ on runuser -u app -- git -C /srv/notes.git update-ref refs/heads/live refs/heads/$1; }}\n    \
         push v2; on appliance update; curl -k https://{address}/notes\n    \
         push v4; on appliance update; curl -k https://{address}/notes\n    \
         on appliance releases\n\n\
         make demo-stop takes it away.\n\nhttps://{address}/"
    );
}
