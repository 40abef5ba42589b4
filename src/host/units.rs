//! systemd's units and the host name, as the rest of the crate sees them. The D-Bus side is `systemd.rs`.

use super::{Changed, File, Host, Mode, Pending, What};
use anyhow::Result;

/// A unit's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitState {
    Active,
    /// On its way up or down.
    Changing,
    /// Stopped, or never started.
    Inactive,
    /// It ended with an error, or systemd gave it up.
    Failed,
    /// systemd knows no such unit.
    Missing,
}

/// What can be asked of systemd. Each verb waits for its job's end: two minutes, for a database six hours at most.
pub trait Units: Send + Sync {
    fn state<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<UnitState>>;
    fn start<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>>;
    fn reload<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>>;
    fn restart<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>>;
    fn stop<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>>;
    /// Makes systemd read all unit files anew.
    fn reload_all<'a>(&'a self) -> Pending<'a, Result<()>>;
    /// The units that are failed.
    fn failed<'a>(&'a self) -> Pending<'a, Result<Vec<String>>>;
    /// Whether a time server has set the clock.
    fn is_clock_set<'a>(&'a self) -> Pending<'a, Result<bool>>;
    /// Sets the static and the transient host name.
    fn set_hostname<'a>(&'a self, name: &'a str) -> Pending<'a, Result<()>>;
}

/// What a unit must still be told of a file that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owed {
    Reload,
    Restart,
}

/// Marks that outlive a killed run, but not a boot: then the units have read their files anyway.
const OWED: &str = "/run/appliance/owed";

impl Host {
    /// Writes a unit's file if it differs. What the unit is owed for it is remembered first, so that a run that is killed
    /// between the file and the reload leaves the reload to the next.
    pub fn ensure_file_of(&self, unit: &str, owed: Owed, path: &str, want: &File) -> Result<Changed> {
        if self.applies() && self.in_mode(Mode::Check).ensure_file(path, want)?.yes() {
            self.owe(unit, owed)?;
        }
        self.ensure_file(path, want)
    }

    /// Remembers that a unit must be told.
    pub fn owe(&self, unit: &str, owed: Owed) -> Result<()> {
        match self.owed(unit)? {
            Some(before) if before >= owed => Ok(()),
            _ => self.put(&format!("{OWED}/{unit}"), if owed == Owed::Restart { b"restart" } else { b"reload" }, 0o600),
        }
    }

    /// What a unit is still owed, by this run or one before it.
    pub fn owed(&self, unit: &str) -> Result<Option<Owed>> {
        let mark = self.read_text(&format!("{OWED}/{unit}"), 64)?;
        Ok(mark.map(|mark| if mark == "restart" { Owed::Restart } else { Owed::Reload }))
    }

    /// It has been told, and what it said was good.
    pub fn settle(&self, unit: &str) -> Result<()> {
        self.discard(&format!("{OWED}/{unit}"))
    }

    pub async fn unit_state(&self, unit: &str) -> Result<UnitState> {
        self.units.state(unit).await
    }

    /// The names of the units that are failed, in order.
    ///
    /// # Errors
    /// systemd cannot be asked.
    pub async fn failed_units(&self) -> Result<Vec<String>> {
        self.units.failed().await
    }

    /// Whether a time server has set the clock.
    ///
    /// # Errors
    /// systemd's timedated cannot be asked.
    pub async fn is_clock_set(&self) -> Result<bool> {
        self.units.is_clock_set().await
    }

    pub async fn start_unit(&self, unit: &str) -> Result<()> {
        self.note(What::Unit, unit, "start");
        if self.applies() { self.units.start(unit).await } else { Ok(()) }
    }

    pub async fn reload_unit(&self, unit: &str) -> Result<()> {
        self.note(What::Unit, unit, "reload");
        if self.applies() { self.units.reload(unit).await } else { Ok(()) }
    }

    pub async fn restart_unit(&self, unit: &str) -> Result<()> {
        self.note(What::Unit, unit, "restart");
        if self.applies() { self.units.restart(unit).await } else { Ok(()) }
    }

    pub async fn stop_unit(&self, unit: &str) -> Result<()> {
        self.note(What::Unit, unit, "stop");
        if self.applies() { self.units.stop(unit).await } else { Ok(()) }
    }

    /// Makes systemd read all unit files anew; not noted, since it changes nothing by itself.
    pub async fn reload_units(&self) -> Result<()> {
        if self.applies() { self.units.reload_all().await } else { Ok(()) }
    }

    /// Sets the host name; the caller has seen that it differs.
    pub async fn set_hostname(&self, name: &str) -> Result<()> {
        self.note(What::Setting, "host name", format!("set to {name}"));
        if self.applies() { self.units.set_hostname(name).await } else { Ok(()) }
    }
}
