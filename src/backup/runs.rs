//! What a repository holds, from the list of its snapshots: runs, and what was shipped between them.

use super::manifest::{self, Manifest, Order};
use super::record::Record;
use super::restic::Restic;
use super::told::Snapshot;
use super::wal::{Segment, Stretch};
use crate::value::AppName;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;

/// One app's part of a complete run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub id: String,
    pub app: AppName,
    pub at: jiff::Timestamp,
    /// The beginning of the machine's id that made it.
    pub machine: String,
    pub generation: u64,
    pub serial: u64,
    /// The manifest's snapshot.
    pub snapshot: String,
}

/// A copy of a cluster's files, on which the log builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseCopy {
    pub id: String,
    /// When it was begun.
    pub at: jiff::Timestamp,
    pub machine: String,
    pub snapshot: String,
    /// Which log it is a part of: another one has the same names, and something else in them.
    pub chain: String,
    pub first: Segment,
    pub segment_bytes: u64,
    pub major: u32,
}

/// What was shipped at one time: a part of the log, and at a point the files as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shipment {
    pub id: String,
    /// All transactions that had ended by then are in it.
    pub at: jiff::Timestamp,
    pub machine: String,
    pub generation: u64,
    pub serial: u64,
    /// Which base copy was the newest then, and which log it is a part of.
    pub base: String,
    pub chain: String,
    /// Whether files were shipped with it, and what is the host's.
    pub is_point: bool,
    pub stretch: Stretch,
    /// Up to where the database can be brought back by it.
    pub lsn: String,
}

/// What a repository holds.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Complete ones, the newest first.
    pub runs: Vec<Run>,
    pub bases: Vec<BaseCopy>,
    /// The newest first.
    pub shipments: Vec<Shipment>,
    /// Every snapshot of an appliance's making that is part of a run, complete or not.
    pub snapshots: Vec<Snapshot>,
}

/// Who writes.
#[derive(Debug, Clone)]
pub struct Writer {
    pub machine: String,
    pub generation: u64,
    /// One more than the highest that the repository had.
    pub serial: u64,
}

impl Writer {
    /// Whether a run is its own, made in its turn.
    pub fn is_of(&self, run: &Run) -> bool {
        self.machine.starts_with(&run.machine) && self.generation == run.generation
    }

    /// The tags of a snapshot of this host's.
    pub fn tags(&self, own: &[(&str, &str)]) -> Vec<String> {
        let (generation, serial) = (self.generation.to_string(), self.serial.to_string());
        let of_host = [("machine", &self.machine[..8]), ("generation", &generation), ("serial", &serial)];
        own.iter().chain(&of_host).map(|(name, value)| format!("{name}={value}")).collect()
    }
}

/// The app that stands for the host, in tags.
pub(super) const HOST: &str = "-";
/// What a snapshot of a base copy is called by.
pub(super) const BASE: &str = "base";
/// What a shipment is: with files, or without.
pub(super) const POINT: &str = "point";
pub(super) const LOG: &str = "log";

/// Looks what there is.
pub async fn runs(restic: &Restic<'_>) -> Result<Found> {
    Ok(sorted(restic.snapshots().await?))
}

fn sorted(snapshots: Vec<Snapshot>) -> Found {
    let bases = snapshots.iter().filter_map(base).collect();
    let mut shipments: Vec<Shipment> = snapshots.iter().filter_map(shipment).collect();
    shipments.sort_by_key(|one| std::cmp::Reverse(one.order()));
    let snapshots: Vec<Snapshot> = snapshots.into_iter().filter(|snapshot| snapshot.tag("run").is_some()).collect();
    let mut runs: Vec<Run> = snapshots.iter().filter_map(run).collect();
    // One that was made by somebody who had been replaced is no newer than what came after.
    runs.sort_by(|one, other| other.order().cmp(&one.order()).then_with(|| one.app.cmp(&other.app)));
    Found { runs, bases, shipments, snapshots }
}

fn base(snapshot: &Snapshot) -> Option<BaseCopy> {
    Some(BaseCopy {
        id: snapshot.tag("base").filter(|_| snapshot.tag("part") == Some(BASE))?.to_owned(),
        at: snapshot.tag("at")?.parse().ok()?,
        machine: snapshot.tag("machine")?.to_owned(),
        snapshot: snapshot.id.clone(),
        chain: snapshot.tag("chain")?.to_owned(),
        first: snapshot.tag("first")?.parse().ok()?,
        segment_bytes: snapshot.tag("segment")?.parse().ok()?,
        major: snapshot.tag("major")?.parse().ok()?,
    })
}

