//! Two programs, the second one reading what the first one prints, without the data passing through this process. A reader cannot tell a
//! writer that is done from one that died: so this process holds the pipe open too, until it knows.

use super::child::{ended, spawn, unless_idle};
use super::cmd::{Cmd, Output};
use anyhow::{Context, Result, bail};
use std::process::Stdio;
use std::time::Duration;

/// How long a reader that was killed is waited for.
const KILLED: Duration = Duration::from_secs(5);

/// Runs both. `from`'s deadline is for all of it.
///
/// # Errors
/// One of them cannot be run, or the deadline is over; both are gone then.
pub(super) async fn feed(from: &Cmd, into: &Cmd) -> Result<(Output, Output)> {
    let (reader, writer) = std::io::pipe().context("could not make a pipe")?;
    // Dropped after all else: a reader that is killed must not see the end before.
    let held = writer.try_clone().context("could not hold the pipe")?;
    let mut held = Some(held);
    let work = async {
        // A reader that ends first makes the writer end, too: nobody else holds the reading end.
        let reading = spawn(into, Stdio::from(reader), Stdio::piped())?;
        let writing = spawn(from, Stdio::null(), Stdio::from(writer))?;
        let (reader_id, ids) = (reading.id(), [reading.id(), writing.id()]);
        let reading = ended(into, reading);
        tokio::pin!(reading);
        let mut writing = Box::pin(ended(from, writing));
        let mut second = None;
        let first = async {
            loop {
                tokio::select! {
                    first = &mut writing => return first,
                    done = &mut reading, if second.is_none() => second = Some(done?),
                }
            }
        };
        let first = unless_idle(into, &ids, first).await?;
        let second = match second {
            Some(second) => second,
            None if first.code == Some(0) => {
                drop(held.take());
                unless_idle(into, &ids, reading).await?
            }
            None => {
                kill(reader_id)?;
                // A child of its own may keep what it printed to open: nobody waits for that.
                match tokio::time::timeout(KILLED, reading).await {
                    Ok(ended) => ended?,
                    Err(_) => Output::default(),
                }
            }
        };
        anyhow::Ok((first, second))
    };
    match tokio::time::timeout(from.deadline, work).await {
        Ok(done) => done,
        Err(_) => bail!("{} did not end within {} s and was stopped", from.title().0, from.deadline.as_secs()),
    }
}

/// Ends the reader at once; it is this process's own child, and was not waited for yet.
fn kill(id: Option<u32>) -> Result<()> {
    let Some(id) = id.and_then(|id| i32::try_from(id).ok()) else { return Ok(()) };
    let pid = nix::unistd::Pid::from_raw(id);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).context("could not end the reader of a pipe")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Cmd {
        Cmd::new("sh", ["-c", script])
    }

    #[tokio::test]
    #[allow(clippy::disallowed_methods)] // Looks at what a program has written.
    async fn a_reader_sees_the_end_only_of_what_ended_well() {
        let directory = tempfile::tempdir().expect("a directory");
        let seen = directory.path().join("seen");
        let reader = sh(&format!("cat > {0}.part && mv {0}.part {0}; echo told", seen.display()));
        let (first, second) = feed(&sh("echo whole"), &reader).await.expect("both are run");
        assert_eq!((first.code, second.code, second.stdout.as_str()), (Some(0), Some(0), "told\n"));
        assert_eq!(std::fs::read_to_string(&seen).expect("it was moved"), "whole\n");
        std::fs::remove_file(&seen).expect("it can be removed");
        let (first, second) = feed(&sh("echo half; exit 3"), &reader).await.expect("both are run");
        assert_eq!((first.code, second.code), (Some(3), None));
        assert!(!seen.exists(), "the reader must not take a half for the whole");
        // One that ends first ends the writer as well.
        let (first, second) = feed(&sh("yes"), &sh("head -c 1 >/dev/null; exit 5")).await.expect("both are run");
        assert_eq!(second.code, Some(5));
        assert_ne!(first.code, Some(0));
    }
}
