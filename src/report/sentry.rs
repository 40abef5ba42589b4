//! Reports to Sentry, where the env names a DSN. What is reported never holds a secret: messages are the same that
//! go to the journal.

use crate::env::Env;
use crate::host::Host;
use std::time::Duration;

/// Reports are sent while this lives; what is queued at its end is sent for at most two seconds.
pub struct Guard {
    _client: sentry::ClientInitGuard,
}

/// Starts reporting, if the env asks for it.
pub fn start(env: &Env) -> Option<Guard> {
    let dsn = env.appliance.sentry_dsn.as_ref()?;
    let mut options = sentry::ClientOptions::default();
    // Checked when the env was read.
    options.dsn = dsn.0.expose().parse().ok();
    options.release = Some(concat!("appliance@", env!("CARGO_PKG_VERSION")).into());
    options.server_name = Some(env.appliance.domain.as_str().to_owned().into());
    options.shutdown_timeout = Duration::from_secs(2);
    options.send_default_pii = false;
    Some(Guard { _client: sentry::init(options) })
}

/// Reports the end of a run that failed, and waits until it is sent (at most five seconds).
pub fn critical(host: &Host, title: &str, text: &str) {
    if !host.applies() || sentry::Hub::current().client().is_none() {
        return;
    }
    sentry::capture_message(&format!("{title}: {text}"), sentry::Level::Fatal);
    if let Some(client) = sentry::Hub::current().client()
        && !client.flush(Some(Duration::from_secs(5)))
    {
        tracing::warn!("the report could not be sent to Sentry in time");
    }
}
