//! HTTP requests of our own: probes of the app.

use super::{Host, Pending};
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::time::Duration;

/// What of an app is asked, by a public host name. No redirect is followed, no proxy asked.
#[derive(Debug, Clone, Copy)]
pub struct Probe<'a> {
    pub address: SocketAddr,
    pub path: &'a str,
    pub host: &'a str,
    /// The most of the answer's body that is read, in bytes.
    pub max: usize,
    pub deadline: Duration,
}

/// What can be asked of the app and of the nginx before it.
pub trait Web: Send + Sync {
    /// Status code and body of an app's answer.
    fn app<'a>(&'a self, probe: Probe<'a>) -> Pending<'a, Result<(u16, Vec<u8>)>>;
    /// The status code that this host's own nginx answers for a name on https.
    fn front<'a>(&'a self, domain: &'a str, deadline: Duration) -> Pending<'a, Result<u16>>;
    /// Whether something listens at an address.
    fn connect<'a>(&'a self, address: SocketAddr) -> Pending<'a, Result<()>>;
}

/// The network.
pub struct Sockets;

impl Web for Sockets {
    fn app<'a>(&'a self, probe: Probe<'a>) -> Pending<'a, Result<(u16, Vec<u8>)>> {
        Box::pin(async move {
            let mut answer = ask_app(probe.address, probe.path, probe.host, probe.deadline).await?;
            let mut body = Vec::new();
            while body.len() < probe.max
                && let Some(more) = answer.chunk().await.map_err(plainly)?
            {
                body.extend_from_slice(&more[..more.len().min(probe.max - body.len())]);
            }
            Ok((answer.status().as_u16(), body))
        })
    }

    fn front<'a>(&'a self, domain: &'a str, deadline: Duration) -> Pending<'a, Result<u16>> {
        Box::pin(async move {
            // The certificate is not judged: it may be self-signed, and it is our own.
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
        })
    }

    fn connect<'a>(&'a self, address: SocketAddr) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            let connected = tokio::net::TcpStream::connect(address).await;
            connected.map(drop).with_context(|| format!("could not connect to {address}"))
        })
    }
}

impl Host {
    /// The status code that this host's own nginx answers for a name on https. Its certificate is not judged.
    pub async fn probe_front(&self, domain: &str, deadline: Duration) -> Result<u16> {
        self.web.front(domain, deadline).await
    }

    /// The status code that an address answers on a path, for a public host name. No redirect is followed, no proxy asked.
    ///
    /// # Errors
    /// No connection, or no answer within the deadline.
    pub async fn probe(&self, address: SocketAddr, path: &str, host: &str, deadline: Duration) -> Result<u16> {
        Ok(self.web.app(Probe { address, path, host, max: 0, deadline }).await?.0)
    }

    /// Status code and body of an app's answer.
    ///
    /// # Errors
    /// No connection, or no answer within the deadline.
    pub async fn probe_body(&self, probe: Probe<'_>) -> Result<(u16, Vec<u8>)> {
        self.web.app(probe).await
    }

    /// Whether something listens there.
    ///
    /// # Errors
    /// Nothing does, or not within the deadline.
    pub async fn connect(&self, address: SocketAddr, deadline: Duration) -> Result<()> {
        let connected = tokio::time::timeout(deadline, self.web.connect(address)).await;
        connected.with_context(|| format!("{address} does not answer"))?
    }
}

async fn ask_app(address: SocketAddr, path: &str, host: &str, deadline: Duration) -> Result<reqwest::Response> {
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
    // A path's query may hold a key.
    let shown = path.split('?').next().unwrap_or_default();
    request.send().await.map_err(plainly).with_context(|| format!("http://{address}{shown} did not answer"))
}

/// What a small request got.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The header that was asked for, where it is plain text.
    pub header: Option<String>,
    pub body: Vec<u8>,
}

/// A request to a metadata service.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    pub url: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    /// A header of the answer that the caller wants to see.
    pub wanted: &'a str,
    /// The most of the body that is read, in bytes; more is an error.
    pub max: usize,
}

impl Host {
    /// A plain request: no redirect is followed, no proxy asked. The caller sets the deadline around it.
    ///
    /// # Errors
    /// No connection, or a body that is larger than allowed.
    pub async fn request(&self, request: Request<'_>) -> Result<Answer> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .build()
            .context("could not make an HTTP client")?;
        let method = reqwest::Method::from_bytes(request.method.as_bytes()).context("this is no HTTP method")?;
        let mut asked = client.request(method, request.url);
        for (name, value) in request.headers {
            asked = asked.header(*name, *value);
        }
        let mut answer = asked.send().await.map_err(plainly)?;
        let header = answer.headers().get(request.wanted).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let status = answer.status().as_u16();
        let mut body = Vec::new();
        while let Some(more) = answer.chunk().await.map_err(plainly)? {
            if body.len() + more.len() > request.max {
                anyhow::bail!("it sent more than {} bytes, the most that is read", request.max);
            }
            body.extend_from_slice(&more);
        }
        Ok(Answer { status, header, body })
    }
}

/// The innermost reason: "Connection refused" says more than "error sending request".
pub(super) fn plainly(error: reqwest::Error) -> anyhow::Error {
    let mut reason: &dyn std::error::Error = &error;
    while let Some(inner) = reason.source() {
        reason = inner;
    }
    anyhow::anyhow!("{reason}")
}
