//! Sending visitors to the new containers without losing one, and putting these in the old ones' places. nginx looks at a file per
//! request (prepare/nginx): no reload, no connection closed.

use super::{Reporter, dump};
use crate::env::Env;
use crate::host::docker::{Container, LABEL_ONEOFF, Look};
use crate::host::{Dir, Host};
use crate::prepare::{self, nginx};
use crate::stack::actions::Occasion;
use crate::stack::beside;
use crate::stack::manner::{self, Beside};
use crate::stack::model::{Content, Source};
use crate::stack::probe::{Gate, Rigour, wait_until_good};
use crate::stack::stop::{self, is_alive};
use crate::stack::{Service, Stack, apply, stopped};
use crate::state::{Release, Touched};
use crate::value::{Route, Tenant};
use anyhow::Result;
use futures_util::future::try_join_all;
use std::time::Duration;

/// How long those that serve no new requests may still answer old ones (docs/updates.md).
pub const DRAIN: Duration = Duration::from_secs(10);

/// Sends these routes to the bridges.
fn to_bridges(tenant: &Tenant, routes: &[Route], host: &Host) -> Result<()> {
    host.ensure_dir(&nginx::slots(tenant), &Dir::plain().mode(0o755))?;
    routes.iter().try_for_each(|route| host.put(&nginx::slot(tenant, route), b"", 0o644))
}

/// Sends every route of an app to the service's own containers; gives back whether any was elsewhere.
pub fn to_own(tenant: &Tenant, host: &Host) -> Result<bool> {
    let directory = nginx::slots(tenant);
    let slots = host.names(&directory)?;
    for slot in &slots {
        host.discard(&format!("{directory}/{slot}"))?;
    }
    Ok(!slots.is_empty())
}

/// From the moment that the ledger names the new release as the current one: visitors are sent to it, and it takes the old one's
/// places. `database` is what its migration did. Killed anywhere, it is run again.
///
/// # Errors
/// The new containers cannot be put in the places of the old ones.
pub async fn forward(
    env: &Env,
    stack: &Stack,
    release: &Release,
    database: Touched,
    host: &Host,
    reporter: Reporter<'_>,
) -> Result<()> {
    if database == Touched::Again {
        dump::forget_copy(env, host).await?;
    }
    let bridges = beside::running_bridges(stack, host).await?;
    let bridged: Vec<Route> = release.routes.iter().filter(|route| bridges.contains(&route.service)).cloned().collect();
    if !bridged.is_empty() {
        // Before nginx is told of routes that are new with this release.
        to_bridges(&env.tenant, &bridged, host)?;
        show_routes(env, host).await;
        reporter.doing("the new version serves; the old one ends what it has begun");
        tokio::time::sleep(DRAIN).await;
    }
    beside::take_places(stack, host).await?;
    let progress = |what: &str| reporter.doing(&format!("putting {what} in place"));
    apply::up(stack, &release.images, host, Occasion::Mend, &progress).await?;
    let stopped = stopped::read(host, &stack.project)?;
    let gate = Gate {
        stack,
        routes: &release.routes,
        domain: env.appliance.domain.as_str(),
        vital: &[],
        rigour: Rigour::Placed,
        stopped: &stopped,
        beside: &Beside::default(),
    };
    if let Err(error) = wait_until_good(&gate, host).await {
        if crate::host::docker::is_away(&error) {
            return Err(error);
        }
        // The same release was good a moment ago. It is past going back, and the supervisor's to keep alive.
        tracing::error!("the new version is in place, but not well: {error:#}");
    }
    show_routes(env, host).await;
    if to_own(&env.tenant, host)? && !bridged.is_empty() {
        reporter.doing("the last of its helpers ends what it has begun");
        tokio::time::sleep(DRAIN).await;
    }
    beside::drop_all(stack, host).await
}

/// What nginx refuses, for a file of somebody else's, must not keep a release from its place; it goes on with what it has.
async fn show_routes(env: &Env, host: &Host) {
    if let Err(error) = nginx::ensure_site(env, host).await {
        tracing::error!("nginx does not take the release's routes: {error:#}");
    }
    // Whoever could listen at their ports while nobody does is kept out by the filter.
    if let Err(error) = prepare::admit_networks(env, host).await {
        tracing::error!("the packet filter does not know the release's routes: {error:#}");
    }
}

/// Stops whatever may write to the database: the app's own services and those that know its password, in reverse dependency order;
/// and what the stack does not know.
pub async fn stop_writers(env: &Env, stack: &Stack, host: &Host) -> Result<()> {
    let password = prepare::database_password(env, host)?;
    let secret_directories = [format!("/app/etc/{}", env.app.name), format!("/data/etc/{}", env.app.name)];
    let reads = |path: &str| secret_directories.iter().any(|directory| path.starts_with(directory.as_str()));
    let has_file = |service: &Service| {
        let mounts = service.mounts.iter().any(|mount| matches!(&mount.source, Source::Path(path) if reads(path)));
        mounts || service.grants.iter().any(|grant| matches!(&grant.content, Content::File(path) if reads(path)))
    };
    let knows = |service: &Service| {
        password
            .as_ref()
            .is_some_and(|password| service.environment.values().any(|value| value.contains(password.expose())))
    };
    let containers = host.docker().containers(stack.project.as_str(), Look::Close).await?;
    // Those of one run each too: a migration whose update was killed may still be at work.
    let is_stranger = |container: &&Container| {
        stack.service(container.service()).is_none() || container.label(LABEL_ONEOFF) == Some("True")
    };
    let strangers = containers.iter().filter(is_stranger);
    stop(strangers.map(|container| (container, stop::DEFAULT_GRACE)), host).await?;
    for level in stack.levels().into_iter().rev() {
        let writers =
            level.into_iter().filter(|service| manner::is_own(stack, service) || knows(service) || has_file(service));
        let of = |service: &Service| {
            let grace = service.stop_grace;
            let name = service.name.as_str().to_owned();
            containers.iter().filter(move |container| container.service() == name).map(move |one| (one, grace))
        };
        stop(writers.flat_map(of), host).await?;
    }
    Ok(())
}

async fn stop<'a>(which: impl Iterator<Item = (&'a Container, Duration)>, host: &Host) -> Result<()> {
    let stops = which.filter(|(container, _)| is_alive(container)).map(|(container, grace)| async move {
        host.note_container(&container.name, "stop: the database is about to change under it");
        host.docker().stop(&container.id, grace).await
    });
    try_join_all(stops).await.map(drop)
}

/// Makes networks known to the database before anything connects from them.
pub async fn admit(env: &Env, stack: &Stack, host: &Host) -> Result<()> {
    crate::stack::surroundings::ensure(stack, host).await?;
    prepare::admit_networks(env, host).await
}
