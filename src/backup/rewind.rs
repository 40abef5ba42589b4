//! Bringing a database back to a moment between runs: a base backup and PostgreSQL's log make a scratch cluster, from which it is dumped.
//! The clusters that are in use know nothing of it. Every rewinding has a target: without one PostgreSQL takes a hole in its log for the end.

use super::base;
use super::restic::Restic;
use super::room;
use super::runs::{BaseCopy, Found, Shipment};
use super::scratch::{LOOKING, Place, Scratch};
use super::wal::{self, Stretch};
use crate::host::{Cmd, Dir, File, Host, What};
use crate::prepare::postgres;
use crate::value::Owner;
use anyhow::{Context, Result, bail};
use jiff::Timestamp;

/// What the log is read up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A position in it.
    Lsn(String),
    /// A moment; where nothing was written any more after it, the position.
    Time(Timestamp, String),
}

/// What a rewinding is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    base: BaseCopy,
    /// Snapshots that hold the log, in their order.
    log: Vec<String>,
    /// How many segments are in them, those that are there twice counted twice.
    segments: u64,
    pub target: Target,
}

/// What brings the databases back to where they were when this was shipped.
///
/// # Errors
/// The base backup is gone, or there is a hole in the log.
pub fn source(found: &Found, shipment: &Shipment) -> Result<Source> {
    let base = base_before(found, shipment)?;
    let (log, segments) = chain(found, base, shipment)?;
    Ok(Source { base: base.clone(), log, segments, target: Target::Lsn(shipment.lsn.clone()) })
}

/// What brings the databases back to a moment.
///
/// # Errors
/// The moment lies before the first that was shipped, or behind the last; or there is a hole in the log.
pub fn source_at(found: &Found, at: Timestamp) -> Result<Source> {
    let before = found.shipments.iter().filter(|one| one.at <= at).max_by_key(|one| (one.generation, one.at));
    let Some(before) = before else {
        bail!(
            "nothing was shipped before {at}, so the databases cannot be brought back to it; see: appliance backup list"
        );
    };
    let after = found.shipments.iter().filter(|one| one.at >= at && one.chain == before.chain).min_by_key(|one| one.at);
    let Some(after) = after else {
        match found.shipments.iter().filter(|one| one.at > at).min_by_key(|one| one.at) {
            Some(next) => {
                bail!("{at} lies in a gap: changes were shipped until {}, and then only from {} on", before.at, next.at)
            }
            None => bail!("{at} is behind what was shipped last, which is of {}", before.at),
        }
    };
    // The next base may have been made after that moment.
    let base = base_before(found, before)?;
    let (log, segments) = chain(found, base, after)?;
    Ok(Source { base: base.clone(), log, segments, target: Target::Time(at, after.lsn.clone()) })
}

/// The newest base backup of a shipment's log that was whole by then: none is made while something is shipped.
fn base_before<'a>(found: &'a Found, shipment: &Shipment) -> Result<&'a BaseCopy> {
    let of_chain = found.bases.iter().filter(|base| base.chain == shipment.chain);
    let before = of_chain.filter(|base| base.at <= shipment.at || base.id == shipment.base).max_by_key(|base| base.at);
    before
        .with_context(|| format!("the repository has no base backup any more for what was shipped at {}", shipment.at))
}

/// The snapshots that hold the log from a base on, and how many segments that is.
fn chain(found: &Found, base: &BaseCopy, up_to: &Shipment) -> Result<(Vec<String>, u64)> {
    let of_chain = found.shipments.iter().filter(|one| one.chain == base.chain);
    let stretches: Vec<Stretch> = of_chain.map(|one| one.stretch.clone()).collect();
    let log = wal::chain(&stretches, base.first, up_to.stretch.last, base.segment_bytes)?;
    // Beside those that are needed, the first and the last snapshot may hold as many as wait in a spool.
    let all: u64 =
        stretches.iter().filter(|one| log.contains(&one.snapshot)).map(|one| one.count(base.segment_bytes)).sum();
    Ok((log, all))
}