fn shipment(snapshot: &Snapshot) -> Option<Shipment> {
    let part = snapshot.tag("part").filter(|part| [POINT, LOG].contains(part))?;
    let segment = |name: &str| snapshot.tag(name)?.parse::<Segment>().ok();
    Some(Shipment {
        id: snapshot.tag("shipment")?.to_owned(),
        at: snapshot.tag("at")?.parse().ok()?,
        machine: snapshot.tag("machine")?.to_owned(),
        generation: snapshot.tag("generation")?.parse().ok()?,
        serial: serial(snapshot),
        base: snapshot.tag("base")?.to_owned(),
        chain: snapshot.tag("chain")?.to_owned(),
        is_point: part == POINT,
        stretch: Stretch { snapshot: snapshot.id.clone(), first: segment("first")?, last: segment("last")? },
        lsn: snapshot.tag("lsn")?.to_owned(),
    })
}

fn run(snapshot: &Snapshot) -> Option<Run> {
    Some(Run {
        id: snapshot.tag("run").filter(|_| snapshot.tag("part") == Some("manifest"))?.to_owned(),
        app: snapshot.tag("app")?.parse().ok()?,
        at: snapshot.time,
        machine: snapshot.tag("machine")?.to_owned(),
        generation: snapshot.tag("generation")?.parse().ok()?,
        serial: serial(snapshot),
        snapshot: snapshot.id.clone(),
    })
}

/// 0: of a version that did not count; then times tell what is newer.
fn serial(snapshot: &Snapshot) -> u64 {
    snapshot.tag("serial").and_then(|number| number.parse().ok()).unwrap_or_default()
}

impl Shipment {
    pub fn order(&self) -> Order {
        (self.generation, self.serial, self.at)
    }
}

impl Found {
    /// The run of that id, or the newest, of an app.
    ///
    /// # Errors
    /// There is none; it is said which there are.
    pub fn of(&self, app: &AppName, id: Option<&str>) -> Result<&Run> {
        let mut of_app = self.runs.iter().filter(|run| &run.app == app);
        match id {
            None => of_app.next().with_context(|| format!("the repository has no complete run of the app {app}")),
            Some(id) => match of_app.clone().find(|run| run.id == id) {
                Some(run) => Ok(run),
                None => {
                    let known: Vec<&str> = of_app.by_ref().take(5).map(|run| run.id.as_str()).collect();
                    bail!(
                        "the repository has no complete run '{id}' of the app {app}; the newest are: {}",
                        known.join(", ")
                    )
                }
            },
        }
    }

    /// # Errors
    /// The newest in it is another machine's, or this one's from before somebody else took over.
    pub fn refuse_foreign(&self, machine: &str, generation: u64) -> Result<()> {
        let runs = self.runs.iter().map(|run| (run.order(), &run.id, &run.machine));
        let shipments = self.shipments.iter().map(|one| (one.order(), &one.id, &one.machine));
        let Some(((newest, ..), id, of)) = runs.chain(shipments).max() else { return Ok(()) };
        if machine.starts_with(of) && newest <= generation || newest < generation {
            return Ok(());
        }
        bail!(
            "the repository belongs to another host: the newest in it, {id}, is of the machine {of}…; nothing was written. If this host is to \
             take its place, run: appliance backup adopt"
        )
    }

    /// The highest generation of whoever has written into it; 0: nobody has.
    pub fn generation(&self) -> u64 {
        let shipments = self.shipments.iter().map(|one| one.generation);
        self.runs.iter().map(|run| run.generation).chain(shipments).max().unwrap_or_default()
    }

    /// Whether it lists the last run that a host has stored.
    pub fn is_of(&self, record: &Record) -> bool {
        record.last_run.as_ref().is_some_and(|last| self.runs.iter().any(|run| run.id == *last))
    }

    /// The number that whoever writes next counts by.
    pub fn next_serial(&self) -> u64 {
        let shipments = self.shipments.iter().map(|one| one.serial);
        self.runs.iter().map(|run| run.serial).chain(shipments).max().unwrap_or_default().saturating_add(1)
    }

    pub fn bases_of(&self, machine: &str) -> Vec<&BaseCopy> {
        self.bases.iter().filter(|base| machine.starts_with(&base.machine)).collect()
    }

