//! Rules about backups: runs, shipping, drills.

use super::{Judge, day, first, key, on};
use crate::alert::Condition;
use crate::value::rule::{BACKUP_DRILL, BACKUP_OLD, BACKUP_SHIPPING, BACKUP_TROUBLE, DRILL_OLD};
use crate::watch::facts::{Backup, Shipped};

impl Judge<'_> {
    pub(super) fn backup(&self, known: &Backup) -> Vec<Condition> {
        let mut found = Vec::new();
        let run = "appliance backup status; appliance backup run";
        match known.last_success {
            Some(last) if self.is_older(last, &BACKUP_OLD) => {
                let summary = format!("the last complete backup is of {}", day(last));
                found.push(on(&BACKUP_OLD, "", summary, run));
            }
            Some(_) => {}
            // A new host has the time until its first night.
            None => {
                let condition = on(&BACKUP_OLD, "", "there is no complete backup yet".to_owned(), run);
                found.push(Condition { hold_s: self.limits.seconds(&BACKUP_OLD), ..condition });
            }
        }
        if let Some(trouble) = &known.trouble {
            let summary = format!("the last backup was not complete: {}", first(trouble));
            found.push(on(&BACKUP_TROUBLE, "", summary, run));
        }
        found.extend(known.shipping.as_ref().and_then(|shipped| self.shipping(shipped)));
        if let Some(trouble) = &known.drill_trouble {
            let summary = format!("the backup cannot be restored: {}", first(trouble));
            found.push(on(&BACKUP_DRILL, "", summary, "appliance backup verify; appliance backup drill"));
        }
        let remedy = "systemctl status appliance-drill.timer; appliance backup drill";
        match known.last_drill {
            Some(last) if self.is_older(last, &DRILL_OLD) => {
                let summary = format!("the last drill that passed is of {}", day(last));
                found.push(on(&DRILL_OLD, "", summary, remedy));
            }
            Some(_) => {}
            None => {
                let condition = on(&DRILL_OLD, "", "no drill has passed yet".to_owned(), remedy);
                found.push(Condition { hold_s: self.limits.seconds(&DRILL_OLD), ..condition });
            }
        }
        found
    }

    fn shipping(&self, shipped: &Shipped) -> Option<Condition> {
        let remedy = "appliance backup status; appliance backup ship; journalctl -u appliance-ship";
        if let Some(why) = &shipped.impossible {
            let summary = format!("changes of the databases cannot be shipped: {}", first(why));
            return Some(on(&BACKUP_SHIPPING, "", summary, remedy));
        }
        let Some(last) = shipped.last_success else {
            // The first one waits for the first run.
            let why = shipped.trouble.as_deref()?;
            let summary = format!("changes of the databases were never shipped: {}", first(why));
            let condition = on(&BACKUP_SHIPPING, "", summary, remedy);
            return Some(Condition { hold_s: self.limits.seconds(&BACKUP_SHIPPING), ..condition });
        };
        let is_old = self.age(last) > self.limits.seconds(&BACKUP_SHIPPING).max(2 * shipped.every_s);
        is_old.then(|| {
            let why = shipped.trouble.as_deref().map(|why| format!(": {}", first(why))).unwrap_or_default();
            let summary = format!("changes of the databases were shipped last {}{why}", day(last));
            // Without a run there is nothing to ship from.
            Condition { parents: vec![key(&BACKUP_OLD, "")], ..on(&BACKUP_SHIPPING, "", summary, remedy) }
        })
    }
}
