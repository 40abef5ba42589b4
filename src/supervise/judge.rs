//! What follows from what is seen of the stack's containers (docs/operating.md, "When a container dies"). Pure: time is handed in; when one
//! container is restarted is `restarts.rs`, whether a hand stopped it `manual_stops.rs`.

use super::manual_stops::ManualStops;
use super::restarts::{Memory, Seen, Verdict};
use crate::host::docker::{Container, ContainerState, Health};
use crate::stack::actions::lost_network;
use crate::stack::{Condition, Service, Stack};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// What is remembered between looks.
#[derive(Debug, Default)]
pub struct Judge {
    memories: BTreeMap<String, Memory>,
    pub manual_stops: ManualStops,
    /// Ids of containers that were healthy since they were started, and since when others are unhealthy.
    been_healthy: BTreeSet<String>,
    unhealthy_since: BTreeMap<String, Instant>,
    /// Ids of containers that have used up their restarts.
    pub given_up: BTreeSet<String>,
    /// Containers that must be restarted once what they follow is ready again; with the service that they follow.
    owed: BTreeMap<String, BTreeSet<String>>,
}

/// How long a container that has never been healthy may be unhealthy before it is restarted for that: what is slow to start, slower than its
/// health check allows, would be restarted for ever.
const SLOW: Duration = Duration::from_secs(600);

/// A container to be started, or restarted if it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub service: String,
    pub container: Container,
    pub why: String,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// In dependency order: a link to a container that is down cannot be started.
    pub restarts: Vec<Due>,
    /// Why the stack must be compared with what is wanted, if it must.
    pub mend: Option<String>,
    /// When to look again without being woken.
    pub wake: Option<Instant>,
    /// Services that keep dying.
    pub looping: Vec<String>,
}

impl Judge {
    /// `given_up` are those that had used up their restarts when another supervisor judged.
    pub fn new(manual_stops: ManualStops, given_up: BTreeSet<String>) -> Judge {
        Judge { manual_stops, given_up, ..Judge::default() }
    }

    /// Judges what is seen. `networks` are those that there are, by Docker's names, with their ids.
    pub fn decide(
        &mut self,
        stack: &Stack,
        containers: &[Container],
        networks: &BTreeMap<String, String>,
        now: Instant,
    ) -> Decision {
        let by_name: BTreeMap<&str, &Container> =
            containers.iter().map(|container| (container.name.as_str(), container)).collect();
        let ids: BTreeSet<&str> = containers.iter().map(|container| container.id.as_str()).collect();
        self.manual_stops.keep(|id| ids.contains(id));
        self.been_healthy.retain(|id| ids.contains(id.as_str()));
        self.unhealthy_since.retain(|id, _| ids.contains(id.as_str()));
        self.given_up.retain(|id| ids.contains(id.as_str()));
        containers
            .iter()
            .filter(|container| container.is_running())
            .for_each(|container| self.manual_stops.runs(&container.id));
        let mut decision = Decision::default();
        for service in stack.levels().into_iter().flatten() {
            for name in stack.container_names(service) {
                match by_name.get(name.as_str()) {
                    // What is done and was cleaned away is not done again.
                    None if stack.is_one_shot(&service.name) => {}
                    None => decision.mend = Some(format!("the container {name} is missing")),
                    Some(container) => {
                        let is_done = stack.is_one_shot(&service.name) && container.exit_code == 0;
                        let stays_down =
                            !container.is_running() && (is_done || self.manual_stops.stopped(&container.id));
                        let wanted = service.joined().iter().map(|joined| stack.network_name(&joined.network));
                        let lost = lost_network(container, wanted, networks);
                        if let Some(network) = lost.filter(|_| !stays_down) {
                            decision.mend = Some(format!("{name} is not connected to the network {network} any more"));
                        } else {
                            self.judge_one(stack, service, container, now, &mut decision);
                        }
                    }
                }
            }
        }
        self.follow_up(stack, &by_name, &mut decision);
        let is_left = |name: &str| by_name.get(name).is_some_and(|container| self.manual_stops.stopped(&container.id));
        let looping = |service: &&Service| {
            let mut names = stack.container_names(service).filter(|name| !is_left(name));
            names.any(|name| self.memories.get(&name).is_some_and(Memory::loops))
        };
        decision.looping =
            stack.services.iter().filter(looping).map(|service| service.name.as_str().to_owned()).collect();
        decision
    }

