//! Reports to Sentry, where the env names a DSN. What is reported never holds a secret: messages are the same that
//! go to the journal. Each is a file before anything is sent: the watch sends it, as it does alerts, however long Sentry is away.

use crate::alert::{self, Spool};
use crate::env::Env;
use crate::host::Host;
use crate::value::Severity;
use sentry::{Envelope, Level};
use std::sync::Arc;

/// The most reports and alerts that wait for the watch; further reports are in the journal alone.
const MAX_WAITING: usize = 500;

/// There are reports while this lives.
pub struct Guard {
    _client: sentry::ClientInitGuard,
}

/// Starts reporting, if the env asks for it.
pub fn start(env: &Env, host: &Host) -> Option<Guard> {
    let dsn = env.appliance.sentry_dsn.as_ref()?;
    let mut options = sentry::ClientOptions::default();
    // Checked when the env was read.
    options.dsn = dsn.0.expose().parse().ok();
    options.release = Some(concat!("appliance@", env!("CARGO_PKG_VERSION")).into());
    options.server_name = Some(env.appliance.domain.as_str().to_owned().into());
    options.send_default_pii = false;
    options.before_send = Some(Arc::new(|event| Some(without_output(event))));
    options.transport = Some(Arc::new(Arc::new(Files { host: host.clone() })));
    Some(Guard { _client: sentry::init(options) })
}

/// Writes reports into files.
struct Files {
    host: Host,
}

impl sentry::Transport for Files {
    fn send_envelope(&self, envelope: Envelope) {
        // A warning would be a report again.
        if let Err(error) = keep(&envelope, &self.host) {
            tracing::info!("a report to Sentry is lost: {error:#}");
        }
    }
}

fn keep(envelope: &Envelope, host: &Host) -> anyhow::Result<()> {
    let Some(event) = envelope.event() else { return Ok(()) };
    let spool = Spool(host);
    if alert::handed_over(spool)? >= MAX_WAITING {
        anyhow::bail!("{MAX_WAITING} wait already; does the watch run?");
    }
    let severity = match event.level {
        Level::Fatal => Severity::Critical,
        Level::Error => Severity::Error,
        _ => Severity::Warning,
    };
    let said = event.message.as_deref().or(event.logentry.as_ref().map(|entry| entry.message.as_str()));
    let mut body = Vec::new();
    envelope.to_writer(&mut body)?;
    let (id, summary) = (event.event_id.simple().to_string(), said.unwrap_or("an error").to_owned());
    alert::announce(&alert::Event::reported(id, severity, summary, String::from_utf8(body)?, host), spool)
}

/// A report without what a container or a command has printed: that stands behind the first line of a message, stays on this host, and
/// may hold what no list of secrets knows.
fn without_output(mut event: sentry::protocol::Event<'static>) -> sentry::protocol::Event<'static> {
    let cut = |text: &mut Option<String>| {
        if let Some(text) = text
            && let Some(end) = text.find('\n')
        {
            text.truncate(end);
        }
    };
    cut(&mut event.message);
    if let Some(entry) = &mut event.logentry {
        let mut message = Some(std::mem::take(&mut entry.message));
        cut(&mut message);
        entry.message = message.unwrap_or_default();
    }
    event.breadcrumbs.iter_mut().for_each(|crumb| cut(&mut crumb.message));
    for exception in event.exception.iter_mut() {
        cut(&mut exception.value);
    }
    event
}

/// Reports the end of a run that failed.
pub fn critical(host: &Host, title: &str, text: &str) {
    if !host.applies() || sentry::Hub::current().client().is_none() {
        return;
    }
    sentry::capture_message(&format!("{title}: {text}"), Level::Fatal);
}

#[cfg(test)]
mod tests {
    use super::*;
    use sentry::protocol::{Breadcrumb, Event};

    #[test]
    fn what_was_printed_is_not_sent() {
        let text = || Some("migrate in web ended with 1:\nDETAIL: Key (email)=(eva@example.org)".to_owned());
        let mut event = Event { message: text(), ..Event::default() };
        event.breadcrumbs.values.push(Breadcrumb { message: text(), ..Breadcrumb::default() });
        let sent = format!("{:?}", without_output(event));
        assert!(sent.contains("ended with 1:") && !sent.contains("eva@example.org"), "{sent}");
    }
}
