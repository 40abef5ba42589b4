//! What this host knows of shipping: which base backup the log builds on, and how far it has been shipped. And the spool in which segments
//! wait for it, which is bounded: what cannot be shipped in time is given up, loudly, and the apps run on.

use super::kept;
use super::restic::Restic;
use super::wal::{self, Segment};
use crate::host::Host;
use crate::report::sentry;
use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const FILE: &str = "shipping.json";
/// Somebody who did not hold the backup's lock has emptied the spool; why.
const GIVEN_UP: &str = "/data/appliance/host/shipping-given-up";
const MAX: u64 = 64 << 10;

/// The spool may always take so much, in bytes; and a tenth of its file system.
const SPOOL: u64 = 1 << 30;
const SHARE: u64 = 10;
/// And no more segments than this, whatever they take.
const SEGMENTS: u64 = 6000;
/// With less room than this left, in bytes, it may take no more than that.
const SCARCE: u64 = 2 << 30;
const SPOOL_IF_SCARCE: u64 = 256 << 20;
/// So much that has been shipped stays, in bytes: the fewer snapshots does a restore need.
const KEPT: u64 = 512 << 20;

/// A copy of the cluster's files that the log builds on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    pub id: String,
    /// Which log it is a part of: one without a hole, of one cluster, written by one host into one repository. It is called like its first
    /// base.
    pub chain: String,
    pub at: Timestamp,
    /// The repository that it is in.
    pub repository: String,
    pub generation: u64,
    /// The cluster's own identifier: another one has another log.
    pub system: String,
    /// PostgreSQL's major version.
    pub major: u32,
    /// From which segment on it needs the log.
    pub first: String,
    /// How long each segment is.
    pub segment_bytes: u64,
    /// Where its cluster's segments lie, here and in snapshots.
    pub spool: String,
}

/// A state of the databases that lies in closed segments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// The position in the log.
    pub lsn: String,
    /// Which transactions had ended (pg_current_snapshot): with the same ones nothing has changed since.
    pub snapshot: String,
}

/// How far shipping has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipping {
    /// None: one has to be made before anything is shipped.
    pub base: Option<Base>,
    /// The last segment that is in the repository.
    pub shipped: Option<String>,
    /// The last segment that was to be in the repository: written before it is stored.
    pub begun: Option<String>,
    /// Snapshots that claim segments that they do not hold, and could not be forgotten at once.
    #[serde(default)]
    pub to_forget: Vec<String>,
    /// What the last segment was closed with.
    pub closed: Option<Closed>,
    pub last_start: Option<Timestamp>,
    pub last_success: Option<Timestamp>,
    /// What storing took, a base backup not counted.
    pub last_seconds: u64,
    /// How many files each app's vault held when it was stored last.
    pub in_vault: BTreeMap<String, u64>,
    /// What was left out of that number.
    #[serde(default)]
    pub excluded: BTreeMap<String, Vec<String>>,
    /// Why nothing can be shipped on this host.
    #[serde(default)]
    pub impossible: Option<String>,
    /// Why the last attempt failed.
    pub trouble: Option<String>,
}

impl Shipping {
    pub fn read(host: &Host) -> Result<Shipping> {
        Ok(kept::read(FILE, host)?.unwrap_or_default())
    }

    pub fn write(&self, host: &Host) -> Result<()> {
        kept::write(FILE, self, host)
    }

    /// Forgets what claims more than it holds; what cannot be now is tried again later.
    pub async fn forget(&mut self, restic: &Restic<'_>, host: &Host) -> Result<()> {
        if self.to_forget.is_empty() {
            return Ok(());
        }
        match restic.forget(&self.to_forget).await {
            Ok(()) => self.to_forget.clear(),
            Err(error) => tracing::warn!("{error:#}; it is tried again with the next shipment"),
        }
        self.write(host)
    }

    /// How many files an app's vault held, if the same was left out as now.
    pub fn held(&self, app: &str, excluded: &[String]) -> u64 {
        let is_same = self.excluded.get(app).map_or(excluded.is_empty(), |before| before == excluded);
        self.in_vault.get(app).copied().filter(|_| is_same).unwrap_or_default()
    }

    /// Notes what an app's vault holds.
    pub fn holds(&mut self, app: &str, in_vault: u64, excluded: &[String]) {
        self.in_vault.insert(app.to_owned(), in_vault);
        self.excluded.insert(app.to_owned(), excluded.to_vec());
    }

