//! Step timer: when the app is updated by itself. The timer itself is the package's; here it is set, or masked.

use super::calendars;
use crate::env::Env;
use crate::host::{File, Host, Owed, UnitState};
use anyhow::Result;

const UNIT: &str = "appliance-update.timer";
/// What lies here wins over the package's unit (systemd.unit(5)).
const MASK: &str = "/etc/systemd/system/appliance-update.timer";
const DIRECTORY: &str = "/etc/systemd/system/appliance-update.timer.d";

/// Debian's own timers. While the appliance upgrades the host's packages nothing else does: an upgrade of Docker would take the app down
/// without the appliance's knowledge. The first one only gets lists, and the second upgrades.
const DEBIANS: [&str; 2] = ["apt-daily.timer", "apt-daily-upgrade.timer"];

pub async fn prepare(env: &Env, host: &Host) -> Result<()> {
    for unit in DEBIANS {
        mask_debians(unit, env.appliance.update.automatic, host).await?;
    }
    prepare_own(env, host).await?;
    calendars::prepare(env, host).await
}

/// Masks one of Debian's timers, or gives it back. A mask of somebody else's making looks the same; a mark says which are ours.
async fn mask_debians(unit: &str, masked: bool, host: &Host) -> Result<()> {
    let (path, mark) = (format!("/etc/systemd/system/{unit}"), format!("/var/lib/appliance/masked/{unit}"));
    let is_masked = host.link_target(&path).as_deref() == Some("/dev/null");
    if masked && !is_masked && !host.exists(&path) {
        if matches!(host.unit_state(unit).await?, UnitState::Active | UnitState::Changing) {
            host.stop_unit(unit).await?;
        }
        host.put(&mark, b"", 0o644)?;
        host.ensure_link(&path, "/dev/null")?;
        host.reload_units().await?;
    } else if !masked && is_masked && host.exists(&mark) {
        host.ensure_absent(&path)?;
        host.reload_units().await?;
        host.start_unit(unit).await?;
        host.discard(&mark)?;
    }
    Ok(())
}

async fn prepare_own(env: &Env, host: &Host) -> Result<()> {
    let update = &env.appliance.update;
    let is_masked = host.link_target(MASK).as_deref() == Some("/dev/null");
    if !update.automatic {
        if !is_masked {
            host.stop_unit(UNIT).await?;
            host.owe(UNIT, Owed::Reload)?;
            host.ensure_link(MASK, "/dev/null")?;
        }
        if host.owed(UNIT)?.is_some() {
            host.reload_units().await?;
            host.settle(UNIT)?;
        }
        return Ok(());
    }
    if is_masked {
        host.owe(UNIT, Owed::Restart)?;
        host.ensure_absent(MASK)?;
    }
    // An empty one first: it takes the package's own time away.
    let text = format!("[Timer]\nOnCalendar=\nOnCalendar={}\n", update.oncalendar);
    host.ensure_dir(DIRECTORY, &crate::host::Dir::plain())?;
    host.ensure_file_of(UNIT, Owed::Restart, &format!("{DIRECTORY}/appliance.conf"), &File::text(text).mode(0o644))?;
    if host.owed(UNIT)?.is_some() {
        host.reload_units().await?;
        host.restart_unit(UNIT).await?;
        return host.settle(UNIT);
    }
    match host.unit_state(UNIT).await? {
        UnitState::Active => Ok(()),
        _ => host.start_unit(UNIT).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;

    fn env(update: &str) -> Env {
        let text =
            format!("appliance: {{domain: a.de, update: {update}}}\napp: {{name: x, git: {{source: /srv/x}}}}\n");
        Env::of_text(&text)
    }

    #[tokio::test]
    async fn the_timer_is_set_masked_and_set_again_and_told_only_of_changes() {
        let test = TestHost::new();
        test.host.ensure_dir("/etc/systemd/system", &crate::host::Dir::plain()).expect("it can be made");
        let jobs = || std::mem::take(&mut *test.units.jobs.lock().expect("no test panics here"));
        prepare(&env("{oncalendar: Mon 02:00}"), &test.host).await.expect("the step succeeds");
        let drop_in = test.host.read_text("/etc/systemd/system/appliance-update.timer.d/appliance.conf", 1000);
        assert_eq!(drop_in.expect("readable").as_deref(), Some("[Timer]\nOnCalendar=\nOnCalendar=Mon 02:00\n"));
        let all = ["reload all", "reload all", "reload all", "restart appliance-update.timer"];
        assert_eq!(jobs(), all, "Debian's own two are masked");
        prepare(&env("{oncalendar: Mon 02:00}"), &test.host).await.expect("the step succeeds");
        assert_eq!(jobs(), [""; 0]);
        for _ in 0..2 {
            prepare(&env("{automatic: no}"), &test.host).await.expect("the step succeeds");
        }
        let given_back = ["reload all", "start apt-daily.timer", "reload all", "start apt-daily-upgrade.timer"];
        assert_eq!(jobs(), [&given_back[..], &["stop appliance-update.timer", "reload all"]].concat());
        assert_eq!(test.host.link_target(MASK).as_deref(), Some("/dev/null"));
        prepare(&env("{oncalendar: Mon 02:00}"), &test.host).await.expect("the step succeeds");
        // They were active, so they are stopped.
        let masked = ["stop apt-daily.timer", "reload all", "stop apt-daily-upgrade.timer", "reload all"];
        assert_eq!(jobs(), [&masked[..], &["reload all", "restart appliance-update.timer"]].concat());
        assert!(!test.host.exists(MASK));
        assert!(DEBIANS.iter().all(|unit| test.host.exists(&format!("/etc/systemd/system/{unit}"))));
    }
}
