//! A request that tells a receiver of an event, and what an answer to it means.

use crate::host::post::{Post, Posted};
use crate::value::Secret;
use std::time::Duration;

/// How long a receiver of requests may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// It was not told.
#[derive(Debug)]
pub struct Untold {
    pub why: String,
    /// The receiver wants to be asked again then, from now on.
    pub retry_after: Option<Duration>,
}

impl From<anyhow::Error> for Untold {
    fn from(error: anyhow::Error) -> Untold {
        Untold { why: format!("{error:#}"), retry_after: None }
    }
}

/// A request that is made.
pub struct Request {
    pub url: Secret,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn as_post(&self) -> Post<'_> {
        Post { url: &self.url, headers: &self.headers, body: Some(self.body.clone()), deadline: DEADLINE }
    }
}

/// Of what is said beside the status, a yes is shown where it repeats nothing of the URL; a no often does, as in "no route /hook/KEY".
pub fn judged(posted: Posted, url: &Secret) -> Result<String, Untold> {
    let status = format!("HTTP {}", posted.status);
    if !(200..=299).contains(&posted.status) {
        return Err(Untold { why: status, retry_after: posted.retry_after });
    }
    let said = posted.said.lines().next().unwrap_or_default().trim();
    let parts = url.expose().split(['/', '?', '&', '=', '@', ':', '.']);
    let repeats = parts.filter(|part| part.len() >= 4).any(|part| said.contains(part));
    Ok(if repeats { status } else { format!("{status} {said}").trim_end().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_2xx_is_a_yes() {
        for (status, is_yes) in [(200, true), (202, true), (301, false), (404, false), (429, false), (500, false)] {
            let posted = Posted { status, retry_after: Some(Duration::from_secs(7)), said: "one\ntwo".to_owned() };
            match judged(posted, &Secret::new("https://h.example/hook/canary")) {
                Ok(answer) => assert!(is_yes && answer == format!("HTTP {status} one"), "{answer}"),
                Err(untold) => assert!(!is_yes && untold.retry_after.is_some(), "{}", untold.why),
            }
            let posted = Posted { status, retry_after: None, said: "no route /hook/canary".to_owned() };
            let said = judged(posted, &Secret::new("https://h.example/hook/canary"));
            assert_eq!(said.unwrap_or_else(|untold| untold.why), format!("HTTP {status}"));
        }
    }
}
