//! HTTP requests of our own: probes of the app.

use super::Host;
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::time::Duration;

impl Host {
    /// The status code that this host's own nginx answers for a name on https. The certificate is not judged: it may be
    /// self-signed, and it is our own.
    pub async fn probe_front(&self, domain: &str, deadline: Duration) -> Result<u16> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_danger_accept_invalid_certs(true)
            .resolve(domain, SocketAddr::from(([127, 0, 0, 1], 443)))
            .pool_max_idle_per_host(0)
            .timeout(deadline)
            .build()
            .context("could not make an HTTP client")?;
        let answer = client.get(format!("https://{domain}/")).send().await;
        Ok(answer.with_context(|| format!("https://{domain}/ did not answer on this host"))?.status().as_u16())
    }

    /// The status code that an address answers on a path, for a public host name. No redirect is followed, no proxy asked.
    ///
    /// # Errors
    /// No connection, or no answer within the deadline.
    pub async fn probe(&self, address: SocketAddr, path: &str, host: &str, deadline: Duration) -> Result<u16> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .timeout(deadline)
            .build()
            .context("could not make an HTTP client")?;
        let request = client
            .get(format!("http://{address}{path}"))
            .header("Host", host)
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-Port", "443");
        let answer = request.send().await.with_context(|| format!("http://{address}{path} did not answer"))?;
        Ok(answer.status().as_u16())
    }
}
