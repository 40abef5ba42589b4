//! Metrics of updates under their old names, as a file that Debian's node exporter hands on (its textfile collector). Asking for them is
//! not here.

use crate::host::Host;
use crate::state::Ledger;
use crate::value::{AppName, Tenant};
use anyhow::Result;

/// Where Debian's `prometheus-node-exporter` looks for such files.
const DIRECTORY: &str = "/var/lib/prometheus/node-exporter";
const MAX: u64 = 1 << 10;

/// Writes what the tags and the ledger say now. What is the host's has a file of its own beside those of several apps: a metric may
/// stand in one file alone.
pub fn write(tenant: &Tenant, ledger: &Ledger, host: &Host) -> Result<()> {
    let app = tenant.name();
    let seconds = |tag: &str| -> Result<Option<i64>> {
        let text = host.read_text(&format!("/app/etc/tags/{tag}"), MAX)?;
        Ok(text.and_then(|text| text.trim().parse().ok()))
    };
    let commit = ledger.current.as_ref().map(|release| release.commit.as_str());
    let last_call = seconds("update_last_call")?;
    let last_update = seconds(&format!("{app}_last_update"))?;
    let of_host = format!("{DIRECTORY}/appliance.prom");
    if tenant.is_alone() {
        return host.put(&of_host, render(app, last_call, last_update, commit).as_bytes(), 0o644);
    }
    host.put(&of_host, render(app, last_call, None, None).as_bytes(), 0o644)?;
    let own = render(app, None, last_update, commit);
    host.put(&of_app(app), own.as_bytes(), 0o644)
}

fn of_app(app: &AppName) -> String {
    format!("{DIRECTORY}/appliance-{app}.prom")
}

/// Takes the file of one of several apps away.
pub fn discard(app: &AppName, host: &Host) -> Result<()> {
    if host.exists(&of_app(app)) { host.discard(&of_app(app)) } else { Ok(()) }
}

/// What is told of backups, under its old names; times are seconds of the epoch.
#[derive(Debug, Clone, Copy, Default)]
pub struct BackupMetrics {
    pub last_start: Option<i64>,
    pub last_success: Option<i64>,
    pub seconds: Option<u64>,
    pub bytes: Option<u64>,
    pub data_bytes: Option<u64>,
    pub last_shipped: Option<i64>,
    pub last_drill: Option<i64>,
}

/// Writes what is known of the last run.
pub fn write_backup(known: &BackupMetrics, host: &Host) -> Result<()> {
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    let time = |value: Option<i64>| value.map(|value| value.to_string());
    let mut text = String::new();
    for (name, kind, help, value) in [
        (
            "backup_last_start_time",
            "counter",
            "timestamp-epoch-seconds of the last backup start",
            time(known.last_start),
        ),
        (
            "backup_last_success_time",
            "gauge",
            "timestamp-epoch-seconds of the last complete run",
            time(known.last_success),
        ),
        ("backup_last_duration", "gauge", "seconds that the last complete run took", number(known.seconds)),
        ("backup_last_size", "gauge", "bytes of files in the last complete run", number(known.bytes)),
        (
            "backup_last_shipped_time",
            "gauge",
            "timestamp-epoch-seconds of when changes were shipped last",
            time(known.last_shipped),
        ),
        (
            "backup_drill_success_time",
            "gauge",
            "timestamp-epoch-seconds of the last drill that passed",
            time(known.last_drill),
        ),
        ("backup_last_data_size", "gauge", "bytes of databases in the last complete run", number(known.data_bytes)),
    ] {
        if let Some(value) = value {
            text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"));
        }
    }
    host.put(&format!("{DIRECTORY}/appliance-backup.prom"), text.as_bytes(), 0o644)
}

fn render(app: &AppName, last_call: Option<i64>, last_update: Option<i64>, commit: Option<&str>) -> String {
    // A metric's name knows no dash.
    let app = app.as_str().replace('-', "_");
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, sample: Option<String>| {
        if let Some(sample) = sample {
            text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{sample}\n"));
        }
    };
    let seconds = |value: Option<i64>| value.map(|value| format!(" {value}"));
    metric("update_last_call", "counter", "timestamp-epoch-seconds of the last update run", seconds(last_call));
    let updated = format!("{app}_last_update");
    metric(&updated, "counter", &format!("timestamp-epoch-seconds of the last update to {app}"), seconds(last_update));
    // A commit is hexadecimal digits.
    let version = format!("{app}_version");
    metric(&version, "gauge", &version, commit.map(|commit| format!("{{git_rev=\"{commit}\"}} 1")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        let app: AppName = "my-shop".parse().expect("it is a name");
        assert_eq!(render(&app, None, None, None), "");
        let text = render(&app, Some(7), Some(8), Some("c0ffee"));
        assert!(text.contains("# TYPE update_last_call counter\nupdate_last_call 7\n"), "{text}");
        assert!(
            text.contains("\nmy_shop_last_update 8\n") && text.ends_with("my_shop_version{git_rev=\"c0ffee\"} 1\n"),
            "{text}"
        );
    }
}
