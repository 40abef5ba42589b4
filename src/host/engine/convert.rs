//! bollard's answers and errors as the house's own types. Pure.

use crate::host::docker::{Container, ContainerState, DockerError, Health, NetworkState};
use anyhow::anyhow;
use bollard::errors::Error as ApiError;
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, HealthStatusEnum, Network};
use std::collections::HashMap;

pub(super) fn docker_error(error: ApiError) -> anyhow::Error {
    match error {
        ApiError::DockerResponseServerError { status_code: 404, message } => DockerError::NotFound(message).into(),
        ApiError::DockerResponseServerError { message, .. } => DockerError::Refused(message).into(),
        ApiError::DockerStreamError { error } => DockerError::Refused(error).into(),
        ApiError::SocketNotFoundError(path) => DockerError::Away(format!("no socket {path}")).into(),
        ApiError::HyperLegacyError { err } => DockerError::Away(err.to_string()).into(),
        ApiError::HyperResponseError { err } => DockerError::Away(err.to_string()).into(),
        ApiError::IOError { err } => DockerError::Away(err.to_string()).into(),
        ApiError::RequestTimeoutError => DockerError::Away("no answer".to_owned()).into(),
        other => anyhow!(other),
    }
}

pub(super) fn by_label(name: &str, value: &str) -> Option<HashMap<String, Vec<String>>> {
    Some(HashMap::from([("label".to_owned(), vec![format!("{name}={value}")])]))
}

pub(super) fn container(inspected: ContainerInspectResponse) -> Container {
    let state = inspected.state.unwrap_or_default();
    let health = state.health.and_then(|health| health.status).and_then(|status| match status {
        HealthStatusEnum::STARTING => Some(Health::Starting),
        HealthStatusEnum::HEALTHY => Some(Health::Healthy),
        HealthStatusEnum::UNHEALTHY => Some(Health::Unhealthy),
        _ => None,
    });
    Container {
        id: inspected.id.unwrap_or_default(),
        name: inspected.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        labels: inspected.config.and_then(|config| config.labels).unwrap_or_default(),
        image_id: inspected.image.unwrap_or_default(),
        state: match state.status {
            Some(ContainerStateStatusEnum::RUNNING) => ContainerState::Running,
            Some(ContainerStateStatusEnum::PAUSED) => ContainerState::Paused,
            Some(ContainerStateStatusEnum::RESTARTING) => ContainerState::Restarting,
            Some(ContainerStateStatusEnum::CREATED) => ContainerState::Created,
            Some(ContainerStateStatusEnum::DEAD | ContainerStateStatusEnum::REMOVING) => ContainerState::Dead,
            _ => ContainerState::Exited,
        },
        health,
        exit_code: state.exit_code.unwrap_or_default(),
        oom_killed: state.oom_killed.unwrap_or_default(),
        started_at: state.started_at.unwrap_or_default(),
        pid: state.pid.unwrap_or_default(),
    }
}

pub(super) fn network(network: Network) -> NetworkState {
    let configs = network.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    NetworkState {
        name: network.name.unwrap_or_default(),
        labels: network.labels.unwrap_or_default(),
        subnets: configs.into_iter().filter_map(|config| config.subnet).collect(),
    }
}

/// Splits `repository[:tag]`; digests and registries with ports keep theirs.
pub(super) fn tag_of(image: &str) -> &str {
    match image.rsplit_once('/').map_or(image, |(_, last)| last).rsplit_once(':') {
        Some((_, tag)) => tag,
        None => "latest",
    }
}

pub(super) fn first_address(subnet: &str) -> Option<std::net::Ipv4Addr> {
    let base: std::net::Ipv4Addr = subnet.split('/').next()?.parse().ok()?;
    u32::from(base).checked_add(1).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_what_stands_behind_the_last_name() {
        assert_eq!(tag_of("redis"), "latest");
        assert_eq!(tag_of("redis:7"), "7");
        assert_eq!(tag_of("registry:5000/a/redis"), "latest");
        assert_eq!(first_address("172.17.0.0/16"), Some([172, 17, 0, 1].into()));
    }
}