    fn shipped(&self) -> Option<Segment> {
        self.shipped.as_ref()?.parse().ok()
    }

    /// What was shipped until now is not continued: a new base is made at the next opportunity. By whoever holds the backup's lock.
    pub fn give_up(&mut self, why: &str, spool: &str, host: &Host) -> Result<()> {
        (self.base, self.shipped, self.begun, self.closed) = (None, None, None, None);
        // Before the segments go: without them nothing may build on the base.
        self.write(host)?;
        tracing::warn!("{why}; a new base backup is made");
        clear(spool, None, host)
    }

    /// Takes up what somebody without the lock has had to do.
    pub fn notice_given_up(&mut self, spool: &str, host: &Host) -> Result<()> {
        if let Some(why) = host.read_text(GIVEN_UP, MAX)? {
            self.give_up(&why, spool, host)?;
            host.discard(GIVEN_UP)?;
        }
        Ok(())
    }

    /// The segments of the spool, in their order.
    ///
    /// # Errors
    /// The inner one: there is a hole, or what was shipped is not continued.
    pub fn waiting(&self, base: &Base, host: &Host) -> Result<Result<Vec<Segment>, String>> {
        let all = wal::segments(&host.names(&base.spool)?);
        let begin: Segment = match self.shipped() {
            Some(shipped) => shipped.next(base.segment_bytes),
            None => base.first.parse()?,
        };
        let (Some(first), Some(last)) = (all.first(), all.last()) else { return Ok(Ok(all)) };
        let missing = match *first <= begin {
            true => wal::hole(&all, *first, *last, base.segment_bytes),
            false => Some(begin),
        };
        Ok(match missing {
            Some(missing) => Err(format!("the segment {missing} of PostgreSQL's log is missing in {}", base.spool)),
            None => Ok(all),
        })
    }

    /// Takes shipped segments away where they are many.
    pub fn trim(&self, base: &Base, host: &Host) -> Result<()> {
        let count = wal::segments(&host.names(&base.spool)?).len() as u64;
        let is_much = count.saturating_mul(base.segment_bytes) > KEPT;
        if is_much || is_scarce(&base.spool, host)? { clear(&base.spool, self.shipped(), host) } else { Ok(()) }
    }
}

fn is_scarce(spool: &str, host: &Host) -> Result<bool> {
    Ok(host.room(spool)?.is_some_and(|room| room.free < SCARCE))
}

/// Why the spool cannot hold more, if it cannot.
pub fn overflow(spool: &str, segment_bytes: u64, host: &Host) -> Result<Option<String>> {
    let bytes = (wal::segments(&host.names(spool)?).len() as u64).saturating_mul(segment_bytes);
    let share = host.room(spool)?.map_or(0, |room| room.size / SHARE);
    let limit = if is_scarce(spool, host)? { SPOOL_IF_SCARCE } else { SPOOL.max(share) };
    let limit = limit.min(SEGMENTS.saturating_mul(segment_bytes));
    Ok((bytes > limit).then(|| {
        format!(
            "{} MB of PostgreSQL's log wait in {spool} to be shipped, more than the {} MB that may",
            bytes >> 20,
            limit >> 20
        )
    }))
}

/// Empties the spool where it holds too much, whoever holds the backup's lock.
pub fn bound(shipping: &Shipping, spool: &str, segment_bytes: u64, host: &Host) -> Result<Option<String>> {
    if overflow(spool, segment_bytes, host)?.is_none() {
        return Ok(None);
    }
    // What is in the repository is lost with nothing.
    clear(spool, shipping.shipped(), host)?;
    let Some(why) = overflow(spool, segment_bytes, host)? else { return Ok(None) };
    host.put(GIVEN_UP, why.as_bytes(), 0o600)?;
    clear(spool, None, host)?;
    let said =
        format!("{why}; they were removed, and there will be a gap into which the database cannot be brought back");
    sentry::critical(host, "Shipping of changes was given up", &said);
    Ok(Some(said))
}

/// Removes segments up to one, or all that lies there.
pub(super) fn clear(spool: &str, up_to: Option<Segment>, host: &Host) -> Result<()> {
    for name in host.names(spool)? {
        let goes = match (up_to, name.parse::<Segment>()) {
            (None, _) => true,
            (Some(up_to), Ok(segment)) => segment <= up_to,
            (Some(_), Err(_)) => false,
        };
        if goes {
            host.discard(&format!("{spool}/{name}"))?;
        }
    }
    Ok(())
}
