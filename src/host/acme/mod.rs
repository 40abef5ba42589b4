//! Talking to an ACME server (RFC 8555): an order over HTTP-01, when the server would renew (RFC 9773), and revocation. The
//! account is `account.rs`, the way to the server `transport.rs`. When to order, and what becomes of the result, is
//! `certificate/`.

/// Tries a step again while the server refuses its nonces.
macro_rules! with_nonce {
    ($step:expr) => {{
        let end = tokio::time::Instant::now() + NONCES;
        loop {
            match $step {
                Err(error) if is_kind(&error, "badNonce") && tokio::time::Instant::now() < end => {}
                other => break other,
            }
        }
    }};
}

mod account;
mod transport;

use super::Host;
use crate::value::Secret;
use anyhow::{Context, Result, anyhow, bail};
use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier, NewOrder, Order,
    OrderStatus, RetryPolicy, RevocationReason, RevocationRequest,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::collections::BTreeMap;
use std::time::Duration;
use transport::{RateLimit, Transport};

/// Where nginx serves challenges from.
pub const CHALLENGES: &str = "/var/lib/appliance/acme";
/// How long a server may take to validate, and to issue.
const POLL: RetryPolicy = RetryPolicy::new().initial_delay(Duration::from_millis(200)).timeout(Duration::from_secs(60));
/// How long a step is tried again while the server refuses its nonces (RFC 8555, 6.5): servers behind one address may not share them. The
/// library itself tries three times.
const NONCES: Duration = Duration::from_secs(120);

/// A certificate authority and who we are to it.
#[derive(Debug, Clone)]
pub struct Authority {
    pub directory: String,
    /// Its own root certificate, PEM.
    pub ca: Option<String>,
    pub email: Option<String>,
    /// External account binding: key id, and key in base64url.
    pub eab: Option<(String, Secret)>,
}

/// How an order ended.
#[derive(Debug)]
pub enum Outcome {
    /// Key and chain, both PEM.
    Issued { key: Secret, chain: String },
    /// Names that could not be validated, and why.
    Refused(BTreeMap<String, String>),
}

/// When the server would renew a certificate, in seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub start: i64,
    pub end: i64,
}

/// The server limits how often it is asked (RFC 8555, 6.6).
#[derive(Debug, thiserror::Error)]
#[error("the server limits orders until {}: {why}", jiff::Timestamp::from_second(*until).unwrap_or_default())]
pub struct Limited {
    /// Seconds since the epoch.
    pub until: i64,
    pub why: String,
}

fn is_kind(error: &Error, kind: &str) -> bool {
    let Error::Api(problem) = error else { return false };
    problem.r#type.as_deref().is_some_and(|text| text.rsplit(':').next() == Some(kind))
}

/// Errors that have nothing to do with what an order is to replace, so that leaving that out would not help.
fn is_final(error: &Error) -> bool {
    ["rateLimited", "accountDoesNotExist", "badNonce"].iter().any(|kind| is_kind(error, kind))
}

/// The names that an error is about, where it says that the server would never issue for them.
fn rejected(error: &Error, names: &[String]) -> Option<BTreeMap<String, String>> {
    let Error::Api(problem) = error else { return None };
    if !["rejectedIdentifier", "caa", "dns"].iter().any(|kind| is_kind(error, kind)) {
        return None;
    }
    let about = |name: &&String| {
        let mut parts = problem.subproblems.iter().filter_map(|part| part.identifier.as_ref());
        parts.any(|identifier| format!("{identifier:?}").contains(&format!("\"{name}\"")))
            || problem.detail.as_ref().is_some_and(|detail| detail.contains(&format!("\"{name}\"")))
    };
    let bad: BTreeMap<String, String> =
        names.iter().filter(about).map(|name| (name.clone(), problem.to_string())).collect();
    Some(bad).filter(|bad| !bad.is_empty())
}

impl Host {
    /// Takes away the challenges that a killed run left.
    pub fn acme_tidy(&self) -> Result<()> {
        self.names(CHALLENGES)?.iter().try_for_each(|name| self.discard(&format!("{CHALLENGES}/{name}")))
    }

    /// Orders a certificate for some names. The challenges lie below [`CHALLENGES`] while they are needed.
    ///
    /// # Errors
    /// The server cannot be talked to, or refuses the order as a whole; [`Limited`] where it says when to come back.
    pub async fn acme_order(&self, authority: &Authority, names: &[String], replaces: Option<&str>) -> Result<Outcome> {
        let transport = Transport::new(authority)?;
        let limit = transport.limit();
        let ordered = async {
            let account = self.account(authority, transport).await?;
            let mut published = Vec::new();
            let outcome = self.order(&account, names, replaces, (&mut published, &limit)).await;
            for path in published {
                // What was issued must not be lost over this; the next start tidies up.
                if let Err(error) = self.discard(&path) {
                    tracing::warn!("{error:#}");
                }
            }
            outcome
        };
        match (ordered.await, limit.until()) {
            // The server forgot us: the next try makes a new account.
            (Err(error), _) if error.downcast_ref().is_some_and(|error| is_kind(error, "accountDoesNotExist")) => {
                self.discard(&account::account_path(authority))?;
                Err(error.context("the server does not know our account any more; a new one is made at the next try"))
            }
            (Err(error), Some(until)) => Err(Limited { until, why: format!("{error:#}") }.into()),
            (outcome, _) => outcome,
        }
    }

