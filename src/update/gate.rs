//! The gate of a new release: the default one, and then what `app.gate` asks of the very containers that are to take over.

use crate::env::{Asks, Env, Probe};
use crate::host::Host;
use crate::host::docker::{Container, DockerError, ExecRequest, ExecSession, LABEL_ONEOFF, Look};
use crate::host::http::Probe as HttpProbe;
use crate::prepare;
use crate::stack::Stack;
use crate::stack::manner::Beside;
use crate::stack::masking::without_secrets;
use crate::stack::probe::{Gate, Rigour, wait_until_good};
use crate::stack::stopped;
use crate::value::{Route, ServiceName};
use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::time::Instant;

/// Between two tries of one probe.
const BETWEEN: Duration = Duration::from_millis(500);
/// The least that one try gets, however little of the probe's time is left.
const TRY: Duration = Duration::from_secs(1);
/// How much of an answer or an output is read, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;
/// How much of a failed command's output is told, in bytes.
const MAX_TOLD: usize = 2000;

/// Waits until a new release is good.
///
/// # Errors
/// It is not: what was asked, and what came of it.
pub async fn pass(env: &Env, stack: &Stack, routes: &[Route], beside: &Beside, host: &Host) -> Result<()> {
    let stopped = stopped::read(host, &stack.project)?;
    let domain = env.appliance.domain.as_str();
    let gate = Gate { stack, routes, domain, vital: &[], rigour: Rigour::New, stopped: &stopped, beside };
    wait_until_good(&gate, host).await?;
    probes(env, stack, routes, beside, host).await
}

/// What `app.gate` asks beside the default gate, in its order.
///
/// # Errors
/// A probe did not hold within its time.
pub async fn probes(env: &Env, stack: &Stack, routes: &[Route], beside: &Beside, host: &Host) -> Result<()> {
    let asked = Asked { env, stack, routes: beside.routes(stack, routes), beside, host };
    for (index, probe) in env.app.gate.iter().enumerate() {
        asked.holds(probe).await.with_context(|| format!("app.gate[{index}] ({}) does not hold", probe.asks))?;
    }
    Ok(())
}

struct Asked<'a> {
    env: &'a Env,
    stack: &'a Stack,
    /// Where the new containers answer.
    routes: Vec<Route>,
    beside: &'a Beside,
    host: &'a Host,
}

