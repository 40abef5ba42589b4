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
    options.before_send = Some(std::sync::Arc::new(|event| Some(without_output(event))));
    Some(Guard { _client: sentry::init(options) })
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
