//! The way to an ACME server: HTTPS alone, bounded answers, and what the server says of its limits.

use super::Authority;
use crate::host::now;
use anyhow::{Context, Result};
use bytes::Bytes;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The largest answer that is read, in bytes: a chain of certificates is some kilobytes.
const MAX_ANSWER: usize = 1 << 20;
/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// The longest that a server may put us off.
const LONGEST_LIMIT_S: i64 = 7 * 24 * 3600;

/// When the server wants to be asked again, in seconds since the epoch, once it said so (RFC 8555, 6.6).
#[derive(Debug, Clone, Default)]
pub(super) struct RateLimit(Arc<Mutex<Option<i64>>>);

impl RateLimit {
    pub(super) fn until(&self) -> Option<i64> {
        // The guarded code only assigns.
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn note(&self, until: i64) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(until);
    }
}

#[derive(Clone)]
pub(super) struct Transport {
    client: reqwest::Client,
    limit: RateLimit,
}

impl Transport {
    pub(super) fn new(authority: &Authority) -> Result<Transport> {
        let mut builder = reqwest::Client::builder().https_only(true).timeout(DEADLINE).user_agent("appliance");
        if let Some(pem) = &authority.ca {
            let roots = reqwest::Certificate::from_pem_bundle(pem.as_bytes());
            // Whoever names a root means that one, and no other.
            builder = builder.tls_certs_only(roots.context("'appliance.ssl.acme.ca' is no certificate")?);
        }
        let client = builder.build().context("could not make an ACME client")?;
        Ok(Transport { client, limit: RateLimit::default() })
    }

    /// What will have been heard through this transport.
    pub(super) fn limit(&self) -> RateLimit {
        self.limit.clone()
    }
}

impl HttpClient for Transport {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (client, limit) = (self.client.clone(), self.limit.clone());
        Box::pin(async move {
            let request = request.map(reqwest::Body::wrap);
            let mut answer = client.execute(request.try_into().map_err(other)?).await.map_err(other)?;
            let status = answer.status().as_u16();
            let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
            if let Some(until) =
                after.filter(|_| [429, 503].contains(&status)).and_then(|after| end_of_limit(after, now().as_second()))
            {
                limit.note(until);
            }
            let mut body = Vec::new();
            while let Some(more) = answer.chunk().await.map_err(other)? {
                if body.len() + more.len() > MAX_ANSWER {
                    return Err(Error::Str("the server sent more than a megabyte"));
                }
                body.extend_from_slice(&more);
            }
            let (parts, _) = http::Response::from(answer).into_parts();
            Ok(BytesResponse { parts, body: Box::new(Bytes::from(body)) })
        })
    }
}

fn other(error: reqwest::Error) -> Error {
    Error::Other(Box::new(error))
}

/// When a `Retry-After` ends (RFC 9110, 10.2.3): a number of seconds or a date.
fn end_of_limit(text: &str, now_s: i64) -> Option<i64> {
    let text = text.trim();
    let end = match text.parse::<u32>() {
        Ok(seconds) => now_s + i64::from(seconds),
        Err(_) => jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_second(),
    };
    Some(end.clamp(now_s, now_s + LONGEST_LIMIT_S))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_a_date_within_bounds() {
        for (text, expected) in [
            ("120", Some(1_000_120)),
            ("Mon, 12 Jan 1970 13:46:50 GMT", Some(1_000_010)),
            // The past is now, and a year is a week.
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(1_000_000)),
            ("31536000", Some(1_000_000 + LONGEST_LIMIT_S)),
            ("soon", None),
        ] {
            assert_eq!(end_of_limit(text, 1_000_000), expected, "{text}");
        }
    }
}