impl Asked<'_> {
    /// Tries a probe until it holds or its time is over; then the last try's trouble is told.
    async fn holds(&self, probe: &Probe) -> Result<()> {
        if let Some(service) = service_of(&probe.asks) {
            let known = self.stack.service(service.as_str());
            known.with_context(|| format!("the service {service} is not in {}", self.stack.files.join(", ")))?;
        }
        let end = Instant::now() + probe.timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now()).max(TRY);
            let tried = tokio::time::timeout(left, self.ask(&probe.asks, left)).await;
            let error = match tried {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_) => anyhow::anyhow!("no answer within {} s", probe.timeout.as_secs()),
            };
            if Instant::now() + BETWEEN >= end {
                return Err(error);
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }

    async fn ask(&self, asks: &Asks, left: Duration) -> Result<()> {
        match asks {
            Asks::Http { service, port, path, status, body } => {
                for address in self.addresses(service, *port).await? {
                    self.answers(address, path, *status, body.as_deref(), left).await?;
                }
                Ok(())
            }
            Asks::Tcp { service, port } => {
                for address in self.addresses(service, Some(*port)).await? {
                    self.host.connect(address, left).await?;
                }
                Ok(())
            }
            Asks::Command { service, run } => self.run(service, run).await,
            Asks::Sql { query } => {
                // As the app itself: what stands in its database is its own, and must not be run as anybody else.
                let login = prepare::app_login(self.env, self.host)?;
                let value = self.host.first_value(&login, query.clone(), left).await?;
                // What PostgreSQL writes for false, and a count of nothing.
                let holds = value.as_deref().is_some_and(|value| !["f", "0", ""].contains(&value));
                ensure!(holds, "the query's first value is missing, false or 0");
                Ok(())
            }
        }
    }

    async fn answers(
        &self,
        address: SocketAddr,
        path: &str,
        status: Option<u16>,
        body: Option<&str>,
        left: Duration,
    ) -> Result<()> {
        let domain = self.env.appliance.domain.as_str();
        let probe = HttpProbe { address, path, host: domain, max: MAX_ANSWER, deadline: left };
        let (got, text) = self.host.probe_body(probe).await?;
        match status {
            Some(wanted) => ensure!(got == wanted, "it answers {got}, not {wanted}"),
            None => ensure!(got < 400, "it answers {got}"),
        }
        if let Some(wanted) = body {
            let holds = String::from_utf8_lossy(&text).contains(wanted);
            ensure!(holds, "it answers {got}, but not with the text that is asked for");
        }
        Ok(())
    }

    /// The containers of a service that are asked: all of its copies.
    async fn containers(&self, service: &ServiceName) -> Result<(Vec<Container>, Vec<Container>)> {
        let all = self.host.docker().containers(self.stack.project.as_str(), Look::Close).await?;
        let service = self.stack.service(service.as_str()).context("the service has gone")?;
        let names: Vec<String> =
            self.stack.container_names(service).map(|name| self.beside.of(&name).to_owned()).collect();
        let meant = |container: &&Container| {
            names.contains(&container.name) && container.is_running() && container.label(LABEL_ONEOFF) != Some("True")
        };
        let chosen: Vec<Container> = all.iter().filter(meant).cloned().collect();
        ensure!(!chosen.is_empty(), "the service {} does not run", service.name);
        Ok((chosen, all))
    }

    /// Where a service's new containers answer: behind its route, or in their networks.
    async fn addresses(&self, service: &ServiceName, port: Option<u16>) -> Result<Vec<SocketAddr>> {
        let Some(port) = port else {
            let of_service = self.routes.iter().filter(|route| route.service == service.as_str());
            let upstreams: Vec<SocketAddr> = of_service.map(|route| route.upstream).collect();
            ensure!(!upstreams.is_empty(), "the service {service} has no route, so the probe needs a port");
            return Ok(upstreams);
        };
        let (chosen, all) = self.containers(service).await?;
        chosen
            .iter()
            .map(|container| match address(container, &all) {
                Some(ip) => Ok(SocketAddr::new(ip, port)),
                None => bail!("{} has no address in a network", container.name),
            })
            .collect()
    }

    async fn run(&self, service: &ServiceName, command: &[String]) -> Result<()> {
        let (chosen, _) = self.containers(service).await?;
        let container = chosen.first().context("the service has no container")?;
        let request = ExecRequest { command: command.to_vec(), ..ExecRequest::default() };
        let begun = self.host.docker().exec(&container.id, request).await;
        let ExecSession { id, mut output, input } = match begun {
            // There is no such program: that is the app's.
            Err(error) if matches!(error.downcast_ref(), Some(DockerError::Refused(_))) => bail!("{error:#}"),
            begun => begun?,
        };
        drop(input);
        let mut said: Vec<u8> = Vec::new();
        while let Some(piece) = output.next().await {
            said.extend_from_slice(&piece.context("Docker broke off the command's output")?.into_bytes());
            // The end is what is told.
            if said.len() > MAX_ANSWER {
                said.drain(..said.len() - MAX_TOLD);
            }
        }
        let code = self.host.docker().exec_exit_code(&id).await?;
        if code == 0 {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&said[said.len().saturating_sub(MAX_TOLD)..]).trim().to_owned();
        let said = match self.stack.service(service.as_str()) {
            Some(service) => without_secrets(service, &said),
            None => String::new(),
        };
        bail!("it ended with {code}: {said}")
    }
}

fn service_of(asks: &Asks) -> Option<&ServiceName> {
    match asks {
        Asks::Http { service, .. } | Asks::Tcp { service, .. } | Asks::Command { service, .. } => Some(service),
        Asks::Sql { .. } => None,
    }
}

/// Where a container answers: itself, the one whose network it uses, or this host.
fn address(container: &Container, all: &[Container]) -> Option<IpAddr> {
    if container.network_mode == "host" {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    let holder = match container.network_mode.strip_prefix("container:") {
        Some(id) => all.iter().find(|other| other.id == id)?,
        None => container,
    };
    holder.addresses.iter().find(|address| address.is_ipv4()).or(holder.addresses.first()).copied()
}
