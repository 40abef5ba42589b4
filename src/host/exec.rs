//! Running commands: with a deadline, bounded output, and the tail of stderr in the error. What a command is, is `cmd.rs`; how a program is
//! started and watched, `child.rs`; two of them with a pipe in between, `pipe.rs`.
#![allow(clippy::disallowed_methods)] // This is the door they are disallowed for.

use super::child::{PATH, ended, spawn, unless_idle};
use super::cmd::{Cmd, Exec, Output};
use super::{Host, Pending, What, pipe};
use anyhow::{Context, Result, bail};
use std::process::Stdio;

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
    let ids = [child.id()];
    let work = unless_idle(cmd, &ids, ended(cmd, child));
    match tokio::time::timeout(cmd.deadline, work).await {
        Ok(output) => output,
        Err(_) => bail!("{} did not end within {} s and was stopped", cmd.title().0, cmd.deadline.as_secs()),
    }
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
                cmd.title().0,
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
        // A reader that ended by itself is the reason, and a writer that lost its reader only follows.
        if second.code.is_some_and(|code| code != 0) {
            succeeded(&into, second.clone())?;
        }
        succeeded(&from, first)?;
        let second = succeeded(&into, second)?;
        if second.is_cut {
            bail!("{}{} printed more than {} bytes", into.title().0, verb(&into), into.max_output);
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
    cmd.title().1.iter().find(|arg| !arg.starts_with('-')).map(|arg| format!(" {arg}")).unwrap_or_default()
}

fn succeeded(cmd: &Cmd, output: Output) -> Result<Output> {
    if output.code == Some(0) {
        return Ok(output);
    }
    let ended = output.code.map_or("was ended by a signal".to_owned(), |code| format!("ended with {code}"));
    bail!("{}{} {ended}: {}", cmd.title().0, verb(cmd), cmd.masked_text(output.stderr.trim()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::cmd::MAX_OUTPUT;
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
