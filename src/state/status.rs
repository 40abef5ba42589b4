//! What `appliance status` shows: one JSON file, written by whoever drives the appliance. Holds no secret.

use super::{Process, RUN};
use crate::host::{Dir, Host};
use crate::value::{Phase, Step, Tenant};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The host's, which is that of an app that has it to itself.
const PATH: &str = "/run/appliance/status.json";
/// Where those of several apps lie.
pub const DIRECTORY: &str = "/run/appliance/status";

/// The file: the host's, or that of one of several apps.
fn path(of: Option<&Tenant>) -> String {
    of.map_or_else(|| PATH.to_owned(), |tenant| tenant.path(PATH, |name| format!("{DIRECTORY}/{name}.json")))
}

/// The largest status that is read, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// How a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    Waiting,
    Running,
    Done,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepStatus {
    pub step: Step,
    pub state: StepState,
}

/// One service as the supervisor sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub service: String,
    pub container: String,
    /// `running`, `exited` …, or `missing`.
    pub state: String,
    /// `healthy`, `unhealthy`, `starting`; `running` where the service has no health check.
    pub health: String,
    /// Restarts by the supervisor in the last five minutes.
    pub restarts: usize,
    pub degraded: bool,
}

/// The whole status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// The process that wrote it, and when that process started: tells whether it still lives.
    pub pid: u32,
    pub started: u64,
    pub phase: Phase,
    /// When the phase began.
    pub since: jiff::Timestamp,
    pub app: Option<String>,
    /// In the host's status: the apps that the supervisor looks after, and which of them are not enabled.
    #[serde(default)]
    pub supervises: Vec<String>,
    pub url: Option<String>,
    /// Where the env came from.
    pub source: Option<String>,
    pub steps: Vec<StepStatus>,
    pub services: Vec<ServiceStatus>,
    /// The commit of the current release.
    pub commit: Option<String>,
    /// Trouble that does not end the run, in words.
    pub warnings: Vec<String>,
}

impl Status {
    pub fn new(phase: Phase, host: &Host) -> Status {
        let Process { pid, started } = Process::current(host);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid,
            started,
            phase,
            since: host.now(),
            app: None,
            supervises: Vec::new(),
            url: None,
            source: None,
            steps: Step::ALL.map(|step| StepStatus { step, state: StepState::Waiting }).to_vec(),
            services: Vec::new(),
            commit: None,
            warnings: Vec::new(),
        }
    }

    /// Writes it as the host's (`None`), or as an app's.
    pub fn write(&self, host: &Host, of: Option<&Tenant>) -> Result<()> {
        let text = serde_json::to_string(self).context("could not render the status")?;
        if of.is_some_and(|tenant| !tenant.is_alone()) {
            host.ensure_dir(RUN, &Dir::plain())?;
            host.ensure_dir(DIRECTORY, &Dir::plain())?;
        }
        host.put_for_administrators(&path(of), text.as_bytes())
    }

    /// The last status of the host (`None`) or of an app that was written, if any.
    pub fn read(host: &Host, of: Option<&Tenant>) -> Result<Option<Status>> {
        let read = host.read(&path(of), MAX_BYTES);
        match read.context("only root and the group adm can read the status")? {
            Some(bytes) => serde_json::from_slice(&bytes).map(Some).context("the status file is broken"),
            None => Ok(None),
        }
    }

    /// Forgets the status of an app that is no more.
    pub fn discard(host: &Host, of: &Tenant) -> Result<()> {
        host.discard(&path(Some(of)))
    }

    /// Whether its writer is gone, so that it may no longer be true. A final phase stays true without a writer.
    pub fn is_stale(&self, host: &Host) -> bool {
        let ended = matches!(self.phase, Phase::Standby { .. } | Phase::Failed { .. });
        !ended && !Process { pid: self.pid, started: self.started }.lives(host)
    }

    /// What `status` exits with (docs/operating.md).
    pub fn exit_code(&self) -> u8 {
        match self.phase {
            Phase::Standby { .. } => 3,
            Phase::Failed { .. } => 4,
            _ => 0,
        }
    }
}
