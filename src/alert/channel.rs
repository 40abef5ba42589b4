//! The receivers of alerts: Sentry, mail, webhooks. Each gets an event with an identifier by which one that comes twice is known.

use super::event::{Event, SENTRY};
use super::request::{Request, Untold, judged};
use super::state::What;
use super::webhook;
use crate::env::{AlertMail, Audience, Env, SentryDsn, Webhook};
use crate::host::Host;
use crate::host::post::Letter;
use crate::value::Secret;
use crate::value::Severity;
use anyhow::{Context, Result};
use sentry::protocol::{Envelope, Level, Uuid};
use sentry::types::Dsn;
use std::time::Duration;

/// How long a mail server may take, which may look for viruses before it says yes (RFC 5321, 4.5.3.2.6): who gives up before sends it again.
const MAIL_DEADLINE: Duration = Duration::from_secs(600);

/// Somebody who is told.
#[derive(Debug, Clone)]
pub enum Channel {
    Sentry(SentryDsn),
    Mail(AlertMail),
    Webhook(Webhook),
}

impl Channel {
    /// Those that an env names.
    pub fn all(env: &Env) -> Vec<Channel> {
        let appliance = &env.appliance;
        let sentry = appliance.sentry_dsn.clone().map(Channel::Sentry);
        let mail = appliance.alert.mail.clone().map(Channel::Mail);
        let webhooks = appliance.alert.webhooks.iter().cloned().map(Channel::Webhook);
        sentry.into_iter().chain(mail).chain(webhooks).collect()
    }

    pub fn name(&self) -> &str {
        match self {
            Channel::Sentry(_) => SENTRY,
            Channel::Mail(_) => "mail",
            Channel::Webhook(webhook) => webhook.name.as_str(),
        }
    }

    /// What of all it tells, and when. In Sentry people choose that themselves.
    pub fn audience(&self) -> Audience {
        match self {
            Channel::Sentry(_) => Audience::default(),
            Channel::Mail(mail) => mail.audience.clone(),
            Channel::Webhook(webhook) => webhook.audience.clone(),
        }
    }

    /// Tells the receiver; gives back its answer.
    ///
    /// # Errors
    /// It did not take it, or could not be asked.
    pub async fn tell(&self, event: &Event, domain: &str, host: &Host) -> Result<String, Untold> {
        match self {
            Channel::Sentry(dsn) => {
                let request = to_sentry(dsn, event, domain)?;
                judged(host.post(request.as_post()).await?, &request.url)
            }
            Channel::Mail(mail) => {
                let letter = Letter {
                    server: &mail.server,
                    from: &mail.from,
                    to: &mail.to,
                    id: &event.id,
                    domain,
                    subject: &format!("[{domain}] {}", event.subject()),
                    body: event.body(domain, host.now()),
                    deadline: MAIL_DEADLINE,
                };
                Ok(host.send_mail(letter).await?)
            }
            Channel::Webhook(webhook) => {
                let request = webhook::request(webhook, event, domain, host.now())?;
                judged(host.post(request.as_post()).await?, &request.url)
            }
        }
    }
}

fn to_sentry(dsn: &SentryDsn, event: &Event, domain: &str) -> Result<Request> {
    // It was checked when the env was read.
    let dsn: Dsn = dsn.0.expose().parse().context("the DSN is none")?;
    let level = match (event.what, event.severity) {
        (What::Over, _) => Level::Info,
        (_, Severity::Warning) => Level::Warning,
        (_, Severity::Error) => Level::Error,
        (_, Severity::Critical) => Level::Fatal,
    };
    if let Some(report) = &event.report {
        return Ok(envelope(&dsn, report.clone().into_bytes()));
    }
    let id = Uuid::parse_str(&event.id).context("the event's identifier is none")?;
    let tags = [("alert", event.key.to_string()), ("event", format!("{:?}", event.what).to_lowercase())];
    let report = sentry::protocol::Event {
        event_id: id,
        level,
        message: Some(event.subject()),
        server_name: Some(domain.to_owned().into()),
        release: Some(concat!("appliance@", env!("CARGO_PKG_VERSION")).into()),
        fingerprint: vec![event.key.to_string().into()].into(),
        timestamp: event.at.into(),
        tags: tags.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        extra: [("remedy".to_owned(), event.remedy.clone().into())].into(),
        ..sentry::protocol::Event::default()
    };
    let mut body = Vec::new();
    Envelope::from(report).to_writer(&mut body).context("the report cannot be rendered")?;
    Ok(envelope(&dsn, body))
}

fn envelope(dsn: &Dsn, body: Vec<u8>) -> Request {
    let auth = dsn.to_auth(Some(concat!("appliance/", env!("CARGO_PKG_VERSION")))).to_string();
    let headers = vec![("X-Sentry-Auth", auth), ("Content-Type", "application/x-sentry-envelope".to_owned())];
    Request { url: Secret::new(dsn.envelope_api_url().as_str()), headers, body }
}
