//! `appliance exec`: a command in a service's container, with this terminal or these pipes.

use crate::host::docker::{ExecSession, Look};
use crate::host::{Host, Mode, terminal};
use crate::source;
use anyhow::{Context, Result, bail};
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
}

pub async fn exec(arguments: ExecArguments) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let found = source::active(&host)?;
    let containers = host.docker().containers(found.env.app.name.as_str(), Look::Close).await?;
    let of_service = |service: &str| containers.iter().find(|c| c.service() == service && c.is_running());
    let Some(container) = of_service(&arguments.service) else {
        let running: Vec<&str> = containers.iter().filter(|c| c.is_running()).map(|c| c.service()).collect();
        bail!("the service {} does not run; running: {}", arguments.service, running.join(", "));
    };
    let tty = !arguments.no_tty && terminal::is_interactive();
    let session = host.docker().exec(&container.id, arguments.command, tty).await?;
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
