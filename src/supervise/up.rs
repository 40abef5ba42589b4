//! Whether the app is up: its containers, and what a visitor gets.

use crate::env::Env;
use crate::host::Host;
use crate::host::docker::{Look, is_away};
use crate::report::page;
use crate::stack::actions::{Action, Occasion};
use crate::stack::probe::{Gate, Rigour, wait_until_good};
use crate::stack::{self, apply};
use crate::state::Release;
use crate::update;
use anyhow::Result;
use std::time::Duration;

/// How often a known release's start is tried again, and after how long: a vital service may die once before the database
/// or a neighbour is there.
const AGAIN_S: [u64; 4] = [1, 2, 4, 8];

/// Starts what must run and waits until it is good. A new release has one try: its gate is there to refuse it.
pub(super) async fn bring_up_good(
    gate: &Gate<'_>,
    release: &Release,
    occasion: Occasion,
    host: &Host,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<()> {
    let mut waits = AGAIN_S.iter().filter(|_| gate.rigour == Rigour::Known);
    loop {
        let tried = async {
            apply::up(gate.stack, &release.images, host, occasion, progress).await?;
            progress("waiting for the services");
            wait_until_good(gate, host).await
        };
        match (tried.await, waits.next()) {
            (Ok(()), _) => return Ok(()),
            (Err(error), Some(seconds)) if !is_away(&error) => {
                tracing::warn!("{error:#}; trying again in {seconds} s");
                tokio::time::sleep(Duration::from_secs(*seconds)).await;
            }
            (Err(error), _) => return Err(error),
        }
    }
}

/// How long nginx may take to serve the app after its reload.
const FRONT: Duration = Duration::from_secs(15);

/// Running means that a visitor gets the app: a reload returns before nginx's new workers serve, so they are asked.
pub(super) async fn wait_for_front(env: &Env, host: &Host) -> Result<()> {
    let domain = env.appliance.domain.as_str();
    page::clear(host, Some(&env.tenant))?;
    let end = tokio::time::Instant::now() + FRONT;
    loop {
        let last = match host.probe_front(domain, FRONT).await {
            Ok(status) if status < 500 => return Ok(()),
            Ok(status) => anyhow::anyhow!("https://{domain}/ answers {status}"),
            Err(error) => error,
        };
        if tokio::time::Instant::now() >= end {
            // The app itself was seen to be good; what stands before it is told, not failed.
            tracing::warn!("the app is up, but nginx does not serve it: {last:#}");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether every routed service of the release runs as it is wanted.
pub(super) async fn runs_as_wanted(env: &Env, release: &Release, host: &Host) -> bool {
    let stack = match stack::load(env, host) {
        Ok(stack) => stack,
        // A file that was broken meanwhile does not take down what runs.
        Err(_) => return routed_run(env, release, host).await,
    };
    let Ok(images) = update::references(&stack, release) else { return false };
    let Ok(pending) = apply::pending(&stack, &images, host, Occasion::Mend).await else { return false };
    // A service without a route may be down without a visitor noticing; the loop sees to it.
    let is_routed = |action: &Action| release.routes.iter().any(|route| action.service() == Some(&route.service));
    !pending.actions.iter().any(is_routed)
}

pub(super) async fn routed_run(env: &Env, release: &Release, host: &Host) -> bool {
    let Ok(containers) = host.docker().containers(env.app.name.as_str(), Look::Quick).await else { return false };
    let runs =
        |service: &str| containers.iter().any(|container| container.service() == service && container.is_running());
    release.routes.iter().all(|route| runs(&route.service))
}
