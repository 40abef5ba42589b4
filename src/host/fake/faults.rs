//! Faults at a chosen effect: it fails, or it is the last thing that a process came to.

use super::locked;
use crate::host::docker::DockerError;
use anyhow::{Result, anyhow};
use std::sync::Mutex;
use tokio::sync::Notify;

/// What happens at the chosen effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does not happen, and its error says so.
    Refused,
    /// The same; what it asks is not there at that moment.
    Away,
    /// It does not happen, and nothing after it: the process was killed.
    Killed,
}

/// What begins so only looks: a process that ends before it has done as much as one that ends before the next that changes something.
const READS: [&str; 9] = [
    "ask ",
    "connect to ",
    "docker events of",
    "docker inspect",
    "docker list",
    "docker ping",
    "docker version",
    "query ",
    "state of ",
];

impl Fault {
    /// Those that make a difference at an effect.
    pub fn of(effect: &str) -> Vec<Fault> {
        let mut all = vec![Fault::Refused];
        if effect.starts_with("docker ") || effect.starts_with("setpriv ") {
            all.push(Fault::Away);
        }
        if !READS.iter().any(|read| effect.starts_with(read)) {
            all.push(Fault::Killed);
        }
        all
    }
}

/// Looks at the machine before each effect, and says what is wrong with it.
type Watcher = Box<dyn Fn() -> Option<String> + Send>;

#[derive(Default)]
struct State {
    chosen: Option<(usize, Fault)>,
    /// What begins so is refused each time.
    denied: Option<&'static str>,
    is_dead: bool,
    effects: Vec<String>,
    seen: Vec<String>,
    watcher: Option<Watcher>,
}

/// Counts effects, and lets one of them go wrong.
#[derive(Default)]
pub struct Faults {
    state: Mutex<State>,
    death: Notify,
}

impl Faults {
    /// Counts anew; the effect of that number, the first is 0, goes wrong.
    pub fn choose(&self, chosen: Option<(usize, Fault)>) {
        let mut state = locked(&self.state);
        let watcher = state.watcher.take();
        *state = State { chosen, watcher, ..State::default() };
    }

    /// From now on, all effects that begin so are refused.
    pub fn deny(&self, beginning: &'static str) {
        locked(&self.state).denied = Some(beginning);
    }

    /// Has the machine looked at before each effect.
    pub fn watch(&self, watcher: impl Fn() -> Option<String> + Send + 'static) {
        locked(&self.state).watcher = Some(Box::new(watcher));
    }

    /// What the watcher has seen so far, and before which effect.
    pub fn take_seen(&self) -> Vec<String> {
        std::mem::take(&mut locked(&self.state).seen)
    }

    /// What was done, or tried, since the last choice.
    pub fn effects(&self) -> Vec<String> {
        locked(&self.state).effects.clone()
    }

    fn strike(&self, effect: &str) -> Option<Fault> {
        let mut state = locked(&self.state);
        if state.is_dead {
            return Some(Fault::Killed);
        }
        let number = state.effects.len();
        state.effects.push(effect.to_owned());
        if let Some(wrong) = state.watcher.as_ref().and_then(|watcher| watcher()) {
            state.seen.push(format!("before effect {number} ({effect}): {wrong}"));
        }
        if state.denied.is_some_and(|denied| effect.starts_with(denied)) {
            return Some(Fault::Refused);
        }
        let (_, fault) = state.chosen.filter(|(chosen, _)| *chosen == number)?;
        if fault == Fault::Killed {
            state.is_dead = true;
            self.death.notify_one();
        }
        Some(fault)
    }

    /// Before an effect that does not wait for anything.
    pub(in crate::host) fn before(&self, effect: &str) -> Result<()> {
        match self.strike(effect) {
            None => Ok(()),
            Some(Fault::Killed) => Err(anyhow!("this process was killed")),
            Some(_) => Err(anyhow!("fault: {effect}")),
        }
    }

    /// Before one that a process waits for: a dead one waits for ever.
    pub(super) async fn before_waiting(&self, effect: &str) -> Result<()> {
        match self.strike(effect) {
            None => Ok(()),
            Some(Fault::Killed) => std::future::pending().await,
            Some(_) => Err(anyhow!("fault: {effect}")),
        }
    }

    /// Before something of Docker's.
    pub(super) async fn before_docker(&self, effect: &str) -> Result<()> {
        match self.strike(effect) {
            None => Ok(()),
            Some(Fault::Killed) => std::future::pending().await,
            Some(Fault::Away) => Err(DockerError::Away(format!("fault: {effect}")).into()),
            Some(Fault::Refused) => Err(DockerError::Refused(format!("fault: {effect}")).into()),
        }
    }

    /// Before a program is run; a dead process waits for it for ever.
    pub(super) async fn strike_program(&self, effect: &str) -> Option<Fault> {
        match self.strike(effect) {
            Some(Fault::Killed) => std::future::pending().await,
            other => other,
        }
    }

    /// Runs something until it ends or is killed; `None` if it was.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.death.notified() => None,
            done = work => match locked(&self.state).is_dead {
                true => None,
                false => Some(done),
            },
        }
    }
}
