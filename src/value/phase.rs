//! What the supervisor is doing, and what follows from what. The loop that uses it is `supervise/`.

use super::{Stage, Step};
use serde::{Deserialize, Serialize};

/// The supervisor's phase (docs/operating.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum Phase {
    /// Nothing runs, and nothing is wrong: no env, or standby asked for.
    Standby { reason: String },
    /// The host is being prepared.
    Preparing { step: Step },
    /// The release is being made or its containers started.
    Starting { what: String },
    /// A new release is being made current.
    Updating { stage: Stage },
    /// The app answers. `degraded` names the services that keep dying.
    Running { degraded: Vec<String> },
    /// The stack is down and stays down until an operator recovers it.
    Failed { reason: String },
}

/// What moves a phase on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    StepBegins(Step),
    StartBegins(String),
    StageBegins(Stage),
    Up,
    Degraded(Vec<String>),
    Standby(String),
    Fails(String),
}

impl Phase {
    /// The next phase. Total: every event is answered in every phase; a failed phase is left by no event, only by a
    /// new run.
    pub fn next(self, event: Event) -> Phase {
        match (self, event) {
            (Phase::Failed { reason }, _) => Phase::Failed { reason },
            (_, Event::Fails(reason)) => Phase::Failed { reason },
            (_, Event::Standby(reason)) => Phase::Standby { reason },
            (_, Event::StepBegins(step)) => Phase::Preparing { step },
            (_, Event::StartBegins(what)) => Phase::Starting { what },
            (_, Event::StageBegins(stage)) => Phase::Updating { stage },
            (_, Event::Up) => Phase::Running { degraded: Vec::new() },
            (Phase::Running { .. }, Event::Degraded(degraded)) => Phase::Running { degraded },
            // Before the app is up, a service that keeps dying is part of starting, and the gate judges it.
            (other, Event::Degraded(_)) => other,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Phase::Standby { .. } => "standby",
            Phase::Preparing { .. } => "preparing",
            Phase::Starting { .. } => "starting",
            Phase::Updating { .. } => "updating",
            Phase::Running { .. } => "running",
            Phase::Failed { .. } => "failed",
        }
    }

    /// One line for people: systemd's status text, `appliance status`, the status page.
    pub fn text(&self) -> String {
        match self {
            Phase::Standby { reason } => format!("standby: {reason}"),
            Phase::Preparing { step } => format!("preparing the host: {step}"),
            Phase::Starting { what } => format!("starting: {what}"),
            Phase::Updating { stage } => format!("updating: {stage}"),
            Phase::Running { degraded } if degraded.is_empty() => "running".to_owned(),
            Phase::Running { degraded } => format!("running, degraded: {} keeps dying", degraded.join(", ")),
            Phase::Failed { reason } => format!("failed: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_is_left_by_no_event() {
        for event in [Event::Up, Event::StepBegins(Step::Tls), Event::Standby("x".into()), Event::Fails("y".into())] {
            let phase = Phase::Failed { reason: "web died".into() };
            assert_eq!(phase.clone().next(event), phase);
        }
    }

    #[test]
    fn degraded_counts_only_once_the_app_is_up() {
        let starting = Phase::Starting { what: "web".into() };
        assert_eq!(starting.clone().next(Event::Degraded(vec!["a".into()])), starting);
        let up = starting.next(Event::Up).next(Event::Degraded(vec!["a".into()]));
        assert_eq!(up, Phase::Running { degraded: vec!["a".into()] });
        assert_eq!(up.next(Event::Up), Phase::Running { degraded: vec![] });
    }
}
