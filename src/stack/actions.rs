//! The difference between the wanted stack and what runs, as data. Pure.

use super::manner::is_beside;
use super::model::Restart;
use super::parts::differences;
use crate::host::docker::{Container, ContainerState, LABEL_CONFIG, LABEL_CONFIG_HASH, LABEL_ONEOFF};

use std::collections::{BTreeMap, BTreeSet};

/// A container as it is wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub service: String,
    pub container: String,
    pub config_hash: String,
    /// What it is made of, as its label tells.
    pub config: String,
    /// Services that it is tied to by Docker: to one very container.
    pub ties: Vec<String>,
    /// Services after whose restart it is restarted.
    pub follows: Vec<String>,
    /// Its networks, by Docker's names.
    pub networks: Vec<String>,
    /// The container in whose network it lives, by name.
    pub shares: Option<String>,
    pub restart: Restart,
    /// Others wait for it to be done: once it was, it is not run again.
    pub once: bool,
}

/// Why the stack is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// It is started: everything is to run.
    Start,
    /// It was started before: what ended for good stays down.
    Mend,
}

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct Present {
    pub containers: Vec<Container>,
    /// Networks by Docker's names, with their ids. A missing one is about to be made.
    pub networks: BTreeMap<String, String>,
    /// Ids of containers that somebody stopped by hand.
    pub stopped: BTreeSet<String>,
    /// Ids of containers that have used up their restarts.
    pub given_up: BTreeSet<String>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Create {
        service: String,
        container: String,
    },
    Recreate {
        service: String,
        container: String,
        container_id: String,
        why: String,
    },
    Start {
        service: String,
        container: String,
        container_id: String,
    },
    Restart {
        service: String,
        container: String,
        container_id: String,
        why: String,
    },
    /// A container of the project that no service asks for.
    Remove {
        /// What its label says.
        service: String,
        container: String,
        container_id: String,
        why: String,
    },
}

impl Action {
    /// The service that it is about, if there is one.
    pub fn service(&self) -> Option<&str> {
        match self {
            Action::Create { service, .. }
            | Action::Recreate { service, .. }
            | Action::Start { service, .. }
            | Action::Restart { service, .. } => Some(service),
            Action::Remove { .. } => None,
        }
    }

    pub fn container(&self) -> &str {
        match self {
            Action::Create { container, .. }
            | Action::Recreate { container, .. }
            | Action::Start { container, .. }
            | Action::Restart { container, .. }
            | Action::Remove { container, .. } => container,
        }
    }

    /// What is done and why, in words.
    pub fn words(&self) -> String {
        match self {
            Action::Create { .. } => "create".to_owned(),
            Action::Recreate { why, .. } => format!("recreate: {why}"),
            Action::Start { .. } => "start".to_owned(),
            Action::Restart { why, .. } => format!("restart: {why}"),
            Action::Remove { why, .. } => format!("remove: {why}"),
        }
    }
}

/// What must be done so that what is present becomes `wanted`, which is in dependency order.
pub fn actions(wanted: &[Wanted], present: &Present, occasion: Occasion) -> Vec<Action> {
    let names: BTreeSet<&str> = wanted.iter().map(|wanted| wanted.container.as_str()).collect();
    let strangers = present.containers.iter().filter(|container| !names.contains(container.name.as_str()));
    let mut all: Vec<Action> = strangers.filter_map(|container| removal(container, wanted)).collect();
    let by_name: BTreeMap<&str, &Container> =
        present.containers.iter().map(|container| (container.name.as_str(), container)).collect();
    // Services that get a new container, and those that are started in any way.
    let (mut replaced, mut started) = (BTreeSet::new(), BTreeSet::new());
    for want in wanted {
        let action =
            decide(want, by_name.get(want.container.as_str()).copied(), present, occasion, &replaced, &started);
        if let Some(action) = &action {
            started.insert(want.service.clone());
            if matches!(action, Action::Create { .. } | Action::Recreate { .. }) {
                replaced.insert(want.service.clone());
            }
        }
        all.extend(action);
    }
    all
}

