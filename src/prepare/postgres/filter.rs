//! The packet filter before PostgreSQL's bridge address: only the host and the app's networks reach it, each by its own bridge. A
//! neighbour that routes the address to this host gets no answer. Other rules of the host are not touched: it is a table of its own.

use super::cluster::Cluster;
use crate::host::{Cmd, File, Host, Owed};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::net::Ipv4Addr;

/// What the unit loads.
const FILE: &str = "/var/lib/appliance/filter.nft";
const UNIT: &str = "appliance-filter.service";

/// The rules. The table is replaced as a whole, in one transaction.
fn rules(bridge: Ipv4Addr, port: u16, subnets: &[String]) -> String {
    let senders: String = subnets.iter().map(|subnet| format!("\t\tip saddr {subnet} return\n")).collect();
    let text = format!(
        "table inet appliance\ndelete table inet appliance\ntable inet appliance {{\n\tchain postgres {{\n\
         \t\t# A sender whose answers would leave by another way is not who it says.\n\
         \t\tfib saddr . iif oif missing counter drop\n{senders}\t\tcounter drop\n\t}}\n\
         \tchain input {{\n\t\ttype filter hook input priority filter - 5; policy accept;\n\
         \t\tiifname != \"lo\" ip daddr {bridge} tcp dport {port} jump postgres comment \"@MARK@\"\n\t}}\n}}\n"
    );
    let text = text.replace("@MARK@", &mark(&text));
    format!("# Written by appliance; changes are overwritten.\n{text}")
}

/// By which the kernel's table is known to be this one.
fn mark(text: &str) -> String {
    let digest = Sha256::digest(text);
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Brings the filter into force. Without it PostgreSQL must not listen on the bridge.
pub async fn ensure(cluster: &Cluster, bridge: Ipv4Addr, subnets: &[String], host: &Host) -> Result<()> {
    let text = rules(bridge, cluster.port, subnets);
    let changed = host.ensure_file_of(UNIT, Owed::Restart, FILE, &File::text(text.clone()).mode(0o644))?;
    if changed.yes() || host.owed(UNIT)?.is_some() || !is_in_force(&text, host).await? {
        host.restart_unit(UNIT).await?;
        if host.applies() {
            if !is_in_force(&text, host).await? {
                anyhow::bail!(
                    "the packet filter is not in force after {UNIT} was started; see: nft list table inet appliance"
                );
            }
            host.settle(UNIT)?;
        }
    }
    Ok(())
}

async fn is_in_force(text: &str, host: &Host) -> Result<bool> {
    let mark =
        text.split("comment \"").nth(1).and_then(|rest| rest.split('"').next()).context("the rules have a mark")?;
    let listed = host.try_ask(Cmd::new("nft", ["list", "table", "inet", "appliance"])).await?;
    Ok(listed.code == Some(0) && listed.stdout.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_name_the_networks_and_their_mark_follows_them() {
        let bridge = Ipv4Addr::new(172, 17, 0, 1);
        let text = rules(bridge, 5432, &["172.17.0.0/16".into(), "172.18.0.0/16".into()]);
        insta::assert_snapshot!(text);
        let mark = |text: &str| text.split("comment \"").nth(1).map(str::to_owned);
        assert_ne!(mark(&text), mark(&rules(bridge, 5433, &["172.17.0.0/16".into()])));
    }
}
