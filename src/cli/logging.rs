//! Where log lines go: to the journal with their fields under systemd, else to stderr.

use std::io::IsTerminal;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Starts logging. `$APPLIANCE_LOG` sets the level, as in `appliance=debug`.
pub fn start(service: bool) {
    let level = if service { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env("APPLIANCE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    // Trouble that does not end the run reaches Sentry from here; without a DSN this does nothing.
    let reports = sentry::integrations::tracing::ErrorLayer::new().with_filter(LevelFilter::WARN);
    let registry = tracing_subscriber::registry().with(filter).with(reports);
    // systemd sets this where our stderr is the journal.
    let journal = std::env::var_os("JOURNAL_STREAM").filter(|_| service).and_then(|_| tracing_journald::layer().ok());
    match journal {
        Some(journal) => registry.with(journal).init(),
        None => {
            let plain = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).without_time();
            // Escape sequences are for terminals, and for nobody who said that he wants none (no-color.org).
            let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let plain = plain.with_ansi(std::io::stderr().is_terminal() && !is_plain);
            registry.with(plain).init();
        }
    }
}
