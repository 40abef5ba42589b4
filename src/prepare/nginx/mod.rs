//! Step nginx: the app's site, tested before it is put in place. What it says is `site.rs`, how many connections nginx takes
//! `limits.rs`.

mod limits;
mod site;

pub use super::NGINX as UNIT;
pub use site::render_page_only;

use super::SITE;
use crate::env::Env;
use crate::host::{Changed, Cmd, File, Host, Owed, UnitState};
use crate::state::Ledger;
use crate::value::Route;
use anyhow::{Context, Result, bail};
use limits::Limits;
use std::time::Duration;

/// While a route's file is in it, the container that holds the service's place is asked.
pub const SLOTS: &str = "/run/appliance/bridged";

/// The file that says so of a route: with its port, so that a configuration with another port does not look at it.
pub fn slot(route: &Route) -> String {
    format!("{SLOTS}/{}-{}", route.service, route.upstream.port())
}

const DEBIAN_DEFAULT: &str = "/etc/nginx/sites-enabled/default";
const MAX_CONFIG: u64 = 1 << 20;

/// The site as it should be now.
fn wanted(env: &Env, host: &Host) -> Result<String> {
    let ledger = Ledger::read_for(host, &env.app.name)?;
    let routes = ledger.current.map(|release| release.routes).unwrap_or_default();
    site::render(env, &routes, &site::Facts::look(host, Some(&env.app.name))?)
}

/// Whether the site that is there is the one that should be: its certificates for clients included.
pub fn is_current(env: &Env, host: &Host) -> Result<bool> {
    Ok(host.read_text(SITE, MAX_CONFIG)? == Some(wanted(env, host)?))
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

/// Makes nginx know the current release's routes, if it does not.
pub async fn ensure_site(env: &Env, host: &Host) -> Result<()> {
    if is_current(env, host)? { Ok(()) } else { install(host, &wanted(env, host)?).await.map(drop) }
}

/// Raises nginx's limits, if it still takes its configuration then; else they stay as they are.
async fn raise_limits(host: &Host, site: &str) -> Result<Changed> {
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
    let site = host.read_text(SITE, MAX_CONFIG)?.with_context(|| format!("{SITE} is missing"))?;
    test(host, &site, None).await?;
    reload(host).await
}

/// Like [`load`], beside somebody who holds the lock: what they still owe stays theirs.
pub async fn load_beside(host: &Host) -> Result<()> {
    let site = host.read_text(SITE, MAX_CONFIG)?.with_context(|| format!("{SITE} is missing"))?;
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
pub async fn install(host: &Host, site: &str) -> Result<Changed> {
    let want = File::text(site).mode(0o644);
    let same = host.read_text(SITE, MAX_CONFIG)?.as_deref() == Some(site);
    if same && !host.exists(DEBIAN_DEFAULT) {
        return Ok(Changed::No);
    }
    // In check mode the certificate may not be there yet, so there is nothing to test.
    if host.applies() {
        test(host, site, None).await?;
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

/// `nginx -t` on the host's own configuration with the candidates in the places of our site and limits.
async fn test(host: &Host, site: &str, limits: Option<&Limits>) -> Result<()> {
    // One of its own: somebody else may be testing at the same time.
    let trial = host.private_directory()?;
    let there = host.read_text(limits::MAIN, MAX_CONFIG)?.with_context(|| format!("{} is missing", limits::MAIN))?;
    let main = limits.and_then(|limits| limits.main.as_ref()).unwrap_or(&there);
    let mut main = with_candidate(main, host, "/etc/nginx/conf.d", SITE, &trial.file("site.conf"))?;
    if let Some(files) = limits.and_then(|limits| limits.files.as_ref()) {
        main = with_candidate(&main, host, limits::MODULES, limits::FILES, &trial.file("limits.conf"))?;
        host.put(&trial.file("limits.conf"), files.as_bytes(), 0o600)?;
    }
    // Debian's own site is about to be removed.
    let main = main.replace("include /etc/nginx/sites-enabled/*;", "include /etc/nginx/sites-enabled/[!d]*;");
    host.put(&trial.file("nginx.conf"), main.as_bytes(), 0o600)?;
    host.put(&trial.file("site.conf"), site.as_bytes(), 0o600)?;
    host.ask(Cmd::new("nginx", ["-t", "-q", "-c", &trial.file("nginx.conf")]))
        .await
        .context("nginx refuses the new configuration; the old one stays")?;
    Ok(())
}

/// The text with the include of a directory spelled out, and one of its files replaced.
///
/// # Errors
/// There is no such include: the file would be tested by nobody, and serve nobody.
fn with_candidate(text: &str, host: &Host, directory: &str, path: &str, candidate: &str) -> Result<String> {
    let mut includes = String::new();
    for name in host.names(directory)? {
        if name.ends_with(".conf") && format!("{directory}/{name}") != path {
            includes.push_str(&format!("include {directory}/{name}; "));
        }
    }
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
    Ok(text.replacen(include, &format!("{includes}include {candidate};"), 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;

    #[test]
    fn a_candidate_takes_the_place_of_its_file_or_the_include_is_missed() {
        let test = TestHost::new();
        test.host.put("/etc/nginx/conf.d/a.conf", b"", 0o644).expect("the file can be written");
        let with = |text: &str| with_candidate(text, &test.host, "/etc/nginx/conf.d", SITE, "/new");
        let spelled = "http {\ninclude /etc/nginx/conf.d/a.conf; include /new;\n}\n";
        for include in ["\tinclude /etc/nginx/conf.d/*.conf;", "include   conf.d/*.conf;"] {
            assert_eq!(with(&format!("http {{\n{include}\n}}\n")).expect("it is there"), spelled);
        }
        let error = with("http {\n#include /etc/nginx/conf.d/*.conf;\n}\n").expect_err("it is not there");
        assert!(error.to_string().contains("'include /etc/nginx/conf.d/*.conf;' is missing"), "{error}");
    }
}
