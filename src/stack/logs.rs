//! The stack's logs: journald's entries, one line each, with the service they came from. Pure; who runs journalctl is `cli/logs.rs`.

use serde_json::Value;
use std::collections::BTreeMap;

/// The program that reads the journal.
pub const JOURNALCTL: &str = "journalctl";
/// The longest line that is put together from parts, in bytes; Docker cuts lines at 16 KiB.
const MAX_LINE: usize = 1 << 20;

/// What is asked of the journal.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// At least one.
    pub projects: Vec<String>,
    /// None means all.
    pub services: Vec<String>,
    pub follow: bool,
    /// How many of the last lines; `None` means all.
    pub tail: Option<u32>,
    /// As journalctl takes it, or an age like `10m`.
    pub since: Option<String>,
    pub until: Option<String>,
    /// A Perl regular expression; one without capital letters does not heed case.
    pub grep: Option<String>,
}

impl Query {
    /// The arguments for journalctl. Docker's journald driver names labels in upper case, other characters as `_`.
    pub fn arguments(&self) -> Vec<String> {
        let mut args = vec!["--output=json".to_owned(), "--all".to_owned(), "--no-pager".to_owned()];
        // Anybody may write an entry with these fields; this one is journald's own word for who wrote it.
        args.push("_SYSTEMD_UNIT=docker.service".to_owned());
        // Matches of one field are alternatives.
        args.extend(self.projects.iter().map(|project| format!("COM_DOCKER_COMPOSE_PROJECT={project}")));
        args.extend(self.services.iter().map(|service| format!("COM_DOCKER_COMPOSE_SERVICE={service}")));
        if self.follow {
            args.push("--follow".to_owned());
        }
        match self.tail {
            Some(lines) => args.push(format!("--lines={lines}")),
            // journalctl shows ten lines when it follows, unless told otherwise.
            None => args.push("--lines=all".to_owned()),
        }
        args.extend(self.since.as_ref().map(|since| format!("--since={}", time(since))));
        args.extend(self.until.as_ref().map(|until| format!("--until={}", time(until))));
        args.extend(self.grep.as_ref().map(|pattern| format!("--grep={pattern}")));
        args
    }
}

/// `10m` is ten minutes ago, as Docker's users know it; everything else is journalctl's to judge.
fn time(text: &str) -> String {
    let is_age = text.ends_with(['s', 'm', 'h', 'd'])
        && text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_digit() || b"smhd".contains(&b));
    if is_age { format!("-{text}") } else { text.to_owned() }
}

/// One line of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The app that it is of.
    pub project: String,
    pub service: String,
    pub container: String,
    /// Which of the service's containers, from 1.
    pub number: u32,
    /// Microseconds since 1970.
    pub time: i64,
    /// It was written to standard error.
    pub is_error: bool,
    pub message: String,
    /// The line goes on in the next entry of this container.
    partial: bool,
}

impl Entry {
    /// What stands before the line: the service, and which of its containers if it is not the first.
    pub fn origin(&self) -> String {
        if self.number > 1 { format!("{}.{}", self.service, self.number) } else { self.service.clone() }
    }
}

