//! Programs of this machine: started with nothing of the caller's environment, and watched to their end.
#![allow(clippy::disallowed_methods)] // A part of the door for programs.

use super::cmd::{Cmd, MAX_TAIL, Output};
use anyhow::{Context, Result, bail};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// Where programs are looked for, whatever the caller's environment says.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts a program with its own environment and nothing of the caller's; it ends with whoever drops it.
pub(super) fn spawn(cmd: &Cmd, stdin: Stdio, stdout: Stdio) -> Result<tokio::process::Child> {
    let mut command = tokio::process::Command::new(&cmd.program);
    command.args(&cmd.args).stdin(stdin).stdout(stdout).stderr(Stdio::piped()).kill_on_drop(true);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8");
    for (name, value) in &cmd.env {
        command.env(name, value.expose());
    }
    if let Some((uid, gid)) = cmd.ids {
        command.uid(uid).gid(gid);
    }
    if let Some(directory) = &cmd.directory {
        command.current_dir(directory);
    }
    command.spawn().with_context(|| format!("could not run {}", cmd.program))
}

/// What a program leaves once it has ended by itself.
pub(super) async fn ended(cmd: &Cmd, mut child: tokio::process::Child) -> Result<Output> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that does not want to read it all says so with its exit code.
            drop(stdin.write_all(cmd.input.expose().as_bytes()).await);
        }
    };
    let (out, tail, ()) = tokio::join!(head(stdout, cmd.max_output), tail(stderr, MAX_TAIL), feed);
    let status = child.wait().await;
    let status = status.with_context(|| format!("could not wait for {}", cmd.program))?;
    let could_not_read = || format!("could not read what {} prints", cmd.program);
    let (out, is_cut) = out.with_context(could_not_read)?;
    Ok(Output { code: status.code(), stdout: out, stderr: tail.with_context(could_not_read)?, is_cut })
}

/// The first bytes of a stream, and whether there were more; the rest is read and dropped, so that the program does not block.
async fn head(stream: Option<impl AsyncRead + Unpin>, max: usize) -> std::io::Result<(String, bool)> {
    let mut is_cut = false;
    let text = read_all(stream, |kept, more| {
        let room = max.saturating_sub(kept.len());
        is_cut |= more.len() > room;
        kept.extend_from_slice(&more[..more.len().min(room)]);
    })
    .await?;
    Ok((text, is_cut))
}

/// The last bytes of a stream.
async fn tail(stream: Option<impl AsyncRead + Unpin>, max: usize) -> std::io::Result<String> {
    read_all(stream, |kept, more| {
        kept.extend_from_slice(more);
        let excess = kept.len().saturating_sub(max);
        kept.drain(..excess);
    })
    .await
}

async fn read_all(
    stream: Option<impl AsyncRead + Unpin>,
    mut keep: impl FnMut(&mut Vec<u8>, &[u8]),
) -> std::io::Result<String> {
    let (mut kept, mut buffer) = (Vec::new(), [0; 8192]);
    if let Some(mut stream) = stream {
        loop {
            match stream.read(&mut buffer).await? {
                0 => break,
                count => keep(&mut kept, &buffer[..count]),
            }
        }
    }
    Ok(String::from_utf8_lossy(&kept).into_owned())
}

/// How often programs are looked at that must not stand still: so many times before they are stopped.
const LOOKS: u32 = 15;
/// What a program may compute between two looks and still count as standing still, in ticks: some tidy up now and then.
const TICKS: u64 = 10;

/// Does some work that these programs do, unless all of them stand still for longer than the command says.
///
/// # Errors
/// They do; whoever gives the work up ends them.
pub(super) async fn unless_idle<T>(cmd: &Cmd, ids: &[Option<u32>], work: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(limit) = cmd.idle else { return work.await };
    tokio::select! {
        done = work => done,
        () = stand_still(ids, limit) => bail!("{} did nothing for {} s and was stopped", cmd.title().0, limit.as_secs()),
    }
}

/// Until none of some programs has read, written or computed anything for so long. Those that are gone are waited for elsewhere.
async fn stand_still(ids: &[Option<u32>], limit: Duration) {
    let look = || ids.iter().map(|id| done_by(*id)).collect::<Vec<_>>();
    let (mut known, mut since) = (look(), Instant::now());
    loop {
        tokio::time::sleep(limit / LOOKS).await;
        let now = look();
        if now.iter().all(Option::is_none) {
            std::future::pending::<()>().await;
        }
        let moves = |(before, now): (&Option<Done>, &Option<Done>)| match (before, now) {
            (Some(before), Some(now)) => now.bytes != before.bytes || now.ticks > before.ticks + TICKS,
            (before, now) => before.is_some() != now.is_some(),
        };
        if known.iter().zip(&now).any(moves) {
            (known, since) = (now, Instant::now());
        } else if since.elapsed() >= limit {
            return;
        }
    }
}

/// What a program has done so far.
struct Done {
    /// Read and written, by whatever way (proc_pid_io(5)).
    bytes: (u64, u64),
    /// Computed (proc_pid_stat(5): utime and stime).
    ticks: u64,
}

fn done_by(id: Option<u32>) -> Option<Done> {
    let id = id?;
    let io = std::fs::read_to_string(format!("/proc/{id}/io")).ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let value = |name: &str| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    // Behind the name, which may hold anything, the third field begins.
    let fields: Vec<u64> =
        stat.rsplit_once(')')?.1.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    Some(Done { bytes: (value("rchar:")?, value("wchar:")?), ticks: fields.get(11)? + fields.get(12)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_stands_still_is_stopped_and_one_that_moves_is_not() {
        let limit = Duration::from_millis(400);
        let run = |script: &str| {
            let cmd = Cmd::new("sh", ["-c", script]).idle(limit);
            async move {
                let child = spawn(&cmd, Stdio::null(), Stdio::piped())?;
                unless_idle(&cmd, &[child.id()], ended(&cmd, child)).await
            }
        };
        let moving = run("for n in 1 2 3 4 5 6 7 8 9 10 11 12; do echo $n; sleep 0.1; done").await.expect("it ends");
        assert_eq!((moving.code, moving.stdout.lines().count()), (Some(0), 12));
        let said = run("echo begun; sleep 60").await.expect_err("it is stopped").to_string();
        assert!(said.starts_with("sh did nothing for "), "{said}");
    }
}
