//! An app that begins on an empty host: where the repository has runs of it, somebody has a new machine for an old app, and it must not begin
//! empty. Its first runs would be refused as another host's, and once it has written into the repository, the new emptiness would be the
//! newest that there is.

use super::record::Record;
use super::restic::{Restic, State};
use super::runs::{self, Found};
use crate::env::Env;
use crate::error::Halt;
use crate::host::Host;
use crate::state::Ledger;
use crate::value::AppName;
use anyhow::{Context, Result};
use std::time::Duration;

/// How long the target may take to say what there is: an app waits for it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whether this host has nothing that a repository could be a copy of: it has written into none, and none of these apps has a release.
///
/// # Errors
/// What it knows cannot be read.
pub fn is_empty<'a>(apps: impl IntoIterator<Item = &'a AppName>, host: &Host) -> Result<bool> {
    for app in apps {
        if Ledger::read_for(host, app)?.current.is_some() {
            return Ok(false);
        }
    }
    Ok(Record::read(host)?.repository.is_none())
}

/// Before an app's first release. A target that does not answer keeps no app from beginning: nothing is written there before somebody says so.
///
/// # Errors
/// [`Halt`] with standby, if the repository has runs of the app.
pub async fn refuse(env: &Env, of_host: &Env, host: &Host) -> Result<()> {
    if of_host.appliance.backup.url.is_none() || !is_empty([&env.app.name], host)? {
        return Ok(());
    }
    let asked = tokio::time::timeout(PATIENCE, found(of_host, host)).await;
    let found = match asked.context("it does not answer").and_then(|found| found) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!("the backup's target cannot be asked whether it has runs of the app: {error:#}");
            return Ok(());
        }
    };
    let Some(newest) = found.runs.iter().find(|run| run.app == env.app.name) else { return Ok(()) };
    let text = format!(
        "the newest run is {} of {}, and this host has nothing of the app. Bring it back: appliance backup recover. Or let it begin empty, \
         and keep the runs: appliance backup adopt --begin-anew, then: systemctl start appliance",
        newest.id,
        newest.at.strftime("%Y-%m-%d %H:%M UTC")
    );
    Err(Halt::standby(format!("The backup holds the app {}", env.app.name), text).into())
}

async fn found(of_host: &Env, host: &Host) -> Result<Found> {
    let restic = Restic::of(of_host, host)?;
    match restic.state().await? {
        State::Missing => Ok(Found::default()),
        State::Ready(_) => runs::runs(&restic).await,
    }
}
