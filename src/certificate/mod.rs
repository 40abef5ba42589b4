//! An app's certificate by ACME: when it is ordered is `decide.rs`, talking to the server is `host/acme.rs`, and putting
//! key and certificate in place is the step tls. Nothing here ever takes away a certificate that serves.

mod decide;
mod revoke;

pub use decide::pause;
pub use revoke::revoke;

use crate::env::Env;
use crate::host::Host;
use crate::host::acme::{Authority, Limited, Outcome, Window};
use crate::prepare::{nginx, tls};
use crate::state::{ACME, HostLock, OrderLock, app_directory, history};
use crate::value::Tenant;
use crate::value::certificate::{Facts, Pair};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is ordered from, unless the env says otherwise.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// What was tried last, so that a restart does not try it again at once.
fn state_path(tenant: &Tenant) -> String {
    format!("{}/state.json", home(tenant))
}

/// Where the memory of an app's orders lies.
fn home(tenant: &Tenant) -> String {
    tenant.path(ACME, |name| format!("{}/acme", app_directory(name)))
}

const MAX_STATE: u64 = 1 << 20;
/// The longest that an order may take, its validation included.
const ORDERING: Duration = Duration::from_secs(300);
/// How long the order waits for another command, once there is a certificate to put in place.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long until the server is asked again whether it wants a certificate renewed early.
const LOOK_AGAIN_S: i64 = 12 * 3600;
/// Names that were left out are tried again after this.
const LEFT_OUT_S: i64 = 24 * 3600;

/// What the last tries gave. A different wish makes it void.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// Directory and names.
    wish: String,
    failures: u32,
    /// When it was tried last, in seconds since the epoch.
    #[serde(default)]
    tried: i64,
    /// Not before this, in seconds since the epoch.
    next_try: i64,
    /// The server takes no order before; nobody may force it.
    #[serde(default, alias = "peace_until")]
    limited_until: i64,
    /// Names that could not be validated: why, and when.
    left_out: BTreeMap<String, (String, i64)>,
}

/// What a look at the certificate gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// A new one is in place.
    pub renewed: bool,
    /// When to look again, in seconds since the epoch.
    pub next: i64,
    /// Names that it does not hold though they are wanted, and why.
    pub left_out: Vec<String>,
}

/// Whether the env asks for a certificate by ACME.
pub fn is_wanted(env: &Env) -> bool {
    let ssl = &env.appliance.ssl;
    ssl.letsencrypt && ssl.own.is_none() && (ssl.acme.directory.is_some() || env.appliance.has_public_domain())
}

impl State {
    /// What of it still counts.
    fn taken_up(self, wish: String, authority: &Authority, now: i64, force: bool) -> State {
        let mut state = if self.wish == wish { self } else { self.of_another_wish(wish, authority) };
        state.left_out.retain(|_, (_, since)| !force && (0..LEFT_OUT_S).contains(&(now - *since)));
        state.forget_the_future(now);
        state
    }

    /// What was written when the clock was ahead does not count.
    fn forget_the_future(&mut self, now: i64) {
        if self.tried > now {
            (self.next_try, self.limited_until) = (0, 0);
        }
    }

    /// Other names are another wish to the same server, whose limit may still hold.
    fn of_another_wish(&self, wish: String, authority: &Authority) -> State {
        let is_same_server = self.wish.split(' ').next() == Some(authority.directory.as_str());
        let (tried, limited_until) = if is_same_server { (self.tried, self.limited_until) } else { (0, 0) };
        State { wish, tried, limited_until, ..State::default() }
    }
}

/// What a server says of the time in which a certificate is to be renewed.
struct Asked {
    window: Option<Window>,
    /// After how many seconds it is to be asked again.
    look_again: i64,
    /// It answers no question before.
    limited_until: Option<i64>,
}

impl Default for Asked {
    fn default() -> Asked {
        Asked { window: None, look_again: LOOK_AGAIN_S, limited_until: None }
    }
}

/// The server's wish is a help, not a need.
async fn ask_window(authority: &Authority, chain: &str, host: &Host) -> Asked {
    match within(host.acme_window(authority, chain)).await {
        Ok(Some((window, again))) => {
            let look_again = i64::try_from(again.as_secs()).unwrap_or(LOOK_AGAIN_S).clamp(3600, 24 * 3600);
            Asked { window: Some(window), look_again, limited_until: None }
        }
        Ok(None) => Asked::default(),
        Err(error) => {
            tracing::info!("{error:#}");
            let limited_until = error.downcast_ref::<Limited>().map(|limited| limited.until);
            Asked { limited_until, ..Asked::default() }
        }
    }
}

