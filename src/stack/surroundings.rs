//! What containers need around them: networks, volumes, the slice that bounds them, and the files of secrets and configs. What is external is required, the rest
//! is made. Volumes are never removed.

use super::model::{Stack, StackNetwork, StackVolume};
use super::{allow, grants, slice};
use crate::env::{Binds, hex};
use crate::host::docker::{
    Container, LABEL_CONFIG_HASH, LABEL_NETWORK, LABEL_PROJECT, LABEL_VOLUME, Look, NetworkState, VolumeState,
};
use crate::host::{Host, Route};
use anyhow::{Context, Result, bail};
use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest, VolumeCreateRequest};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};

/// Makes what is missing; in check mode it is only noted. Gives back the networks that are there, by Docker's names, with their ids;
/// one that is (or would be) made anew is not among them, so that the containers in it are made anew, too.
///
/// # Errors
/// Something external that is not there, or a network that must be changed while strangers are in it.
pub async fn ensure(stack: &Stack, host: &Host) -> Result<BTreeMap<String, String>> {
    grants::ensure(stack, host)?;
    slice::ensure(stack, host).await?;
    ensure_volumes(stack, host).await?;
    let project = stack.project.as_str();
    let known = host.docker().networks(project).await?;
    let mut ids = BTreeMap::new();
    for network in &stack.networks {
        if network.external {
            let id = host.docker().network_id(&network.name).await?;
            let missing = || {
                format!(
                    "the network {} is external, but Docker has none of that name; make it, or leave 'external' out",
                    network.name
                )
            };
            ids.insert(network.name.clone(), id.with_context(missing)?);
            continue;
        }
        ensure_network(stack, network, known.iter().find(|known| known.name == network.name), host).await?;
    }
    for network in host.docker().networks(project).await? {
        ids.entry(network.name).or_insert(network.id);
    }
    Ok(ids)
}

/// The networks of the stack that are there, by Docker's names, with their ids. Nothing is made.
pub async fn look(stack: &Stack, host: &Host) -> Result<BTreeMap<String, String>> {
    let mut ids = BTreeMap::new();
    let known = host.docker().networks(stack.project.as_str()).await?;
    for network in &stack.networks {
        let found = known.iter().find(|known| known.name == network.name);
        let id = match found {
            Some(found) if is_as_wanted(network, found) => Some(found.id.clone()),
            Some(_) => None,
            None => host.docker().network_id(&network.name).await?,
        };
        ids.extend(id.map(|id| (network.name.clone(), id)));
    }
    Ok(ids)
}

async fn ensure_network(
    stack: &Stack,
    network: &StackNetwork,
    known: Option<&NetworkState>,
    host: &Host,
) -> Result<()> {
    let meets = if stack.allow.privileged { None } else { meets_the_hosts(network, host)? };
    match known {
        Some(known) if is_as_wanted(network, known) => {
            // It was there first.
            meets.into_iter().for_each(|meets| tracing::warn!("{meets}"));
            return Ok(());
        }
        _ if meets.is_some() => {
            bail!("{}; app.allow.privileged does not let the app have that", meets.unwrap_or_default())
        }
        Some(known) => {
            host.note_network(&network.name, "recreate: its options changed");
            if host.applies() {
                remove_with_containers(stack, known, host).await?;
            }
        }
        // Docker would make a second one of that name.
        None if host.docker().network_id(&network.name).await?.is_some() => bail!(
            "there is a network {} that is not the app's; remove it, or say 'external: true' in the compose file",
            network.name
        ),
        None => host.note_network(&network.name, "create"),
    }
    if host.applies() {
        host.docker()
            .create_network(request(stack, network))
            .await
            .with_context(|| format!("could not make the network {}", network.name))?;
    }
    Ok(())
}

