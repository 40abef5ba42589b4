//! Apps that begin on an empty host: where the repository has runs of them, somebody has a new machine for old apps, and they must not begin
//! empty. Then they could not be brought back any more without a new installation; and once the host has written into the repository, the new
//! emptiness would be the newest that there is.

use super::record::Record;
use super::restic::{Restic, State};
use super::runs::{self, Found};
use crate::env::{Env, Envs};
use crate::error::Halt;
use crate::host::Host;
use crate::state::Ledger;
use crate::update::restore as databases;
use anyhow::{Context, Result, bail};
use std::time::Duration;
use tokio::time::Instant;

/// How long the target is asked what there is: the network may not be up yet.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(5);

/// Whether this host has nothing of these apps that a repository could be a copy of, has written into none, and nobody has said that they
/// begin anew.
///
/// # Errors
/// What it has cannot be looked at.
pub async fn is_empty(envs: &Envs, host: &Host) -> Result<bool> {
    let record = Record::read(host)?;
    if record.repository.is_some() || record.begins_anew {
        return Ok(false);
    }
    for env in envs.iter() {
        let vault = format!("/data/{}-storage-vault", env.app.name);
        if Ledger::read_for(host, &env.app.name)?.current.is_some() || !host.names(&vault)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Somebody says so.
pub fn begin_anew(host: &Host) -> Result<()> {
    Record { begins_anew: true, ..Record::read(host)? }.write(host)
}

/// Before an app's first release, once its database is there.
///
/// # Errors
/// [`Halt`] with standby, if the repository has runs of any of the host's apps, or cannot be asked.
pub async fn refuse(env: &Env, envs: &Envs, host: &Host) -> Result<()> {
    let backup = &envs.host().appliance.backup;
    // Without a key there is none that this host could have written.
    if backup.url.is_none() || backup.encrypt.is_none() || !is_empty(envs, host).await? {
        return Ok(());
    }
    if databases::has_data(env, host).await? {
        return Ok(());
    }
    let restic = match Restic::of(envs.host(), host) {
        Ok(restic) => restic,
        Err(error) => {
            tracing::warn!("{error:#}");
            return Ok(());
        }
    };
    let start = match env.tenant.is_alone() {
        true => "systemctl start appliance".to_owned(),
        false => format!("appliance app start {}", env.app.name),
    };
    let anew = format!("to let the apps begin empty all the same: appliance backup adopt --begin-anew, then: {start}");
    let found = match patiently(&restic).await {
        Ok(found) => found,
        Err(error) => {
            let text = format!("{error:#}\nMend that, then: {start}. Or {anew}");
            return Err(Halt::standby("The backup cannot be asked whether it holds these apps", text).into());
        }
    };
    let Some(newest) = found.runs.iter().find(|run| envs.iter().any(|env| env.app.name == run.app)) else {
        return Ok(());
    };
    let text = format!(
        "the newest run is {} of {}, and this host has nothing of it. Bring it back: appliance backup recover. Or, {anew}. The runs stay",
        newest.id,
        newest.at.strftime("%Y-%m-%d %H:%M UTC")
    );
    Err(Halt::standby(format!("The backup holds the app {}", newest.app), text).into())
}

async fn patiently(restic: &Restic<'_>) -> Result<Found> {
    let begun = Instant::now();
    loop {
        let asked = tokio::time::timeout(PATIENCE, found(restic)).await;
        let error = match asked.context("the backup's target does not answer").and_then(|found| found) {
            Ok(found) => return Ok(found),
            Err(error) if begun.elapsed() > PATIENCE => bail!(error),
            Err(error) => error,
        };
        tracing::info!("{error:#}; asking again");
        tokio::time::sleep(AGAIN).await;
    }
}

async fn found(restic: &Restic<'_>) -> Result<Found> {
    match restic.state().await? {
        State::Missing => Ok(Found::default()),
        State::Ready(_) => runs::runs(restic).await,
    }
}
