//! A Docker daemon that was killed may forget whose a published port was and hold it for nobody (moby 20.10: an endpoint that it finds
//! stale at its start is deleted, its port stays taken). Nothing but a restart of the daemon gives the port back.

use super::Host;
use super::docker::DockerError;
use anyhow::Result;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

const UNIT: &str = "docker.service";
/// Between two restarts of the daemon: what the first does not mend, a second would not either.
const BETWEEN: Duration = Duration::from_secs(600);
/// Starts that failed beside the one that led to the restart are begun again as well.
const TOGETHER: Duration = Duration::from_secs(60);

/// When this process restarted the daemon.
pub(super) type Restarted = Arc<Mutex<Option<Instant>>>;

impl Host {
    /// Starts a container.
    ///
    /// # Errors
    /// Whatever Docker says; [`DockerError::Away`] if the daemon had to be restarted.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let Err(error) = self.docker.start(id).await else { return Ok(()) };
        let Some(address) = held_address(&format!("{error:#}")) else { return Err(error) };
        let mut restarted = self.restarted.lock().await;
        match restarted.map(|at| at.elapsed()) {
            Some(ago) if ago < TOGETHER => return Err(away()),
            Some(ago) if ago < BETWEEN => return Err(error),
            _ => {}
        }
        if self.docker.publishes(address).await? {
            return Err(error);
        }
        tracing::warn!("Docker holds {address} for no container ({error:#}); restarting it");
        *restarted = Some(Instant::now());
        self.restart_unit(UNIT).await?;
        Err(away())
    }

    /// Whether this process had to restart the daemon for that.
    pub async fn has_restarted_docker(&self) -> bool {
        self.restarted.lock().await.is_some()
    }
}

fn away() -> anyhow::Error {
    DockerError::Away("it was restarted, since it held a port for no container".to_owned()).into()
}

/// What Docker says it has given away: `Bind for 127.0.0.1:8000 failed: port is already allocated`. The same port of another address
/// is another one: a service and its bridge have one each.
fn held_address(error: &str) -> Option<SocketAddr> {
    let (before, _) = error.split_once(" failed: port is already allocated")?;
    let (ip, port) = before.rsplit_once("Bind for ")?.1.rsplit_once(':')?;
    let ip: IpAddr = ip.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    Some(SocketAddr::new(ip, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_taken_from_dockers_words() {
        let error = "driver failed programming external connectivity on endpoint web (a1): Bind for 127.0.0.1:8000 failed: port is already allocated";
        let of = |error: &str| held_address(error).map(|address| address.to_string());
        assert_eq!(of(error).as_deref(), Some("127.0.0.1:8000"));
        assert_eq!(of("Bind for [::1]:53 failed: port is already allocated").as_deref(), Some("[::1]:53"));
        // As Docker 20.10 writes it.
        assert_eq!(of("Bind for :::53 failed: port is already allocated").as_deref(), Some("[::]:53"));
        assert_eq!(of("listen tcp4 127.0.0.1:80: bind: address already in use"), None);
    }
}
