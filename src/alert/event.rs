//! What is sent to people: one thing that happened, with all that its reader needs.

use super::state::{Key, Note, What};
use crate::env::hex;
use crate::host::Host;
use crate::value::Severity;
use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// So long after it happened it is said how late it is told.
const LATE_S: i64 = 600;

/// The channel of reports.
pub const SENTRY: &str = "sentry";

/// Something that is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// 32 hexadecimal digits; one that comes twice is known by it.
    pub id: String,
    pub what: What,
    pub key: Key,
    pub severity: Severity,
    /// What holds, in a line.
    pub summary: String,
    /// What to do.
    pub remedy: String,
    /// Since when it holds.
    pub since: Timestamp,
    /// When it was found.
    pub at: Timestamp,
    /// For this channel alone; none: for all.
    #[serde(default)]
    pub only: Option<String>,
    /// What is sent to Sentry as it is: an envelope of the SDK's.
    #[serde(default)]
    pub report: Option<String>,
}

/// An identifier that nothing else has.
pub fn new_id(host: &Host) -> Result<String> {
    Ok(hex(&host.random::<16>()?))
}

impl Event {
    pub fn of_note(note: Note, host: &Host) -> Result<Event> {
        let Note { what, key, severity, summary, remedy, since } = note;
        Ok(Event {
            id: new_id(host)?,
            what,
            key,
            severity,
            summary,
            remedy,
            since,
            at: host.now(),
            only: None,
            report: None,
        })
    }

    /// Something that a program or a person says.
    pub fn said(severity: Severity, summary: String, only: Option<String>, host: &Host) -> Result<Event> {
        let (rule, now) = (if only.is_some() { "test" } else { "message" }, host.now());
        let key = Key { rule: rule.to_owned(), subject: String::new() };
        Ok(Event {
            id: new_id(host)?,
            what: What::Said,
            key,
            severity,
            summary,
            remedy: String::new(),
            since: now,
            at: now,
            only,
            report: None,
        })
    }

    /// A report of this program's own, for Sentry.
    pub fn reported(id: String, severity: Severity, summary: String, envelope: String, host: &Host) -> Event {
        let now = host.now();
        Event {
            id,
            what: What::Said,
            key: Key { rule: "report".to_owned(), subject: String::new() },
            severity,
            summary,
            remedy: String::new(),
            since: now,
            at: now,
            only: Some(SENTRY.to_owned()),
            report: Some(envelope),
        }
    }

    /// Whether somebody waits for the answer to it, so that it is tried at once and only once.
    pub fn is_test(&self) -> bool {
        self.only.is_some() && self.report.is_none()
    }

    /// The line that says it all.
    pub fn subject(&self) -> String {
        let what = match self.what {
            What::Fires | What::Said => self.severity.name(),
            What::Lasts => "still",
            What::Flaps => "comes and goes",
            What::Over => "over",
        };
        format!("{what}: {}", self.summary)
    }

    /// What stands below the subject, as plain text.
    pub fn body(&self, domain: &str, now: Timestamp) -> String {
        let at = |at: Timestamp| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        let mut lines = vec![format!("{} on {domain}", self.subject()), String::new()];
        lines.push(format!("alert     {}", self.key));
        lines.push(format!("severity  {}", self.severity.name()));
        lines.push(format!("since     {}", at(self.since)));
        if let Some(late) = self.late_s(now) {
            lines.push(format!("found     {}, told {} min later", at(self.at), late / 60));
        }
        if !self.remedy.is_empty() && self.what != What::Over {
            lines.extend([String::new(), format!("What to do: {}", self.remedy)]);
        }
        if matches!(self.what, What::Fires | What::Lasts | What::Flaps) {
            lines.push(format!("Whoever sees to it: appliance alert ack {}", self.key));
        }
        lines.push(String::new());
        lines.join("\n")
    }

    /// How late it is told, if it is, in seconds.
    pub fn late_s(&self, now: Timestamp) -> Option<i64> {
        Some(now.as_second() - self.at.as_second()).filter(|late| *late >= LATE_S)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(what: What) -> Event {
        let at = Timestamp::from_second(1_800_000_000).expect("a time");
        let key = Key { rule: "disk.full".to_owned(), subject: "/data".to_owned() };
        Event {
            id: "0".repeat(32),
            what,
            key,
            severity: Severity::Critical,
            summary: "/data is full".to_owned(),
            remedy: "free some space".to_owned(),
            since: at,
            at,
            only: None,
            report: None,
        }
    }

    #[test]
    fn a_reader_learns_what_to_do_and_how_late_he_is_told() {
        let event_at = event(What::Fires).at;
        let text = event(What::Fires).body("app.example.org", event_at);
        assert!(text.starts_with("critical: /data is full on app.example.org\n"), "{text}");
        assert!(text.contains("What to do: free some space\n") && !text.contains("later"), "{text}");
        assert!(text.contains("appliance alert ack disk.full:/data"), "{text}");
        let late = Timestamp::from_second(event_at.as_second() + 3600).expect("a time");
        assert!(event(What::Fires).body("a.de", late).contains("told 60 min later"));
        let over = event(What::Over).body("a.de", event_at);
        assert!(over.starts_with("over: /data") && !over.contains("What to do") && !over.contains("ack"), "{over}");
    }
}
