//! The packet filter before PostgreSQL's bridge address and before the containers: only the host and the app's networks reach them, each
//! by its own bridge. A neighbour that routes their addresses, or 127.0.0.1, to this host gets no answer: Docker before version 28
//! would hand its packets on. And nobody but PostgreSQL and Docker answers where the app and nginx look for them: any user of this host
//! could listen there while they are down, and would be told the app's data. Other rules of the host are not touched: it is a table of its
//! own.

use crate::env::Env;
use crate::host::docker::{Bridge, LABEL_PROJECT, NetworkState};
use crate::host::{Cmd, File, Host, Owed, UnitState};
use crate::state::Ledger;
use crate::value::{AppName, Owner};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

/// What the unit loads.
const FILE: &str = "/var/lib/appliance/filter.nft";
const UNIT: &str = "appliance-filter.service";

/// What the rules are about.
struct Facts<'a> {
    /// PostgreSQL's address and port, and the number of the user that it runs as.
    bridge: Ipv4Addr,
    port: u16,
    owner: u32,
    /// Networks that reach PostgreSQL.
    subnets: &'a [String],
    /// Networks that reach each other's containers.
    groups: &'a [Group],
    /// What nginx hands requests to: ports that Docker, which is root, holds for the containers.
    upstreams: &'a [SocketAddr],
}

/// Networks that reach each other's containers, and no others do: those of one app.
#[derive(Debug, Default)]
struct Group {
    subnets: Vec<String>,
    /// Those whose containers nobody else reaches.
    hidden: Vec<String>,
    /// Of these and of all others the IPv6 ones; PostgreSQL does not listen there.
    subnets6: Vec<String>,
    hidden6: Vec<String>,
}

impl Group {
    /// Its chains: for IPv4 and for IPv6. The first group has the plain names.
    fn chains(&self, index: usize) -> String {
        let suffix = suffix(index);
        let senders: String = self.subnets.iter().map(|subnet| format!("\t\tip saddr {subnet} return\n")).collect();
        let senders6: String = self.subnets6.iter().map(|subnet| format!("\t\tip6 saddr {subnet} return\n")).collect();
        format!(
            "\tchain containers{suffix} {{\n\t\tct state established,related return\n\t\tfib saddr . iif oif missing counter drop\n{senders}\t\tcounter drop\n\t}}\n\
             \tchain containers6{suffix} {{\n\t\tct state established,related return\n\t\tfib saddr . iif oif missing counter drop\n\
             \t\t# Neighbours ask for each other's addresses by these; the kernel forwards none of them (RFC 4291, 2.5.6).\n\
             \t\tip6 saddr fe80::/10 return\n{senders6}\t\tcounter drop\n\t}}\n"
        )
    }

    fn jumps(&self, index: usize, bridge: Ipv4Addr) -> String {
        let suffix = suffix(index);
        let jump = |subnet: &String| {
            format!("\t\tiifname != \"lo\" ip daddr {subnet} ip daddr != {bridge} jump containers{suffix}\n")
        };
        self.hidden.iter().map(jump).collect()
    }

    fn jumps6(&self, index: usize) -> String {
        let suffix = suffix(index);
        let jump = |subnet: &String| format!("\t\tiifname != \"lo\" ip6 daddr {subnet} jump containers6{suffix}\n");
        self.hidden6.iter().map(jump).collect()
    }
}

fn suffix(index: usize) -> String {
    if index == 0 { String::new() } else { format!("-{index}") }
}

