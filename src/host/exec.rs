//! Commands: one wrapper with a deadline, bounded output, and the tail of stderr in the error.
#![allow(clippy::disallowed_methods)] // This is the door they are disallowed for.

use super::{Host, Pending, What};
use crate::value::Secret;
use anyhow::{Context, Result, bail};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// A command to run. Arguments are never parsed by a shell; secrets go into the environment.
#[derive(Debug, Clone)]
pub struct Cmd {
    pub program: String,
    pub args: Vec<String>,
    env: Vec<(String, Secret)>,
    ids: Option<(u32, u32)>,
    directory: Option<String>,
    deadline: Duration,
    /// What the program reads on its standard input; nothing unless told otherwise.
    input: Secret,
    /// Texts that must not appear in an error even if the program prints them.
    masked: Vec<Secret>,
}

impl Cmd {
    pub fn new<I, A>(program: &str, args: I) -> Cmd
    where
        I: IntoIterator<Item = A>,
        A: Into<String>,
    {
        Cmd {
            program: program.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            ids: None,
            directory: None,
            deadline: Duration::from_secs(60),
            input: Secret::new(""),
            masked: Vec::new(),
        }
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Cmd {
        self.env.push((name.to_owned(), Secret::new(value)));
        self
    }

    /// Runs as this user and group, without supplementary groups.
    pub fn ids(self, ids: (u32, u32)) -> Cmd {
        Cmd { ids: Some(ids), ..self }
    }

    pub fn directory(self, path: &str) -> Cmd {
        Cmd { directory: Some(path.to_owned()), ..self }
    }

    /// How long the command may take; 60 s unless told otherwise.
    pub fn deadline(self, deadline: Duration) -> Cmd {
        Cmd { deadline, ..self }
    }

    /// Text for the program's standard input: the way for secrets.
    pub fn input(self, input: impl Into<String>) -> Cmd {
        Cmd { input: Secret::new(input), ..self }
    }

    pub fn mask(mut self, text: &str) -> Cmd {
        self.masked.push(Secret::new(text));
        self
    }

    fn masked_text(&self, text: &str) -> String {
        self.masked.iter().fold(text.to_owned(), |text, secret| text.replace(secret.expose(), "(secret)"))
    }
}

/// What a command left.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// At most [`MAX_OUTPUT`] bytes of it.
    pub stdout: String,
    /// The last [`MAX_TAIL`] bytes of it.
    pub stderr: String,
}

/// The most of stdout that is kept, in bytes.
pub const MAX_OUTPUT: usize = 4 << 20;
/// The most of stderr that is kept, in bytes.
pub const MAX_TAIL: usize = 8 << 10;

/// Runs commands.
pub trait Exec: Send + Sync {
    /// Runs to the end; an exit code other than 0 is not an error here.
    fn run<'a>(&'a self, cmd: &'a Cmd) -> Pending<'a, Result<Output>>;
}

/// The machine's own programs.
pub struct SystemExec;

impl Exec for SystemExec {
    fn run<'a>(&'a self, cmd: &'a Cmd) -> Pending<'a, Result<Output>> {
        Box::pin(run(cmd))
    }
}

async fn run(cmd: &Cmd) -> Result<Output> {
    let mut command = tokio::process::Command::new(&cmd.program);
    let input = cmd.input.expose().as_bytes();
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    command.args(&cmd.args).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8");
    for (name, value) in &cmd.env {
        command.env(name, value.expose());
    }
    if let Some((uid, gid)) = cmd.ids {
        command.uid(uid).gid(gid);
    }
    if let Some(directory) = &cmd.directory {
        command.current_dir(directory);
    }
    let mut child = command.spawn().with_context(|| format!("could not run {}", cmd.program))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let work = async {
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A program that does not want to read it all says so with its exit code.
                drop(stdin.write_all(input).await);
            }
        };
        let (out, tail, ()) = tokio::join!(head(stdout, MAX_OUTPUT), tail(stderr, MAX_TAIL), feed);
        let status = child.wait().await;
        let status = status.with_context(|| format!("could not wait for {}", cmd.program))?;
        anyhow::Ok(Output { code: status.code(), stdout: out, stderr: tail })
    };
    match tokio::time::timeout(cmd.deadline, work).await {
        Ok(output) => output,
        Err(_) => bail!("{} did not end within {} s and was stopped", cmd.program, cmd.deadline.as_secs()),
    }
}

