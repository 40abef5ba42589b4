//! The stack's logs: journald's entries, one line each, with the service they came from.

use serde_json::Value;

/// The program that reads the journal.
pub const JOURNALCTL: &str = "journalctl";

/// What is asked of the journal.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub project: String,
    /// None means all.
    pub services: Vec<String>,
    pub follow: bool,
    /// How many of the last lines; `None` means all.
    pub tail: Option<u32>,
    /// As journalctl takes it.
    pub since: Option<String>,
}

impl Query {
    /// The arguments for journalctl. Docker's journald driver names labels in upper case, other characters as `_`.
    pub fn arguments(&self) -> Vec<String> {
        let mut args = vec!["--output=json".to_owned(), "--all".to_owned(), "--no-pager".to_owned()];
        args.push(format!("COM_DOCKER_COMPOSE_PROJECT={}", self.project));
        // Matches of one field are alternatives.
        args.extend(self.services.iter().map(|service| format!("COM_DOCKER_COMPOSE_SERVICE={service}")));
        if self.follow {
            args.push("--follow".to_owned());
        }
        match self.tail {
            Some(lines) => args.push(format!("--lines={lines}")),
            // journalctl shows ten lines when it follows, unless told otherwise.
            None => args.push("--lines=all".to_owned()),
        }
        args.extend(self.since.as_ref().map(|since| format!("--since={since}")));
        args
    }
}

/// The service and the text of one entry of `journalctl --output=json`.
pub fn entry(line: &str) -> Option<(String, String)> {
    let entry: Value = serde_json::from_str(line).ok()?;
    let service = entry.get("COM_DOCKER_COMPOSE_SERVICE")?.as_str()?.to_owned();
    let message = match entry.get("MESSAGE")? {
        Value::String(text) => text.clone(),
        // Text that is not UTF-8 comes as a list of bytes.
        Value::Array(bytes) => {
            let bytes: Vec<u8> = bytes.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => return None,
    };
    Some((service, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_both_forms() {
        let text = entry("{\"COM_DOCKER_COMPOSE_SERVICE\":\"web\",\"MESSAGE\":\"hi\"}");
        assert_eq!(text, Some(("web".to_owned(), "hi".to_owned())));
        let bytes = entry("{\"COM_DOCKER_COMPOSE_SERVICE\":\"web\",\"MESSAGE\":[104,255]}");
        assert_eq!(bytes, Some(("web".to_owned(), "h\u{fffd}".to_owned())));
        assert_eq!(entry("{\"MESSAGE\":\"of systemd\"}"), None);
        assert_eq!(entry("not json"), None);
    }
}
