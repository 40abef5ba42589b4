//! Who is told of alerts: names of channels, and mail servers.

use super::git::percent_decode;
use super::names::checked_text;
use super::{Domain, Invalid, Secret};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

checked_text!(
    /// What a webhook is called: lower-case letters, digits and dashes, at most 32; not the name of another channel.
    ChannelName, check_channel
);

/// The channels of which there is one each.
const TAKEN: [&str; 2] = ["mail", "sentry"];

fn check_channel(text: &str) -> Result<String, Invalid> {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || text.len() > 32 || !text.bytes().all(is_plain) || text.starts_with('-') {
        return Err(Invalid::new("a name of at most 32 lower-case letters, digits and '-'"));
    }
    match TAKEN.contains(&text) {
        true => Err(Invalid::new("another name than 'mail' or 'sentry', which are channels of their own")),
        false => Ok(text.to_owned()),
    }
}

/// A server that takes mail: `smtps://` with TLS from the start, or `smtp://` with STARTTLS, without which no password is sent.
#[derive(Debug, Clone)]
pub struct MailServer {
    /// A name or an address.
    pub host: String,
    pub port: u16,
    /// Whether TLS begins with the connection.
    pub is_tls: bool,
    pub login: Option<(String, Secret)>,
}

impl FromStr for MailServer {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let right = || Invalid::new("a mail server, like 'smtp://user:password@mail.example.org:587' or 'smtps://…'");
        let (scheme, rest) = text.split_once("://").ok_or_else(right)?;
        let is_tls = match scheme {
            "smtps" => true,
            "smtp" => false,
            _ => return Err(right()),
        };
        let (user, place) = rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
        let place = place.strip_suffix('/').unwrap_or(place);
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) => (host, port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(right)?),
            None => (place, if is_tls { 465 } else { 587 }),
        };
        // An IPv4 address is made of labels, too.
        host.parse::<Domain>().map_err(|_| right())?;
        let login = match user {
            None => None,
            Some(user) => {
                let (name, password) = user.split_once(':').ok_or_else(right)?;
                let (name, password) = (percent_decode(name), percent_decode(password));
                let is_plain = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
                if !is_plain(&name) || !is_plain(&password) {
                    return Err(right());
                }
                Some((name, Secret::new(password)))
            }
        };
        Ok(MailServer { host: host.to_owned(), port, is_tls, login })
    }
}

/// Hours of the day in which only what is critical is told: `22:00-07:00`, by the host's time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietHours {
    /// Minutes after midnight.
    from: u16,
    /// Minutes after midnight; of the next day where it is not behind `from`.
    to: u16,
}

impl QuietHours {
    /// Whether that minute of the day is one of them.
    pub fn covers(self, minute: u16) -> bool {
        match self.from < self.to {
            true => (self.from..self.to).contains(&minute),
            false => minute >= self.from || minute < self.to,
        }
    }
}

impl FromStr for QuietHours {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let right = || Invalid::new("hours of the day like '22:00-07:00'");
        let minute = |text: &str| -> Option<u16> {
            let (hour, minute) = text.trim().split_once(':')?;
            let number = |text: &str, least: usize, most: u16| {
                let is_plain = (least..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
                text.parse::<u16>().ok().filter(|number| is_plain && *number < most)
            };
            Some(number(hour, 1, 24)? * 60 + number(minute, 2, 60)?)
        };
        let (from, to) = text.split_once('-').ok_or_else(right)?;
        let (from, to) = (minute(from).ok_or_else(right)?, minute(to).ok_or_else(right)?);
        // It would be the whole day, or nothing of it.
        if from == to { Err(right()) } else { Ok(QuietHours { from, to }) }
    }
}

/// How a webhook's request says what happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WebhookFormat {
    /// All of it, for programs (docs/alerts.md).
    #[default]
    Json,
    /// Slack's incoming webhooks, which Mattermost and Rocket.Chat understand, too.
    Slack,
    Discord,
    /// Microsoft Teams' workflows.
    Teams,
    /// A topic's URL of an ntfy server.
    Ntfy,
}

impl FromStr for WebhookFormat {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "json" => Ok(WebhookFormat::Json),
            "slack" => Ok(WebhookFormat::Slack),
            "discord" => Ok(WebhookFormat::Discord),
            "teams" => Ok(WebhookFormat::Teams),
            "ntfy" => Ok(WebhookFormat::Ntfy),
            _ => Err(Invalid::new("'json', 'slack', 'discord', 'teams' or 'ntfy'")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_server_has_a_scheme_a_host_and_perhaps_a_login() {
        let read = |text: &str| text.parse::<MailServer>().ok();
        let plain = read("smtp://mail.example.org").expect("it is one");
        assert_eq!(
            (plain.host.as_str(), plain.port, plain.is_tls, plain.login.is_none()),
            ("mail.example.org", 587, false, true)
        );
        let secret = read("smtps://me%40x:p%3Aw@10.0.0.7:2465/").expect("it is one");
        assert_eq!((secret.port, secret.is_tls), (2465, true));
        let (name, password) = secret.login.expect("it has a login");
        assert_eq!((name.as_str(), password.expose()), ("me@x", "p:w"));
        for wrong in [
            "mail.example.org",
            "http://mail.example.org",
            "smtp://",
            "smtp://a.example:0",
            "smtp://a.example:x",
            "smtp://me@a.example",
            "smtp://me:a%0Ab@a.example",
            "smtp://a.example/path",
            "smtp://a b.example",
        ] {
            assert!(read(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn quiet_hours_may_go_over_midnight() {
        let read = |text: &str| text.parse::<QuietHours>().ok();
        let night = read("22:00-7:30").expect("they are hours");
        assert_eq!([1319, 1320, 0, 449, 450].map(|minute| night.covers(minute)), [false, true, true, true, false]);
        let noon = read("12:00 - 13:00").expect("they are hours");
        assert_eq!([719, 720, 779, 780].map(|minute| noon.covers(minute)), [false, true, true, false]);
        for wrong in
            ["", "22-7", "22:00", "24:00-7:00", "22:60-7:00", "7:00-7:00", "22:0-7:00", "+2:00-7:00", "a:00-7:00"]
        {
            assert!(read(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_channels_name_is_a_plain_word_of_its_own() {
        for (text, is_one) in
            [("ops", true), ("on-call2", true), ("mail", false), ("a/b", false), ("", false), ("-x", false)]
        {
            assert_eq!(text.parse::<ChannelName>().is_ok(), is_one, "{text}");
        }
    }
}
