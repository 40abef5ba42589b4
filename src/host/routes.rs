//! Where the host's own traffic goes: the kernel's IPv4 routes (proc_net_route(5)), and the name servers (resolv.conf(5)).

use super::Host;
use anyhow::Result;
use std::net::{IpAddr, Ipv4Addr};

/// The largest table that is read, in bytes; a host has a few lines.
const MAX: u64 = 1 << 20;

const RESOLVERS: &str = "/etc/resolv.conf";
const MAX_RESOLVERS: u64 = 64 << 10;

/// A route to a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub interface: String,
    pub to: Ipv4Addr,
    /// The length of its prefix; 0 is the default route.
    pub length: u32,
}

impl Route {
    /// Whether there is an address that both networks have. The default route counts for none, nor do its two halves, as a VPN makes them.
    pub fn meets(&self, network: Ipv4Addr, length: u32) -> bool {
        let shorter = self.length.min(length).min(32);
        self.length > 1 && (shorter == 0 || (u32::from(self.to) ^ u32::from(network)) >> (32 - shorter) == 0)
    }
}

impl Host {
    /// All IPv4 routes; none where the kernel tells none.
    pub fn routes(&self) -> Result<Vec<Route>> {
        let table = self.read_start("/proc/net/route", MAX)?.unwrap_or_default();
        Ok(read(&String::from_utf8_lossy(&table)))
    }

    /// The name servers, in the order of the file; lines that name none are left out.
    pub fn resolvers(&self) -> Result<Vec<IpAddr>> {
        let text = self.read_text(RESOLVERS, MAX_RESOLVERS)?.unwrap_or_default();
        let server = |line: &str| line.trim().strip_prefix("nameserver")?.trim().parse().ok();
        Ok(text.lines().filter_map(server).collect())
    }
}

/// Addresses are in hexadecimal, in the byte order of the machine. Lines that are not understood are left out. Pure.
fn read(table: &str) -> Vec<Route> {
    let read = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = |at: usize| {
            let number = u32::from_str_radix(fields.get(at)?, 16).ok()?;
            Some(u32::from_be_bytes(number.to_ne_bytes()))
        };
        let (to, mask) = (address(1)?, address(7)?);
        Some(Route { interface: (*fields.first()?).to_owned(), to: Ipv4Addr::from(to), length: mask.leading_ones() })
    };
    table.lines().skip(1).filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_and_networks_that_meet_are_known() {
        let line = |interface: &str, to: [u8; 4], mask: [u8; 4]| {
            let hex = |bytes| format!("{:08X}", u32::from_ne_bytes(bytes));
            format!("{interface}\t{}\t00000000\t0001\t0\t0\t0\t{}\t0\t0\t0\n", hex(to), hex(mask))
        };
        let table = format!(
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n{}{}{}nonsense\n",
            line("eth0", [0; 4], [0; 4]),
            line("eth0", [192, 168, 7, 0], [255, 255, 255, 0]),
            line("eth1", [169, 254, 169, 254], [255; 4])
        );
        let routes = read(&table);
        let route =
            |interface: &str, to: [u8; 4], length| Route { interface: interface.to_owned(), to: to.into(), length };
        assert_eq!(
            routes,
            [route("eth0", [0; 4], 0), route("eth0", [192, 168, 7, 0], 24), route("eth1", [169, 254, 169, 254], 32)]
        );
        let met = |to: [u8; 4], length| routes.iter().filter(|route| route.meets(to.into(), length)).count();
        assert_eq!((met([192, 168, 7, 128], 25), met([192, 168, 0, 0], 16), met([192, 168, 8, 0], 24)), (1, 1, 0));
        assert_eq!((met([169, 254, 0, 0], 16), met([10, 0, 0, 0], 8), met([0; 4], 0)), (1, 0, 2));
        assert_eq!(read(""), []);
    }
}
