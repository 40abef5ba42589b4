//! systemd's units and the host name, as the rest of the house sees them. The D-Bus side is `systemd.rs`.

use super::{Host, Pending, What};
use anyhow::Result;

/// A unit's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitState {
    Active,
    /// Stopped, failed, or on its way.
    Inactive,
    /// systemd knows no such unit.
    Missing,
}

/// What can be asked of systemd. Each verb waits for its job's end, at most two minutes.
pub trait Units: Send + Sync {
    fn state<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<UnitState>>;
    fn start<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>>;
    fn reload<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>>;
    fn restart<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>>;
    /// Sets the static and the transient host name.
    fn set_hostname<'a>(&'a self, name: &'a str) -> Pending<'a, Result<()>>;
}

impl Host {
    pub async fn unit_state(&self, unit: &str) -> Result<UnitState> {
        self.units.state(unit).await
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

    /// Sets the host name; the caller has seen that it differs.
    pub async fn set_hostname(&self, name: &str) -> Result<()> {
        self.note(What::Setting, "host name", format!("set to {name}"));
        if self.applies() { self.units.set_hostname(name).await } else { Ok(()) }
    }
}