/// The rules. The table is replaced as a whole, in one transaction.
fn rules(facts: &Facts<'_>) -> String {
    let Facts { bridge, port, owner, subnets, groups, upstreams } = facts;
    let held = |upstream: &SocketAddr| {
        let family = if upstream.is_ipv4() { "ip" } else { "ip6" };
        format!("\t\t{family} saddr {} tcp sport {} meta skuid != 0 counter drop\n", upstream.ip(), upstream.port())
    };
    let held: String = upstreams.iter().map(held).collect();
    let senders: String = subnets.iter().map(|subnet| format!("\t\tip saddr {subnet} return\n")).collect();
    let each = || groups.iter().enumerate();
    let chains: String = each().map(|(index, group)| group.chains(index)).collect();
    let hidden: String = each().map(|(index, group)| group.jumps(index, *bridge)).collect();
    let hidden6: String = each().map(|(index, group)| group.jumps6(index)).collect();
    let text = format!(
        "table inet appliance\ndelete table inet appliance\ntable inet appliance {{\n\tchain postgres {{\n\
         \t\t# A sender whose answers would leave by another way is not who it says.\n\
         \t\tfib saddr . iif oif missing counter drop\n{senders}\t\tcounter drop\n\t}}\n{chains}\
         \tchain prerouting {{\n\t\t# Before Docker's own rules give a packet another destination.\n\
         \t\ttype filter hook prerouting priority mangle; policy accept;\n\
         \t\tiifname != \"lo\" ip daddr 127.0.0.0/8 counter drop comment \"@MARK@\"\n{hidden}{hidden6}\t}}\n\
         \tchain input {{\n\t\ttype filter hook input priority filter - 5; policy accept;\n\
         \t\tiifname != \"lo\" ip daddr {bridge} tcp dport {port} jump postgres comment \"@MARK@\"\n\t}}\n\
         \tchain output {{\n\t\t# Whoever else listens there while PostgreSQL or the app is down gives no answer.\n\
         \t\ttype filter hook output priority filter - 5; policy accept;\n\
         \t\tip saddr {{ 127.0.0.1, {bridge} }} tcp sport {port} meta skuid != {owner} counter drop comment \"@MARK@\"\n\
         \t\tip6 saddr ::1 tcp sport {port} meta skuid != {owner} counter drop\n{held}\t}}\n}}\n"
    );
    let text = text.replace("@MARK@", &mark(&text));
    format!("# Written by appliance; changes are overwritten.\n{text}")
}

