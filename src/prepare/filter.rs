//! The packet filter before PostgreSQL's bridge address and before the containers: only the host and the app's networks reach them, each
//! by its own bridge. A neighbour that routes their addresses, or 127.0.0.1, to this host gets no answer: Docker before version 28
//! would hand its packets on. And nobody but PostgreSQL and Docker answers where the app and nginx look for them: any user of this host
//! could listen there while they are down, and would be told the app's data. Other rules of the host are not touched: it is a table of its
//! own.

use crate::env::Env;
use crate::host::{Cmd, File, Host, Owed, UnitState};
use crate::state::Ledger;
use crate::value::Owner;
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
    /// Networks whose containers nobody else reaches.
    hidden: &'a [String],
    /// Of these and of all others the IPv6 ones; PostgreSQL does not listen there.
    hidden6: &'a [String],
    subnets6: &'a [String],
    /// What nginx hands requests to: ports that Docker, which is root, holds for the containers.
    upstreams: &'a [SocketAddr],
}

/// The rules. The table is replaced as a whole, in one transaction.
fn rules(facts: &Facts<'_>) -> String {
    let Facts { bridge, port, owner, subnets, hidden, hidden6, subnets6, upstreams } = facts;
    let held = |upstream: &SocketAddr| {
        let family = if upstream.is_ipv4() { "ip" } else { "ip6" };
        format!("\t\t{family} saddr {} tcp sport {} meta skuid != 0 counter drop\n", upstream.ip(), upstream.port())
    };
    let held: String = upstreams.iter().map(held).collect();
    let senders: String = subnets.iter().map(|subnet| format!("\t\tip saddr {subnet} return\n")).collect();
    let hidden: String = hidden
        .iter()
        .map(|subnet| format!("\t\tiifname != \"lo\" ip daddr {subnet} ip daddr != {bridge} jump containers\n"))
        .collect();
    let senders6: String = subnets6.iter().map(|subnet| format!("\t\tip6 saddr {subnet} return\n")).collect();
    let hidden6: String =
        hidden6.iter().map(|subnet| format!("\t\tiifname != \"lo\" ip6 daddr {subnet} jump containers6\n")).collect();
    let text = format!(
        "table inet appliance\ndelete table inet appliance\ntable inet appliance {{\n\tchain postgres {{\n\
         \t\t# A sender whose answers would leave by another way is not who it says.\n\
         \t\tfib saddr . iif oif missing counter drop\n{senders}\t\tcounter drop\n\t}}\n\
         \tchain containers {{\n\t\tct state established,related return\n\t\tfib saddr . iif oif missing counter drop\n{senders}\t\tcounter drop\n\t}}\n\
         \tchain containers6 {{\n\t\tct state established,related return\n\t\tfib saddr . iif oif missing counter drop\n\
         \t\t# Neighbours ask for each other's addresses by these; the kernel forwards none of them (RFC 4291, 2.5.6).\n\
         \t\tip6 saddr fe80::/10 return\n{senders6}\t\tcounter drop\n\t}}\n\
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
pub async fn ensure(port: u16, env: &Env, host: &Host) -> Result<()> {
    let bridge = host.docker().bridge().await?;
    let mut hidden = vec![bridge.subnet];
    let (mut subnets6, mut hidden6) = (BTreeSet::new(), BTreeSet::new());
    for network in host.docker().networks(env.app.name.as_str()).await? {
        let six: Vec<String> = network.subnets.iter().filter(|subnet| is_ipv6_subnet(subnet)).cloned().collect();
        if network.is_hidden6 {
            hidden6.extend(six.clone());
        }
        subnets6.extend(six);
        if network.is_hidden {
            hidden.extend(network.subnets);
        }
    }
    // As those that are admitted: IPv4, in order, each once.
    let subnets = admitted(env, host).await?;
    let hidden: Vec<String> = subnets.iter().filter(|subnet| hidden.contains(subnet)).cloned().collect();
    let owner: Owner = "postgres".parse().context("a user name is an owner")?;
    let routes = Ledger::read_for(host, &env.app.name)?.current.map(|release| release.routes).unwrap_or_default();
    let upstreams: BTreeSet<SocketAddr> = routes.iter().map(|route| route.upstream).collect();
    let facts = Facts {
        bridge: bridge.gateway,
        port,
        owner: host.ids(&owner)?.0,
        subnets: &subnets,
        hidden: &hidden,
        hidden6: &hidden6.into_iter().collect::<Vec<_>>(),
        subnets6: &subnets6.into_iter().collect::<Vec<_>>(),
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

/// The networks from which PostgreSQL is reached: the bridge's, and those of the app's project.
pub async fn admitted(env: &Env, host: &Host) -> Result<Vec<String>> {
    let mut subnets = vec![host.docker().bridge().await?.subnet];
    for network in host.docker().networks(env.app.name.as_str()).await? {
        subnets.extend(network.subnets);
    }
    subnets.retain(|subnet| is_ipv4_subnet(subnet));
    subnets.sort();
    subnets.dedup();
    Ok(subnets)
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
        let facts = |port| Facts {
            bridge,
            port,
            owner: 105,
            subnets: &subnets,
            hidden: &subnets[1..],
            hidden6: &subnets6[1..],
            subnets6: &subnets6,
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