/// A line as a terminal may have it: what an app, or whoever it quotes, has put in to move the cursor or to title the window is shown
/// instead of done. Colours stay where they are wanted.
pub fn harmless(message: &str, with_colours: bool) -> String {
    let mut shown = String::with_capacity(message.len());
    let mut rest = message.trim_end_matches('\r');
    let mut is_coloured = false;
    while let Some(next) = rest.chars().next() {
        match colour(rest) {
            Some(length) => {
                if with_colours {
                    shown.push_str(&rest[..length]);
                    is_coloured = true;
                }
                rest = &rest[length..];
            }
            None => {
                match next.is_control() && next != '\t' {
                    true => shown.extend(next.escape_default()),
                    false => shown.push(next),
                }
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    if is_coloured {
        shown.push_str("\u{1b}[0m");
    }
    shown
}

/// How long the colour is that a text begins with, in bytes: SGR of ECMA-48, 8.3.117.
fn colour(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';' && c != ':')?;
    parameters[end..].starts_with('m').then_some(2 + end + 1)
}

/// One entry of `journalctl --output=json`.
fn entry(line: &str) -> Option<Entry> {
    let entry: Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    let message = match entry.get("MESSAGE")? {
        Value::String(text) => text.clone(),
        // Text that is not UTF-8 comes as a list of bytes.
        Value::Array(bytes) => {
            let bytes: Vec<u8> = bytes.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => return None,
    };
    Some(Entry {
        project: text("COM_DOCKER_COMPOSE_PROJECT").unwrap_or_default().to_owned(),
        service: text("COM_DOCKER_COMPOSE_SERVICE")?.to_owned(),
        container: text("CONTAINER_NAME").unwrap_or_default().to_owned(),
        number: text("COM_DOCKER_COMPOSE_CONTAINER_NUMBER").and_then(|number| number.parse().ok()).unwrap_or(1),
        time: text("__REALTIME_TIMESTAMP").and_then(|time| time.parse().ok()).unwrap_or_default(),
        is_error: text("PRIORITY") == Some("3"),
        message,
        partial: text("CONTAINER_PARTIAL_MESSAGE") == Some("true"),
    })
}

/// Puts lines together that Docker cut.
#[derive(Debug, Default)]
pub struct Lines {
    begun: BTreeMap<String, String>,
}

impl Lines {
    /// Takes a line of journalctl's; gives back a container's line when it is whole.
    pub fn take(&mut self, line: &str) -> Option<Entry> {
        let mut entry = entry(line)?;
        let begun = self.begun.remove(&entry.container).unwrap_or_default();
        let whole = begun + &entry.message;
        if entry.partial && whole.len() < MAX_LINE {
            self.begun.insert(entry.container, whole);
            return None;
        }
        entry.message = whole;
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_both_forms() {
        let message = |line: &str| entry(line).map(|entry| (entry.origin(), entry.message, entry.is_error));
        let text = message("{\"COM_DOCKER_COMPOSE_SERVICE\":\"web\",\"MESSAGE\":\"hi\",\"PRIORITY\":\"3\"}");
        assert_eq!(text, Some(("web".to_owned(), "hi".to_owned(), true)));
        let bytes = message(
            "{\"COM_DOCKER_COMPOSE_SERVICE\":\"web\",\"MESSAGE\":[104,255],\"COM_DOCKER_COMPOSE_CONTAINER_NUMBER\":\"2\"}",
        );
        assert_eq!(bytes, Some(("web.2".to_owned(), "h\u{fffd}".to_owned(), false)));
        assert_eq!(message("{\"MESSAGE\":\"of systemd\"}"), None);
        assert_eq!(message("not json"), None);
    }

    #[test]
    fn lines_that_were_cut_are_put_together_by_container() {
        let part = |container: &str, text: &str, partial: bool| {
            format!(
                "{{\"COM_DOCKER_COMPOSE_SERVICE\":\"s\",\"CONTAINER_NAME\":\"{container}\",\"MESSAGE\":\"{text}\"{}}}",
                if partial { ",\"CONTAINER_PARTIAL_MESSAGE\":\"true\"" } else { "" }
            )
        };
        let mut lines = Lines::default();
        assert_eq!(lines.take(&part("a", "one", true)), None);
        assert_eq!(lines.take(&part("b", "other", false)).map(|entry| entry.message), Some("other".to_owned()));
        assert_eq!(lines.take(&part("a", "two", false)).map(|entry| entry.message), Some("onetwo".to_owned()));
    }

    #[test]
    fn what_would_play_with_the_terminal_is_shown() {
        let line = "\u{1b}[31mred\u{1b}[0m\ta\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}K\u{1b}[1;";
        let tail = "\ta\\u{1b}[2J\\u{1b}]0;title\\u{7}\\u{9b}K\\u{1b}[1;";
        assert_eq!(harmless(line, false), format!("red{tail}"));
        assert_eq!(harmless(line, true), format!("\u{1b}[31mred\u{1b}[0m{tail}\u{1b}[0m"));
        assert_eq!(harmless("done\r", false), "done");
    }

    #[test]
    fn ages_are_taken_as_docker_takes_them() {
        assert_eq!((time("10m").as_str(), time("1h30m").as_str()), ("-10m", "-1h30m"));
        assert_eq!((time("2026-01-31").as_str(), time("10 min ago").as_str()), ("2026-01-31", "10 min ago"));
    }
}
