//! What a service asks of its container beyond image, command, ports and mounts: options that go to Docker's API as they are.
//! Reading them from the compose file is `compose/options.rs`.

use crate::value::ServiceName;
use bollard::models::{ContainerCreateBody, DeviceMapping, HostConfig, HostConfigLogConfig, ResourcesUlimits};
use std::collections::BTreeMap;

/// The options. What is not set is left out of the call, so that Docker's own default holds, and so that a container of a service
/// without options keeps its hash.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    pub entrypoint: Option<Vec<String>>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub stop_signal: Option<String>,
    pub tty: bool,
    pub stdin_open: bool,
    pub init: Option<bool>,
    pub privileged: bool,
    pub read_only: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub security_opt: Vec<String>,
    pub group_add: Vec<String>,
    pub devices: Vec<Device>,
    pub device_cgroup_rules: Vec<String>,
    pub dns: Vec<String>,
    pub dns_opt: Vec<String>,
    pub dns_search: Vec<String>,
    /// `NAME:ADDRESS`.
    pub extra_hosts: Vec<String>,
    pub ipc: Option<String>,
    pub pid: Option<String>,
    /// The service whose container's namespace is used; the container's name is put in when that is made.
    pub ipc_service: Option<ServiceName>,
    pub pid_service: Option<ServiceName>,
    pub uts: Option<String>,
    pub userns_mode: Option<String>,
    pub cgroup_parent: Option<String>,
    pub runtime: Option<String>,
    pub sysctls: BTreeMap<String, String>,
    /// Path to mount options.
    pub tmpfs: BTreeMap<String, String>,
    pub ulimits: BTreeMap<String, (i64, i64)>,
    pub logging: Option<Logging>,
    /// Sizes are in bytes.
    pub shm_size: Option<i64>,
    pub mem_reservation: Option<i64>,
    /// -1: without bound.
    pub memswap_limit: Option<i64>,
    pub mem_swappiness: Option<i64>,
    /// In billionths of a CPU.
    pub nano_cpus: Option<i64>,
    pub cpu_shares: Option<i64>,
    pub cpu_period: Option<i64>,
    pub cpu_quota: Option<i64>,
    pub cpuset: Option<String>,
    pub pids_limit: Option<i64>,
    pub oom_score_adj: Option<i64>,
    pub oom_kill_disable: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub host: String,
    pub container: String,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    pub driver: String,
    pub options: BTreeMap<String, String>,
}

fn some<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    Some(list.to_vec()).filter(|list| !list.is_empty())
}

fn map(map: &BTreeMap<String, String>) -> Option<std::collections::HashMap<String, String>> {
    Some(map.clone().into_iter().collect()).filter(|map: &std::collections::HashMap<_, _>| !map.is_empty())
}

impl Options {
    /// Puts them into the call that creates the container.
    pub fn apply(&self, body: &mut ContainerCreateBody, host: &mut HostConfig) {
        body.entrypoint = self.entrypoint.clone();
        body.user = self.user.clone();
        body.working_dir = self.working_dir.clone();
        body.hostname = self.hostname.clone();
        body.domainname = self.domainname.clone();
        body.stop_signal = self.stop_signal.clone();
        body.tty = self.tty.then_some(true);
        body.open_stdin = self.stdin_open.then_some(true);
        host.init = self.init;
        host.privileged = self.privileged.then_some(true);
        host.readonly_rootfs = self.read_only.then_some(true);
        host.cap_add = some(&self.cap_add);
        host.cap_drop = some(&self.cap_drop);
        host.security_opt = some(&self.security_opt);
        host.group_add = some(&self.group_add);
        host.device_cgroup_rules = some(&self.device_cgroup_rules);
        let devices = self.devices.iter().map(|device| DeviceMapping {
            path_on_host: Some(device.host.clone()),
            path_in_container: Some(device.container.clone()),
            cgroup_permissions: Some(device.permissions.clone()),
        });
        host.devices = Some(devices.collect()).filter(|devices: &Vec<_>| !devices.is_empty());
        host.dns = some(&self.dns);
        host.dns_options = some(&self.dns_opt);
        host.dns_search = some(&self.dns_search);
        host.extra_hosts = some(&self.extra_hosts);
        host.ipc_mode = self.ipc.clone();
        host.pid_mode = self.pid.clone();
        host.uts_mode = self.uts.clone();
        host.userns_mode = self.userns_mode.clone();
        host.cgroup_parent = self.cgroup_parent.clone();
        host.runtime = self.runtime.clone();
        host.sysctls = map(&self.sysctls);
        host.tmpfs = map(&self.tmpfs);
        let ulimits = self.ulimits.iter().map(|(name, (soft, hard))| ResourcesUlimits {
            name: Some(name.clone()),
            soft: Some(*soft),
            hard: Some(*hard),
        });
        host.ulimits = Some(ulimits.collect()).filter(|ulimits: &Vec<_>| !ulimits.is_empty());
        if let Some(logging) = &self.logging {
            let config = Some(logging.options.clone().into_iter().collect());
            host.log_config = Some(HostConfigLogConfig { typ: Some(logging.driver.clone()), config });
        }
        host.shm_size = self.shm_size;
        host.memory_reservation = self.mem_reservation;
        host.memory_swap = self.memswap_limit;
        host.memory_swappiness = self.mem_swappiness;
        host.nano_cpus = self.nano_cpus;
        host.cpu_shares = self.cpu_shares;
        host.cpu_period = self.cpu_period;
        host.cpu_quota = self.cpu_quota;
        host.cpuset_cpus = self.cpuset.clone();
        host.pids_limit = self.pids_limit;
        host.oom_score_adj = self.oom_score_adj;
        host.oom_kill_disable = self.oom_kill_disable;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileged_reaches_the_call_and_nothing_else_does() {
        let (mut body, mut host) = (ContainerCreateBody::default(), HostConfig::default());
        Options { privileged: true, ..Options::default() }.apply(&mut body, &mut host);
        assert_eq!(host, HostConfig { privileged: Some(true), ..HostConfig::default() });
        assert_eq!(body, ContainerCreateBody::default());
    }
}
