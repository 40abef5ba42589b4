//! Commands: one wrapper with a deadline, bounded output, and the tail of stderr in the error.
#![allow(clippy::disallowed_methods)] // This is the door they are disallowed for.

use super::{Host, Pending, What, pipe};
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
    pub(super) env: Vec<(String, Secret)>,
    ids: Option<(u32, u32)>,
    directory: Option<String>,
    pub(super) deadline: Duration,
    /// The most that it may print, in bytes, where what it prints is used.
    max_output: usize,
    /// What the program reads on its standard input; nothing unless told otherwise.
    pub(super) input: Secret,
    /// A file that it reads on its standard input instead.
    pub(super) input_file: Option<String>,
    /// A new file, for root alone, that takes its standard output.
    pub(super) output_file: Option<String>,
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
            max_output: MAX_OUTPUT,
            input: Secret::new(""),
            input_file: None,
            output_file: None,
            masked: Vec::new(),
        }
    }

    /// One more argument.
    pub fn arg(mut self, arg: &str) -> Cmd {
        self.args.push(arg.to_owned());
        self
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

    /// How much the command may print, in bytes; [`MAX_OUTPUT`] unless told otherwise. More is an error where the output is used.
    pub fn max_output(self, max_output: usize) -> Cmd {
        Cmd { max_output, ..self }
    }

    /// Text for the program's standard input: the way for secrets.
    pub fn input(self, input: impl Into<String>) -> Cmd {
        Cmd { input: Secret::new(input), ..self }
    }

    /// The file that the program reads on its standard input; it is opened by this process, whoever the program runs as. A link in its
    /// place is an error: the directory may be somebody else's.
    pub fn input_file(self, path: &std::path::Path) -> Cmd {
        Cmd { input_file: Some(path.display().to_string()), ..self }
    }

    /// The file that takes the program's standard output. It is made anew by this process, for its own user alone: what lay there under
    /// its name, a link included, is removed and not written to.
    pub fn output_file(self, path: &std::path::Path) -> Cmd {
        Cmd { output_file: Some(path.display().to_string()), ..self }
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
    /// All of it, but after [`Host::act`], which keeps none.
    pub stdout: String,
    /// The last [`MAX_TAIL`] bytes of it.
    pub stderr: String,
    /// It printed more than was kept. Whoever uses the output never sees one of these: see [`Host::read_output`].
    pub(super) is_cut: bool,
}

/// The most that a command may print unless told otherwise, in bytes.
pub const MAX_OUTPUT: usize = 4 << 20;
/// The most of stderr that is kept, in bytes.
pub const MAX_TAIL: usize = 8 << 10;

/// Runs commands.
pub trait Exec: Send + Sync {
    /// Runs to the end; an exit code other than 0 is not an error here.
    fn run<'a>(&'a self, cmd: &'a Cmd) -> Pending<'a, Result<Output>>;
    /// Runs two, the second one reading what the first one prints. It only comes to the end of that once the first one has ended well; else
    /// it is killed. Gives back what each left; the second one's code is `None` where it was killed.
    fn feed<'a>(&'a self, from: &'a Cmd, into: &'a Cmd) -> Pending<'a, Result<(Output, Output)>>;
}

/// The machine's own programs.
pub struct SystemExec;

impl Exec for SystemExec {
    fn run<'a>(&'a self, cmd: &'a Cmd) -> Pending<'a, Result<Output>> {
        Box::pin(run(cmd))
    }

    fn feed<'a>(&'a self, from: &'a Cmd, into: &'a Cmd) -> Pending<'a, Result<(Output, Output)>> {
        Box::pin(pipe::feed(from, into))
    }
}

