//! What a webhook's request says: all of it as JSON, or as the chat services want it.

use super::event::Event;
use super::request::Request;
use super::state::What;
use crate::env::{Webhook, hex};
use crate::value::{Secret, Severity, WebhookFormat};
use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

/// The most that Discord takes, in characters (its reference, "Execute Webhook"); what is longer loses its end.
const MAX_DISCORD: usize = 2000;

/// What a webhook gets (docs/alerts.md).
#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    host: &'a str,
    event: What,
    severity: Severity,
    rule: &'a str,
    subject: &'a str,
    summary: &'a str,
    remedy: &'a str,
    since: jiff::Timestamp,
    at: jiff::Timestamp,
    /// How late it is told, if it is, in seconds.
    late: Option<i64>,
}

/// The request that tells of an event.
///
/// # Errors
/// It cannot be rendered.
pub fn request(webhook: &Webhook, event: &Event, domain: &str, now: Timestamp) -> Result<Request> {
    let mut headers = vec![("Idempotency-Key", event.id.clone())];
    let text = || event.body(domain, now);
    let body = match webhook.format {
        WebhookFormat::Json => {
            let body = Body {
                id: &event.id,
                host: domain,
                event: event.what,
                severity: event.severity,
                rule: &event.key.rule,
                subject: &event.key.subject,
                summary: &event.summary,
                remedy: &event.remedy,
                since: event.since,
                at: event.at,
                late: event.late_s(now),
            };
            serde_json::to_vec(&body)
        }
        WebhookFormat::Slack => serde_json::to_vec(&json!({ "text": for_slack(&text()) })),
        WebhookFormat::Discord => serde_json::to_vec(&for_discord(&text())),
        WebhookFormat::Teams => serde_json::to_vec(&for_teams(&event.subject(), &text())),
        WebhookFormat::Ntfy => {
            // A header takes plain letters alone; the text has all of it.
            headers.push(("Title", format!("{} on {domain}", event.severity.name())));
            headers.push(("Priority", priority(event).to_owned()));
            Ok(text().into_bytes())
        }
    };
    let body = body.context("the event cannot be rendered")?;
    let kind = if webhook.format == WebhookFormat::Ntfy { "text/plain; charset=utf-8" } else { "application/json" };
    headers.push(("Content-Type", kind.to_owned()));
    if let Some(secret) = &webhook.secret {
        headers.push(("X-Appliance-Signature", signature(secret, now.as_second(), &body)));
    }
    Ok(Request { url: webhook.url.clone(), headers, body })
}

/// These three begin a mention or a link there (Slack's reference, "Formatting text for app surfaces").
fn for_slack(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Nobody is called by what an event says.
fn for_discord(text: &str) -> Value {
    let content: String = text.chars().take(MAX_DISCORD).collect();
    json!({ "content": content, "allowed_mentions": { "parse": [] } })
}

/// An adaptive card, as the workflow that waits for a webhook takes it.
fn for_teams(subject: &str, text: &str) -> Value {
    let block = |text: &str, weight: &str| json!({ "type": "TextBlock", "text": text, "wrap": true, "weight": weight });
    let card = json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [block(subject, "bolder"), block(text, "default")],
    });
    let attachment = json!({ "contentType": "application/vnd.microsoft.card.adaptive", "content": card });
    json!({ "type": "message", "attachments": [attachment] })
}

/// How loud ntfy is, from 1 to 5.
fn priority(event: &Event) -> &'static str {
    match (event.what, event.severity) {
        (What::Over, _) => "2",
        (_, Severity::Warning) => "3",
        (_, Severity::Error) => "4",
        (_, Severity::Critical) => "5",
    }
}

/// The time, and HMAC-SHA256 over time, a dot and the body: what is signed cannot be sent again later as if it were new.
fn signature(secret: &Secret, at: i64, body: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.expose().as_bytes());
    let signed = [format!("{at}.").as_bytes(), body].concat();
    format!("t={at},v1={}", hex(ring::hmac::sign(&key, &signed).as_ref()))
}

#[cfg(test)]
mod tests {
    use super::super::state::Key;
    use super::*;
    use crate::env::Audience;

    #[test]
    fn a_signature_is_of_time_and_body() {
        // By openssl: printf '1800000000.{}' | openssl dgst -sha256 -hmac key
        let said = signature(&Secret::new("key"), 1_800_000_000, b"{}");
        assert_eq!(said, "t=1800000000,v1=7321475872b03ff21bdc2dfd86ea2d99ec29c479fbe4a77aa6acf4509505493f");
        assert_ne!(said[16..], signature(&Secret::new("key"), 1_800_000_001, b"{}")[16..]);
        assert_ne!(said, signature(&Secret::new("other"), 1_800_000_000, b"{}"));
    }

    #[test]
    fn each_service_gets_what_it_takes_and_nobody_is_called_by_it() {
        let now = Timestamp::from_second(1_800_000_000).expect("a time");
        let event = Event {
            id: "0".repeat(32),
            what: What::Fires,
            key: Key { rule: "disk.full".to_owned(), subject: "/data".to_owned() },
            severity: Severity::Critical,
            summary: "<!channel> & @everyone ä".to_owned(),
            remedy: "x".repeat(3000),
            since: now,
            at: now,
            only: None,
            report: None,
        };
        let made = |format: WebhookFormat| {
            let name = "ops".parse().expect("a name");
            let url = Secret::new("https://h.example/KEY");
            let webhook = Webhook { name, url, secret: None, format, audience: Audience::default() };
            let request = request(&webhook, &event, "a.example", now).expect("it can be rendered");
            (request.headers, String::from_utf8(request.body).expect("it is text"))
        };
        let json = |format| serde_json::from_str::<Value>(&made(format).1).expect("it is JSON");
        let slack = json(WebhookFormat::Slack)["text"].as_str().map(str::to_owned).unwrap_or_default();
        assert!(slack.starts_with("critical: &lt;!channel&gt; &amp; @everyone ä on a.example\n"), "{slack}");
        let discord = json(WebhookFormat::Discord);
        assert_eq!(discord["content"].as_str().map(|text| text.chars().count()), Some(2000));
        assert_eq!(discord["allowed_mentions"]["parse"], json!([]));
        let card = &json(WebhookFormat::Teams)["attachments"][0]["content"];
        assert_eq!(card["body"][0]["text"], "critical: <!channel> & @everyone ä");
        let (headers, text) = made(WebhookFormat::Ntfy);
        assert!(headers.contains(&("Title", "critical on a.example".to_owned())), "{headers:?}");
        assert!(headers.contains(&("Priority", "5".to_owned())) && text.contains("What to do: xxx"), "{headers:?}");
        assert_eq!(json(WebhookFormat::Json)["rule"], "disk.full");
    }
}
