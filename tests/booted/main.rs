//! The appliance on booted hosts: the package installed, real Docker, PostgreSQL and nginx. One fresh host per test.
#![allow(clippy::too_many_lines)] // A test tells one story from its beginning to its end.
#![allow(clippy::disallowed_methods)] // The house's door is for the house; tests drive the machine from outside.

#[path = "../host/mod.rs"]
mod host;

mod acme;
mod acme_trouble;
mod any_database;
mod apply;
mod backup;
mod backup_cut_off;
mod backup_damage;
mod backup_faults;
mod backup_hosts;
mod broken_env;
mod checkout;
mod clients;
mod comes_up;
mod commands;
mod cut_off;
mod database;
mod deaths;
mod disk_full;
mod documented;
mod drill;
mod ecs;
mod front;
mod gate;
mod history;
mod images;
mod intruder;
mod intruder_git;
mod limits;
mod load;
mod logs;
mod lost_port;
mod major;
mod moving;
mod options;
mod own;
mod package;
mod packages;
mod page;
mod papers;
mod postgres;
mod prepare;
mod reconcile;
mod releases;
mod relocation;
mod same_containers;
mod secrets;
mod several;
mod several_apart;
mod several_walls;
mod shipping;
mod sources;
mod stumbles;
mod supervision;
mod targets;
mod tls;
mod trust;
mod update;
mod vault;
mod volumes;
mod way_back;
mod wiring;
