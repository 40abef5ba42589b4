//! Sending visitors to the new containers without losing one, and putting these in the old ones' places. nginx looks at a file per
//! request (prepare/nginx): no reload, no connection closed.

use super::{News, dump};
use crate::env::Env;
use crate::host::docker::{Container, Look};
use crate::host::{Dir, Host};
use crate::prepare::{self, nginx};
use crate::stack::actions::Occasion;
use crate::stack::beside::{self, Beside};
use crate::stack::probe::{Gate, Rigour, wait_until_good};
use crate::stack::{Service, Stack, apply, stop};
use crate::state::Release;
use anyhow::Result;
use futures_util::future::try_join_all;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long those that serve no new requests may still answer old ones (spec/update.md, "switch").
pub const DRAIN: Duration = Duration::from_secs(10);

/// Sends the routes of these services to their bridges.
pub fn to_bridges(services: &BTreeSet<String>, host: &Host) -> Result<()> {
    host.ensure_dir(nginx::SLOTS, &Dir::plain().mode(0o755))?;
    for service in services {
        host.put(&nginx::slot(service), b"", 0o644)?;
    }
    Ok(())
}

/// Sends every route to the service's own containers; gives back whether any was elsewhere.
pub fn to_own(host: &Host) -> Result<bool> {
    let slots = host.names(nginx::SLOTS)?;
    for slot in &slots {
        host.discard(&nginx::slot(slot))?;
    }
    Ok(!slots.is_empty())
}

/// From the moment that the ledger names the new release as the current one: visitors are sent to it, and it takes the old one's
/// places. Killed anywhere, it is run again.
///
/// # Errors
/// The new containers do not come up in the places of the old ones.
pub async fn forward(env: &Env, stack: &Stack, release: &Release, host: &Host, news: News<'_>) -> Result<()> {
    dump::settle(&env.app.name, host)?;
    let bridges: BTreeSet<String> = beside::running_bridges(stack, host).await?.into_iter().collect();
    let routed = |service: &String| release.routes.iter().any(|route| &route.service == service);
    let waits = bridges.iter().any(routed);
    if waits {
        // A release with other routes than the old one needs them known to nginx first.
        nginx::ensure_site(env, host).await?;
        to_bridges(&bridges, host)?;
        news.doing("the new version serves; the old one ends what it has begun");
        tokio::time::sleep(DRAIN).await;
    }
    beside::take_places(stack, host).await?;
    let progress = |what: &str| news.doing(&format!("putting {what} in place"));
    apply::up(stack, &release.images, host, Occasion::Mend, &progress).await?;
    let none = BTreeSet::new();
    let gate = Gate {
        stack,
        routes: &release.routes,
        domain: env.appliance.domain.as_str(),
        vital: &[],
        rigour: Rigour::Placed,
        stopped: &none,
        beside: &Beside::default(),
    };
    if let Err(error) = wait_until_good(&gate, host).await {
        if crate::host::docker::is_away(&error) {
            return Err(error);
        }
        // The same release was good a moment ago. It is past going back, and the supervisor's to keep alive.
        tracing::error!("the new version is in place, but not well: {error:#}");
    }
    nginx::ensure_site(env, host).await?;
    if to_own(host)? && waits {
        news.doing("the last of its helpers ends what it has begun");
        tokio::time::sleep(DRAIN).await;
    }
    beside::drop_all(stack, host).await
}

/// Stops whatever may write to the database: the app's own services and those that know its password, in reverse dependency order;
/// and what the stack does not know.
pub async fn stop_writers(env: &Env, stack: &Stack, host: &Host) -> Result<()> {
    let password = prepare::database_password(env, host)?;
    let knows = |service: &Service| {
        password
            .as_ref()
            .is_some_and(|password| service.environment.values().any(|value| value.contains(password.expose())))
    };
    let containers = host.docker().containers(stack.project.as_str(), Look::Close).await?;
    let strangers = containers.iter().filter(|container| stack.service(container.service()).is_none());
    stop(strangers.map(|container| (container, stop::DEFAULT_GRACE)), host).await?;
    for level in stack.levels().into_iter().rev() {
        let writers = level.into_iter().filter(|service| beside::is_own(stack, service) || knows(service));
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
    let stops = which.filter(|(container, _)| container.is_running()).map(|(container, grace)| async move {
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
