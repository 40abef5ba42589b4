//! A Docker daemon that was killed may forget whose a published port was and hold it for nobody (moby 20.10: an endpoint that it finds
//! stale at its start is deleted, its port stays taken). Nothing but a restart of the daemon gives the port back.

use super::Host;
use super::docker::DockerError;
use anyhow::Result;
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
        let Some(port) = held_port(&format!("{error:#}")) else { return Err(error) };
        let mut restarted = self.restarted.lock().await;
        match restarted.map(|at| at.elapsed()) {
            Some(ago) if ago < TOGETHER => return Err(away()),
            Some(ago) if ago < BETWEEN => return Err(error),
            _ => {}
        }
        if self.docker.publishes(port).await? {
            return Err(error);
        }
        tracing::warn!("Docker holds port {port} for no container ({error:#}); restarting it");
        *restarted = Some(Instant::now());
        self.restart_unit(UNIT).await?;
        Err(away())
    }
}

fn away() -> anyhow::Error {
    DockerError::Away("it was restarted, since it held a port for no container".to_owned()).into()
}

/// The port that Docker says it has given away: `Bind for 127.0.0.1:8000 failed: port is already allocated`.
fn held_port(error: &str) -> Option<u16> {
    let (before, _) = error.split_once(" failed: port is already allocated")?;
    before.rsplit_once("Bind for ")?.1.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_taken_from_dockers_words() {
        let error = "driver failed programming external connectivity on endpoint web (a1): Bind for 127.0.0.1:8000 failed: port is already allocated";
        assert_eq!(held_port(error), Some(8000));
        assert_eq!(held_port("Bind for [::1]:53 failed: port is already allocated"), Some(53));
        assert_eq!(held_port("listen tcp4 127.0.0.1:80: bind: address already in use"), None);
    }
}