fn removal(container: &Container, wanted: &[Wanted]) -> Option<Action> {
    let is_oneoff = container.label(LABEL_ONEOFF) == Some("True");
    // What stands beside is an update's.
    if is_beside(&container.name) {
        return None;
    }
    // A shell that somebody has open is not taken from under their hands.
    if is_oneoff && container.is_running() {
        return None;
    }
    let why = match wanted.iter().find(|wanted| wanted.service == container.service()) {
        _ if is_oneoff => "a one-off that has ended".to_owned(),
        Some(wanted) => format!("one more than the service {} asks for", wanted.service),
        None => "no service of the compose file".to_owned(),
    };
    Some(Action::Remove {
        service: container.service().to_owned(),
        container: container.name.clone(),
        container_id: container.id.clone(),
        why,
    })
}

fn decide(
    want: &Wanted,
    container: Option<&Container>,
    present: &Present,
    occasion: Occasion,
    replaced: &BTreeSet<String>,
    started: &BTreeSet<String>,
) -> Option<Action> {
    let (service, name) = (want.service.clone(), want.container.clone());
    let Some(container) = container else {
        // What was done and cleaned away is not done again at a random moment.
        let is_over = want.once && occasion == Occasion::Mend;
        return (!is_over).then_some(Action::Create { service, container: name });
    };
    let stopped = occasion == Occasion::Mend && present.stopped.contains(&container.id);
    if stopped && !container.is_running() {
        return None;
    }
    let container_id = container.id.clone();
    let recreate = |why| {
        Some(Action::Recreate {
            service: service.clone(),
            container: name.clone(),
            container_id: container_id.clone(),
            why,
        })
    };
    if container.label(LABEL_CONFIG_HASH) != Some(&want.config_hash) {
        return recreate(differences(container.label(LABEL_CONFIG), Some(&want.config)));
    }
    if want.once && container.state == ContainerState::Exited && container.exit_code == 0 {
        return None;
    }
    if let Some(tie) = want.ties.iter().find(|tie| replaced.contains(*tie)) {
        return recreate(format!("it is tied to {tie}, which is new"));
    }
    if let Some(lost) = lost_network(container, want.networks.iter(), &present.networks) {
        return recreate(format!("it is not connected to the network {lost} any more"));
    }
    if let Some(shared) =
        want.shares.as_ref().and_then(|name| present.containers.iter().find(|other| &other.name == name))
    {
        // Docker writes down the id; a run that was killed may have left it with one that is gone.
        let modes = [format!("container:{}", shared.id), format!("container:{}", shared.name)];
        if !container.network_mode.is_empty() && !modes.contains(&container.network_mode) {
            return recreate(format!("it lives in the network of a {} that is gone", shared.name));
        }
    }
    // Somebody has paused it, and will let it go on.
    if container.state == ContainerState::Paused {
        return None;
    }
    if container.state == ContainerState::Dead {
        return recreate("Docker could not remove it whole".to_owned());
    }
    if container.is_running() {
        let followed = want.follows.iter().find(|follows| started.contains(*follows))?;
        let why = format!("{followed} was started");
        return Some(Action::Restart { service, container: name, container_id, why });
    }
    let never_ran = container.state == ContainerState::Created;
    // How often it was restarted is the supervisor's to know: what it has given up is among those that stay down.
    let stays_down = occasion == Occasion::Mend
        && (want.restart.is_over(container.exit_code, 0) || present.given_up.contains(&container.id));
    if !never_ran && stays_down {
        return None;
    }
    Some(Action::Start { service, container: name, container_id })
}

/// The first network that a container should be in and is not, or is in one of that name that is gone. `networks` are those that there
/// are, by Docker's names, with their ids.
pub fn lost_network<S: AsRef<str>>(
    container: &Container,
    wanted: impl IntoIterator<Item = S>,
    networks: &BTreeMap<String, String>,
) -> Option<S> {
    let is_lost = |network: &S| match (container.networks.get(network.as_ref()), networks.get(network.as_ref())) {
        // One that never ran does not know the id yet.
        (Some(has), Some(is)) => !has.is_empty() && has != is,
        // It is in none; or the one of that name is about to be made anew.
        _ => true,
    };
    wanted.into_iter().find(is_lost)
}

#[cfg(test)]
#[path = "actions_tests.rs"]
mod tests;
