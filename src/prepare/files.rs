//! Step files: `appliance.extra.files`.

use crate::env::Env;
use crate::host::{Dir, File, Host};
use crate::value::Owner;
use anyhow::{Context, Result};

pub fn prepare(env: &Env, host: &Host) -> Result<()> {
    let root: Owner = "root".parse().context("a user name is an owner")?;
    for wanted in &env.appliance.extra_files {
        let path = wanted.path.as_str();
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if !parent.is_empty() && !host.exists(parent) {
            host.ensure_dir(parent, &Dir::plain())?;
        }
        let file = File::text(wanted.contents.expose()).mode(wanted.mode.map_or(0o644, |mode| mode.0));
        host.ensure_file(path, &file.owner(wanted.owner.as_ref().unwrap_or(&root)))?;
    }
    Ok(())
}
