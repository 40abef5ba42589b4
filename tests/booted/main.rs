//! The appliance on booted hosts: the package installed, real Docker, PostgreSQL and nginx. One fresh host per test.

#[path = "../host/mod.rs"]
mod host;

mod comes_up;
