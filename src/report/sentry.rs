//! Reports to Sentry, where the env names a DSN. What is reported never holds a secret: messages are the same that
//! go to the journal. Each is a file before anything is sent: the watch sends it, as it does alerts, however long Sentry is away.

use crate::alert::{self, Spool};
use crate::env::Env;
use crate::host::{Host, Mode};
use crate::value::Severity;
use sentry::{Envelope, Level};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

/// How long a report of a run's end may take to be written.
const FLUSH: Duration = Duration::from_secs(5);
/// The most reports that wait to be written; further ones are in the journal alone.
const MAX_AHEAD: usize = 20;

/// There are reports while this lives.
pub struct Guard {
    _client: sentry::ClientInitGuard,
}

/// Starts reporting, if the env asks for it.
pub fn start(env: &Env, host: &Host) -> Option<Guard> {
    if !host.applies() {
        return None;
    }
    let dsn = env.appliance.sentry_dsn.as_ref()?;
    let mut options = sentry::ClientOptions::default();
    // Checked when the env was read.
    options.dsn = dsn.0.expose().parse().ok();
    options.release = Some(concat!("appliance@", env!("CARGO_PKG_VERSION")).into());
    options.server_name = Some(env.appliance.domain.as_str().to_owned().into());
    options.send_default_pii = false;
    options.before_send = Some(Arc::new(|event| Some(without_output(event))));
    options.transport = Some(Arc::new(Arc::new(Files::begin(host.in_mode(Mode::Apply))?)));
    Some(Guard { _client: sentry::init(options) })
}

/// Hands reports to a thread that writes them into files: whoever reports something may hold locks, and must not wait for a disk.
struct Files {
    to_write: Sender<Order>,
    /// How many reports are in the channel.
    ahead: Arc<AtomicUsize>,
}

enum Order {
    Write(Box<Envelope>),
    /// Answered once all before it is written.
    Say(SyncSender<()>),
}

impl Files {
    fn begin(host: Host) -> Option<Files> {
        let (to_write, orders) = channel();
        let ahead = Arc::new(AtomicUsize::new(0));
        let left = ahead.clone();
        let write = move || {
            for order in orders {
                match order {
                    // A warning would be a report again.
                    Order::Write(envelope) => {
                        if let Err(error) = keep(&envelope, &host) {
                            tracing::info!("a report to Sentry is lost: {error:#}");
                        }
                        left.fetch_sub(1, Ordering::Relaxed);
                    }
                    // Whoever asked may have given up.
                    Order::Say(done) => drop(done.try_send(())),
                }
            }
        };
        match std::thread::Builder::new().name("reports".to_owned()).spawn(write) {
            Ok(_) => Some(Files { to_write, ahead }),
            Err(error) => {
                tracing::error!("nothing is reported to Sentry: {error}");
                None
            }
        }
    }
}

impl sentry::Transport for Files {
    fn send_envelope(&self, envelope: Envelope) {
        let is_too_much = self.ahead.fetch_add(1, Ordering::Relaxed) >= MAX_AHEAD;
        if is_too_much || self.to_write.send(Order::Write(Box::new(envelope))).is_err() {
            self.ahead.fetch_sub(1, Ordering::Relaxed);
            tracing::info!("a report to Sentry is lost: {MAX_AHEAD} wait to be written");
        }
    }

    fn flush(&self, timeout: Duration) -> bool {
        let (done, is_done) = sync_channel(1);
        self.to_write.send(Order::Say(done)).is_ok() && is_done.recv_timeout(timeout).is_ok()
    }
}

fn keep(envelope: &Envelope, host: &Host) -> anyhow::Result<()> {
    let Some(event) = envelope.event() else { return Ok(()) };
    let severity = match event.level {
        Level::Fatal => Severity::Critical,
        Level::Error => Severity::Error,
        _ => Severity::Warning,
    };
    let said = event.message.as_deref().or(event.logentry.as_ref().map(|entry| entry.message.as_str()));
    let mut body = Vec::new();
    envelope.to_writer(&mut body)?;
    let (id, summary) = (event.event_id.simple().to_string(), said.unwrap_or("an error").to_owned());
    alert::report(&alert::Event::reported(id, severity, summary, String::from_utf8(body)?, host), Spool(host))
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
    // What follows may be the end of the process.
    if let Some(client) = sentry::Hub::current().client()
        && !client.flush(Some(FLUSH))
    {
        tracing::info!("the report could not be written in time");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::{HOME, INBOX, Queue};
    use crate::host::fake::TestHost;
    use sentry::Transport;
    use sentry::protocol::{Breadcrumb, Event};

    #[test]
    fn what_was_printed_is_not_sent() {
        let text = || Some("migrate in web ended with 1:\nDETAIL: Key (email)=(eva@example.org)".to_owned());
        let mut event = Event { message: text(), ..Event::default() };
        event.breadcrumbs.values.push(Breadcrumb { message: text(), ..Breadcrumb::default() });
        let sent = format!("{:?}", without_output(event));
        assert!(sent.contains("ended with 1:") && !sent.contains("eva@example.org"), "{sent}");
    }

    #[test]
    fn reports_are_files_before_anything_is_sent_and_no_more_than_some() {
        let test = TestHost::new();
        Spool(&test.host).open(&Queue::directories(&[])).expect("they can be made");
        let files = Files::begin(test.host.in_mode(Mode::Apply)).expect("a thread can be begun");
        for number in 0..100 {
            let text = format!("report {number}");
            files.send_envelope(Event { message: Some(text), level: Level::Error, ..Event::default() }.into());
            assert!(files.flush(FLUSH), "it is written");
        }
        let names = test.host.names(&format!("{HOME}/{INBOX}")).expect("they can be listed");
        assert_eq!((names.len(), names.iter().all(|name| name.ends_with("-report.json"))), (50, true));
        let first = test.host.read_text(&format!("{HOME}/{INBOX}/{}", names[0]), 1 << 20).expect("it can be read");
        assert!(first.is_some_and(|text| text.contains("report 0") && text.contains("event_id")));
    }
}
