//! Step page: nginx is up and can show the status page, before anything slow. The app's own site is `nginx.rs`.

use super::SITE;
use super::nginx::{install, render_page_only, start};
use crate::host::{Dir, File, Host};
use crate::report::page::{self, View};
use anyhow::Result;

pub const WEB_ROOT: &str = "/var/www/html";

/// With an env: a site that is there already stays as it is.
pub async fn prepare(host: &Host) -> Result<()> {
    host.ensure_dir(WEB_ROOT, &Dir::plain())?;
    for (path, file) in page::unavailable()? {
        host.ensure_file(path, &file)?;
    }
    if !host.exists(SITE) {
        install(host, &render_page_only(host, true)?).await?;
    }
    start(host).await
}

/// Without an env: the page for every name, saying what was tried.
pub async fn prepare_without_env(host: &Host, tried: Vec<String>) -> Result<()> {
    host.ensure_dir(WEB_ROOT, &Dir::plain())?;
    for (path, file) in page::unavailable()? {
        host.ensure_file(path, &file)?;
    }
    page::show(host, &View::without_env(tried))?;
    let site = File::text(render_page_only(host, true)?).mode(0o644);
    if host.in_mode(crate::host::Mode::Check).ensure_file(SITE, &site)?.yes() {
        install(host, &render_page_only(host, true)?).await?;
    }
    start(host).await
}