/// A network over addresses that the host reaches elsewhere would take its traffic there: to the gateway, or a name server.
fn meets_the_hosts(network: &StackNetwork, host: &Host) -> Result<Option<String>> {
    // Docker itself sees to it that its own do not meet.
    let is_dockers = |route: &Route| {
        let id = route.interface.strip_prefix("br-");
        route.interface == "docker0" || id.is_some_and(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let mut routes: Vec<Route> = host.routes()?.into_iter().filter(|route| !is_dockers(route)).collect();
    for resolver in host.resolvers()? {
        if let IpAddr::V4(to) = resolver {
            routes.push(Route { interface: "/etc/resolv.conf".to_owned(), to, length: 32 });
        }
    }
    for subnet in network.pools.iter().filter_map(|pool| pool.subnet.as_deref()) {
        let (address, length) = subnet.split_once('/').unwrap_or((subnet, "32"));
        let (Ok(address), Ok(length)) = (address.parse::<Ipv4Addr>(), length.parse()) else { continue };
        if let Some(route) = routes.iter().find(|route| route.meets(address, length)) {
            return Ok(Some(format!(
                "the network {} has {subnet}, and the host reaches {}/{} by {}",
                network.name, route.to, route.length, route.interface
            )));
        }
    }
    Ok(None)
}

/// A network cannot be removed while containers are in it; ours are made again.
async fn remove_with_containers(stack: &Stack, network: &NetworkState, host: &Host) -> Result<()> {
    let containers = host.docker().containers(stack.project.as_str(), Look::Close).await?;
    // Before anything of ours is touched.
    let members = host.docker().members(&network.name).await?;
    if members.iter().any(|id| !containers.iter().any(|container| &container.id == id)) {
        bail!(
            "the network {} must be made anew, since its options changed, but a container that is not the app's is in it; disconnect that one",
            network.name
        );
    }
    let inside = |container: &&Container| container.networks.contains_key(&network.name);
    for container in containers.iter().filter(inside) {
        host.note_container(&container.name, format!("stop: its network {} is made anew", network.name));
        let service = stack.service(container.service());
        let grace = service.map_or(super::stop::DEFAULT_GRACE, |service| service.stop_grace);
        host.docker().stop(&container.id, grace).await?;
        host.docker().remove(&container.id).await?;
    }
    host.docker().remove_network(&network.name).await
}

/// One without our hash (compose made it, or an older appliance) counts as it is: nobody knows what it was made with.
fn is_as_wanted(network: &StackNetwork, known: &NetworkState) -> bool {
    known.labels.get(LABEL_CONFIG_HASH).is_none_or(|hash| *hash == hash_of(network))
}

fn hash_of(parts: &impl std::fmt::Debug) -> String {
    hex(&Sha256::digest(format!("{parts:?}")))
}

fn labels(stack: &Stack, own: &BTreeMap<String, String>, kind: (&str, &str), hash: String) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = own.clone().into_iter().collect();
    let ours =
        [(LABEL_PROJECT, stack.project.as_str().to_owned()), (kind.0, kind.1.to_owned()), (LABEL_CONFIG_HASH, hash)];
    labels.extend(ours.map(|(name, value)| (name.to_owned(), value)));
    labels
}

fn request(stack: &Stack, network: &StackNetwork) -> NetworkCreateRequest {
    let map = |map: &BTreeMap<String, String>| {
        Some(map.clone().into_iter().collect()).filter(|map: &HashMap<_, _>| !map.is_empty())
    };
    let pools = network.pools.iter().map(|pool| IpamConfig {
        subnet: pool.subnet.clone(),
        gateway: pool.gateway.clone(),
        ip_range: pool.range.clone(),
        auxiliary_addresses: map(&pool.reserved),
    });
    let pools: Vec<IpamConfig> = pools.collect();
    let has_ipam = network.ipam_driver.is_some() || !network.ipam_options.is_empty() || !pools.is_empty();
    NetworkCreateRequest {
        name: network.name.clone(),
        driver: network.driver.clone(),
        internal: network.internal.then_some(true),
        attachable: network.attachable.then_some(true),
        enable_ipv6: network.ipv6,
        options: map(&network.driver_opts),
        ipam: has_ipam.then(|| Ipam {
            driver: network.ipam_driver.clone().or_else(|| Some("default".to_owned())),
            config: Some(pools),
            options: map(&network.ipam_options),
        }),
        labels: Some(labels(stack, &network.labels, (LABEL_NETWORK, &network.key), hash_of(network))),
        ..Default::default()
    }
}

async fn ensure_volumes(stack: &Stack, host: &Host) -> Result<()> {
    if stack.volumes.is_empty() {
        return Ok(());
    }
    let known = host.docker().volumes(stack.project.as_str()).await?;
    for volume in &stack.volumes {
        match known.iter().find(|known| known.name == volume.name) {
            Some(known) => {
                if stack.allow.binds == Binds::Own {
                    refuse_foreign(known)?;
                }
                warn_of_difference(volume, known);
            }
            None if host.docker().volume(&volume.name).await?.is_some() => {
                if stack.allow.binds == Binds::Own {
                    bail!(
                        "there is a volume {} that is not the app's, and app.allow.binds says that it gets no others",
                        volume.name
                    );
                }
            }
            None if volume.external => bail!(
                "the volume {} is external, but Docker has none of that name; make it, or leave 'external' out",
                volume.name
            ),
            None => {
                host.note_volume(&volume.name, "create");
                if host.applies() {
                    host.docker().create_volume(volume_request(stack, volume)).await?;
                }
            }
        }
    }
    Ok(())
}

/// A volume may have been made when the env allowed more.
pub(super) fn refuse_foreign(known: &VolumeState) -> Result<()> {
    if known.driver != "local" || !allow::is_plain(&known.options) {
        bail!(
            "the volume {} stands for something else than a directory of its own, which app.allow.binds does not let the app have; where it \
             is not needed any more: docker volume rm {}",
            known.name,
            known.name
        );
    }
    Ok(())
}

/// Its data is worth more than its options.
fn warn_of_difference(volume: &StackVolume, known: &VolumeState) {
    if known.labels.get(LABEL_CONFIG_HASH).is_some_and(|hash| *hash != hash_of(volume)) {
        tracing::warn!(
            "the volume {} was made with other options than the compose file has now; it is kept as it is",
            volume.name
        );
    }
}

fn volume_request(stack: &Stack, volume: &StackVolume) -> VolumeCreateRequest {
    VolumeCreateRequest {
        name: Some(volume.name.clone()),
        driver: volume.driver.clone(),
        driver_opts: Some(volume.driver_opts.clone().into_iter().collect()),
        labels: Some(labels(stack, &volume.labels, (LABEL_VOLUME, &volume.key), hash_of(volume))),
        ..Default::default()
    }
}
