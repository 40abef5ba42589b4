//! The configurations that nginx gets: the app's site, and the one before there is an app. Rendered whole; putting one in
//! place is `mod.rs`.

use crate::env::Env;
use crate::host::Host;
use crate::prepare::{client_ca, tls};
use crate::report::page::{self, REFRESH_S};
use crate::value::{ClientAuthority, HostPattern, Route, Tenant};
use anyhow::{Context, Result};
use std::net::IpAddr;

/// What the templates need to know of the host.
pub(super) struct Facts {
    ipv6: bool,
    certificate: bool,
    client_ca: Option<ClientAuthority>,
    /// Who resolves the name of the certificate's OCSP responder; none where it names no responder.
    resolvers: Vec<IpAddr>,
    /// Where the certificate lies.
    place: tls::Place,
}

impl Facts {
    /// The facts for an app's site. `None`: for the one before there is an app.
    pub(super) fn look(host: &Host, tenant: Option<&Tenant>) -> Result<Facts> {
        let place = tenant.map_or_else(tls::Place::of_host, tls::Place::of);
        let certificate = host.exists(&place.certificate) && host.exists(&place.key);
        Ok(Facts {
            ipv6: host.exists("/proc/net/if_inet6"),
            certificate,
            client_ca: match tenant {
                Some(tenant) => client_ca::usable(host, tenant)?,
                None => None,
            },
            resolvers: match tls::current(host, &place) {
                // As many as the host itself asks (resolv.conf(5), MAXNS).
                Some(pair) if pair.can_be_stapled() => host.resolvers()?.into_iter().take(3).collect(),
                _ => Vec::new(),
            },
            place,
        })
    }
}

const TEMPLATES: [(&str, &str); 11] = [
    ("app.conf", include_str!("../templates/app.conf")),
    ("page-only.conf", include_str!("../templates/page-only.conf")),
    ("page.conf", include_str!("../templates/page.conf")),
    ("tls.conf", include_str!("../templates/tls.conf")),
    ("maps.conf", include_str!("../templates/maps.conf")),
    ("common.conf", include_str!("../templates/common.conf")),
    ("upstreams.conf", include_str!("../templates/upstreams.conf")),
    ("default.conf", include_str!("../templates/default.conf")),
    ("servers.conf", include_str!("../templates/servers.conf")),
    ("host.conf", include_str!("../templates/host.conf")),
    ("one-of-several.conf", include_str!("../templates/one-of-several.conf")),
];

fn template(name: &str, values: minijinja::Value) -> Result<String> {
    let mut templates = minijinja::Environment::new();
    templates.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    // Values are quoted by their types: each takes only characters that need no quoting in nginx.
    templates.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    let mut syntax = minijinja::syntax::SyntaxConfig::builder();
    templates
        .set_syntax(syntax.trim_blocks(true).lstrip_blocks(true).build().context("the template syntax is broken")?);
    for (name, source) in TEMPLATES {
        templates.add_template(name, source).with_context(|| format!("the template {name} is broken"))?;
    }
    let rendered = templates.get_template(name).and_then(|template| template.render(values));
    rendered.with_context(|| format!("could not render {name}"))
}

/// What every configuration names.
fn common(facts: &Facts) -> minijinja::Value {
    let resolvers: Vec<String> = facts.resolvers.iter().map(|address| in_brackets(*address)).collect();
    minijinja::context! {
        ipv6 => facts.ipv6,
        refresh => REFRESH_S,
        cert_path => facts.place.certificate.as_str(),
        key_path => facts.place.key.as_str(),
        dh_path => facts.place.parameters.as_str(),
        resumes => true,
        default_resumes => true,
        zone => "",
        zone_size => "10m",
        resolvers => resolvers.join(" "),
    }
}

/// The site before there is an app: the status page for every name; on https too, where there is a certificate and it
/// is wanted.
pub fn render_page_only(host: &Host, with_https: bool) -> Result<String> {
    let facts = Facts::look(host, None)?;
    let common = common(&facts);
    let values = minijinja::context! { certificate => facts.certificate && with_https, client_ca => "", ..common };
    template("page-only.conf", values)
}

/// An address as nginx writes it: IPv6 stands in brackets.
fn in_brackets(address: IpAddr) -> String {
    match address {
        IpAddr::V6(address) => format!("[{address}]"),
        IpAddr::V4(address) => address.to_string(),
    }
}

/// A host as nginx compares it with the Host header.
fn server_name(host: &HostPattern) -> String {
    host.address().map_or_else(|| host.as_str().to_owned(), in_brackets)
}

