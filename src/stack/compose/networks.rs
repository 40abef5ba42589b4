//! Networks: the top-level `networks:`, and which of them a service joins (Compose Specification, "Networks").

use super::Context;
use super::values::{pairs, said, texts};
use crate::env::document::{self, Kind, Node, Place};
use crate::env::reader::{Fields, Unknown};
use crate::stack::model::{Joined, Network, Pool, StackNetwork};
use crate::stack::ports::is_volume_name;
use crate::value::ServiceName;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The network that services join who say nothing.
pub const DEFAULT: &str = "default";

/// Reads the top-level `networks:`, each with its place. The default one is there even if it is not mentioned.
pub fn read(root: &Fields, project: &str, context: &Context) -> Vec<(StackNetwork, Place)> {
    let mut all = Vec::new();
    for (key, value) in root.value("networks").map(Node::entries).unwrap_or_default() {
        let path = format!("networks.{}", document::shown(&key.text));
        if !is_volume_name(&key.text) {
            root.error(key.place, format!("'{path}' is not a network's name"));
            continue;
        }
        let fields = Fields::of(root.reading, Some(value), &path);
        all.push((read_one(&fields, &key.text, project, context), key.place));
        fields.finish(Unknown::Refuse);
    }
    if !all.iter().any(|(network, _)| network.key == DEFAULT) {
        let name = format!("{project}_{DEFAULT}");
        all.push((StackNetwork { key: DEFAULT.to_owned(), name, ..StackNetwork::default() }, root.place()));
    }
    all
}

/// `external:` and `name:` of a network or volume: what Docker knows it by, and whether it is somebody else's.
pub fn read_name(fields: &Fields, key: &str, project: &str) -> (String, bool) {
    let (mut named, mut external) = (said(fields, "name"), false);
    if let Some(node) = fields.value("external") {
        match &*node.kind {
            // File versions 2 and 3 had the name below it.
            Kind::Mapping(_) => {
                let inner = fields.fields("external");
                named = named.or(inner.text("name"));
                inner.finish(Unknown::Refuse);
                external = true;
            }
            _ => external = fields.boolean("external") == Some(true),
        }
    }
    let name = named.unwrap_or_else(|| if external { key.to_owned() } else { format!("{project}_{key}") });
    if !is_volume_name(&name) {
        fields.error(
            fields.place(),
            format!("'{}' is '{}', which Docker does not take as a name", fields.path("name"), document::shown(&name)),
        );
    }
    (name, external)
}

fn read_one(fields: &Fields, key: &str, project: &str, context: &Context) -> StackNetwork {
    let (name, external) = read_name(fields, key, project);
    let ipam = fields.fields("ipam");
    let mut pools = Vec::new();
    if let Some(node) = ipam.value("config") {
        let path = ipam.path("config");
        match &*node.kind {
            Kind::Sequence(items) => {
                pools.extend(
                    items.iter().map(|item| read_pool(Fields::of(fields.reading, Some(item), &path), item, context)),
                );
            }
            _ => ipam.error(node.place, format!("'{path}' must be a list")),
        }
    }
    let network = StackNetwork {
        key: key.to_owned(),
        name,
        external,
        driver: fields.text("driver"),
        driver_opts: pairs(fields, "driver_opts", context),
        ipam_driver: ipam.text("driver"),
        ipam_options: pairs(&ipam, "options", context),
        pools,
        internal: fields.boolean("internal").unwrap_or(false),
        attachable: fields.boolean("attachable").unwrap_or(false),
        ipv6: fields.boolean("enable_ipv6"),
        labels: pairs(fields, "labels", context),
    };
    ipam.finish(Unknown::Refuse);
    let only_name =
        StackNetwork { key: key.to_owned(), name: network.name.clone(), external, ..StackNetwork::default() };
    if external && network != only_name {
        fields.error(
            fields.place(),
            format!("'{}' is external, so it cannot have options here", fields.path("external")),
        );
    }
    network
}

fn read_pool(fields: Fields, node: &Node, context: &Context) -> Pool {
    let subnet = |key| {
        fields.text(key).filter(|text| {
            let good = is_subnet(text);
            if !good {
                fields.error(node.place, format!("'{}' must be a subnet like 172.28.0.0/16", fields.path(key)));
            }
            good
        })
    };
    let is_address = |path: String, text: &str| {
        let good = text.parse::<IpAddr>().is_ok();
        if !good {
            fields.error(node.place, format!("'{path}' must be an IP address"));
        }
        good
    };
    let reserved = pairs(&fields, "aux_addresses", context);
    for (name, text) in &reserved {
        is_address(fields.path(&format!("aux_addresses.{name}")), text);
    }
    let pool = Pool {
        subnet: subnet("subnet"),
        range: subnet("ip_range"),
        gateway: fields.text("gateway").filter(|text| is_address(fields.path("gateway"), text)),
        reserved,
    };
    fields.finish(Unknown::Refuse);
    pool
}

