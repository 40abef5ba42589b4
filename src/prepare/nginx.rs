//! Step nginx: the app's site, rendered whole, tested before it is put in place.

use super::tls;
use crate::env::Env;
use crate::host::{Changed, Cmd, File, Host, Owed, UnitState};
use crate::report::page::REFRESH_S;
use crate::state::Ledger;
use crate::value::{HostPattern, Route};
use anyhow::{Context, Result};
use std::time::Duration;

pub const UNIT: &str = "nginx.service";
pub const SITE: &str = "/etc/nginx/conf.d/appliance.conf";
const DEBIAN_DEFAULT: &str = "/etc/nginx/sites-enabled/default";
/// Where a candidate is tested.
const TRIAL: &str = "/run/appliance/nginx";
const MAX_CONFIG: u64 = 1 << 20;

/// What the templates need to know of the host.
struct Facts {
    ipv6: bool,
    certificate: bool,
    client_ca: bool,
    client_crl: bool,
}

impl Facts {
    fn look(host: &Host, app: &str) -> Facts {
        Facts {
            ipv6: host.exists("/proc/net/if_inet6"),
            certificate: host.exists(tls::CERTIFICATE) && host.exists(tls::KEY),
            client_ca: host.exists(&format!("/data/{app}-ca/ca.cert.pem")),
            client_crl: host.exists(&format!("/data/{app}-ca/crl.pem")),
        }
    }
}

fn template(name: &'static str, source: &'static str, values: minijinja::Value) -> Result<String> {
    let mut templates = minijinja::Environment::new();
    templates.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    // Values are quoted by their types: each takes only characters that need no quoting in nginx.
    templates.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    let mut syntax = minijinja::syntax::SyntaxConfig::builder();
    templates
        .set_syntax(syntax.trim_blocks(true).lstrip_blocks(true).build().context("the template syntax is broken")?);
    templates.add_template(name, source).with_context(|| format!("the template {name} is broken"))?;
    let rendered = templates.get_template(name).and_then(|template| template.render(values));
    rendered.with_context(|| format!("could not render {name}"))
}

/// The site before there is an app: the status page for every name; on https too, where there is a certificate and it
/// is wanted.
pub fn render_page_only(host: &Host, with_https: bool) -> Result<String> {
    let facts = Facts::look(host, "");
    let values = minijinja::context! {
        ipv6 => facts.ipv6,
        certificate => facts.certificate && with_https,
        refresh => REFRESH_S,
        cert_path => tls::CERTIFICATE,
        key_path => tls::KEY,
        dh_path => tls::DH_PARAMETERS,
    };
    template("page-only.conf", include_str!("templates/page-only.conf"), values)
}