/// Where programs are looked for, whatever the caller's environment says.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command whose words the user sees: of the caller's environment it knows the terminal and the language, and nothing that would lead
/// it elsewhere.
fn in_the_users_place(program: &str, args: &[String]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(program);
    command.args(args).env_clear().env("PATH", PATH);
    for name in ["TERM", "LANG", "LC_ALL", "TZ"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

async fn run(cmd: &Cmd) -> Result<Output> {
    let stdin = match &cmd.input_file {
        Some(path) => input_file(path).with_context(|| format!("could not open {path}"))?.into(),
        None if cmd.input.expose().is_empty() => Stdio::null(),
        None => Stdio::piped(),
    };
    let stdout = match &cmd.output_file {
        Some(path) => new_file(path).with_context(|| format!("could not make {path}"))?.into(),
        None => Stdio::piped(),
    };
    let child = spawn(cmd, stdin, stdout)?;
    let work = ended(cmd, child);
    match tokio::time::timeout(cmd.deadline, work).await {
        Ok(output) => output,
        Err(_) => bail!("{} did not end within {} s and was stopped", cmd.program, cmd.deadline.as_secs()),
    }
}

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

fn input_file(path: &str) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// An empty file in a directory that may be somebody else's: made, never opened where something is.
fn new_file(path: &str) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
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

impl Host {
    /// Runs a command that only reads; in check mode too. An exit code other than 0 is an error.
    pub async fn ask(&self, cmd: Cmd) -> Result<Output> {
        succeeded(&cmd, self.read_output(&cmd).await?)
    }

    /// Runs a command that only reads, whatever its exit code.
    pub async fn try_ask(&self, cmd: Cmd) -> Result<Output> {
        self.read_output(&cmd).await
    }

    /// Runs a command whose output is used: all of it or nothing.
    async fn read_output(&self, cmd: &Cmd) -> Result<Output> {
        let output = self.exec.run(cmd).await?;
        if output.is_cut {
            bail!(
                "{}{} printed more than {} bytes; a part of that is not used",
                cmd.program,
                verb(cmd),
                cmd.max_output
            );
        }
        Ok(output)
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
        let mut command = in_the_users_place(program, args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
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
        let status =
            in_the_users_place(program, args).status().await.with_context(|| format!("could not run {program}"))?;
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }

    /// Runs a command with an effect, which is noted as `what object: how`. What it prints on stdout is not kept.
    pub async fn act(&self, what: What, object: &str, how: &str, cmd: Cmd) -> Result<Output> {
        self.note(what, object, how);
        if !self.applies() {
            return Ok(Output::default());
        }
        let output = self.exec.run(&cmd).await?;
        succeeded(&cmd, Output { stdout: String::new(), is_cut: false, ..output })
    }

    /// Runs a command with an effect that reads what another one prints, all of it or nothing: where the first one does not end well, the
    /// second one is killed before it has seen the end. Gives back what the second one printed.
    ///
    /// # Errors
    /// Either of them does not end well; the first one's words come first.
    pub async fn feed(&self, what: What, object: &str, how: &str, from: Cmd, into: Cmd) -> Result<Output> {
        self.note(what, object, how);
        if !self.applies() {
            return Ok(Output::default());
        }
        let (first, second) = self.exec.feed(&from, &into).await?;
        succeeded(&from, first)?;
        let second = succeeded(&into, second)?;
        if second.is_cut {
            bail!("{}{} printed more than {} bytes", into.program, verb(&into), into.max_output);
        }
        Ok(second)
    }

    /// [`Host::act`], for a command that tells on stdout what it has made.
    pub async fn act_and_read(&self, what: What, object: &str, how: &str, cmd: Cmd) -> Result<Output> {
        self.note(what, object, how);
        if self.applies() { self.ask(cmd).await } else { Ok(Output::default()) }
    }
}

/// The command's own verb, for messages: ` --list` is none, ` status` is.
fn verb(cmd: &Cmd) -> String {
    cmd.args.iter().find(|arg| !arg.starts_with('-')).map(|arg| format!(" {arg}")).unwrap_or_default()
}

fn succeeded(cmd: &Cmd, output: Output) -> Result<Output> {
    if output.code == Some(0) {
        return Ok(output);
    }
    let ended = output.code.map_or("was ended by a signal".to_owned(), |code| format!("ended with {code}"));
    bail!("{}{} {ended}: {}", cmd.program, verb(cmd), cmd.masked_text(output.stderr.trim()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;
    use std::sync::Arc;

    fn real(test: &TestHost) -> Host {
        Host { exec: Arc::new(SystemExec), ..test.host.clone() }
    }

    /// Prints so many bytes.
    fn prints(bytes: usize) -> Cmd {
        Cmd::new("head", ["-c", &bytes.to_string(), "/dev/zero"])
    }

    #[tokio::test]
    async fn output_that_is_used_is_whole_or_an_error() {
        let test = TestHost::new();
        let host = real(&test);
        let whole = host.ask(prints(MAX_OUTPUT)).await.expect("just as much as is kept");
        assert_eq!(whole.stdout.len(), MAX_OUTPUT);
        for cut in [
            host.ask(prints(MAX_OUTPUT + 1)).await,
            host.try_ask(prints(MAX_OUTPUT + 1)).await,
            host.act_and_read(What::File, "x", "make", prints(MAX_OUTPUT + 1)).await,
            host.ask(prints(11).max_output(10)).await,
        ] {
            assert!(cut.expect_err("it is cut").to_string().contains("a part of that is not used"));
        }
        // What nobody uses may be as long as it likes.
        let acted = host.act(What::File, "x", "make", prints(MAX_OUTPUT + 1)).await.expect("it has an effect");
        assert_eq!(acted.stdout, "");
    }

    /// The only way from a command to its output is [`Host::read_output`] or [`Host::act`]: nobody else runs one.
    #[test]
    fn nobody_else_runs_commands() {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut folders = vec![source];
        let mut runs = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("the sources can be listed") {
                let path = entry.expect("the sources can be listed").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let text = std::fs::read_to_string(&path).expect("a source is text");
                    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                    let count = code.matches(concat!("exec.", "run(")).count();
                    runs.extend((count > 0).then(|| (path.file_name().map(std::ffi::OsStr::to_owned), count)));
                }
            }
        }
        assert_eq!(runs, [(Some("exec.rs".into()), 2)]);
    }
}
