//! Which repository a run finds: the one that this host wrote last, a new one, another one in its place, or its own as it was before.

use super::Progress;
use super::record::Record;
use super::restic::{Restic, State};
use super::runs::{self, Found};
use anyhow::{Result, bail};

/// What would be refused, and is meant so.
#[derive(Debug, Clone, Copy, Default)]
pub struct Accept {
    /// A vault has lost more than half of its files.
    pub loss: bool,
    /// The repository is another one than the last, or a new one.
    pub new_repository: bool,
}

/// The repository's id and what it holds, if it lists this host's last run: then it is the one that this host wrote. Each opening costs the
/// time that restic takes to make a key of the password, so its id is asked for only where this says nothing, and what is wrong is said then.
pub(super) async fn known(restic: &Restic<'_>, record: &Record) -> Option<(String, Found)> {
    let id = record.repository.clone()?;
    let found = runs::runs(restic).await.ok().filter(|found| found.is_of(record))?;
    Some((id, found))
}

/// The repository's id, and what it holds; one that is not there yet is made.
///
/// # Errors
/// The target does not answer, the key does not fit, or the repository is not the one of the last run.
pub(super) async fn open(
    restic: &Restic<'_>,
    record: &Record,
    accept: Accept,
    progress: Progress<'_>,
) -> Result<(String, Found)> {
    if !accept.new_repository
        && let Some(known) = known(restic, record).await
    {
        return Ok(known);
    }
    let id = ensure_repository(restic, record, accept, progress).await?;
    Ok((id, runs::runs(restic).await?))
}

/// What is to be told of a repository that does not list the last run any more. What is stored now is whole all the same.
pub(super) fn lost(record: &Record, found: &Found, accept: Accept) -> Option<String> {
    let last = record.last_run.as_ref().filter(|_| record.last_run_generation == record.generation)?;
    (!found.is_of(record) && !accept.new_repository).then(|| {
        format!(
            "the run {last}, which was stored last, was not in the repository any more: somebody has put an older state of it back, or has removed \
             runs. This run is stored; what there is else: appliance backup list"
        )
    })
}

/// Makes the repository if there was none before; gives back its id.
///
/// # Errors
/// The one that this host has written is not there any more, or another one is in its place.
async fn ensure_repository(
    restic: &Restic<'_>,
    record: &Record,
    accept: Accept,
    progress: Progress<'_>,
) -> Result<String> {
    let known = record.repository.as_ref().filter(|_| !accept.new_repository);
    let found = match (restic.state().await?, known) {
        (State::Ready(id), None) => return Ok(id),
        (State::Ready(id), Some(known)) if id == *known => return Ok(id),
        (State::Ready(_), Some(_)) => "has another one in its place",
        (State::Missing, Some(_)) => "is not there any more",
        (State::Missing, None) => {
            progress("making the repository");
            restic.init().await?;
            let State::Ready(id) = restic.state().await? else { bail!("the repository was made, and is not there") };
            return Ok(id);
        }
    };
    bail!(
        "the repository that this host wrote last {found}; is its file system mounted? Nothing was stored. To start a new one: appliance backup run \
         --new-repository"
    )
}
