//! bollard's answers and errors as the crate's own types. Pure.

use crate::host::docker::{Container, ContainerState, DockerError, Health, NetworkState, Usage, VolumeState};
use anyhow::anyhow;
use bollard::errors::Error as ApiError;
use bollard::models::{
    ContainerCpuStats, ContainerInspectResponse, ContainerStateStatusEnum, ContainerStatsResponse, ContainerSummary,
    ContainerSummaryStateEnum, EndpointSettings, HealthStatusEnum, Network, Volume,
};
use std::collections::HashMap;
use std::net::IpAddr;

pub(super) fn docker_error(error: ApiError) -> anyhow::Error {
    match error {
        ApiError::DockerResponseServerError { status_code: 404, message } => DockerError::NotFound(message).into(),
        ApiError::DockerResponseServerError { message, .. } if is_of_another_version(&message) => {
            DockerError::Away(message).into()
        }
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

/// Whether the daemon was replaced by one that does not speak the version that was agreed on before.
pub(super) fn is_of_another_version(message: &str) -> bool {
    message.contains("is too old. Minimum supported API version")
        || message.contains("is too new. Maximum supported API version")
}

pub(super) fn by_label(name: &str, value: &str) -> Option<HashMap<String, Vec<String>>> {
    Some(HashMap::from([("label".to_owned(), vec![format!("{name}={value}")])]))
}

/// What a list of containers tells of one.
pub(super) fn summary(summary: ContainerSummary) -> Container {
    let status = summary.status.unwrap_or_default();
    let networks = summary.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    // One with links has the names that it is known by elsewhere, too: `/other/alias`.
    let names = summary.names.unwrap_or_default();
    let name = names.iter().map(|name| name.trim_start_matches('/')).find(|name| !name.contains('/'));
    Container {
        id: summary.id.unwrap_or_default(),
        name: name.unwrap_or_default().to_owned(),
        labels: summary.labels.unwrap_or_default(),
        image_id: summary.image_id.unwrap_or_default(),
        state: match summary.state {
            Some(ContainerSummaryStateEnum::RUNNING) => ContainerState::Running,
            Some(ContainerSummaryStateEnum::PAUSED) => ContainerState::Paused,
            Some(ContainerSummaryStateEnum::RESTARTING) => ContainerState::Restarting,
            Some(ContainerSummaryStateEnum::CREATED) => ContainerState::Created,
            Some(ContainerSummaryStateEnum::DEAD | ContainerSummaryStateEnum::REMOVING) => ContainerState::Dead,
            _ => ContainerState::Exited,
        },
        health: health_in(&status),
        exit_code: 0,
        oom_killed: false,
        addresses: addresses(&networks),
        networks: networks.into_iter().map(|(name, end)| (name, end.network_id.unwrap_or_default())).collect(),
        network_mode: summary.host_config.and_then(|host| host.network_mode).unwrap_or_default(),
    }
}

/// Where a container answers; a stopped one has empty texts there.
fn addresses(networks: &HashMap<String, EndpointSettings>) -> Vec<IpAddr> {
    networks.values().filter_map(|end| end.ip_address.as_deref()?.parse().ok()).collect()
}

/// Engines before API 1.52 tell a running container's health in its status alone: `Up 2 minutes (healthy)`.
fn health_in(status: &str) -> Option<Health> {
    match status.strip_prefix("Up ")?.rsplit_once('(')?.1 {
        "healthy)" => Some(Health::Healthy),
        "unhealthy)" => Some(Health::Unhealthy),
        "health: starting)" => Some(Health::Starting),
        _ => None,
    }
}

/// The state of one that was asked for by itself.
pub(super) fn inspected(known: Container, details: ContainerInspectResponse) -> Container {
    let state = details.state.unwrap_or_default();
    let health = state.health.and_then(|health| health.status).and_then(|status| match status {
        HealthStatusEnum::STARTING => Some(Health::Starting),
        HealthStatusEnum::HEALTHY => Some(Health::Healthy),
        HealthStatusEnum::UNHEALTHY => Some(Health::Unhealthy),
        _ => None,
    });
    let networks = details.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    Container {
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
        addresses: addresses(&networks),
        networks: networks.into_iter().map(|(name, end)| (name, end.network_id.unwrap_or_default())).collect(),
        ..known
    }
}

/// As `docker stats` computes it.
pub(super) fn usage(stats: ContainerStatsResponse) -> Usage {
    let busy = |cpu: &Option<ContainerCpuStats>| {
        let cpu = cpu.as_ref()?;
        let total = cpu.cpu_usage.as_ref()?.total_usage?;
        Some((total, cpu.system_cpu_usage?))
    };
    let cpus = stats.cpu_stats.as_ref().and_then(|cpu| cpu.online_cpus).unwrap_or(1);
    let cpu_percent = match (busy(&stats.cpu_stats), busy(&stats.precpu_stats)) {
        (Some((total, system)), Some((before, system_before))) if system > system_before => {
            total.saturating_sub(before) as f64 / (system - system_before) as f64 * f64::from(cpus) * 100.0
        }
        _ => 0.0,
    };
    let memory = stats.memory_stats.unwrap_or_default();
    let details = memory.stats.unwrap_or_default();
    // Control groups of version 1 and 2.
    let droppable = details.get("total_inactive_file").or_else(|| details.get("inactive_file")).copied().unwrap_or(0);
    let networks = stats.networks.unwrap_or_default();
    let blocks = stats.blkio_stats.and_then(|blocks| blocks.io_service_bytes_recursive).unwrap_or_default();
    let blocks_of = |kind: &str| {
        let of_kind = blocks.iter().filter(|entry| entry.op.as_deref().is_some_and(|op| op.eq_ignore_ascii_case(kind)));
        of_kind.filter_map(|entry| entry.value).sum()
    };
    Usage {
        cpu_percent,
        memory: memory.usage.unwrap_or(0).saturating_sub(droppable),
        memory_limit: memory.limit.unwrap_or(0),
        received: networks.values().filter_map(|network| network.rx_bytes).sum(),
        sent: networks.values().filter_map(|network| network.tx_bytes).sum(),
        read: blocks_of("read"),
        written: blocks_of("write"),
        processes: stats.pids_stats.and_then(|pids| pids.current).unwrap_or(0),
    }
}

pub(super) fn volume(volume: Volume) -> VolumeState {
    VolumeState {
        name: volume.name,
        labels: volume.labels,
        driver: volume.driver,
        options: volume.options,
        mountpoint: volume.mountpoint,
    }
}

pub(super) fn network(network: Network) -> NetworkState {
    let configs = network.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    let options = network.options.unwrap_or_default();
    let is = |name: &str, values: &[&str]| options.get(name).is_some_and(|value| values.contains(&value.as_str()));
    let is_bridge = network.driver.as_deref() == Some("bridge");
    let is_hidden = |mode: &str| {
        let is_open = is(mode, &["routed", "nat-unprotected"])
            || is("com.docker.network.bridge.enable_ip_masquerade", &["false", "0"]);
        is_bridge && !is_open
    };
    NetworkState {
        is_hidden: is_hidden("com.docker.network.bridge.gateway_mode_ipv4"),
        is_hidden6: is_hidden("com.docker.network.bridge.gateway_mode_ipv6"),
        id: network.id.unwrap_or_default(),
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
    fn a_daemon_of_another_version_is_known_by_its_words() {
        // Other refusals stay refusals.
        assert!(is_of_another_version(
            "client version 1.41 is too old. Minimum supported API version is 1.44, please upgrade"
        ));
        assert!(is_of_another_version("client version 1.52 is too new. Maximum supported API version is 1.41"));
        assert!(!is_of_another_version("invalid reference format: the name is too old"));
    }

    #[test]
    fn the_tag_is_what_stands_behind_the_last_name() {
        assert_eq!(tag_of("redis"), "latest");
        assert_eq!(tag_of("redis:7"), "7");
        assert_eq!(tag_of("registry:5000/a/redis"), "latest");
        assert_eq!(first_address("172.17.0.0/16"), Some([172, 17, 0, 1].into()));
    }
}