fn is_subnet(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    match (address.parse::<IpAddr>(), bits.parse::<u8>()) {
        (Ok(IpAddr::V4(_)), Ok(bits)) => bits <= 32,
        (Ok(IpAddr::V6(_)), Ok(bits)) => bits <= 128,
        _ => false,
    }
}

/// What a service is connected to: `network_mode` or `networks`.
pub fn read_of_service(fields: &Fields) -> Network {
    let place = |key| fields.value(key).map_or(fields.place(), |node| node.place);
    let Some(mode) = said(fields, "network_mode") else { return Network::Joined(read_joined(fields)) };
    if fields.value("networks").is_some() {
        let path = fields.path("network_mode");
        fields.error(place("network_mode"), format!("'{path}' and 'networks' cannot stand together"));
    }
    match mode.split_once(':').unwrap_or((&mode, "")) {
        ("bridge", "") => return Network::Bridge,
        ("host", "") => return Network::Host,
        ("none", "") => return Network::None,
        ("service", name) => {
            if let Ok(name) = name.parse::<ServiceName>() {
                return Network::Service(name);
            }
        }
        ("container", name) if is_volume_name(name) => return Network::Container(name.to_owned()),
        _ => {}
    }
    let path = fields.path("network_mode");
    let right = "bridge, host, none, service:NAME or container:NAME";
    fields.error(place("network_mode"), format!("'{path}' is '{}', but must be {right}", document::shown(&mode)));
    Network::Joined(Vec::new())
}

fn read_joined(fields: &Fields) -> Vec<Joined> {
    let default = || vec![Joined { network: DEFAULT.to_owned(), ..Joined::default() }];
    let Some(node) = fields.value("networks") else { return default() };
    let Kind::Mapping(entries) = &*node.kind else {
        let names: BTreeSet<String> = texts(fields, "networks").into_iter().collect();
        let all: Vec<Joined> = names.into_iter().map(|network| Joined { network, ..Joined::default() }).collect();
        return if all.is_empty() { default() } else { all };
    };
    let mut all = Vec::new();
    for (key, value) in entries {
        let inner = Fields::of(
            fields.reading,
            Some(value),
            &format!("{}.{}", fields.path("networks"), document::shown(&key.text)),
        );
        let priority = inner.get("priority", |reading, node, path| {
            reading.number(node, path, i64::from(i32::MIN)..=i64::from(i32::MAX))
        });
        fn address<T: std::str::FromStr>(inner: &Fields, key: &'static str, right: &str) -> Option<T> {
            let text = inner.text(key)?;
            let address = text.parse().ok();
            if address.is_none() {
                inner.error(inner.place(), format!("'{}' must be {right}", inner.path(key)));
            }
            address
        }
        let link_local = texts(&inner, "link_local_ips").iter().filter_map(|text| link_local(&inner, text)).collect();
        let joined = Joined {
            network: key.text.clone(),
            aliases: texts(&inner, "aliases"),
            ipv4: address(&inner, "ipv4_address", "an IPv4 address"),
            ipv6: address(&inner, "ipv6_address", "an IPv6 address"),
            link_local,
        };
        if let Some(bad) = joined.aliases.iter().find(|alias| alias.parse::<ServiceName>().is_err()) {
            inner.error(
                inner.place(),
                format!("'{}' has '{}', which is not a host name", inner.path("aliases"), document::shown(bad)),
            );
        }
        inner.finish(Unknown::Refuse);
        all.push((priority.unwrap_or(0), joined));
    }
    // The highest priority comes first, then the names' order, as everywhere else where compose files are carried out.
    all.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.network.cmp(&other.network)));
    let all: Vec<Joined> = all.into_iter().map(|(_, joined)| joined).collect();
    if all.is_empty() { default() } else { all }
}

fn link_local(fields: &Fields, text: &str) -> Option<std::net::IpAddr> {
    let address = text.parse().ok();
    if address.is_none() {
        let path = fields.path("link_local_ips");
        fields.error(fields.place(), format!("'{path}' must be addresses, not '{}'", document::shown(text)));
    }
    address
}
