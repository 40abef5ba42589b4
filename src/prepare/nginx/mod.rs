//! Step nginx: an app's site, and what several share, tested before it is put in place. What it says is `site.rs`, how many connections nginx takes
//! `limits.rs`.

mod limits;
mod site;

pub use super::NGINX as UNIT;
use site::render_page_only;

use super::{SITE, SITES, site_of};
use crate::env::Env;
use crate::host::{Changed, Cmd, File, Host, Owed, UnitState};
use crate::state::{HostLock, Ledger};
use crate::value::{Route, Tenant};
use anyhow::{Context, Result, bail};
use limits::Limits;
use std::time::Duration;

/// A directory of an app's: while a route's file is in it, the container that holds the service's place is asked.
pub fn slots(tenant: &Tenant) -> String {
    tenant.path("/run/appliance/bridged", |name| format!("/run/appliance/bridged-{name}"))
}

/// The file that says so of a route: with its port, so that a configuration with another port does not look at it.
pub fn slot(tenant: &Tenant, route: &Route) -> String {
    format!("{}/{}-{}", slots(tenant), route.service, route.upstream.port())
}

/// Where our files lie.
const CONFIGURATION: &str = "/etc/nginx/conf.d";

const DEBIAN_DEFAULT: &str = "/etc/nginx/sites-enabled/default";
const MAX_CONFIG: u64 = 1 << 20;

/// Our files as they should be now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// Paths and texts.
    files: Vec<(String, String)>,
    /// Of apps that the env does not name any more, or from when there were several.
    stale: Vec<String>,
}

impl Site {
    /// The one file of an appliance without an app.
    pub fn page_only(host: &Host, with_https: bool) -> Result<Site> {
        let text = render_page_only(host, with_https)?;
        let stale = of_apps(host)?;
        Ok(Site { files: vec![(SITE.to_owned(), text)], stale })
    }

    fn as_it_lies(host: &Host) -> Result<Site> {
        let text = host.read_text(SITE, MAX_CONFIG)?.with_context(|| format!("{SITE} is missing"))?;
        Ok(Site { files: vec![(SITE.to_owned(), text)], stale: Vec::new() })
    }

    fn is_there(&self, host: &Host) -> Result<bool> {
        for (path, text) in &self.files {
            if host.read_text(path, MAX_CONFIG)?.as_deref() != Some(text) {
                return Ok(false);
            }
        }
        Ok(self.stale.is_empty())
    }
}

/// The files of several apps that are there.
fn of_apps(host: &Host) -> Result<Vec<String>> {
    let names = host.names(CONFIGURATION)?;
    let paths = names.iter().map(|name| format!("{CONFIGURATION}/{name}"));
    Ok(paths.filter(|path| path.starts_with(SITES) && path.ends_with(".conf")).collect())
}

/// The app's site as it should be now, and what it shares with others.
fn wanted(env: &Env, host: &Host) -> Result<Site> {
    let ledger = Ledger::read_for(host, &env.app.name)?;
    let is_served = env.app.is_enabled;
    let routes = ledger.current.filter(|_| is_served).map(|release| release.routes).unwrap_or_default();
    let own = (site_of(&env.tenant), site::render(env, &routes, &site::Facts::look(host, Some(&env.tenant))?)?);
    let there = of_apps(host)?;
    if env.tenant.is_alone() {
        return Ok(Site { files: vec![own], stale: there });
    }
    let tenants: Vec<Tenant> = env.apps.iter().map(|one| Tenant::OneOfSeveral(one.name.clone())).collect();
    // The first that has a certificate lends it to the names that are nobody's.
    let has_certificate = |tenant: &&Tenant| host.exists(&super::tls::Place::of(tenant).certificate);
    let lender = tenants.iter().find(has_certificate).unwrap_or(&env.tenant);
    let asks = tenants.iter().any(|tenant| !matches!(super::client_ca::look(host, tenant), Ok(None)));
    let shared = (SITE.to_owned(), site::render_host(&site::Facts::look(host, Some(lender))?, !asks)?);
    let known: Vec<String> = tenants.iter().map(site_of).collect();
    let stale = there.into_iter().filter(|path| !known.contains(path)).collect();
    Ok(Site { files: vec![shared, own], stale })
}

/// Whether the site that is there is the one that should be: its certificates for clients included.
pub fn is_current(env: &Env, host: &Host) -> Result<bool> {
    wanted(env, host)?.is_there(host)
}

pub async fn prepare(env: &Env, host: &Host, certificate: Changed) -> Result<()> {
    let site = wanted(env, host)?;
    let limits = raise_limits(host, &site).await?;
    if install(host, &site).await?.yes() {
        return Ok(());
    }
    if host.unit_state(UNIT).await? != UnitState::Active {
        host.start_unit(UNIT).await?;
    } else if certificate.yes() || limits.yes() || host.owed(UNIT)?.is_some() {
        if host.applies() {
            test(host, &site, None).await?;
        }
        reload(host).await?;
    }
    Ok(())
}

/// How long nginx's configuration is waited for while another command changes the host.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Makes nginx know the current release's routes, if it does not.
pub async fn ensure_site(env: &Env, host: &Host) -> Result<()> {
    if is_current(env, host)? {
        return Ok(());
    }
    let _lock = HostLock::take(host, "nginx", PATIENCE).await?;
    install(host, &wanted(env, host)?).await.map(drop)
}

/// Raises nginx's limits, if it still takes its configuration then; else they stay as they are.
async fn raise_limits(host: &Host, site: &Site) -> Result<Changed> {
    let Some(limits) = limits::wanted(host)? else { return Ok(Changed::No) };
    if host.applies()
        && let Err(error) = test(host, site, Some(&limits)).await
    {
        tracing::warn!("nginx's limits stay as they are: {error:#}");
        return Ok(Changed::No);
    }
    limits.put(host)
}