    pub fn shipments_of(&self, machine: &str) -> Vec<&Shipment> {
        self.shipments.iter().filter(|one| machine.starts_with(&one.machine)).collect()
    }

    /// A machine's own runs by app, the newest first: their ids and times.
    pub fn times(&self, machine: &str) -> BTreeMap<&AppName, Vec<(String, jiff::Timestamp)>> {
        let mut times: BTreeMap<&AppName, Vec<(String, jiff::Timestamp)>> = BTreeMap::new();
        for run in self.runs.iter().filter(|run| machine.starts_with(&run.machine)) {
            times.entry(&run.app).or_default().push((run.id.clone(), run.at));
        }
        times
    }
}

impl Run {
    pub fn order(&self) -> Order {
        (self.generation, self.serial, self.at)
    }

    /// Reads its manifest.
    ///
    /// # Errors
    /// It cannot be read, or is not this run's.
    pub async fn manifest(&self, restic: &Restic<'_>) -> Result<Manifest> {
        let broken = || format!("the manifest of the run {} cannot be read", self.id);
        let text = restic.read(&self.snapshot, manifest::FILE).await.with_context(broken)?;
        let read = Manifest::parse(&text).with_context(broken)?;
        if read.run != self.id || read.app != self.app {
            bail!("the manifest of the run {} is another one's", self.id);
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(id: &str, time: &str, tags: &[&str]) -> Snapshot {
        Snapshot {
            id: id.to_owned(),
            time: time.parse().expect("a time"),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            paths: Vec::new(),
        }
    }

    #[test]
    fn a_run_is_one_only_with_its_manifest_and_belongs_to_whoever_took_over_last() {
        let of = |run: &str, part: &str, machine: &str, generation: &str| {
            [
                format!("run={run}"),
                "app=shop".to_owned(),
                format!("part={part}"),
                format!("machine={machine}"),
                format!("generation={generation}"),
            ]
        };
        let tags = |tags: &[String; 5]| tags.clone();
        let one = |id: &str, time: &str, all: [String; 5]| {
            let all = tags(&all);
            snapshot(id, time, &all.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let found = sorted(vec![
            one("a", "2026-11-01T00:00:00Z", of("1", "manifest", "aaaaaaaa", "1")),
            one("b", "2026-11-02T00:00:00Z", of("2", "database", "aaaaaaaa", "1")),
            one("c", "2026-11-03T00:00:00Z", of("3", "manifest", "aaaaaaaa", "1")),
            snapshot("d", "2026-11-04T00:00:00Z", &["somebody's own"]),
        ]);
        let app: AppName = "shop".parse().expect("it is a name");
        assert_eq!(found.of(&app, None).expect("there is one").id, "3");
        assert_eq!(found.of(&app, Some("1")).expect("there is one").snapshot, "a");
        let said = found.of(&app, Some("2")).expect_err("it has no manifest").to_string();
        assert!(said.ends_with("the newest are: 3, 1"), "{said}");
        let count = |machine: &str| found.times(machine).get(&app).map_or(0, Vec::len);
        assert_eq!((found.snapshots.len(), count("aaaaaaaabbbb"), count("bbbb")), (3, 2, 0));
        let (own, other) = ("aaaaaaaa0000", "bbbbbbbb0000");
        assert!(found.refuse_foreign(own, 1).is_ok());
        assert!(found.refuse_foreign(other, 0).is_err(), "an empty host");
        assert!(found.refuse_foreign(other, 2).is_ok(), "it has adopted it");
        assert!(found.refuse_foreign(own, 0).is_err(), "itself from before");
        assert_eq!(found.next_serial(), 1);

        // The clock was years ahead for one night, and behind in another.
        let counted = |id: &str, time: &str, serial: &str| {
            let serial = format!("serial={serial}");
            let all = of(id, "manifest", "aaaaaaaa", "1");
            snapshot(id, time, &all.iter().chain([&serial]).map(String::as_str).collect::<Vec<_>>())
        };
        let found = sorted(vec![
            one("before", "2026-11-01T00:00:00Z", of("0", "manifest", "aaaaaaaa", "1")),
            counted("1", "2026-11-02T00:00:00Z", "1"),
            counted("2", "2031-11-03T00:00:00Z", "2"),
            counted("3", "2021-11-04T00:00:00Z", "3"),
        ]);
        assert_eq!(found.runs.iter().map(|run| run.id.as_str()).collect::<Vec<_>>(), ["3", "2", "1", "0"]);
        assert_eq!(found.next_serial(), 4);
    }
}
