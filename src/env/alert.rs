//! The keys under `appliance.alert:`: who is told of what is wrong.

use super::document::Node;
use super::reader::{Fields, Reading, Unknown};
use crate::value::{ChannelName, Email, MailServer, Secret, WebUrl};

/// Everything under `appliance.alert:`. Sentry is a channel, too, where `appliance.sentry.dsn` is set.
#[derive(Debug, Clone, Default)]
pub struct Alert {
    pub mail: Option<Mail>,
    pub webhooks: Vec<Webhook>,
}

/// Alerts by mail.
#[derive(Debug, Clone)]
pub struct Mail {
    pub to: Vec<Email>,
    pub from: Email,
    pub server: MailServer,
}

/// Alerts as HTTP requests. An address of a service may hold its key, so it is a secret as a whole.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub name: ChannelName,
    pub url: Secret,
    /// Each request is signed with it.
    pub secret: Option<Secret>,
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
    // A slip would be found out only when nobody was told.
    fields.finish(Unknown::Refuse);
    Alert { mail, webhooks }
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
    fields.finish(Unknown::Refuse);
    Some(Mail { to: to.filter(|to| !to.is_empty())?, from: from?, server: server? })
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
    fields.finish(Unknown::Refuse);
    Some(Webhook { name: name?, url: Secret::new(url?.as_str()), secret })
}
