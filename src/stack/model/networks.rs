//! What services share: the networks that they are connected to, and named volumes. Services themselves are `mod.rs`.

use crate::value::ServiceName;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a service's containers are connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// Networks of the file, the one that decides on the default route first.
    Joined(Vec<Joined>),
    /// Docker's default bridge.
    Bridge,
    /// The host's own.
    Host,
    /// Nothing but loopback.
    None,
    /// Another service's.
    Service(ServiceName),
    /// That of a container that is not the stack's, by name.
    Container(String),
}

/// A network that a service joins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Joined {
    /// Its key in the file.
    pub network: String,
    pub aliases: Vec<String>,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub link_local: Vec<IpAddr>,
}

/// A network of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StackNetwork {
    pub key: String,
    /// What Docker knows it by.
    pub name: String,
    /// It is somebody else's: required, not made.
    pub external: bool,
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    pub ipam_driver: Option<String>,
    pub ipam_options: BTreeMap<String, String>,
    pub pools: Vec<Pool>,
    pub internal: bool,
    pub attachable: bool,
    pub ipv6: Option<bool>,
    pub labels: BTreeMap<String, String>,
}

/// Addresses of a network; texts were checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pool {
    pub subnet: Option<String>,
    pub gateway: Option<String>,
    pub range: Option<String>,
    pub reserved: BTreeMap<String, String>,
}

/// A named volume of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StackVolume {
    pub key: String,
    /// What Docker knows it by.
    pub name: String,
    /// It is somebody else's: required, not made.
    pub external: bool,
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}