    fn judge_one(
        &mut self,
        stack: &Stack,
        service: &Service,
        container: &Container,
        now: Instant,
        decision: &mut Decision,
    ) {
        let mut sooner = |at: Instant| decision.wake = Some(decision.wake.map_or(at, |wake| wake.min(at)));
        let seen = seen(container);
        if let Seen::Ended { .. } = seen {
            if self.manual_stops.stopped(&container.id) || self.given_up.contains(&container.id) {
                return;
            }
            if let Some(until) = self.manual_stops.open_until(&container.id, now) {
                return sooner(until);
            }
        }
        if container.health == Some(Health::Healthy) {
            self.been_healthy.insert(container.id.clone());
        }
        let mut seen = seen;
        if seen == Seen::Unhealthy && !self.been_healthy.contains(&container.id) {
            let until = *self.unhealthy_since.entry(container.id.clone()).or_insert(now) + SLOW;
            if now < until {
                sooner(until);
                seen = Seen::Good;
            }
        } else {
            self.unhealthy_since.remove(&container.id);
        }
        let memory = self.memories.entry(container.name.clone()).or_default();
        let verdict = memory.judge(seen, service.restart, now);
        if !matches!(seen, Seen::Ended { .. }) {
            self.given_up.remove(&container.id);
        } else if matches!(verdict, Verdict::Fine { .. }) {
            self.given_up.insert(container.id.clone());
        }
        match verdict {
            Verdict::Fine { look_again } => look_again.into_iter().for_each(sooner),
            Verdict::Wait(due) => sooner(due),
            Verdict::Restart => {
                self.been_healthy.remove(&container.id);
                self.unhealthy_since.remove(&container.id);
                let why = match seen {
                    Seen::Unhealthy => "it is unhealthy".to_owned(),
                    _ if container.oom_killed => "it ran out of memory".to_owned(),
                    _ => format!("it ended with {}", container.exit_code),
                };
                let name = service.name.as_str().to_owned();
                decision.restarts.push(Due { service: name, container: container.clone(), why });
                self.owe(stack, service);
            }
        }
    }

    /// Remembers what follows a service that is restarted.
    fn owe(&mut self, stack: &Stack, service: &Service) {
        for follower in stack.services.iter().filter(|other| follows(other, service)) {
            for name in stack.container_names(follower) {
                self.owed.entry(name).or_default().insert(service.name.as_str().to_owned());
            }
        }
    }

    /// Restarts what follows a service that was restarted, once that is ready again.
    fn follow_up(&mut self, stack: &Stack, by_name: &BTreeMap<&str, &Container>, decision: &mut Decision) {
        let restarted: BTreeSet<String> = decision.restarts.iter().map(|due| due.service.clone()).collect();
        let (mut done, mut restarting) = (Vec::new(), Vec::new());
        for (name, followed) in &self.owed {
            let follower = by_name.get(name.as_str()).and_then(|container| stack.service(container.service()));
            let (Some(container), Some(follower)) = (by_name.get(name.as_str()), follower) else {
                done.push(name.clone());
                continue;
            };
            let are_ready = followed
                .iter()
                .all(|service| !restarted.contains(service) && is_ready(stack, follower, service, by_name));
            // One that is down is started for reasons of its own, and restarted then.
            if are_ready && container.is_running() {
                done.push(name.clone());
                let names: Vec<&str> = followed.iter().map(String::as_str).collect();
                let why = format!("{} was restarted", names.join(" and "));
                let due = Due { service: follower.name.as_str().to_owned(), container: (*container).clone(), why };
                if !decision.restarts.iter().any(|other| other.container.id == due.container.id) {
                    decision.restarts.push(due);
                    restarting.push(follower);
                }
            }
        }
        done.iter().for_each(|name| drop(self.owed.remove(name)));
        // What follows those in turn waits for them.
        restarting.into_iter().for_each(|service| self.owe(stack, service));
    }

    /// What is remembered of a container's deaths.
    pub fn memory(&self, container: &str) -> Option<&Memory> {
        self.memories.get(container)
    }
}

/// Whether a service is as its follower asks for.
fn is_ready(stack: &Stack, follower: &Service, followed: &str, by_name: &BTreeMap<&str, &Container>) -> bool {
    // One that is gone from the file is nobody's concern.
    let Some(service) = stack.service(followed) else { return true };
    let waits = |needed: &&crate::stack::Dependency| needed.service == service.name;
    let condition = follower.depends_on.iter().find(waits).map_or(Condition::Started, |needed| needed.condition);
    stack.container_names(service).all(|name| {
        by_name.get(name.as_str()).is_some_and(|container| match (condition, container.health) {
            (Condition::Healthy, Some(health)) => container.is_running() && health == Health::Healthy,
            _ => container.is_running(),
        })
    })
}

/// Whether a service is to be restarted when another one was: it says so, or runs in that one's namespaces.
fn follows(follower: &Service, service: &Service) -> bool {
    let said = follower.depends_on.iter().any(|needed| needed.restart && needed.service == service.name);
    said || follower.shared().any(|name| *name == service.name)
}

fn seen(container: &Container) -> Seen {
    match (container.state, container.health) {
        (ContainerState::Running, Some(Health::Unhealthy)) => Seen::Unhealthy,
        // Paused by hand is left alone; restarting is Docker's word for a policy that our containers do not have.
        (ContainerState::Running | ContainerState::Paused | ContainerState::Restarting, _) => Seen::Good,
        _ => Seen::Ended { exit_code: container.exit_code },
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
