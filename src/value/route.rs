//! Where nginx sends a request.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

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

impl Route {
    /// Whether a text can be a route's path.
    pub fn is_path(text: &str) -> bool {
        text.starts_with('/')
            && text.len() <= 200
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~/-".contains(&b))
    }
}