    /// Tells the authority that a certificate must not be trusted any more.
    ///
    /// # Errors
    /// The server cannot be talked to, or refuses. One that was revoked before is none.
    pub async fn acme_revoke(&self, authority: &Authority, chain: &str) -> Result<()> {
        let der = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|error| anyhow!("{error}"))?;
        let account = self.account(authority, Transport::new(authority)?).await?;
        let request = RevocationRequest { certificate: &der, reason: Some(RevocationReason::KeyCompromise) };
        match with_nonce!(account.revoke(&request).await) {
            Err(error) if is_kind(&error, "alreadyRevoked") => Ok(()),
            done => done.context("the authority did not revoke the certificate"),
        }
    }

    async fn order(
        &self,
        account: &Account,
        names: &[String],
        replaces: Option<&str>,
        (published, limit): (&mut Vec<String>, &RateLimit),
    ) -> Result<Outcome> {
        let identifiers: Vec<Identifier> = names.iter().map(|name| Identifier::Dns(name.clone())).collect();
        let old = replaces.and_then(|chain| CertificateDer::from_pem_slice(chain.as_bytes()).ok());
        let id = old.as_ref().and_then(|der| CertificateIdentifier::try_from(der).ok());
        let wanted = NewOrder::new(&identifiers);
        let with_id = match id {
            Some(id) => NewOrder::new(&identifiers).replaces(id),
            None => NewOrder::new(&identifiers),
        };
        let mut order = match with_nonce!(account.new_order(&with_id).await) {
            Ok(order) => order,
            Err(error) => match rejected(&error, names) {
                Some(bad) => return Ok(Outcome::Refused(bad)),
                // A server may not know what is to be replaced, or not know of replacing at all.
                None if replaces.is_some() && !is_final(&error) && limit.until().is_none() => {
                    tracing::info!("the order is made as a new one: {error}");
                    with_nonce!(account.new_order(&wanted).await)?
                }
                None => return Err(error.into()),
            },
        };
        let end = tokio::time::Instant::now() + NONCES;
        while let Err(error) = self.answer(&mut order, published).await {
            match error.downcast_ref() {
                Some(error) if is_kind(error, "badNonce") && tokio::time::Instant::now() < end => {}
                Some(Error::Api(problem)) => return refused(&mut order, problem.to_string()).await,
                _ => return Err(error),
            }
        }
        match with_nonce!(order.poll_ready(&POLL).await) {
            Ok(OrderStatus::Invalid) => return refused(&mut order, "it names no reason".to_owned()).await,
            // The order's own error; its authorizations say which name it is about.
            Err(Error::Api(problem)) => return refused(&mut order, problem.to_string()).await,
            other => drop(other.context("the server did not validate in time")?),
        }
        let key = with_nonce!(order.finalize().await)?;
        let chain = with_nonce!(order.poll_certificate(&POLL).await).context("the server did not issue in time")?;
        Ok(Outcome::Issued { key: Secret::new(key), chain })
    }

    /// Publishes what the server will look for, and tells it to look.
    async fn answer(&self, order: &mut Order, published: &mut Vec<String>) -> Result<()> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            // Asked anew: a try before this one may have answered it already.
            if authorization.refresh().await?.status != AuthorizationStatus::Pending {
                continue;
            }
            let mut challenge = authorization
                .challenge(ChallengeType::Http01)
                .ok_or_else(|| anyhow!("the server does not offer to validate over HTTP"))?;
            let token = challenge.token.clone();
            // It becomes the name of a file.
            if token.is_empty()
                || token.len() > 256
                || !token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
            {
                bail!("the server sent a token that is none (RFC 8555, 8.3)");
            }
            let path = format!("{CHALLENGES}/{token}");
            if published.contains(&path) {
                continue;
            }
            self.put(&path, challenge.key_authorization().as_str().as_bytes(), 0o644)?;
            challenge.set_ready().await?;
            published.push(path);
        }
        Ok(())
    }

    /// When the server would have this certificate renewed, and how long that answer holds; none where it does not say.
    pub async fn acme_window(&self, authority: &Authority, chain: &str) -> Result<Option<(Window, Duration)>> {
        let der = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|error| anyhow!("{error}"))?;
        let Ok(id) = CertificateIdentifier::try_from(&der) else { return Ok(None) };
        let transport = Transport::new(authority)?;
        let limit = transport.limit();
        let asked = self.ask_window(authority, transport, &id).await;
        match (asked, limit.until()) {
            (Err(error), Some(until)) => Err(Limited { until, why: format!("{error:#}") }.into()),
            (asked, _) => asked,
        }
    }

    async fn ask_window(
        &self,
        authority: &Authority,
        transport: Transport,
        id: &CertificateIdentifier<'_>,
    ) -> Result<Option<(Window, Duration)>> {
        let account = self.account(authority, transport).await?;
        match account.renewal_info(id).await {
            Ok((info, again)) => {
                let (start, end) = (info.suggested_window.start, info.suggested_window.end);
                Ok(Some((Window { start: start.unix_timestamp(), end: end.unix_timestamp() }, again)))
            }
            Err(Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(error).context("the server's renewal information could not be had"),
        }
    }
}

/// Which names the server could not validate.
async fn refused(order: &mut Order, why: String) -> Result<Outcome> {
    let bad = with_nonce!(invalid(order).await)?;
    if bad.is_empty() {
        bail!("the server refused the order: {why}");
    }
    Ok(Outcome::Refused(bad))
}

async fn invalid(order: &mut Order) -> Result<BTreeMap<String, String>, Error> {
    let mut bad = BTreeMap::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let state = authorization.refresh().await?;
        if state.status != AuthorizationStatus::Invalid {
            continue;
        }
        let why = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()).map(ToString::to_string);
        let name = state.identifier().to_string();
        bad.insert(name, why.unwrap_or_else(|| "it gave no reason".to_owned()));
    }
    Ok(bad)
}