impl Source {
    /// What its dump is called by.
    pub fn name(&self) -> String {
        match &self.target {
            Target::Lsn(lsn) => lsn.replace('/', "-"),
            Target::Time(at, _) => at.strftime("%Y%m%dT%H%M%SZ").to_string(),
        }
    }

    /// How much room its scratch cluster takes.
    pub async fn bytes(&self, restic: &Restic<'_>) -> Result<u64> {
        let log = self.base.segment_bytes.saturating_mul(self.segments);
        Ok(restic.bytes_of(&self.base.snapshot).await?.saturating_add(log))
    }

    /// PostgreSQL's major version.
    pub fn major(&self) -> u32 {
        self.base.major
    }

    /// Whether this host has the programs for it.
    ///
    /// # Errors
    /// It has not; the package is named.
    pub fn check(&self, host: &Host) -> Result<()> {
        let major = self.base.major.to_string();
        if postgres::installed(host)?.contains(&major) {
            return Ok(());
        }
        bail!("it takes the programs of PostgreSQL {major}, in which it was written; install postgresql-{major}")
    }
}

/// Makes the scratch cluster, and lets it read its log up to the target. One that was left is taken away first.
///
/// # Errors
/// There is no room for it; something cannot be fetched, or is damaged; or the log ends before the target.
pub async fn rewind<'a>(
    restic: &Restic<'_>,
    source: &Source,
    place: Place,
    host: &'a Host,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Scratch<'a>> {
    source.check(host)?;
    let scratch = Scratch::begin(place, source.base.major, host).await?;
    room::refuse_too_little(place.directory, source.bytes(restic).await?, host)?;
    let made = async {
        fetch(restic, source, &scratch, host, progress).await?;
        progress("reading PostgreSQL's log");
        start(source, &scratch, host).await
    };
    match made.await {
        Ok(()) => Ok(scratch),
        Err(error) => {
            scratch.end().await?;
            Err(error)
        }
    }
}

