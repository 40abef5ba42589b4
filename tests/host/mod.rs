//! A booted Debian host to test on: systemd as PID 1 under systemd-nspawn, with real Docker, PostgreSQL and nginx.
//!
//! `rootfs.rs` builds what it boots from, `prepared.rs` adds the installed package, `machine.rs` boots it and talks to it (on what `ground.rs` lays), `apps.rs` brings the apps that run on it,
//! `acme.rs` certificate authorities (`limits.py` makes one of them say no), `browser.rs` a browser, `bugsink.rs` a server that takes Sentry's reports, `receivers.rs` a webhook and a mail server, `load.rs` many visitors, `scale.rs` a hundred containers, `several.rs` a host with several apps, `migrations.rs` what a migration costs, `boot.rs` how long a boot takes, `drive.rs` drives with file
//! systems, `patience.rs` says how far deadlines are stretched, `sample.rs` says what `make test` takes of long tests, `vm.rs` is a virtual machine for what needs a kernel of its own, `metadata.py` a cloud's metadata service.
#![allow(dead_code)] // Shared by the tests, the bench and the demo, none of which uses all of it.

pub mod acme;
pub mod apps;
pub mod backups;
pub mod boot;
pub mod browser;
pub mod bugsink;
pub mod drive;
pub mod ground;
pub mod load;
pub mod machine;
pub mod migrations;
pub mod patience;
pub mod prepared;
pub mod receivers;
pub mod rootfs;
pub mod sample;
pub mod scale;
pub mod several;
pub mod updates;
pub mod vm;

pub use machine::{Machine, Out};

use std::time::{Duration, Instant};

/// Looks until the condition holds; panics with what was seen last when the deadline passes. The deadline is that of an idle machine; it
/// is stretched by [`patience::factor`], because it bounds a hang and is no expectation.
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = patience::stretched(deadline);
    let end = Instant::now() + deadline;
    // Looking costs the machine processes, so it is done more seldom the longer it takes.
    let mut pause = Duration::from_millis(50);
    loop {
        match look() {
            Ok(value) => return value,
            Err(last) if Instant::now() >= end => {
                panic!("{what}: not within {} s; last seen: {last}", deadline.as_secs())
            }
            Err(_) => {
                std::thread::sleep(pause);
                pause = (pause * 3 / 2).min(Duration::from_millis(300));
            }
        }
    }
}
