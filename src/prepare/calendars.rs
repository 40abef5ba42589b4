//! Part of the step timer: the timers of backups, of shipping and of drills, and those of apps that are updated at a time of their own. The units are the package's; when
//! they elapse is said here.

use crate::env::Env;
use crate::host::{Dir, File, Host, Owed, UnitState};
use crate::value::Calendar;
use anyhow::Result;
use std::collections::BTreeMap;

const UNITS: &str = "/etc/systemd/system";
const PREFIX: &str = "appliance-update@";
const SUFFIX: &str = ".timer.d";
/// The timer of backups, and that of shipping between them.
const BACKUP: &str = "appliance-backup.timer";
const SHIP: &str = "appliance-ship.timer";
/// That of trying out whether they can be restored.
const DRILL: &str = "appliance-drill.timer";

/// An empty one first: it takes the package's own time away.
fn text(calendar: &Calendar) -> String {
    format!("[Timer]\nOnCalendar=\nOnCalendar={calendar}\n")
}

/// So long after the last one ended. An empty one first, as above.
fn text_every(minutes: u32) -> String {
    format!("[Timer]\nOnActiveSec=\nOnActiveSec={minutes}min\nOnUnitInactiveSec={minutes}min\n")
}

/// By which systemd knows when a persistent timer elapsed last (systemd.timer(5)).
fn stamp(unit: &str) -> String {
    format!("/var/lib/systemd/timers/stamp-{unit}")
}

pub async fn prepare(env: &Env, host: &Host) -> Result<()> {
    let mut wanted: BTreeMap<String, String> = BTreeMap::new();
    for app in env.apps.iter().filter(|_| env.appliance.update.automatic) {
        if let Some(calendar) = &app.calendar {
            wanted.insert(format!("{PREFIX}{}.timer", app.name), text(calendar));
        }
    }
    // Persistent: a run that was missed is made up for.
    if env.appliance.backup.url.is_some() {
        wanted.insert(BACKUP.to_owned(), text(&env.appliance.backup.oncalendar));
        if let Some(calendar) = &env.appliance.backup.drill {
            wanted.insert(DRILL.to_owned(), text(calendar));
        }
        if let Some(every) = env.appliance.backup.continuous {
            wanted.insert(SHIP.to_owned(), text_every(every.minutes));
        }
    }
    for (unit, text) in &wanted {
        let directory = format!("{UNITS}/{unit}.d");
        host.ensure_dir(&directory, &Dir::plain())?;
        let file = File::text(text.clone()).mode(0o644);
        host.ensure_file_of(unit, Owed::Restart, &format!("{directory}/appliance.conf"), &file)?;
        if host.owed(unit)?.is_some() {
            host.reload_units().await?;
            if host.applies() && unit != SHIP {
                // By another calendar the last time may be long ago: that is no reason to begin at once.
                host.put(&stamp(unit), b"", 0o644)?;
            }
            host.restart_unit(unit).await?;
            host.settle(unit)?;
        } else if host.unit_state(unit).await? != UnitState::Active {
            host.start_unit(unit).await?;
        }
    }
    for name in host.names(UNITS)? {
        let is_of_app = name.starts_with(PREFIX) && name.ends_with(SUFFIX);
        let unit = name.strip_suffix(".d").filter(|unit| is_of_app || [BACKUP, SHIP, DRILL].contains(unit));
        let Some(unit) = unit.filter(|unit| !wanted.contains_key(*unit)) else { continue };
        // First: without its file it could not be found again.
        if matches!(host.unit_state(unit).await?, UnitState::Active | UnitState::Changing) {
            host.stop_unit(unit).await?;
        }
        let own = format!("{UNITS}/{name}/appliance.conf");
        if host.exists(&own) {
            host.ensure_absent(&own)?;
            host.reload_units().await?;
        }
        if host.applies() {
            host.discard(&stamp(unit))?;
            // What else lies there is the operator's.
            host.discard_directory(&format!("{UNITS}/{name}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;

    fn env(more: &str) -> Env {
        Env::of_text(&format!(
            "appliance: {{domain: a.de, ssl: {{letsencrypt: {{enabled: no}}}}{more}\napps:\n  - {{name: one, git: {{source: /srv/x}}}}\n"
        ))
    }

    #[tokio::test]
    async fn an_app_with_a_time_of_its_own_has_a_timer_until_it_has_none() {
        let test = TestHost::new();
        test.host.ensure_dir(UNITS, &Dir::plain()).expect("it can be made");
        let jobs = || std::mem::take(&mut *test.units.jobs.lock().expect("no test panics here"));
        let two = "  - {name: two, like: one, domain: b.de, update: {oncalendar: 'Sat 03:00'}}\n";
        let with = |update: &str| {
            let mut env = env(&format!("{update}}}"));
            env.apps = Env::of_text(&format!(
                "appliance: {{domain: a.de}}\napps:\n  - {{name: one, git: {{source: /srv/x}}}}\n{two}"
            ))
            .apps;
            env
        };
        let unit = "appliance-update@two.timer";
        prepare(&with(""), &test.host).await.expect("the step succeeds");
        let said = test.host.read_text(&format!("{UNITS}/{unit}.d/appliance.conf"), 1000).expect("readable");
        assert_eq!(said.as_deref(), Some("[Timer]\nOnCalendar=\nOnCalendar=Sat 03:00\n"));
        assert_eq!(jobs(), ["reload all".to_owned(), format!("restart {unit}")]);
        prepare(&with(""), &test.host).await.expect("the step succeeds");
        assert_eq!(jobs(), [""; 0]);
        for gone in [with(", update: {automatic: no}"), env("}")] {
            prepare(&with(""), &test.host).await.expect("the step succeeds");
            jobs();
            prepare(&gone, &test.host).await.expect("the step succeeds");
            assert_eq!(jobs(), [format!("stop {unit}"), "reload all".to_owned()]);
            assert_eq!(test.host.names(UNITS).expect("it can be listed"), [""; 0]);
            prepare(&gone, &test.host).await.expect("the step succeeds");
            assert_eq!(jobs(), [""; 0]);
        }
    }
}