/// The first bytes of a stream; the rest is read and dropped, so that the program does not block.
async fn head(stream: Option<impl AsyncRead + Unpin>, max: usize) -> String {
    read_all(stream, |kept, more| {
        let room = max.saturating_sub(kept.len());
        kept.extend_from_slice(&more[..more.len().min(room)]);
    })
    .await
}

/// The last bytes of a stream.
async fn tail(stream: Option<impl AsyncRead + Unpin>, max: usize) -> String {
    read_all(stream, |kept, more| {
        kept.extend_from_slice(more);
        let excess = kept.len().saturating_sub(max);
        kept.drain(..excess);
    })
    .await
}

async fn read_all(stream: Option<impl AsyncRead + Unpin>, mut keep: impl FnMut(&mut Vec<u8>, &[u8])) -> String {
    let (mut kept, mut buffer) = (Vec::new(), [0; 8192]);
    if let Some(mut stream) = stream {
        // A broken pipe ends the text like its end does.
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            keep(&mut kept, &buffer[..count]);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

impl Host {
    /// Runs a command that only reads; in check mode too. An exit code other than 0 is an error.
    pub async fn ask(&self, cmd: Cmd) -> Result<Output> {
        self.succeed(&cmd).await
    }

    /// Runs a command that only reads, whatever its exit code.
    pub async fn try_ask(&self, cmd: Cmd) -> Result<Output> {
        self.exec.run(&cmd).await
    }

    /// Runs a command that only reads and hands its lines on as they come, for as long as it runs; Ctrl-C ends both. Gives back its
    /// exit code.
    ///
    /// # Errors
    /// The command cannot be run, or `each` fails.
    pub async fn lines(
        &self,
        program: &str,
        args: &[String],
        each: &mut (dyn FnMut(&str) -> Result<()> + Send),
    ) -> Result<i32> {
        use tokio::io::AsyncBufReadExt;
        let mut command = tokio::process::Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("could not run {program}"))?;
        let stdout = child.stdout.take().context("the command has no output")?;
        let mut lines = tokio::io::BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await.with_context(|| format!("could not read from {program}"))? {
            each(&line)?;
        }
        let status = child.wait().await.with_context(|| format!("could not wait for {program}"))?;
        Ok(status.code().unwrap_or(-1))
    }

    /// Hands this process's input and output over to a command until it ends; gives back its exit code.
    pub async fn hand_over(&self, program: &str, args: &[String]) -> Result<u8> {
        let mut command = tokio::process::Command::new(program);
        let status = command.args(args).status().await.with_context(|| format!("could not run {program}"))?;
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }

    /// Runs a command with an effect, which is noted as `what object: how`.
    pub async fn act(&self, what: What, object: &str, how: &str, cmd: Cmd) -> Result<Output> {
        self.note(what, object, how);
        if self.applies() { self.succeed(&cmd).await } else { Ok(Output::default()) }
    }

    async fn succeed(&self, cmd: &Cmd) -> Result<Output> {
        let output = self.exec.run(cmd).await?;
        if output.code == Some(0) {
            return Ok(output);
        }
        let ended = output.code.map_or("was ended by a signal".to_owned(), |code| format!("ended with {code}"));
        let verb = cmd.args.iter().find(|arg| !arg.starts_with('-')).map(|arg| format!(" {arg}")).unwrap_or_default();
        bail!("{}{verb} {ended}: {}", cmd.program, cmd.masked_text(output.stderr.trim()));
    }
}