async fn fetch(
    restic: &Restic<'_>,
    source: &Source,
    scratch: &Scratch<'_>,
    host: &Host,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<()> {
    progress("fetching the base backup");
    let data = scratch.data();
    let unpack = scratch.as_postgres(Cmd::new("tar", ["-x", "-f", "-", "-C", &data]))?;
    restic.pour(&source.base.snapshot, base::FILE, unpack).await.context("could not fetch the base backup")?;
    let args = ["--no-parse-wal", "--exit-on-error", &data];
    let verify = scratch.as_postgres(Cmd::new(&scratch.program("pg_verifybackup"), args))?;
    host.ask(verify.deadline(LOOKING)).await.context("the base backup is damaged")?;
    // What ALTER SYSTEM has set is for the cluster that this is a copy of.
    let owner: Owner = "postgres".parse().context("a user name is an owner")?;
    host.ensure_file(&format!("{data}/postgresql.auto.conf"), &File::text("").mode(0o600).owner(&owner))?;
    progress("fetching PostgreSQL's log");
    let fetched = scratch.path("fetched");
    host.ensure_dir(&fetched, &Dir::plain())?;
    for snapshot in &source.log {
        let only = [postgres::archive::SPOOLS.to_owned()];
        restic.restore(snapshot, &fetched, &only, &[]).await.context("could not fetch PostgreSQL's log")?;
    }
    // One directory per cluster; of another one's there is nothing in snapshots of this one's.
    let spools = format!("{fetched}{}", postgres::archive::SPOOLS);
    let names = host.names(&spools)?;
    let [name] = &names[..] else { bail!("the shipped log is not where it should be: {}", names.join(", ")) };
    let log = scratch.path("log");
    host.rename(&format!("{spools}/{name}"), &log)?;
    // Users have other numbers on other hosts.
    let own = Cmd::new("chown", ["--recursive", "--no-dereference", "postgres:postgres", &log]);
    host.act(What::Directory, &log, "give to postgres", own).await.map(drop)
}

async fn start(source: &Source, scratch: &Scratch<'_>, host: &Host) -> Result<()> {
    let owner: Owner = "postgres".parse().context("a user name is an owner")?;
    let signal = File::text("").mode(0o600).owner(&owner);
    host.ensure_file(&format!("{}/recovery.signal", scratch.data()), &signal)?;
    let run = async |target: String| {
        let copy = format!("restore_command=cp {}/%f %p", scratch.path("log"));
        let started = scratch.start(&[copy, "recovery_target_action=promote".to_owned(), target.clone()]).await;
        started.with_context(|| format!("PostgreSQL does not come up to {target}"))
    };
    match &source.target {
        Target::Lsn(lsn) => run(format!("recovery_target_lsn={lsn}")).await,
        Target::Time(at, lsn) => {
            let time = at.strftime("%Y-%m-%d %H:%M:%S.%6f+00");
            let Err(error) = run(format!("recovery_target_time={time}")).await else { return Ok(()) };
            // Nothing was written any more behind that moment: then it is the same as at the position.
            if !scratch.said("recovery ended before configured recovery target was reached").await? {
                return Err(error);
            }
            tracing::info!("{error:#}; trying the position that was shipped");
            run(format!("recovery_target_lsn={lsn}")).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(minute * 60).expect("a time")
    }

    fn base(id: &str, chain: &str, minute: i64, first: u32) -> BaseCopy {
        BaseCopy {
            id: id.to_owned(),
            at: at(minute),
            machine: "aa".to_owned(),
            snapshot: format!("base {id}"),
            chain: chain.to_owned(),
            first: segment(first),
            segment_bytes: 16 << 20,
            major: 15,
        }
    }

    fn segment(part: u32) -> wal::Segment {
        format!("0000000100000000{part:08X}").parse().expect("it is one")
    }

    fn shipment(chain: &str, base: &str, minute: i64, first: u32, last: u32) -> Shipment {
        Shipment {
            id: minute.to_string(),
            at: at(minute),
            machine: "aa".to_owned(),
            generation: 1,
            serial: 0,
            base: base.to_owned(),
            chain: chain.to_owned(),
            is_point: true,
            stretch: Stretch { snapshot: minute.to_string(), first: segment(first), last: segment(last) },
            lsn: format!("0/{last:X}"),
        }
    }

    #[test]
    fn a_moment_is_reached_from_the_base_before_it_by_one_log_and_never_over_a_gap() {
        let found = Found {
            bases: vec![base("a", "a", 0, 1), base("b", "a", 30, 4), base("c", "c", 60, 2)],
            shipments: vec![
                shipment("a", "a", 10, 1, 2),
                shipment("a", "a", 20, 1, 3),
                // Of the base b the host was killed before it had noted it.
                shipment("a", "a", 40, 4, 5),
                shipment("c", "c", 70, 2, 3),
                shipment("c", "c", 80, 2, 4),
            ],
            ..Found::default()
        };
        let source = |minute: i64| source_at(&found, at(minute));
        let of = |minute: i64| source(minute).map(|source| (source.base.id, source.log)).expect("it can be reached");
        assert_eq!(of(15), ("a".to_owned(), vec!["20".to_owned()]));
        assert_eq!(of(20), ("a".to_owned(), vec!["20".to_owned()]), "the moment itself");
        // Behind the base b, but what was shipped before is all that is known to be whole then.
        assert_eq!(of(35), ("a".to_owned(), vec!["20".to_owned(), "40".to_owned()]));
        assert_eq!(of(40).0, "b");
        // The same names in another log: nothing of the first is in it.
        assert_eq!(of(75), ("c".to_owned(), vec!["80".to_owned()]));
        for (minute, expected) in [(5, "nothing was shipped before"), (50, "lies in a gap"), (90, "is behind what")] {
            let said = source(minute).expect_err("it cannot be reached").to_string();
            assert!(said.contains(expected), "{minute}: {said}");
        }
        let mut hole = found.clone();
        hole.shipments.retain(|one| one.id != "20" && one.id != "40");
        hole.shipments.push(shipment("a", "a", 45, 4, 5));
        let said = source_at(&hole, at(44)).expect_err("3 is missing").to_string();
        assert!(said.contains("000000010000000000000003"), "{said}");
    }
}
