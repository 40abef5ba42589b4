//! Taking the stack down, in reverse dependency order and within its time.

use super::model::Stack;
use crate::host::Host;
use crate::host::docker::{Container, Look, is_missing};
use anyhow::{Context, Result};
use futures_util::future::join_all;
use std::time::Duration;
use tokio::time::Instant;

/// How long a container gets that no service speaks for; Docker's own default.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// How long stopping the stack may take in all, unless a service asks for more.
pub const STOP_BUDGET: Duration = Duration::from_secs(45);

/// What stopping itself takes beside the grace periods.
const MARGIN: Duration = Duration::from_secs(3);

/// How long stopping levels of these longest grace periods may take. Where one asks for more than Docker's default, each of them gets
/// its time, since any of the others may take theirs before it.
pub fn budget(levels: impl Iterator<Item = Duration>) -> Duration {
    let levels: Vec<Duration> = levels.collect();
    let all: Duration = levels.iter().sum();
    if levels.iter().any(|grace| *grace > DEFAULT_GRACE) { STOP_BUDGET.max(all + 2 * MARGIN) } else { STOP_BUDGET }
}

/// Stops the stack in reverse dependency order. Services that the stack does not know are stopped first.
///
/// Each level gets what is left of the budget, less a second for each level still to come, so that the last one has
/// its turn too.
pub async fn stop(stack: Option<&Stack>, project: &str, host: &Host) -> Result<()> {
    let running: Vec<Container> =
        host.docker().containers(project, Look::Close).await?.into_iter().filter(is_alive).collect();
    let mut levels: Vec<Vec<(Container, Duration)>> = Vec::new();
    let mut known: Vec<String> = Vec::new();
    for level in stack.map(Stack::levels).unwrap_or_default().into_iter().rev() {
        let mut containers = Vec::new();
        for service in level {
            let names: Vec<String> = stack.map(|stack| stack.container_names(service).collect()).unwrap_or_default();
            let own = running.iter().filter(|container| names.contains(&container.name));
            containers.extend(own.map(|found| (found.clone(), service.stop_grace)));
            known.extend(names);
        }
        levels.push(containers);
    }
    let strangers = running.iter().filter(|container| !known.contains(&container.name));
    levels.insert(0, strangers.map(|container| (container.clone(), DEFAULT_GRACE)).collect());
    levels.retain(|level| !level.is_empty());

    let graces = levels.iter().map(|level| level.iter().map(|(_, grace)| *grace).max().unwrap_or_default());
    let end = Instant::now() + budget(graces) - MARGIN;
    let mut failed = Vec::new();
    for (index, level) in levels.iter().enumerate() {
        let to_come = Duration::from_secs((levels.len() - index - 1) as u64);
        let left = end.saturating_duration_since(Instant::now()).saturating_sub(to_come);
        let stops = level.iter().map(|(container, grace)| async move {
            host.note_container(&container.name, "stop");
            host.docker().stop(&container.id, (*grace).min(left)).await
        });
        failed.extend(join_all(stops).await.into_iter().filter_map(Result::err).filter(|error| !is_missing(error)));
    }
    match failed.into_iter().next() {
        Some(error) => Err(error).context("could not stop the whole stack"),
        None => Ok(()),
    }
}

/// Whether a container has processes.
pub fn is_alive(container: &Container) -> bool {
    use crate::host::docker::ContainerState::{Paused, Restarting, Running};
    matches!(container.state, Running | Paused | Restarting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_grace_period_is_there_for_its_level_whatever_the_others_take() {
        let of = |graces: &[u64]| budget(graces.iter().map(|grace| Duration::from_secs(*grace))).as_secs();
        assert_eq!(of(&[]), 45);
        assert_eq!(of(&[10, 10, 10, 10, 10, 10]), 45, "Docker's own has to do within the time there is");
        assert_eq!(of(&[20]), 45);
        assert_eq!(of(&[10, 10, 10, 10, 60]), 106);
        assert_eq!(of(&[60, 60]), 126);
    }
}