/// By which the kernel's table is known to be this one, in each chain that the kernel enters by itself.
fn mark(text: &str) -> String {
    let digest = Sha256::digest(text);
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Brings the filter into force. Without it PostgreSQL must not listen on the bridge.
pub async fn ensure(port: u16, env: &Env, networks: &Networks, host: &Host) -> Result<()> {
    let bridge = &networks.bridge;
    let (mut groups, mut subnets) = (Vec::new(), BTreeSet::new());
    let mut upstreams: BTreeSet<SocketAddr> = BTreeSet::new();
    for one in &env.apps {
        let mut group = group_of(&one.name, networks);
        // The bridge's own containers are nobody's in particular: those of an app that has the host to itself.
        if env.tenant.is_alone() && is_ipv4_subnet(&bridge.subnet) {
            group.subnets.push(bridge.subnet.clone());
            group.hidden.push(bridge.subnet.clone());
        }
        group.tidy();
        subnets.extend(networks.admitted(&one.name));
        groups.push(group);
        let routes = Ledger::read_for(host, &one.name)?.current.map(|release| release.routes).unwrap_or_default();
        upstreams.extend(routes.iter().map(|route| route.upstream));
    }
    if !env.tenant.is_alone() && is_ipv4_subnet(&bridge.subnet) {
        let own = vec![bridge.subnet.clone()];
        groups.push(Group { subnets: own.clone(), hidden: own, ..Group::default() });
    }
    let owner: Owner = "postgres".parse().context("a user name is an owner")?;
    let facts = Facts {
        bridge: bridge.gateway,
        port,
        owner: host.ids(&owner)?.0,
        subnets: &subnets.into_iter().collect::<Vec<_>>(),
        groups: &groups,
        upstreams: &upstreams.into_iter().collect::<Vec<_>>(),
    };
    let text = rules(&facts);
    let changed = host.ensure_file_of(UNIT, Owed::Reload, FILE, &File::text(text.clone()).mode(0o644))?;
    if changed.yes() || host.owed(UNIT)?.is_some() || !is_in_force(&text, host).await? {
        // A reload replaces the table as a whole: there is no moment without it.
        match host.unit_state(UNIT).await? {
            UnitState::Active => host.reload_unit(UNIT).await?,
            _ => host.start_unit(UNIT).await?,
        }
        if host.applies() {
            if !is_in_force(&text, host).await? {
                anyhow::bail!(
                    "the packet filter is not in force after {UNIT} was loaded; see: nft list table inet appliance"
                );
            }
            host.settle(UNIT)?;
        }
    }
    Ok(())
}

/// What Docker has of networks: asked for once, however many apps there are.
pub struct Networks {
    bridge: Bridge,
    /// Those of projects.
    all: Vec<NetworkState>,
}

impl Networks {
    pub async fn look(host: &Host) -> Result<Networks> {
        Ok(Networks { bridge: host.docker().bridge().await?, all: host.docker().project_networks().await? })
    }

    fn of<'a>(&'a self, app: &'a AppName) -> impl Iterator<Item = &'a NetworkState> {
        let is_of =
            |network: &&NetworkState| network.labels.get(LABEL_PROJECT).is_some_and(|name| name == app.as_str());
        self.all.iter().filter(is_of)
    }

    /// The networks from which an app reaches PostgreSQL: the bridge's, and those of its project.
    pub fn admitted(&self, app: &AppName) -> Vec<String> {
        let mut subnets = vec![self.bridge.subnet.clone()];
        self.of(app).for_each(|network| subnets.extend(network.subnets.iter().cloned()));
        subnets.retain(|subnet| is_ipv4_subnet(subnet));
        subnets.sort();
        subnets.dedup();
        subnets
    }
}

/// The networks of an app's project.
fn group_of(app: &AppName, networks: &Networks) -> Group {
    let mut group = Group::default();
    for network in networks.of(app) {
        let (four, six): (Vec<String>, Vec<String>) = (
            network.subnets.iter().filter(|subnet| is_ipv4_subnet(subnet)).cloned().collect(),
            network.subnets.iter().filter(|subnet| is_ipv6_subnet(subnet)).cloned().collect(),
        );
        if network.is_hidden {
            group.hidden.extend(four.clone());
        }
        if network.is_hidden6 {
            group.hidden6.extend(six.clone());
        }
        group.subnets.extend(four);
        group.subnets6.extend(six);
    }
    group
}

impl Group {
    /// In order, each once.
    fn tidy(&mut self) {
        for list in [&mut self.subnets, &mut self.hidden, &mut self.subnets6, &mut self.hidden6] {
            list.sort();
            list.dedup();
        }
    }
}

/// Docker's word for a network is checked like any other input before it goes into a file.
fn is_ipv4_subnet(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    address.parse::<std::net::Ipv4Addr>().is_ok() && length.parse::<u8>().is_ok_and(|length| length <= 32)
}

/// Docker's word for a network is checked like any other input before it goes into a file.
fn is_ipv6_subnet(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    address.parse::<std::net::Ipv6Addr>().is_ok() && length.parse::<u8>().is_ok_and(|length| length <= 128)
}

async fn is_in_force(text: &str, host: &Host) -> Result<bool> {
    let mark =
        text.split("comment \"").nth(1).and_then(|rest| rest.split('"').next()).context("the rules have a mark")?;
    let listed = host.try_ask(Cmd::new("nft", ["list", "table", "inet", "appliance"])).await?;
    Ok(listed.code == Some(0) && listed.stdout.matches(mark).count() == text.matches(mark).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_name_the_networks_and_their_mark_follows_them() {
        let bridge = Ipv4Addr::new(172, 17, 0, 1);
        let subnets = ["172.17.0.0/16".to_owned(), "172.18.0.0/16".to_owned()];
        let upstreams = ["127.0.0.1:8000", "[::1]:8001"].map(|address| address.parse().expect("it is an address"));
        let subnets6 = ["fd00:1::/64".to_owned(), "fd00:2::/64".to_owned()];
        let group = Group {
            subnets: subnets.to_vec(),
            hidden: subnets[1..].to_vec(),
            hidden6: subnets6[1..].to_vec(),
            subnets6: subnets6.to_vec(),
        };
        let facts = |port| Facts {
            bridge,
            port,
            owner: 105,
            subnets: &subnets,
            groups: std::slice::from_ref(&group),
            upstreams: &upstreams,
        };
        let text = rules(&facts(5432));
        insta::assert_snapshot!(text);
        let mark = |text: &str| text.split("comment \"").nth(1).map(str::to_owned);
        assert_ne!(mark(&text), mark(&rules(&facts(5433))));
    }

    #[test]
    fn only_what_is_a_network_goes_into_a_file() {
        assert!(is_ipv4_subnet("172.18.0.0/16") && !is_ipv4_subnet("0.0.0.0/0 trust\n") && !is_ipv4_subnet("fd00::/8"));
    }
}
