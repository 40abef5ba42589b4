//! HTTP requests of our own: probes of the app.

use super::Host;
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::time::Duration;

impl Host {
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
