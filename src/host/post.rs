//! Telling a server elsewhere something: an HTTP request with a body, and a mail.

use super::Host;
use super::http::plainly;
use crate::value::{Email, MailServer, Secret};
use anyhow::{Context, Result, anyhow, bail};
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A request.
#[derive(Debug)]
pub struct Post<'a> {
    pub url: &'a Secret,
    pub headers: &'a [(&'a str, String)],
    /// None: a request without one, by GET.
    pub body: Option<Vec<u8>>,
    pub deadline: Duration,
}

/// What was answered.
#[derive(Debug)]
pub struct Posted {
    pub status: u16,
    /// When the server wants to be asked again, from now on.
    pub retry_after: Option<Duration>,
    /// The beginning of the answer's body.
    pub said: String,
}

/// The most of an answer's body that is read, in bytes.
const MAX_SAID: usize = 4096;

/// A mail of plain text.
#[derive(Debug)]
pub struct Letter<'a> {
    pub server: &'a MailServer,
    pub from: &'a Email,
    pub to: &'a [Email],
    /// What stands before the `@` of its Message-ID: one that comes twice is known by it.
    pub id: &'a str,
    /// The sender's host name.
    pub domain: &'a str,
    pub subject: &'a str,
    pub body: String,
    pub deadline: Duration,
}

/// Addresses that no server elsewhere has, but metadata services have: a URL must not lead there.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => mapped.is_link_local(),
            None => address.is_unicast_link_local(),
        },
    }
}

impl Host {
    /// Sends a request to a server elsewhere. No redirect is followed, and no link-local address is asked.
    ///
    /// # Errors
    /// It could not be sent, or nothing was answered in time; nothing of the URL, which may hold a key, is in a message.
    pub async fn post(&self, post: Post<'_>) -> Result<Posted> {
        let url = reqwest::Url::parse(post.url.expose()).map_err(|_| anyhow!("the address is no URL"))?;
        tokio::time::timeout(post.deadline, send(url, &post))
            .await
            .map_err(|_| anyhow!("it did not answer within {} s", post.deadline.as_secs()))?
    }

    /// Hands a mail to a server; gives back its answer.
    ///
    /// # Errors
    /// It refuses the mail, or cannot be talked to.
    pub async fn send_mail(&self, letter: Letter<'_>) -> Result<String> {
        let message = message(&letter)?;
        let server = letter.server;
        let tls = TlsParameters::new(server.host.clone()).context("TLS cannot be set up")?;
        let tls = match (server.is_tls, &server.login) {
            (true, _) => Tls::Wrapper(tls),
            // A password is sent over TLS alone.
            (false, Some(_)) => Tls::Required(tls),
            (false, None) => Tls::Opportunistic(tls),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(server.host.clone())
            .port(server.port)
            .hello_name(ClientId::Domain(letter.domain.to_owned()))
            .timeout(Some(letter.deadline))
            .tls(tls);
        if let Some((name, password)) = &server.login {
            builder = builder.credentials(Credentials::new(name.clone(), password.expose().to_owned()));
        }
        let sent = tokio::time::timeout(letter.deadline, builder.build::<Tokio1Executor>().send(message)).await;
        match sent {
            Ok(Ok(answer)) => Ok(format!("{} {}", answer.code(), answer.message().collect::<Vec<_>>().join(" "))),
            Ok(Err(error)) => bail!("{}", innermost(&error)),
            Err(_) => bail!("it did not answer within {} s", letter.deadline.as_secs()),
        }
    }
}

async fn send(url: reqwest::Url, post: &Post<'_>) -> Result<Posted> {
    let name = url.host_str().context("the address names no host")?.to_owned();
    let port = url.port_or_known_default().context("the address has no port")?;
    let plain = name.trim_start_matches('[').trim_end_matches(']');
    let found = tokio::net::lookup_host((plain, port)).await.context("its host has no address")?;
    let addresses: Vec<SocketAddr> = found.filter(|address| !is_link_local(address.ip())).collect();
    if addresses.is_empty() {
        bail!("its host is a link-local address, to which nothing is sent");
    }
    // What was looked at is what is asked: a name may lead elsewhere a moment later.
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .resolve_to_addrs(plain, &addresses)
        .pool_max_idle_per_host(0)
        .build()
        .context("could not make an HTTP client")?;
    let mut asked = match &post.body {
        Some(body) => client.post(url).body(body.clone()),
        None => client.get(url),
    };
    for (name, value) in post.headers {
        asked = asked.header(*name, value);
    }
    let mut answer = asked.send().await.map_err(plainly)?;
    let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let status = answer.status().as_u16();
    let mut said = Vec::new();
    while said.len() < MAX_SAID
        // The status is what counts; a body that breaks off takes nothing back.
        && let Ok(Some(more)) = answer.chunk().await
    {
        said.extend_from_slice(&more[..more.len().min(MAX_SAID - said.len())]);
    }
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok(Posted { status, retry_after: retry_after.map(Duration::from_secs), said })
}

fn message(letter: &Letter<'_>) -> Result<Message> {
    let mailbox = |address: &Email| -> Result<Mailbox> {
        let address = address.as_str().parse().with_context(|| format!("{address} is no mail address"))?;
        Ok(Mailbox::new(None, address))
    };
    let mut builder = Message::builder()
        .from(mailbox(letter.from)?)
        .subject(letter.subject)
        .date_now()
        .message_id(Some(format!("<{}@{}>", letter.id, letter.domain)))
        .header(ContentType::TEXT_PLAIN);
    for to in letter.to {
        builder = builder.to(mailbox(to)?);
    }
    let mut message = builder.body(letter.body.clone()).context("the mail cannot be made")?;
    // RFC 3834: nobody's holiday note answers it.
    let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
    message.headers_mut().insert_raw(HeaderValue::new(automatic, "auto-generated".to_owned()));
    Ok(message)
}

/// The innermost reason: "Connection refused" says more than "Connection error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut reason = error;
    while let Some(inner) = reason.source() {
        reason = inner;
    }
    reason.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services_are_not_told_anything() {
        for (text, is_one) in [
            ("169.254.169.254", true),
            ("::ffff:169.254.169.254", true),
            ("fe80::1", true),
            ("127.0.0.1", false),
            ("10.0.0.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_link_local(text.parse().expect("it is an address")), is_one, "{text}");
        }
    }

    #[test]
    fn a_mail_is_plain_text_whatever_it_says() {
        let server: MailServer = "smtp://mail.example.org".parse().expect("it is a server");
        let address = |text: &str| text.parse::<Email>().expect("it is an address");
        let letter = Letter {
            server: &server,
            from: &address("host@example.org"),
            to: &[address("a@example.org"), address("b@example.org")],
            id: "0123",
            domain: "app.example.org",
            subject: "disk\r\nBcc: evil@example.org",
            body: "line ä\n.\nend".to_owned(),
            deadline: Duration::from_secs(1),
        };
        let text = String::from_utf8(message(&letter).expect("it can be made").formatted()).expect("it is ASCII");
        assert!(text.contains("Message-ID: <0123@app.example.org>\r\n"), "{text}");
        assert!(text.contains("To: a@example.org, b@example.org\r\n"), "{text}");
        assert!(!text.lines().any(|line| line.starts_with("Bcc")), "{text}");
    }
}