/// Looks at the certificate, and orders a new one if it is due, or wanted by force.
///
/// # Errors
/// The order failed; what was there stays.
pub async fn look(env: &Env, host: &Host, force: bool) -> Result<Looked> {
    let authority = authority(env, host)?;
    let names = ordered_names(env);
    if names.is_empty() {
        bail!("no name of appliance.allowed_hosts can be ordered over HTTP");
    }
    let now = host.settled_now()?.as_second();
    let wish = format!("{} {}", authority.directory, names.join(" "));
    // One at a time: two orders would take away each other's challenges.
    let _order = OrderLock::take(host, "cert", ORDERING).await?;
    if host.owed(nginx::UNIT)?.is_some() {
        // A run that was killed between the certificate and its reload.
        let _lock = HostLock::take(host, "cert", PATIENCE).await?;
        nginx::load(host).await?;
    }
    let tenant = &env.tenant;
    let mut state = read_state(host, tenant)?.taken_up(wish, &authority, now, force);
    if force && now < state.limited_until {
        let until = jiff::Timestamp::from_second(state.limited_until).unwrap_or_default();
        bail!("the server {} limits orders until {until}", authority.directory);
    }
    let wanted: BTreeSet<String> = names.iter().filter(|name| !state.left_out.contains_key(*name)).cloned().collect();
    let current = put_back(env, host).await?;
    let condemned = revoke::is_condemned(host, tenant, current.as_ref())?;
    let left_out = |state: &State| state.left_out.iter().map(|(name, (why, _))| format!("{name}: {why}")).collect();
    if now < state.limited_until {
        // Not even for a question.
        return Ok(Looked { renewed: false, next: state.limited_until, left_out: left_out(&state) });
    }
    if !condemned {
        // A run that was killed between the new one and the end of the old one.
        revoke::carry_out(&authority, tenant, host).await;
    }
    let at_once = force || condemned;
    let chain = current.as_ref().map(Pair::certificate);
    let facts = current.as_ref().map(Pair::facts);
    let is_ours = facts.is_some_and(|facts| !facts.self_signed);
    let asked = match chain.filter(|_| is_ours && !at_once) {
        Some(chain) => ask_window(&authority, chain, host).await,
        None => Asked::default(),
    };
    if let Some(until) = asked.limited_until {
        (state.tried, state.limited_until) = (now, until);
        write_state(host, tenant, &state)?;
        return Ok(Looked { renewed: false, next: until, left_out: left_out(&state) });
    }
    let Asked { window, look_again, .. } = asked;
    let due = decide::due(facts, &wanted, window, decide::jitter_of(env.appliance.domain.as_str()));
    if !at_once && now < due {
        return Ok(Looked { renewed: false, next: due.min(now + look_again), left_out: left_out(&state) });
    }
    if !force && now < state.next_try {
        return Ok(Looked { renewed: false, next: state.next_try, left_out: left_out(&state) });
    }
    // Written before it is tried: neither a kill nor a full disk makes this a loop without a pause.
    state.failures = state.failures.saturating_add(1);
    let pause_s = decide::pause(state.failures);
    (state.tried, state.next_try) = (now, now + pause_s);
    write_state(host, tenant, &state)?;
    let judge = Judge { facts: facts.cloned(), window, domain: env.appliance.domain.as_str().to_owned(), at_once };
    let done = order(env, &authority, wanted, chain.filter(|_| is_ours), &judge, host, &mut state).await;
    if let Some(limited) = done.as_ref().err().and_then(|error| error.downcast_ref::<Limited>()) {
        state.limited_until = limited.until;
    }
    // Names that were found bad are remembered whatever came of the rest.
    write_state(host, tenant, &state)?;
    let renewed = done?;
    if condemned {
        revoke::carry_out(&authority, tenant, host).await;
    }
    let wanted = names.iter().filter(|name| !state.left_out.contains_key(*name)).cloned().collect();
    let due = decide::due(
        tls::current(host, &tls::Place::of(tenant)).as_ref().map(Pair::facts),
        &wanted,
        None,
        judge.jitter(),
    );
    if due > host.now().as_second() {
        (state.failures, state.next_try) = (0, 0);
        write_state(host, tenant, &state)?;
    } else {
        // A clock that is far ahead, or a server that issues something else than was ordered.
        tracing::warn!("the new certificate would have to be renewed at once; the next try waits {pause_s} s");
    }
    let next = due.min(now + look_again).max(state.next_try).max(now + 60);
    Ok(Looked { renewed, next, left_out: left_out(&state) })
}

/// What says whether an order is due for some names.
struct Judge {
    facts: Option<Facts>,
    window: Option<Window>,
    domain: String,
    /// Whether due or not.
    at_once: bool,
}

impl Judge {
    fn jitter(&self) -> f64 {
        decide::jitter_of(&self.domain)
    }
}

