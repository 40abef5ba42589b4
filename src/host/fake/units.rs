//! systemd, as far as units are active or not.

use super::{Faults, locked};
use crate::host::{Pending, UnitState, Units};
use anyhow::Result;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// Units that are started stay started.
pub struct FakeUnits {
    faults: Arc<Faults>,
    active: Mutex<BTreeSet<String>>,
    pub hostname: Mutex<String>,
    pub jobs: Mutex<Vec<String>>,
}

impl FakeUnits {
    pub(super) fn new(faults: Arc<Faults>) -> FakeUnits {
        FakeUnits { faults, active: Mutex::default(), hostname: Mutex::default(), jobs: Mutex::default() }
    }

    pub(super) fn take_state_of(&self, other: &FakeUnits) {
        *locked(&self.active) = locked(&other.active).clone();
    }

    async fn job(&self, verb: &str, unit: &str) -> Result<()> {
        self.faults.before_waiting(&format!("{verb} {unit}")).await?;
        match verb {
            "stop" => locked(&self.active).remove(unit),
            _ => locked(&self.active).insert(unit.to_owned()),
        };
        locked(&self.jobs).push(format!("{verb} {unit}"));
        Ok(())
    }
}

impl Units for FakeUnits {
    fn state<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<UnitState>> {
        Box::pin(async move {
            self.faults.before_waiting(&format!("state of {unit}")).await?;
            let is_active = locked(&self.active).contains(unit);
            Ok(if is_active { UnitState::Active } else { UnitState::Inactive })
        })
    }
    fn start<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(self.job("start", unit))
    }
    fn reload<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(self.job("reload", unit))
    }
    fn restart<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(self.job("restart", unit))
    }
    fn stop<'a>(&'a self, unit: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(self.job("stop", unit))
    }
    fn reload_all<'a>(&'a self) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            self.faults.before_waiting("reload all").await?;
            locked(&self.jobs).push("reload all".to_owned());
            Ok(())
        })
    }
    fn failed<'a>(&'a self) -> Pending<'a, Result<Vec<String>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn is_clock_set<'a>(&'a self) -> Pending<'a, Result<bool>> {
        Box::pin(async { Ok(true) })
    }
    fn set_hostname<'a>(&'a self, name: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            self.faults.before_waiting("set the host name").await?;
            *locked(&self.hostname) = name.to_owned();
            Ok(())
        })
    }
}
