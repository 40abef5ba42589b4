//! Apps that begin on an empty host: where the repository has runs of them, somebody has a new machine for old apps, and they must not begin
//! empty. Then they could not be brought back any more without a new installation; and once the host has written into the repository, the new
//! emptiness would be the newest that there is.

use super::record::Record;
use super::restic::{Restic, State};
use super::runs::{self, Found};
use crate::env::{BackupUrl, Env, Envs};
use crate::error::Halt;
use crate::host::Host;
use crate::state::Ledger;
use crate::update::restore as databases;
use crate::value::BackupTarget;
use anyhow::{Context, Result};
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
        // One that cannot be listed has more names than are taken.
        let has_files = host.names(&vault).map_or(true, |names| !names.is_empty());
        if has_files || Ledger::read_for(host, &env.app.name)?.current.is_some() {
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
    // What is not backed up there, as an old env.yml may have it, was told when it was read.
    let is_reached = |url: &BackupUrl| BackupTarget::of_url(url.0.expose(), !backup.host_keys.is_empty()).is_ok();
    if backup.mount.is_some() || !backup.url.as_ref().is_some_and(is_reached) {
        return Ok(());
    }
    let (mended, start) = match env.tenant.is_alone() {
        true => ("systemctl start appliance", "systemctl start appliance".to_owned()),
        false => ("appliance apply", format!("appliance app start {}", env.app.name)),
    };
    let anew = format!("to let the apps begin empty all the same: appliance backup adopt --begin-anew, then: {start}");
    let found = match patiently(envs, host).await {
        Ok(found) => found,
        Err(error) => {
            let text = format!("{error:#}\nMend that, then: {mended}. Or, {anew}");
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

async fn patiently(envs: &Envs, host: &Host) -> Result<Found> {
    let restic = Restic::of(envs.host(), host)?;
    let begun = Instant::now();
    loop {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        let asked = tokio::time::timeout(left, found(&restic)).await;
        let error = match asked.context("the backup's target does not answer").and_then(|found| found) {
            Ok(found) => return Ok(found),
            Err(error) if begun.elapsed() + AGAIN > PATIENCE => return Err(error),
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