/// The pair in place; before it is looked at, one that was issued and never got there is put there.
async fn put_back(env: &Env, host: &Host) -> Result<Option<Pair>> {
    let hosts = &env.appliance.allowed_hosts;
    let now = host.now().as_second();
    let is_good = |pair: &Pair| !pair.facts().self_signed && tls::serves(pair.facts(), hosts, now);
    let place = tls::Place::of(&env.tenant);
    let current = tls::current(host, &place);
    let Some(issued) = tls::issued(host, &place).filter(is_good) else { return Ok(current) };
    let later = |current: &Pair| issued.facts().not_before > current.facts().not_before;
    if current.as_ref().is_some_and(|current| is_good(current) && !later(current)) {
        return Ok(current);
    }
    put_in_place(env, host, &issued).await?;
    Ok(Some(issued))
}

/// Puts a pair in place and makes nginx load it.
async fn put_in_place(env: &Env, host: &Host, pair: &Pair) -> Result<()> {
    let _lock = HostLock::take(host, "cert", PATIENCE).await?;
    // It may have waited for whoever made another env the active one, with a certificate of its own.
    let active = host.read_start(history::ACTIVE, crate::env::MAX_BYTES + 1)?;
    if active.is_none_or(|bytes| crate::env::digest(&bytes) != env.file_digest) {
        bail!("the env was changed meanwhile; the certificate that was issued is kept, and judged anew");
    }
    tls::put(host, &tls::Place::of(&env.tenant), pair).await.context("the new certificate was not put in place")?;
    nginx::load(host).await
}

/// Orders, leaving out names that cannot be validated, and puts the result in place.
async fn order(
    env: &Env,
    authority: &Authority,
    mut names: BTreeSet<String>,
    replaces: Option<&str>,
    judge: &Judge,
    host: &Host,
    state: &mut State,
) -> Result<bool> {
    let domain = judge.domain.as_str();
    // Each round loses a name, or is the last.
    loop {
        // The domain first: it becomes the certificate's common name.
        let mut ordered: Vec<String> = names.iter().cloned().collect();
        ordered.sort_by_key(|name| name != domain);
        match within(host.acme_order(authority, &ordered, replaces)).await? {
            Outcome::Issued { key, chain } => {
                // On the disk before anything else can go wrong.
                let pair = tls::keep_issued(host, &tls::Place::of(&env.tenant), &chain, &key)?;
                put_in_place(env, host, &pair).await?;
                return Ok(true);
            }
            Outcome::Refused(bad) => {
                let now = host.now().as_second();
                let before = names.len();
                for (name, why) in &bad {
                    if names.remove(name) && name != domain {
                        state.left_out.insert(name.clone(), (why.clone(), now));
                    }
                }
                if let Some(why) = bad.get(domain) {
                    bail!("{domain} could not be validated: {why}");
                }
                if names.len() == before || names.is_empty() {
                    bail!("the server refuses names that were not ordered, or all of them");
                }
                // A bad name alone is no reason to issue once more what is there already.
                let due = decide::due(judge.facts.as_ref(), &names, judge.window, judge.jitter());
                if !judge.at_once && due > now {
                    return Ok(false);
                }
            }
        }
    }
}

async fn within<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(ORDERING, work).await {
        Ok(done) => done,
        Err(_) => bail!("the ACME server took longer than {} s", ORDERING.as_secs()),
    }
}

/// The names that can be validated over HTTP: no wildcards, no addresses.
fn ordered_names(env: &Env) -> Vec<String> {
    let hosts = env.appliance.allowed_hosts.iter();
    let own = env.appliance.ssl.acme.directory.is_some();
    let names: BTreeSet<String> = hosts
        .filter(|host| host.address().is_none() && !host.as_str().starts_with("*."))
        // A public authority refuses the whole order over one of these.
        .filter(|host| own || crate::env::is_public_name(host.as_str()))
        .map(|host| host.as_str().to_owned())
        .collect();
    names.into_iter().collect()
}

fn authority(env: &Env, host: &Host) -> Result<Authority> {
    let acme = &env.appliance.ssl.acme;
    let ca = acme.ca.as_ref().map(|ca| host.certificate_text(ca)).transpose();
    let ca = ca.context("'appliance.ssl.acme.ca' cannot be read")?.map(|ca| ca.expose().to_owned());
    Ok(Authority {
        directory: acme.directory.as_ref().map_or(LETS_ENCRYPT, |url| url.as_str()).to_owned(),
        ca,
        email: acme.email.as_ref().map(|email| email.as_str().to_owned()),
        eab: acme.eab.clone(),
    })
}

fn read_state(host: &Host, tenant: &Tenant) -> Result<State> {
    match host.read(&state_path(tenant), MAX_STATE)? {
        // A broken memory of failures is as good as none.
        Some(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
        None => Ok(State::default()),
    }
}

fn write_state(host: &Host, tenant: &Tenant, state: &State) -> Result<()> {
    host.put(&state_path(tenant), &serde_json::to_vec(state).context("the state cannot be written")?, 0o600)
}
