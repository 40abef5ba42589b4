//! The runs of a repository, from the list of its snapshots.

use super::manifest::{self, Manifest};
use super::restic::{Restic, Snapshot};
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
    /// The manifest's snapshot.
    pub snapshot: String,
}

/// What a repository holds.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Complete ones, the newest first.
    pub runs: Vec<Run>,
    /// Every snapshot of an appliance's making.
    pub snapshots: Vec<Snapshot>,
}

/// Looks what there is.
pub async fn runs(restic: &Restic<'_>) -> Result<Found> {
    Ok(sorted(restic.snapshots().await?))
}

fn sorted(snapshots: Vec<Snapshot>) -> Found {
    let snapshots: Vec<Snapshot> = snapshots.into_iter().filter(|snapshot| snapshot.tag("run").is_some()).collect();
    let mut runs: Vec<Run> = snapshots.iter().filter_map(run).collect();
    // One that was made by somebody who had been replaced is no newer than what came after.
    runs.sort_by(|one, other| {
        (other.generation, other.at).cmp(&(one.generation, one.at)).then_with(|| one.app.cmp(&other.app))
    });
    Found { runs, snapshots }
}

fn run(snapshot: &Snapshot) -> Option<Run> {
    Some(Run {
        id: snapshot.tag("run").filter(|_| snapshot.tag("part") == Some("manifest"))?.to_owned(),
        app: snapshot.tag("app")?.parse().ok()?,
        at: snapshot.time,
        machine: snapshot.tag("machine")?.to_owned(),
        generation: snapshot.tag("generation")?.parse().ok()?,
        snapshot: snapshot.id.clone(),
    })
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
    /// The newest run is another machine's, or this one's from before somebody else took over.
    pub fn refuse_foreign(&self, machine: &str, generation: u64) -> Result<()> {
        let Some(newest) = self.runs.iter().max_by_key(|run| (run.generation, run.at)) else { return Ok(()) };
        if machine.starts_with(&newest.machine) && newest.generation <= generation || newest.generation < generation {
            return Ok(());
        }
        bail!(
            "the repository belongs to another host: its newest run {} is of the machine {}…; nothing was written. If this host is to take its \
             place, run: appliance backup adopt",
            newest.id,
            newest.machine
        )
    }

    /// A machine's own runs by app: their ids and times.
    pub fn times(&self, machine: &str) -> BTreeMap<&AppName, Vec<(String, jiff::Timestamp)>> {
        let mut times: BTreeMap<&AppName, Vec<(String, jiff::Timestamp)>> = BTreeMap::new();
        for run in self.runs.iter().filter(|run| machine.starts_with(&run.machine)) {
            times.entry(&run.app).or_default().push((run.id.clone(), run.at));
        }
        times
    }
}

impl Run {
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
    }
}
