//! `appliance exec` and `appliance shell`: a command in a service's container, with this terminal or these pipes.

use super::choice::AppArgument;
use crate::host::docker::{ExecRequest, ExecSession};
use crate::host::{Host, Mode, terminal};
use crate::stack::inside::container_of;
use anyhow::{Context, Result};
use bollard::container::LogOutput;
use clap::Args;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Args)]
pub struct ExecArguments {
    /// The service
    service: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// Use no terminal even if there is one
    #[arg(short = 'T', long)]
    no_tty: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    app: AppArgument,
}

#[derive(Debug, Args)]
pub struct ShellArguments {
    /// The service
    service: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    app: AppArgument,
}

/// Where and as whom a command runs.
#[derive(Debug, Args)]
struct Place {
    /// Which of the service's containers, from 1
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    index: u32,
    /// As this user, with or without a group
    #[arg(short, long)]
    user: Option<String>,
    /// In this directory
    #[arg(short, long, value_name = "DIRECTORY")]
    workdir: Option<String>,
    /// With this variable; may be given several times
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
}

/// bash where there is one, else sh.
const SHELL: [&str; 3] = ["sh", "-c", "if command -v bash >/dev/null 2>&1; then exec bash; else exec sh; fi"];

pub async fn shell(arguments: ShellArguments) -> Result<u8> {
    run(&arguments.app, &arguments.service, SHELL.map(str::to_owned).to_vec(), (false, arguments.place)).await
}

pub async fn exec(arguments: ExecArguments) -> Result<u8> {
    run(&arguments.app, &arguments.service, arguments.command, (arguments.no_tty, arguments.place)).await
}

async fn run(app: &AppArgument, service: &str, command: Vec<String>, (no_tty, place): (bool, Place)) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let env = app.active(&host)?;
    let container = container_of(&host, env.app.name.as_str(), service, place.index, true).await?;
    let tty = !no_tty && terminal::is_interactive();
    let request = ExecRequest { command, tty, user: place.user, directory: place.workdir, environment: place.env };
    let session = host.docker().exec(&container.id, request).await?;
    let id = session.id.clone();
    let raw = if tty { Some(terminal::Raw::enter()?) } else { None };
    let talked = talk(session, &host, &id, tty).await;
    drop(raw);
    talked?;
    let code = host.docker().exec_exit_code(&id).await?;
    Ok(u8::try_from(code).unwrap_or(1))
}

/// Passes input, output and the terminal's size on until the command ends.
async fn talk(session: ExecSession, host: &Host, id: &str, tty: bool) -> Result<()> {
    let ExecSession { mut output, mut input, .. } = session;
    let feed = tokio::spawn(async move {
        let (mut stdin, mut buffer) = (tokio::io::stdin(), [0; 8192]);
        while let Ok(count @ 1..) = stdin.read(&mut buffer).await {
            if input.write_all(&buffer[..count]).await.is_err() || input.flush().await.is_err() {
                return;
            }
        }
        // The end of our input is the end of the command's.
        if input.shutdown().await.is_err() {
            tracing::debug!("the command closed its input first");
        }
    });
    let mut resized = signal(SignalKind::window_change()).context("could not listen for the terminal's size")?;
    resize(host, id, tty).await;
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    loop {
        tokio::select! {
            piece = output.next() => match piece {
                Some(Ok(LogOutput::StdErr { message })) => {
                    stderr.write_all(&message).await?;
                    stderr.flush().await?;
                }
                Some(Ok(other)) => {
                    stdout.write_all(&other.into_bytes()).await?;
                    stdout.flush().await?;
                }
                Some(Err(error)) => return Err(error).context("Docker broke off the command's output"),
                None => break,
            },
            _ = resized.recv() => resize(host, id, tty).await,
        }
    }
    feed.abort();
    Ok(())
}

async fn resize(host: &Host, id: &str, tty: bool) {
    if let Some((rows, columns)) = terminal::size().filter(|_| tty)
        && let Err(error) = host.docker().exec_resize(id, rows, columns).await
    {
        tracing::debug!("the terminal's size could not be passed on: {error:#}");
    }
}
