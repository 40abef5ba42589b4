//! What containers mount from the host: a path of the compose file must not lead over a link that a container, or user app, has put in its
//! way. Docker follows it as root, at every start of the container.

use super::model::{Content, NamedContext, Service, Source, Stack};
use super::{allow, as_committed, by_its_own_name, in_checkout};
use crate::env::Binds;
use crate::host::Host;
use crate::value::AppName;
use anyhow::{Result, bail};

/// # Errors
/// The path, and the link.
pub fn check(stack: &Stack, service: &Service, host: &Host) -> Result<()> {
    let is_tight = stack.allow.binds == Binds::Own;
    let mut written: Vec<String> =
        stack.services.iter().flat_map(writable).filter(|path| is_own(path)).map(str::to_owned).collect();
    // The commit's own links are as good as its other files, unless the env says that these are not root's word.
    let is_known = |link: &str| {
        !is_tight && in_checkout(link).is_some() && {
            let committed = as_committed(link, host);
            committed != link && host.link_target(&committed).is_some_and(|to| host.link_target(link) == Some(to))
        }
    };
    let files = service.grants.iter().filter_map(|grant| match &grant.content {
        Content::File(path) => Some(path.as_str()),
        Content::Text(_) => None,
    });
    if is_tight {
        written.extend(paths(service).chain(files.clone()).flat_map(|path| own_directories(path, &stack.project)));
        for path in paths(service).chain(files.clone()) {
            refuse_committed_link(service, path, host)?;
        }
        check_contexts(service, host)?;
    }
    let written: Vec<&str> = written.iter().map(String::as_str).collect();
    for path in paths(service).chain(files) {
        if let Some(link) = host.foreign_link(path, &written, &is_known)? {
            bail!(
                "the service {} mounts {path}, which leads over the link {link}; others than root can have made that, so it is not followed: \
                 replace it by what it leads to, or name that in the compose file",
                service.name
            );
        }
    }
    Ok(())
}

/// The directory of the app's data in which a path lies, by all the names that it may have: whoever owns it, containers have written there.
fn own_directories(path: &str, app: &AppName) -> Vec<String> {
    let name = allow::own_directory(path, app).and_then(|own| own.rsplit_once('/')).map(|(_, name)| name);
    name.into_iter().flat_map(|name| ["/app", "/data", "/volatile"].map(|base| format!("{base}/{name}"))).collect()
}

/// What an image is built from lies where it seems to lie: no link of the commit leads elsewhere.
fn check_contexts(service: &Service, host: &Host) -> Result<()> {
    let Some(build) = &service.build else { return Ok(()) };
    let directories = build.contexts.values().filter_map(|context| match context {
        NamedContext::Directory(path) => Some(path.clone()),
        _ => None,
    });
    let dockerfile = build.inline.is_none().then(|| format!("{}/{}", build.context, build.dockerfile));
    for path in directories.chain([build.context.clone()]).chain(dockerfile) {
        refuse_committed_link(service, &path, host)?;
    }
    Ok(())
}

/// What the commit has in a place lies there, also before it is checked out.
fn refuse_committed_link(service: &Service, path: &str, host: &Host) -> Result<()> {
    let path = by_its_own_name(path);
    let Some((app, rest)) = in_checkout(&path) else { return Ok(()) };
    let mut place = as_committed(&format!("/app/{app}/"), host);
    for part in rest.split('/').filter(|part| !part.is_empty()) {
        place = format!("{}/{part}", place.trim_end_matches('/'));
        if host.link_target(&place).is_some() {
            bail!(
                "the service {} wants {path}, which leads over a link of the commit, and app.allow.binds says that those are not followed",
                service.name
            );
        }
    }
    Ok(())
}

fn paths(service: &Service) -> impl Iterator<Item = &str> {
    service.mounts.iter().filter_map(|mount| match &mount.source {
        Source::Path(path) => Some(path.as_str()),
        _ => None,
    })
}

fn writable(service: &Service) -> impl Iterator<Item = &str> {
    service.mounts.iter().filter(|mount| !mount.read_only).filter_map(|mount| match &mount.source {
        Source::Path(path) => Some(path.trim_end_matches('/')),
        _ => None,
    })
}

/// A directory of the whole host's says nothing about what lies below; who may write that is root anyway.
fn is_own(path: &str) -> bool {
    path.matches('/').count() > 1
}