/// Tests the configuration as it lies there, and loads it.
pub async fn load(host: &Host) -> Result<()> {
    let site = Site::as_it_lies(host)?;
    test(host, &site, None).await?;
    reload(host).await
}

/// Like [`load`], beside somebody who holds the lock: what they still owe stays theirs.
pub async fn load_beside(host: &Host) -> Result<()> {
    let site = Site::as_it_lies(host)?;
    test(host, &site, None).await?;
    host.reload_unit(UNIT).await
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
pub async fn install(host: &Host, site: &Site) -> Result<Changed> {
    if site.is_there(host)? && !host.exists(DEBIAN_DEFAULT) {
        return Ok(Changed::No);
    }
    // In check mode the certificate may not be there yet, so there is nothing to test.
    if host.applies() {
        test(host, site, None).await?;
        host.owe(UNIT, Owed::Reload)?;
    }
    host.ensure_absent(DEBIAN_DEFAULT)?;
    for (path, text) in &site.files {
        host.ensure_file(path, &File::text(text.as_str()).mode(0o644))?;
    }
    site.stale.iter().try_for_each(|path| host.ensure_absent(path).map(drop))?;
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
    let site = Site::page_only(host, false)?;
    for (path, text) in &site.files {
        host.ensure_file(path, &File::text(text.as_str()).mode(0o644))?;
    }
    site.stale.iter().try_for_each(|path| host.ensure_absent(path).map(drop))?;
    host.start_unit(UNIT).await
}

/// `nginx -t` on the host's own configuration with the candidates in the places of our site and limits.
async fn test(host: &Host, site: &Site, limits: Option<&Limits>) -> Result<()> {
    // One of its own: somebody else may be testing at the same time.
    let trial = host.private_directory()?;
    let there = host.read_text(limits::MAIN, MAX_CONFIG)?.with_context(|| format!("{} is missing", limits::MAIN))?;
    let main = limits.and_then(|limits| limits.main.as_ref()).unwrap_or(&there);
    let mut candidates = Vec::new();
    for (index, (path, text)) in site.files.iter().enumerate() {
        let candidate = trial.file(&format!("site-{index}.conf"));
        host.put(&candidate, text.as_bytes(), 0o600)?;
        candidates.push((path.as_str(), candidate));
    }
    let mut main = with_candidates(main, host, CONFIGURATION, &candidates, &site.stale)?;
    if let Some(files) = limits.and_then(|limits| limits.files.as_ref()) {
        let candidate = trial.file("limits.conf");
        host.put(&candidate, files.as_bytes(), 0o600)?;
        main = with_candidates(&main, host, limits::MODULES, &[(limits::FILES, candidate)], &[])?;
    }
    // Debian's own site is about to be removed.
    let main = main.replace("include /etc/nginx/sites-enabled/*;", "include /etc/nginx/sites-enabled/[!d]*;");
    host.put(&trial.file("nginx.conf"), main.as_bytes(), 0o600)?;
    host.ask(Cmd::new("nginx", ["-t", "-q", "-c", &trial.file("nginx.conf")]))
        .await
        .context("nginx refuses the new configuration; the old one stays")?;
    Ok(())
}

/// The text with the include of a directory spelled out: some of its files are replaced by others, and some left out.
///
/// # Errors
/// There is no such include: the file would be tested by nobody, and serve nobody.
fn with_candidates(
    text: &str,
    host: &Host,
    directory: &str,
    candidates: &[(&str, String)],
    left_out: &[String],
) -> Result<String> {
    let mut includes = Vec::new();
    for name in host.names(directory)? {
        let path = format!("{directory}/{name}");
        let is_replaced = candidates.iter().any(|(replaced, _)| *replaced == path);
        if name.ends_with(".conf") && !is_replaced && !left_out.contains(&path) {
            includes.push(format!("include {path};"));
        }
    }
    includes.extend(candidates.iter().map(|(_, candidate)| format!("include {candidate};")));
    let wanted = format!("{directory}/*.conf;");
    // From nginx's own directory.
    let short = wanted.strip_prefix("/etc/nginx/").unwrap_or(&wanted);
    let is_include = |line: &&str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["include", what] => what == wanted || what == short,
        _ => false,
    };
    let Some(include) = text.lines().find(is_include) else {
        bail!("{} does not include {directory}: a line 'include {wanted}' is missing in it", limits::MAIN);
    };
    Ok(text.replacen(include, &includes.join(" "), 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;

    #[test]
    fn a_candidate_takes_the_place_of_its_file_or_the_include_is_missed() {
        let test = TestHost::new();
        test.host.put("/etc/nginx/conf.d/a.conf", b"", 0o644).expect("the file can be written");
        let with = |text: &str| with_candidates(text, &test.host, CONFIGURATION, &[(SITE, "/new".to_owned())], &[]);
        let spelled = "http {\ninclude /etc/nginx/conf.d/a.conf; include /new;\n}\n";
        for include in ["\tinclude /etc/nginx/conf.d/*.conf;", "include   conf.d/*.conf;"] {
            assert_eq!(with(&format!("http {{\n{include}\n}}\n")).expect("it is there"), spelled);
        }
        let error = with("http {\n#include /etc/nginx/conf.d/*.conf;\n}\n").expect_err("it is not there");
        assert!(error.to_string().contains("'include /etc/nginx/conf.d/*.conf;' is missing"), "{error}");
    }
}
