//! A command in a running container of a service.

use crate::host::Host;
use crate::host::docker::{Container, ExecRequest, LABEL_NUMBER, LABEL_ONEOFF, Look};
use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use std::time::Duration;

/// So much of what it says is told when it fails, in bytes.
const TAIL: usize = 2000;

/// One of a service's containers.
///
/// # Errors
/// It is not there, or does not run where it must.
pub async fn container_of(host: &Host, project: &str, service: &str, number: u32, must_run: bool) -> Result<Container> {
    let containers = host.docker().containers(project, Look::Close).await?;
    let is_meant = |container: &&Container| {
        let is_number = container.label(LABEL_NUMBER).is_none_or(|text| text.parse() == Ok(number));
        // Not a migration, nor somebody's other one-off.
        let is_service = container.label(LABEL_ONEOFF) != Some("True") && container.service() == service;
        is_service && is_number && (container.is_running() || !must_run)
    };
    match containers.iter().find(is_meant) {
        Some(container) => Ok(container.clone()),
        None => {
            let running: Vec<String> = containers.iter().filter(|c| c.is_running()).map(Container::title).collect();
            let which = if number > 1 {
                format!("the service {service} has no container {number} that runs")
            } else {
                format!("the service {service} does not run")
            };
            bail!("{which}; running: {}", running.join(", "));
        }
    }
}

/// Runs a command in a service's first container, without input.
///
/// # Errors
/// The service does not run; the command ends with another code than 0, with its last words; or it takes longer than `deadline`: then it may
/// still be at work.
pub async fn run_inside(
    host: &Host,
    project: &str,
    service: &str,
    command: &[String],
    deadline: Duration,
) -> Result<()> {
    let container = container_of(host, project, service, 1, true).await?;
    let program = command.first().map_or("the command", String::as_str);
    host.note_container(&container.title(), format!("run in it: {program}"));
    let request =
        ExecRequest { command: command.to_vec(), tty: false, user: None, directory: None, environment: Vec::new() };
    let run = async {
        let mut session = host.docker().exec(&container.id, request).await?;
        let mut said = Vec::new();
        while let Some(piece) = session.output.next().await {
            said.extend_from_slice(&piece.context("Docker broke off the command's output")?.into_bytes());
            let over = said.len().saturating_sub(TAIL);
            said.drain(..over);
        }
        let code = host.docker().exec_exit_code(&session.id).await?;
        anyhow::Ok((code, String::from_utf8_lossy(&said).trim().to_owned()))
    };
    match tokio::time::timeout(deadline, run).await {
        Ok(Ok((0, _))) => Ok(()),
        // What it says may hold secrets: only the first line of an error is reported.
        Ok(Ok((code, said))) => bail!("{program} in {service} ended with {code}:\n{said}"),
        Ok(Err(error)) => Err(error.context(format!("could not run {program} in {service}"))),
        Err(_) => bail!("{program} in {service} took longer than {} s", deadline.as_secs()),
    }
}