/// A host as nginx compares it with the Host header: an IPv6 address stands in brackets there.
fn server_name(host: &HostPattern) -> String {
    match host.address() {
        Some(std::net::IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.as_str().to_owned(),
    }
}

fn render(env: &Env, routes: &[Route], facts: &Facts) -> Result<String> {
    let hosts: Vec<String> = env.appliance.allowed_hosts.iter().map(server_name).collect();
    // The longest prefix first, for the reader; nginx itself does not mind.
    let mut routes: Vec<&Route> = routes.iter().collect();
    routes.sort_by_key(|route| (std::cmp::Reverse(route.path.len()), route.path.clone()));
    let routes: Vec<minijinja::Value> = routes
        .iter()
        .map(|route| minijinja::context! { path => route.path.as_str(), upstream => route.upstream.to_string() })
        .collect();
    let mandatory = env.appliance.ssl.client_certs_mandatory;
    let values = minijinja::context! {
        ipv6 => facts.ipv6,
        hosts => hosts.join(" "),
        // Mandatory client certificates without a CA to check them: nobody gets to the app.
        routes => if mandatory && !facts.client_ca { Vec::new() } else { routes },
        client_ca => facts.client_ca,
        client_crl => facts.client_crl,
        verify => if mandatory { "on" } else { "optional" },
        ca_directory => format!("/data/{}-ca", env.app.name),
        refresh => REFRESH_S,
        cert_path => tls::CERTIFICATE,
        key_path => tls::KEY,
        dh_path => tls::DH_PARAMETERS,
    };
    template("app.conf", include_str!("templates/app.conf"), values)
}

pub async fn prepare(env: &Env, host: &Host, certificate: Changed) -> Result<()> {
    let ledger = Ledger::read(host)?;
    let routes = ledger.current.map(|release| release.routes).unwrap_or_default();
    let site = render(env, &routes, &Facts::look(host, env.app.name.as_str()))?;
    if install(host, &site).await?.yes() {
        return Ok(());
    }
    if host.unit_state(UNIT).await? != UnitState::Active {
        host.start_unit(UNIT).await?;
    } else if certificate.yes() || host.owed(UNIT)?.is_some() {
        test(host, &site).await?;
        reload(host).await?;
    }
    Ok(())
}

/// Tests the configuration as it lies there, and loads it.
pub async fn load(host: &Host) -> Result<()> {
    let site = host.read_text(SITE, MAX_CONFIG)?.with_context(|| format!("{SITE} is missing"))?;
    test(host, &site).await?;
    reload(host).await
}

/// How long nginx's old workers may take to stop listening.
const TURNOVER: Duration = Duration::from_secs(10);

/// Makes nginx read its configuration anew, and waits until no worker with the old one takes new connections: systemd's
/// reload returns long before that.
pub async fn reload(host: &Host) -> Result<()> {
    let old = workers(host)?;
    host.reload_unit(UNIT).await?;
    let end = tokio::time::Instant::now() + TURNOVER;
    while host.applies() && old.iter().any(|pid| still_listens(host, pid)) {
        if tokio::time::Instant::now() >= end {
            // Still owed: the next one makes up for it.
            tracing::warn!("nginx's old workers still listen after its reload");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if host.applies() { host.settle(UNIT) } else { Ok(()) }
}

/// The process ids of nginx's workers.
fn workers(host: &Host) -> Result<Vec<String>> {
    let master = host.read_text("/run/nginx.pid", 64)?.unwrap_or_default();
    let Ok(master) = master.trim().parse::<u32>() else { return Ok(Vec::new()) };
    let children = host.read_text(&format!("/proc/{master}/task/{master}/children"), 64 * 1024)?.unwrap_or_default();
    Ok(children.split_whitespace().map(str::to_owned).collect())
}

/// A worker that was told to go says so in its title; one that is gone has none.
fn still_listens(host: &Host, pid: &str) -> bool {
    let title = host.read_text(&format!("/proc/{pid}/cmdline"), 4096).ok().flatten().unwrap_or_default();
    title.starts_with("nginx: worker process") && !title.contains("shutting down")
}

/// Tests a site in a private copy, puts it in place and makes nginx load it. A site that fails is not installed.
pub async fn install(host: &Host, site: &str) -> Result<Changed> {
    let want = File::text(site).mode(0o644);
    let same = host.read_text(SITE, MAX_CONFIG)?.as_deref() == Some(site);
    if same && !host.exists(DEBIAN_DEFAULT) {
        return Ok(Changed::No);
    }
    // In check mode the certificate may not be there yet, so there is nothing to test.
    if host.applies() {
        test(host, site).await?;
    }
    if host.applies() {
        host.owe(UNIT, Owed::Reload)?;
    }
    host.ensure_absent(DEBIAN_DEFAULT)?;
    host.ensure_file(SITE, &want)?;
    if host.unit_state(UNIT).await? == UnitState::Active {
        reload(host).await?;
    } else {
        host.start_unit(UNIT).await?;
        host.settle(UNIT)?;
    }
    Ok(Changed::Yes)
}

/// Starts nginx. Where its configuration keeps it from starting (a certificate that is gone or broken), visitors get the
/// status page without https, and the later steps get their chance to mend it.
pub async fn start(host: &Host) -> Result<()> {
    if host.unit_state(UNIT).await? == UnitState::Active {
        return Ok(());
    }
    let Err(error) = host.start_unit(UNIT).await else { return Ok(()) };
    tracing::warn!("{error:#}; trying with the status page alone");
    host.ensure_file(SITE, &File::text(render_page_only(host, false)?).mode(0o644))?;
    host.start_unit(UNIT).await
}

/// `nginx -t` on the host's own configuration with the candidate in the place of our site.
async fn test(host: &Host, site: &str) -> Result<()> {
    let main = host.read_text("/etc/nginx/nginx.conf", MAX_CONFIG)?.context("/etc/nginx/nginx.conf is missing")?;
    let mut includes = format!("include {TRIAL}/site.conf;");
    for name in host.names("/etc/nginx/conf.d")? {
        if name.ends_with(".conf") && format!("/etc/nginx/conf.d/{name}") != SITE {
            includes.push_str(&format!(" include /etc/nginx/conf.d/{name};"));
        }
    }
    // Debian's own site is about to be removed.
    let main = main
        .replace("include /etc/nginx/conf.d/*.conf;", &includes)
        .replace("include /etc/nginx/sites-enabled/*;", "include /etc/nginx/sites-enabled/[!d]*;");
    host.put(&format!("{TRIAL}/nginx.conf"), main.as_bytes(), 0o600)?;
    host.put(&format!("{TRIAL}/site.conf"), site.as_bytes(), 0o600)?;
    let config = format!("{TRIAL}/nginx.conf");
    host.ask(Cmd::new("nginx", ["-t", "-q", "-c", &config]))
        .await
        .context("nginx refuses the new site; the old one stays")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(extra: &str) -> Env {
        let text = format!("appliance: {{domain: a.de{extra}}}\napp: {{name: x, git: {{source: /srv/x}}}}\n");
        Env::parse(text.as_bytes()).env.expect("the env is valid")
    }

    fn routes() -> Vec<Route> {
        vec![
            Route { service: "web".into(), path: "/".into(), upstream: ([127, 0, 0, 1], 5000).into() },
            Route { service: "pdf".into(), path: "/pdf-as-web".into(), upstream: ([127, 0, 0, 1], 5095).into() },
        ]
    }

    #[test]
    fn the_site_is_rendered_whole() {
        let facts = Facts { ipv6: true, certificate: true, client_ca: true, client_crl: true };
        let site = render(&env(", allowed_hosts: [a.de, '*.b.de']"), &routes(), &facts).expect("the site renders");
        insta::assert_snapshot!(site);
    }

    #[test]
    fn mandatory_without_a_ca_serves_nobody() {
        let facts = Facts { ipv6: false, certificate: true, client_ca: false, client_crl: false };
        let site = render(&env(", ssl: {client_certs_mandatory: true}"), &routes(), &facts).expect("the site renders");
        assert!(!site.contains("proxy_pass") && !site.contains("[::]"));
    }
}
