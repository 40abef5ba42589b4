//! The difference between the wanted stack and what runs, as data. Pure.

use crate::host::docker::{Container, LABEL_CONFIG_HASH, LABEL_ONEOFF};
use std::collections::BTreeMap;

/// A container as it is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub service: String,
    pub container: String,
    pub config_hash: String,
    /// Services that this one links to by name: Docker ties such a link to one container.
    pub links: Vec<String>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Create {
        service: String,
    },
    Recreate {
        service: String,
        container_id: String,
        why: String,
    },
    Start {
        service: String,
        container_id: String,
    },
    /// A container of the project that no service asks for.
    Remove {
        container: String,
        container_id: String,
        why: String,
    },
}

/// What must be done so that `running` becomes `wanted`, which is in dependency order.
pub fn actions(wanted: &[Wanted], running: &[Container]) -> Vec<Action> {
    let by_name: BTreeMap<&str, &Container> =
        running.iter().map(|container| (container.name.as_str(), container)).collect();
    let mut all: Vec<Action> = Vec::new();
    for container in running {
        let is_oneoff = container.labels.get(LABEL_ONEOFF).is_some_and(|value| value == "True");
        let is_wanted = wanted.iter().any(|wanted| wanted.container == container.name);
        let is_in_use = is_oneoff && container.is_running();
        if !is_wanted && !is_in_use {
            let why = if is_oneoff { "a one-off that has ended" } else { "no service of the compose file" };
            all.push(Action::Remove {
                container: container.name.clone(),
                container_id: container.id.clone(),
                why: why.to_owned(),
            });
        }
    }
    let mut replaced: Vec<&str> = Vec::new();
    for want in wanted {
        let service = want.service.clone();
        let Some(container) = by_name.get(want.container.as_str()) else {
            replaced.push(&want.service);
            all.push(Action::Create { service });
            continue;
        };
        let container_id = container.id.clone();
        let same = container.labels.get(LABEL_CONFIG_HASH) == Some(&want.config_hash);
        let torn = want.links.iter().find(|link| replaced.contains(&link.as_str()));
        if !same {
            replaced.push(&want.service);
            all.push(Action::Recreate { service, container_id, why: "its configuration or image changed".to_owned() });
        } else if let Some(link) = torn {
            replaced.push(&want.service);
            all.push(Action::Recreate { service, container_id, why: format!("it links to {link}, which is new") });
        } else if !container.is_running() {
            all.push(Action::Start { service, container_id });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::docker::ContainerState;
    use std::collections::HashMap;

    fn want(service: &str, hash: &str, links: &[&str]) -> Wanted {
        Wanted {
            service: service.to_owned(),
            container: format!("x_{service}_1"),
            config_hash: hash.to_owned(),
            links: links.iter().map(|link| (*link).to_owned()).collect(),
        }
    }

    fn have(service: &str, hash: &str, state: ContainerState, oneoff: bool) -> Container {
        let oneoff = if oneoff { "True" } else { "False" };
        let labels = [(LABEL_CONFIG_HASH, hash), (LABEL_ONEOFF, oneoff)];
        Container {
            id: format!("id-{service}"),
            name: format!("x_{service}_1"),
            labels: HashMap::from(labels.map(|(name, value)| (name.to_owned(), value.to_owned()))),
            image_id: String::new(),
            state,
            health: None,
            exit_code: 0,
            oom_killed: false,
            started_at: String::new(),
            pid: 0,
        }
    }

    #[test]
    fn what_is_as_wanted_is_left_alone() {
        let running = [have("a", "1", ContainerState::Running, false), have("b", "1", ContainerState::Running, false)];
        assert!(actions(&[want("a", "1", &[]), want("b", "1", &["a"])], &running).is_empty());
    }

    #[test]
    fn each_difference_has_its_action() {
        let running = [
            have("stopped", "1", ContainerState::Exited, false),
            have("changed", "0", ContainerState::Running, false),
            have("linked", "1", ContainerState::Running, false),
            have("orphan", "1", ContainerState::Running, false),
            have("migrate", "1", ContainerState::Exited, true),
            have("shell", "1", ContainerState::Running, true),
        ];
        let wanted = [
            want("stopped", "1", &[]),
            want("changed", "1", &[]),
            want("linked", "1", &["changed"]),
            want("new", "1", &[]),
        ];
        let kinds: Vec<String> = actions(&wanted, &running)
            .into_iter()
            .map(|action| match action {
                Action::Create { service } => format!("create {service}"),
                Action::Recreate { service, .. } => format!("recreate {service}"),
                Action::Start { service, .. } => format!("start {service}"),
                Action::Remove { container, .. } => format!("remove {container}"),
            })
            .collect();
        // The shell that somebody has open is not taken from under their hands.
        assert_eq!(
            kinds,
            [
                "remove x_orphan_1",
                "remove x_migrate_1",
                "start stopped",
                "recreate changed",
                "recreate linked",
                "create new"
            ]
        );
    }
}
