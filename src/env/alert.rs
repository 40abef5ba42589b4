//! The keys under `appliance.alert:`: who is told of what is wrong.

use super::diagnostic::nearest;
use super::document::{Node, shown};
use super::reader::{Fields, Reading, Unknown};
use crate::value::rule::RULES;
use crate::value::{ChannelName, Email, MailServer, QuietHours, RuleLimits, Secret, Severity, WebUrl, WebhookFormat};

/// Everything under `appliance.alert:`. Sentry is a channel, too, where `appliance.sentry.dsn` is set.
#[derive(Debug, Clone, Default)]
pub struct Alert {
    pub mail: Option<Mail>,
    pub webhooks: Vec<Webhook>,
    /// The dead man's switch: asked every five minutes, it tells somebody when it is not asked any more. The URL holds its key.
    pub alive: Option<Secret>,
    pub rules: RuleLimits,
}

/// What of all is told by a channel, and when.
#[derive(Debug, Clone, Default)]
pub struct Audience {
    /// The least severe that is told; none: all.
    pub least: Option<Severity>,
    pub quiet: Option<QuietHours>,
}

/// Alerts by mail.
#[derive(Debug, Clone)]
pub struct Mail {
    pub to: Vec<Email>,
    pub from: Email,
    pub server: MailServer,
    pub audience: Audience,
}

/// Alerts as HTTP requests. An address of a service may hold its key, so it is a secret as a whole.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub name: ChannelName,
    pub url: Secret,
    /// Each request is signed with it.
    pub secret: Option<Secret>,
    pub format: WebhookFormat,
    pub audience: Audience,
}

/// The most webhooks that there may be.
const MAX_WEBHOOKS: usize = 10;

pub(super) fn read_alert(appliance: &Fields) -> Alert {
    let fields = appliance.fields("alert");
    let mail = read_mail(&fields);
    let read = |reading: &Reading, node: &Node, path: &str| Some(read_webhook(reading, node, path));
    let webhooks: Vec<Webhook> = fields.list("webhooks", read).unwrap_or_default().into_iter().flatten().collect();
    for (index, webhook) in webhooks.iter().enumerate() {
        let place = fields.item_place("webhooks", index).unwrap_or(fields.place());
        if webhooks[..index].iter().any(|other| other.name == webhook.name) {
            fields.error(
                place,
                format!("another webhook is called '{}', too; give each a name of its own", webhook.name),
            );
        }
        if index == MAX_WEBHOOKS {
            fields.error(place, format!("there are more than {MAX_WEBHOOKS} webhooks, the most that there may be"));
        }
    }
    let alive: Option<WebUrl> = fields.get("alive", |reading, node, path| reading.checked_secretly(node, path));
    let rules = read_rules(&fields);
    // A slip would be found out only when nobody was told.
    fields.finish(Unknown::Refuse);
    Alert { mail, webhooks, alive: alive.map(|url| Secret::new(url.as_str())), rules }
}

fn read_audience(channel: &Fields) -> Audience {
    Audience { least: channel.checked("severity"), quiet: channel.checked("quiet") }
}

fn read_rules(alert: &Fields) -> RuleLimits {
    let mut limits = RuleLimits::default();
    let fields = alert.fields("rules");
    for (key, node) in fields.entries() {
        let path = fields.path(&key.text);
        let Some(rule) = RULES.iter().find(|rule| rule.name == key.text) else {
            let near = nearest(&key.text, RULES.iter().map(|rule| rule.name));
            let hint = near.map(|near| format!("did you mean '{near}'?"));
            let hint = hint.unwrap_or_else(|| "they are listed by: appliance alert rules".to_owned());
            fields.error(key.place, format!("'{}' is no rule; {hint}", shown(&path)));
            continue;
        };
        let text = fields.reading.text(node, &path).unwrap_or_default();
        if let Err(right) = limits.set(rule, text.trim())
            && !text.is_empty()
        {
            fields.error(node.place, format!("'{path}' is '{}', but must be {right}", shown(text.trim())));
        }
        fields.reading.mark_open(node);
    }
    limits
}

fn read_mail(alert: &Fields) -> Option<Mail> {
    let fields = alert.fields("mail");
    if !fields.is_present() {
        return None;
    }
    let to: Option<Vec<Email>> = fields.words("to");
    let (from, server) = (
        fields.checked("from"),
        fields.get("smtp", |reading, node, path| reading.checked_secretly::<MailServer>(node, path)),
    );
    for (key, right) in [
        ("to", "one address or several, like 'ops@example.org'"),
        ("from", "the address that mails come from"),
        ("smtp", "the server that takes them, like 'smtp://user:password@mail.example.org:587'"),
    ] {
        if fields.value(key).is_none() {
            fields.error(fields.place(), format!("'{}' is missing: {right}", fields.path(key)));
        }
    }
    let audience = read_audience(&fields);
    fields.finish(Unknown::Refuse);
    Some(Mail { to: to.filter(|to| !to.is_empty())?, from: from?, server: server?, audience })
}

fn read_webhook(reading: &Reading, node: &Node, path: &str) -> Option<Webhook> {
    let fields = Fields::of(reading, Some(node), path);
    if !fields.is_present() {
        return None;
    }
    let name: Option<ChannelName> = fields.checked("name");
    let url: Option<WebUrl> = fields.get("url", |reading, node, path| reading.checked_secretly(node, path));
    let secret = fields.secret("secret");
    for (key, right) in [("name", "what the channel is called"), ("url", "where requests go")] {
        if fields.value(key).is_none() {
            fields.error(fields.place(), format!("'{}' is missing: {right}", fields.path(key)));
        }
    }
    let (format, audience) = (fields.checked("format").unwrap_or_default(), read_audience(&fields));
    fields.finish(Unknown::Refuse);
    Some(Webhook { name: name?, url: Secret::new(url?.as_str()), secret, format, audience })
}