/// What several apps share: the names that are nobody's. `facts` are those of one that has a certificate, `resumes` says whether sessions
/// may be taken up again.
pub(super) fn render_host(facts: &Facts, resumes: bool) -> Result<String> {
    let values = minijinja::context! { client_ca => "", default_resumes => resumes, ..common(facts) };
    template("host.conf", values)
}

/// An app's site: all of it where the app has the host to itself, else what is its own.
pub(super) fn render(env: &Env, routes: &[Route], facts: &Facts) -> Result<String> {
    let hosts: Vec<String> = env.appliance.allowed_hosts.iter().map(server_name).collect();
    // The longest prefix first, for the reader; nginx itself does not mind.
    let mut routes: Vec<&Route> = routes.iter().collect();
    routes.sort_by_key(|route| (std::cmp::Reverse(route.path.len()), route.path.clone()));
    let has_root = routes.iter().any(|route| route.path == "/");
    let routes: Vec<minijinja::Value> = routes
        .iter()
        .map(|route| {
            minijinja::context! {
                path => route.path.as_str(),
                upstream => route.upstream.to_string(),
                bridge => route.bridge().to_string(),
                slot => super::slot(&env.tenant, route),
            }
        })
        .collect();
    let mandatory = env.appliance.ssl.client_certs_mandatory;
    let authority = facts.client_ca.as_ref();
    let common = common(facts);
    let (prefix, zone, zone_size) = match &env.tenant {
        Tenant::Alone(_) => (String::new(), String::new(), "10m"),
        Tenant::OneOfSeveral(name) => (format!("{name}-"), format!("-{name}-"), "1m"),
    };
    let values = minijinja::context! {
        prefix,
        zone,
        zone_size,
        vouches => env.tenant.is_alone() || authority.is_some(),
        page_root => page::root(Some(&env.tenant)),
        hosts => hosts.join(" "),
        // Mandatory client certificates without a CA to check them: nobody gets to the app.
        routes => if mandatory && authority.is_none() { Vec::new() } else { routes },
        has_root,
        client_ca => authority.map_or("", |authority| authority.digest.as_str()),
        client_crl => authority.is_some_and(|authority| authority.has_list),
        verify_depth => authority.map_or(1, |authority| authority.depth),
        verify => if mandatory { "on" } else { "optional" },
        ca_directory => client_ca::checked(&env.tenant),
        ..common
    };
    template(if env.tenant.is_alone() { "app.conf" } else { "one-of-several.conf" }, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(extra: &str) -> Env {
        let text = format!("appliance: {{domain: a.de{extra}}}\napp: {{name: x, git: {{source: /srv/x}}}}\n");
        Env::of_text(&text)
    }

    fn routes() -> Vec<Route> {
        vec![
            Route { service: "web".into(), path: "/".into(), upstream: ([127, 0, 0, 1], 5000).into() },
            Route { service: "pdf".into(), path: "/pdf-as-web".into(), upstream: ([127, 0, 0, 1], 5095).into() },
        ]
    }

    #[test]
    fn the_site_is_rendered_whole() {
        let client_ca = ClientAuthority {
            digest: "0011".to_owned(),
            has_list: true,
            not_after: 1,
            next_update: None,
            this_update: None,
            depth: 2,
        };
        let resolvers = vec![[10, 0, 0, 1].into(), "fd00::1".parse().expect("an address")];
        let facts = Facts {
            ipv6: true,
            certificate: true,
            client_ca: Some(client_ca),
            resolvers,
            place: tls::Place::of_host(),
        };
        let site = render(&env(", allowed_hosts: [a.de, '*.b.de']"), &routes(), &facts).expect("the site renders");
        insta::assert_snapshot!(site);
    }

    #[test]
    fn without_a_route_at_the_root_nothing_of_the_host_is_served() {
        let facts = Facts {
            ipv6: false,
            certificate: true,
            client_ca: None,
            resolvers: Vec::new(),
            place: tls::Place::of_host(),
        };
        let (all, below) = (routes(), routes().split_off(1));
        let root = "location / {\n        return 404;";
        assert!(!render(&env(""), &all, &facts).expect("the site renders").contains(root));
        assert!(render(&env(""), &below, &facts).expect("the site renders").contains(root));
    }

    #[test]
    fn mandatory_without_a_ca_serves_nobody() {
        let facts = Facts {
            ipv6: false,
            certificate: true,
            client_ca: None,
            resolvers: Vec::new(),
            place: tls::Place::of_host(),
        };
        let site = render(&env(", ssl: {client_certs_mandatory: true}"), &routes(), &facts).expect("the site renders");
        assert!(!site.contains("proxy_pass") && !site.contains("[::]"));
    }
}
