//! A point between runs to which a host can be brought back: what of the log, and which files, belong together. It is stored in the same
//! snapshot as they are, so it is there exactly if they are.

use super::manifest::{FilesPart, Manifest, VolumePart};
use super::restic::Restic;
use super::runs::{Found, Shipment};
use super::shipping::Base;
use crate::state::DIRECTORY;
use crate::value::{AppName, Commit};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The layout that is written.
const VERSION: u32 = 1;

/// Where it lies, here and in its snapshot: among what is the host's.
pub(super) fn file() -> String {
    format!("{DIRECTORY}/host/point.json")
}

/// What was shipped at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    pub version: u32,
    pub id: String,
    /// When the state of the databases is from; files are from after that.
    pub at: jiff::Timestamp,
    pub appliance: String,
    pub host: String,
    pub machine: String,
    pub generation: u64,
    #[serde(default)]
    pub serial: u64,
    pub is_clock_synchronised: bool,
    pub env_digest: String,
    pub base: Base,
    /// Up to where the log is brought back.
    pub lsn: String,
    /// What is the host's.
    pub of_host: Vec<String>,
    pub apps: Vec<PointApp>,
}

/// One app's part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointApp {
    pub app: AppName,
    pub release: Option<Commit>,
    pub paths: Vec<String>,
    pub volumes: Vec<VolumePart>,
    pub in_vault: u64,
    #[serde(default)]
    pub excluded: Vec<String>,
    /// Tables that are empty in it, whatever was in them: PostgreSQL keeps them out of its log.
    #[serde(default)]
    pub unlogged: Vec<String>,
}

/// An app's files as they were shipped last before a moment.
///
/// # Errors
/// None were, or not of this app.
pub async fn shipped_files(found: &Found, app: &AppName, at: jiff::Timestamp, restic: &Restic<'_>) -> Result<Manifest> {
    let points = found.shipments.iter().filter(|one| one.is_point && one.at <= at);
    let Some(shipment) = points.max_by_key(|one| one.at) else {
        bail!(
            "no files were shipped before {at}, or not any more; for those of a run: --run ID, see: appliance backup list"
        );
    };
    let point = Point::read(restic, shipment).await?;
    let part = point.apps.iter().find(|part| part.app == *app);
    let part = part.with_context(|| format!("nothing of the app {app} was shipped at {}", shipment.at))?;
    Ok(point.manifest(part, &shipment.stretch.snapshot))
}

impl Point {
    pub const VERSION: u32 = VERSION;

    /// Reads that of a shipment.
    ///
    /// # Errors
    /// It cannot be read, is another one's, or of a later version of the appliance.
    pub async fn read(restic: &Restic<'_>, shipment: &Shipment) -> Result<Point> {
        let broken = || format!("the point {} cannot be read", shipment.id);
        let text = restic.read(&shipment.stretch.snapshot, &file()).await.with_context(broken)?;
        let read: Point = serde_json::from_str(&text).with_context(broken)?;
        if read.version > VERSION {
            bail!(
                "it was made by appliance {}, which is newer than this one; upgrade the package first",
                read.appliance
            );
        }
        if read.id != shipment.id {
            bail!("the point {} is another one's", shipment.id);
        }
        Ok(read)
    }

    /// An app's part in the form of a run's, without a database: that comes out of the log.
    pub fn manifest(&self, part: &PointApp, snapshot: &str) -> Manifest {
        Manifest {
            version: Manifest::VERSION,
            run: self.id.clone(),
            at: self.at,
            app: part.app.clone(),
            release: part.release.clone(),
            appliance: self.appliance.clone(),
            host: self.host.clone(),
            machine: self.machine.clone(),
            generation: self.generation,
            serial: self.serial,
            is_clock_synchronised: self.is_clock_synchronised,
            env_digest: self.env_digest.clone(),
            database: None,
            files: FilesPart {
                snapshot: snapshot.to_owned(),
                paths: part.paths.clone(),
                count: 0,
                bytes: 0,
                in_vault: part.in_vault,
                excluded: part.excluded.clone(),
                unread: None,
            },
            of_host: snapshot.to_owned(),
            volumes: part.volumes.clone(),
            seconds: 0,
        }
    }
}
