//! Step page: nginx is up and can show the status page, before anything slow. The app's own site is `nginx.rs`.

use super::SITE;
use super::nginx::{Site, install, start};
use crate::host::{Dir, Host};
use crate::report::page::{self, View};
use crate::value::Tenant;
use anyhow::Result;

/// With an env: a site that is there already stays as it is.
pub async fn prepare(tenant: &Tenant, host: &Host) -> Result<()> {
    make_root(None, host)?;
    if !tenant.is_alone() {
        host.ensure_dir("/var/www/appliance", &Dir::plain())?;
        make_root(Some(tenant), host)?;
    }
    if !host.exists(SITE) {
        install(host, &Site::page_only(host, true)?).await?;
    }
    start(host).await
}

/// The directory with the pages that are always there.
fn make_root(of: Option<&Tenant>, host: &Host) -> Result<()> {
    host.ensure_dir(&page::root(of), &Dir::plain())?;
    for (path, file) in page::unavailable(of)? {
        host.ensure_file(&path, &file)?;
    }
    Ok(())
}

/// Without an env: the page for every name, saying what was tried.
pub async fn prepare_without_env(host: &Host, tried: Vec<String>) -> Result<()> {
    make_root(None, host)?;
    page::show(host, None, &View::without_env(tried))?;
    install(host, &Site::page_only(host, true)?).await?;
    start(host).await
}
