//! Where nginx sends a request.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A path prefix, on all allowed hosts, and the address that answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The compose service behind it.
    pub service: String,
    /// A path prefix starting with `/`; only `[A-Za-z0-9._~/-]`, so it needs no quoting in nginx.
    pub path: String,
    /// Where the service answers, as seen from the host.
    pub upstream: SocketAddr,
}

/// Where a container that holds a service's place publishes what the compose file publishes on loopback; all of 127.0.0.0/8 is
/// loopback.
pub const BRIDGE_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 2);

impl Route {
    /// Where the container answers that holds the service's place while its own is replaced.
    pub fn bridge(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(BRIDGE_ADDRESS), self.upstream.port())
    }

    /// Whether a text can be a route's path.
    pub fn is_path(text: &str) -> bool {
        text.starts_with('/')
            && text.len() <= 200
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~/-".contains(&b))
    }
}
