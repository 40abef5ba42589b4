//! Where nginx sends a request.

use super::ServiceName;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A path prefix, on all allowed hosts, and the address that answers it. Checked when it is read back, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Route {
    /// The compose service behind it.
    pub service: String,
    /// A path prefix starting with `/`; only `[A-Za-z0-9._~/-]`, so it needs no quoting in nginx.
    pub path: String,
    /// Where the service answers, as seen from the host.
    pub upstream: SocketAddr,
}

#[derive(Deserialize)]
struct Unchecked {
    service: String,
    path: String,
    upstream: SocketAddr,
}

impl TryFrom<Unchecked> for Route {
    type Error = String;

    fn try_from(read: Unchecked) -> Result<Route, String> {
        let Unchecked { service, path, upstream } = read;
        if service.parse::<ServiceName>().is_err() {
            return Err(format!("a route's service must be a service's name, not {service:?}"));
        }
        if !Route::is_path(&path) {
            return Err(format!("a route's path must be a path without anything that needs quoting, not {path:?}"));
        }
        // Versions before this one kept the address that the compose file names; the port is bound to loopback now.
        let upstream = match upstream.ip().is_loopback() {
            true => upstream,
            false => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), upstream.port()),
        };
        Ok(Route { service, path, upstream })
    }
}

/// Where a container that holds a service's place publishes what the compose file publishes on loopback; all of 127.0.0.0/8 is
/// loopback.
pub const BRIDGE_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 2);

/// The same, for ports that are published at an address: one of several apps has an address of its own, and its container that holds a
/// place the one after it.
pub fn bridge_of(own: Ipv4Addr) -> Ipv4Addr {
    match own.octets() {
        [127, b, c, d] if b >= 128 => Ipv4Addr::new(127, b, c, d | 1),
        _ => BRIDGE_ADDRESS,
    }
}

impl Route {
    /// Where the container answers that holds the service's place while its own is replaced.
    pub fn bridge(&self) -> SocketAddr {
        let address = match self.upstream.ip() {
            IpAddr::V4(own) => bridge_of(own),
            IpAddr::V6(_) => BRIDGE_ADDRESS,
        };
        SocketAddr::new(IpAddr::V4(address), self.upstream.port())
    }

    /// Whether a text can be a route's path.
    pub fn is_path(text: &str) -> bool {
        text.starts_with('/')
            && text.len() <= 200
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~/-".contains(&b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_back_is_checked_again() {
        let read = |service: &str, path: &str, upstream: &str| {
            let text = serde_json::json!({"service": service, "path": path, "upstream": upstream}).to_string();
            serde_json::from_str::<Route>(&text).map_err(|error| error.to_string())
        };
        assert!(read("web", "/a", "127.0.0.1:80").is_ok() && read("ecs.web", "/", "127.77.0.2:80").is_ok());
        assert!(read("web", "/a; return 200", "127.0.0.1:80").expect_err("no path").contains("needs quoting"));
        assert!(read("../x", "/", "127.0.0.1:80").expect_err("no service").contains("service's name"));
        let of_before = read("web", "/", "10.0.0.1:80").expect("a ledger of before is read");
        assert_eq!(of_before.upstream.to_string(), "127.0.0.1:80", "it leads to this host, whatever was written");
    }
}
