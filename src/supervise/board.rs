//! Telling everybody how things stand: status file, systemd, the status page. One place, so that they agree.

use crate::host::{Host, notify};
use crate::report::page::{self, View};
use crate::report::sentry;
use crate::state::{ServiceStatus, Status, StepState};
use crate::update::UpdateEvent;
use crate::value::{Event, Phase, Step, Tenant};
use std::sync::{Mutex, MutexGuard};

pub struct Board {
    host: Host,
    /// Whose it is: the host's, which is that of an app that has it to itself, or one of several.
    of: Option<Tenant>,
    inner: Mutex<Inner>,
}

struct Inner {
    status: Status,
    /// Whether visitors see the page while the phase is not `Running`.
    with_page: bool,
    /// Reports are sent while this lives: to the very end of the run.
    reports: Option<sentry::Guard>,
}

impl Board {
    pub fn new(host: &Host) -> Board {
        Board::with(host, None, "looking for env.yml")
    }

    /// For one of several apps.
    pub fn of(host: &Host, tenant: &Tenant) -> Board {
        Board::with(host, Some(tenant.clone()), "the app is being looked at")
    }

    fn with(host: &Host, of: Option<Tenant>, what: &str) -> Board {
        let status = Status::new(Phase::Starting { what: what.to_owned() }, host);
        // The page waits until it is known whether an app is running behind it.
        Board { host: host.clone(), of, inner: Mutex::new(Inner { status, with_page: false, reports: None }) }
    }

    /// For a command beside the supervisor: with what that one last told, in the name of this process.
    pub fn take_over(host: &Host, tenant: &Tenant) -> anyhow::Result<Board> {
        let mut status = Status::new(Phase::Running { degraded: Vec::new() }, host);
        if let Some(known) = Status::read(host, Some(tenant))? {
            status = Status { pid: status.pid, started: status.started, version: status.version, ..known };
        }
        Ok(Board {
            host: host.clone(),
            of: Some(tenant.clone()),
            inner: Mutex::new(Inner { status, with_page: false, reports: None }),
        })
    }

    /// Shows what happens in an update.
    pub fn show(&self, event: UpdateEvent<'_>) {
        match event {
            UpdateEvent::Stage(stage) => self.event(Event::StageBegins(stage)),
            UpdateEvent::Doing(what) => tracing::info!("{what}"),
            UpdateEvent::Page => self.show_page(),
            UpdateEvent::Served => self.hide_page(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The guarded code only assigns; a poisoned board still holds a whole status.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Moves the phase on and tells everybody.
    pub fn event(&self, event: Event) {
        let mut inner = self.lock();
        let next = inner.status.phase.clone().next(event);
        if next != inner.status.phase {
            if next.name() != inner.status.phase.name() {
                match &self.of {
                    Some(Tenant::OneOfSeveral(name)) => tracing::info!("{name}: {}", next.text()),
                    _ => tracing::info!("{}", next.text()),
                }
            }
            inner.status.since = self.host.now();
            inner.status.phase = next;
        }
        self.tell(&inner);
    }

    /// A step begins; the ones before it are done.
    pub fn step(&self, step: Step) {
        for known in &mut self.lock().status.steps {
            known.state = match known.step.cmp(&step) {
                std::cmp::Ordering::Less => StepState::Done,
                std::cmp::Ordering::Equal => StepState::Running,
                std::cmp::Ordering::Greater => StepState::Waiting,
            };
        }
        self.event(Event::StepBegins(step));
    }

    /// How the steps ended.
    pub fn steps_ended(&self, good: bool) {
        for known in &mut self.lock().status.steps {
            known.state = match (known.state, good) {
                (StepState::Running, false) => StepState::Failed,
                (state, false) => state,
                (_, true) => StepState::Done,
            };
        }
    }

    /// Keeps reporting alive for as long as the board is.
    pub fn keep(&self, reports: Option<sentry::Guard>) {
        self.lock().reports = reports;
    }

    /// Changes the status beside the phase.
    pub fn describe(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.lock().status);
    }

    /// The services as they are; written only if something changed.
    pub fn services(&self, services: Vec<ServiceStatus>) {
        let mut inner = self.lock();
        if inner.status.services != services {
            inner.status.services = services;
            self.tell(&inner);
        }
    }

    /// From now on visitors see the page until the app runs.
    pub fn show_page(&self) {
        let mut inner = self.lock();
        inner.with_page = true;
        self.tell(&inner);
    }

    /// From now on visitors reach the app.
    pub fn hide_page(&self) {
        self.lock().with_page = false;
        if let Err(error) = page::clear(&self.host, self.of.as_ref()) {
            tracing::warn!("{error:#}");
        }
    }

    fn tell(&self, inner: &Inner) {
        let status = &inner.status;
        match &self.of {
            Some(Tenant::OneOfSeveral(name)) => notify::status(&format!("{name}: {}", status.phase.text())),
            _ => notify::status(&status.phase.text()),
        }
        // None of these may stop the work that they tell of.
        if let Err(error) = status.write(&self.host, self.of.as_ref()) {
            tracing::warn!("{error:#}");
        }
        let page = match &status.phase {
            Phase::Running { .. } => page::clear(&self.host, self.of.as_ref()),
            // The page of a host without an env says more than a phase could; it is put up where that is known.
            Phase::Standby { .. } if status.source.is_none() => Ok(()),
            Phase::Failed { .. } | Phase::Standby { .. } => page::show(&self.host, self.of.as_ref(), &View::of(status)),
            _ if inner.with_page => page::show(&self.host, self.of.as_ref(), &View::of(status)),
            _ => Ok(()),
        };
        if let Err(error) = page {
            tracing::warn!("{error:#}");
        }
    }
}
