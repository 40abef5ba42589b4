//! Rules about the host itself: file systems, memory, arrays, units, clock, env.yml.

use super::{Judge, key, on};
use crate::alert::Condition;
use crate::env::LOCAL;
use crate::value::rule::{
    APP_FAILED, BACKUP_DRILL, BACKUP_OLD, BACKUP_TROUBLE, CLOCK, DATABASE_AWAY, DISK_FORECAST, DISK_FULL, DISK_INODES,
    ENV_BROKEN, MEMORY_OOM, MEMORY_PRESSURE, RAID_DEGRADED, REBOOT_WAITING, UNIT_FAILED, UPDATE_FAILED,
};
use crate::watch::facts::{Disk, Facts, Killed};

/// So many failed units are told one by one.
const MAX_UNITS: usize = 10;

impl Judge<'_> {
    pub(super) fn host(&self, facts: &Facts) -> Vec<Condition> {
        let mut found: Vec<Condition> = facts.disks.iter().flat_map(|disk| self.disk(disk)).collect();
        for (array, state) in &facts.arrays {
            let summary = format!("the RAID array {array} lacks a disk: {state}");
            let remedy = format!("cat /proc/mdstat; mdadm --detail /dev/{array}; replace the disk: mdadm --add");
            found.push(on(&RAID_DEGRADED, array, summary, remedy));
        }
        let most = f64::from(self.limits.percent(&MEMORY_PRESSURE));
        if let Some(stall) = facts.memory_stall.filter(|stall| *stall > most) {
            let summary = format!("for {stall:.0} % of the last minute all that runs waited for memory");
            let remedy = "appliance stats --no-stream shows who uses it; give the host more, or limit that service";
            found.push(on(&MEMORY_PRESSURE, "", summary, remedy));
        }
        found.extend(facts.slow.killed.iter().map(killed));
        found.extend(self.units(facts));
        if facts.slow.is_clock_set == Some(false) {
            let remedy = "timedatectl; timedatectl timesync-status; is a time server reachable (UDP port 123)?";
            found.push(on(&CLOCK, "", "no time server sets the clock".to_owned(), remedy));
        }
        if facts.needs_reboot {
            let summary = "updated packages wait for a reboot".to_owned();
            let condition = on(&REBOOT_WAITING, "", summary, "cat /run/reboot-required.pkgs; systemctl reboot");
            // Each package that comes touches the file again, so its time says nothing.
            found.push(Condition { hold_s: self.limits.seconds(&REBOOT_WAITING), ..condition });
        }
        if let Some((line, column)) = facts.slow.env_error {
            let summary = format!("{LOCAL} has an error at line {line}, column {column}");
            found.push(on(&ENV_BROKEN, "", summary, "appliance env check; appliance env undo"));
        }
        found
    }

    fn disk(&self, disk: &Disk) -> Vec<Condition> {
        let Disk { place, free, size, free_inodes, inodes, left_s } = disk;
        let mut found = Vec::new();
        let is_below = |free: u64, all: u64, percent: u8| {
            all > 0 && u128::from(free) * 100 < u128::from(all) * u128::from(percent)
        };
        let remedy =
            format!("du -xh --max-depth=3 {place} | sort -h | tail; journalctl --vacuum-size=200M; docker system df");
        if is_below(*free, *size, self.limits.percent(&DISK_FULL)) {
            let summary = format!("{place} is full: {} MB of {} MB are free", free >> 20, size >> 20);
            found.push(on(&DISK_FULL, place, summary, remedy.clone()));
        }
        if is_below(*free_inodes, *inodes, self.limits.percent(&DISK_INODES)) {
            let summary = format!("{place} takes no more files: {free_inodes} of {inodes} inodes are free");
            let remedy = format!("du -x --inodes --max-depth=3 {place} | sort -n | tail");
            found.push(on(&DISK_INODES, place, summary, remedy));
        }
        // A file system that is nearly empty only looks as if it filled up while the first data come.
        let is_half_full = free.saturating_mul(2) < *size;
        if let Some(left) = left_s.filter(|left| is_half_full && *left < self.limits.seconds(&DISK_FORECAST)) {
            let summary = format!("{place} will be full within {} hours at this pace", left / 3600 + 1);
            let parents = vec![key(&DISK_FULL, place)];
            found.push(Condition { parents, ..on(&DISK_FORECAST, place, summary, remedy) });
        }
        found
    }

    fn units(&self, facts: &Facts) -> Vec<Condition> {
        let mut found = Vec::new();
        let failed = &facts.slow.failed_units;
        for unit in failed.iter().take(MAX_UNITS) {
            let name = unit.strip_suffix(".service").unwrap_or(unit);
            let parents = match name {
                // A failure that ended with the next attempt is none; what counts is told by these.
                "appliance-ship" => continue,
                "appliance-backup" => vec![key(&BACKUP_TROUBLE, ""), key(&BACKUP_OLD, "")],
                "appliance-drill" => vec![key(&BACKUP_DRILL, "")],
                "appliance-update" => of_apps(facts, |app| key(&UPDATE_FAILED, app)),
                "appliance" | "appliance-supervisor" => of_apps(facts, |app| key(&APP_FAILED, app)),
                _ if name.starts_with("postgresql") => vec![key(&DATABASE_AWAY, "")],
                _ => Vec::new(),
            };
            let remedy = format!("systemctl status '{unit}'; journalctl -u '{unit}'; systemctl reset-failed '{unit}'");
            found.push(Condition { parents, ..on(&UNIT_FAILED, unit, format!("the unit {unit} failed"), remedy) });
        }
        if failed.len() > MAX_UNITS {
            let summary = format!("{} units failed", failed.len());
            found.push(on(&UNIT_FAILED, "", summary, "systemctl list-units --failed"));
        }
        found
    }
}

fn of_apps(facts: &Facts, key: impl Fn(&str) -> crate::alert::Key) -> Vec<crate::alert::Key> {
    facts.apps.iter().map(|app| key(&app.name)).collect()
}

fn killed(killed: &Killed) -> Condition {
    let remedy =
        "journalctl -k -g oom-kill; appliance stats --no-stream; raise its limit (mem_limit), or give the host more";
    let (subject, what) = match killed {
        Killed { process, .. } if process.is_empty() => ("", "a process".to_owned()),
        // A process chooses its own name: that makes no alert of its own.
        Killed { process, container: None } => ("", process.clone()),
        Killed { process, container: Some(id) } => (id.as_str(), format!("{process} in the container {id}")),
    };
    on(&MEMORY_OOM, subject, format!("the kernel killed {what} for want of memory"), remedy)
}
