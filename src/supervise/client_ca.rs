//! Makes nginx load a new CA or revocation list for client certificates as soon as it is written, whoever wrote it. What nginx
//! then says is the step nginx.

use crate::authority;
use crate::env::Env;
use crate::host::{Changed, Host};
use crate::prepare::{client_ca, nginx};
use crate::source;
use crate::state::HostLock;
use crate::value::AppName;
use anyhow::{Result, bail};
use std::time::Duration;

/// How long a file may be half written before it counts as broken.
const HALF_WRITTEN: Duration = Duration::from_secs(2);
/// How long it waits for another command, before the next change or try.
const PATIENCE: Duration = Duration::from_secs(600);
/// After failures it is tried again, later each time, even if nothing changes; this is the longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Runs until it is dropped.
pub async fn watch(host: &Host, app: &AppName) {
    let mut pause = Duration::from_secs(1);
    loop {
        let begin = tokio::time::Instant::now();
        let Err(error) = follow(host, app).await;
        // It went well for a while before.
        if begin.elapsed() > 2 * LONGEST_PAUSE {
            pause = Duration::from_secs(1);
        }
        tracing::warn!("{error:#}; looking again in {} s", pause.as_secs());
        tokio::time::sleep(pause).await;
        pause = LONGEST_PAUSE.min(2 * pause);
    }
}

async fn follow(host: &Host, app: &AppName) -> Result<std::convert::Infallible> {
    let mut env = source::active_of(host, app)?;
    // Watched before it is looked at, so that no change falls in between.
    let mut watch = host.watch(&client_ca::directory(&env.app.name), &[client_ca::CERTIFICATE, client_ca::LIST])?;
    loop {
        while client_ca::look(host, &env.tenant).is_err() {
            // The next part of it may be on its way.
            match tokio::time::timeout(HALF_WRITTEN, watch.changed()).await {
                Ok(changed) => changed?,
                Err(_) => break,
            }
        }
        load(&env, host).await?;
        watch.changed().await?;
        env = source::active_of(host, app)?;
    }
}

async fn load(env: &Env, host: &Host) -> Result<()> {
    // A list of our own that was lost is signed anew before anything else: without it those who were revoked are let in.
    for worry in authority::refresh(host, &env.tenant).await? {
        tracing::warn!("{worry}; see {}", client_ca::directory(&env.app.name));
    }
    if nginx::is_current(env, host)? && host.owed(nginx::UNIT)?.is_none() {
        return Ok(());
    }
    let lock = match HostLock::try_take(host, "client CA")? {
        Some(lock) => lock,
        None => {
            // Whoever holds the lock may take minutes; somebody who was revoked must be out at once.
            nginx::load_beside(host).await?;
            HostLock::take(host, "client CA", PATIENCE).await?
        }
    };
    let done = nginx::prepare(env, host, Changed::No).await;
    drop(lock);
    done?;
    match host.owed(nginx::UNIT)? {
        Some(_) => bail!("nginx did not take up the certificates for clients"),
        None => Ok(()),
    }
}
