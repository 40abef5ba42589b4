//! The parts of a printed project that are no service: builds, networks, volumes.

use super::print_values::{Entries, doubled, list, pairs};
use crate::stack::model::*;
use serde_json::{Map, Value};

pub(super) fn build(build: &Build) -> Value {
    let mut entries = Entries::default();
    entries.add("context", build.context.as_str());
    match &build.inline {
        Some(text) => entries.add("dockerfile_inline", doubled(text)),
        None => entries.add("dockerfile", build.dockerfile.as_str()),
    }
    entries.add("args", pairs(&build.args));
    entries.add("target", Some(build.target.as_str()).filter(|target| !target.is_empty()));
    entries.add("labels", pairs(&build.labels));
    entries.add("cache_from", list(&build.cache_from));
    entries.add("network", build.network.as_deref());
    entries.add("tags", list(&build.tags));
    entries.add("no_cache", build.no_cache);
    entries.add("pull", build.pull);
    entries.size("shm_size", build.shm_size);
    let hosts = build.extra_hosts.iter().map(|host| host.replacen(':', "=", 1)).collect::<Vec<_>>();
    entries.add("extra_hosts", hosts);
    let contexts = build.contexts.iter().map(|(name, context)| {
        let context = match context {
            NamedContext::Directory(path) => path.clone(),
            NamedContext::Image(image) => format!("docker-image://{image}"),
            NamedContext::Service(service) => format!("service:{service}"),
        };
        (name.clone(), Value::from(context))
    });
    entries.add("additional_contexts", contexts.collect::<Map<_, _>>());
    entries.0.into()
}

pub(super) fn network(network: &StackNetwork) -> Value {
    let mut entries = Entries::default();
    entries.add("name", network.name.as_str());
    entries.add("external", network.external);
    entries.add("driver", network.driver.as_deref());
    entries.add("driver_opts", pairs(&network.driver_opts));
    let mut ipam = Entries::default();
    ipam.add("driver", network.ipam_driver.as_deref());
    ipam.add("options", pairs(&network.ipam_options));
    let pools = network.pools.iter().map(|pool| {
        let mut entries = Entries::default();
        entries.add("subnet", pool.subnet.as_deref());
        entries.add("ip_range", pool.range.as_deref());
        entries.add("gateway", pool.gateway.as_deref());
        entries.add("aux_addresses", pairs(&pool.reserved));
        Value::from(entries.0)
    });
    ipam.add("config", pools.collect::<Vec<_>>());
    entries.0.insert("ipam".to_owned(), ipam.0.into());
    entries.add("internal", network.internal);
    entries.add("attachable", network.attachable);
    entries.add("enable_ipv6", network.ipv6);
    entries.add("labels", pairs(&network.labels));
    entries.0.into()
}

pub(super) fn volume(volume: &StackVolume) -> Value {
    let mut entries = Entries::default();
    entries.add("name", volume.name.as_str());
    entries.add("external", volume.external);
    entries.add("driver", volume.driver.as_deref());
    entries.add("driver_opts", pairs(&volume.driver_opts));
    entries.add("labels", pairs(&volume.labels));
    entries.0.into()
}
