//! What a commit is held responsible for. Only what it did itself keeps the timer from trying it again: a disk that is full, a registry
//! or a database that is away are nobody's commit.

use crate::error::Halt;
use crate::host::docker::{DockerError, is_away};
use crate::stack::apply::NotRun;
use std::fmt;

/// A failure of the commit's own: its Dockerfile, its migration, its containers at the gate.
#[derive(Debug)]
pub struct OfCommit(anyhow::Error);

impl OfCommit {
    /// The failure as one of the commit's own, unless it is the host's or the network's.
    pub fn from(error: anyhow::Error) -> anyhow::Error {
        if is_of_the_host(&error) { error } else { anyhow::Error::new(OfCommit(error)) }
    }
}

impl OfCommit {
    /// What the gate says, as the commit's own. That Docker could not tell how the containers are says nothing about them.
    pub fn from_gate(error: anyhow::Error) -> anyhow::Error {
        if error.is::<DockerError>() { error } else { OfCommit::from(error) }
    }

    /// The failure of a migration as one of the commit's own, if its command was begun.
    pub fn from_migration(error: anyhow::Error) -> anyhow::Error {
        if error.is::<OfCommit>() || !OfCommit::is_of_migration(&error) { error } else { OfCommit::from(error) }
    }

    /// Whether a migration failed for a reason of the commit's own.
    pub fn is_of_migration(error: &anyhow::Error) -> bool {
        error.is::<OfCommit>() || (error.is::<Halt>() || error.is::<NotRun>()) && !is_of_the_host(error)
    }
}

impl fmt::Display for OfCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for OfCommit {}

/// Words of Docker's, of its builder's and of the kernel's for what another host, or another hour, would not have.
const HOST: [&str; 14] = [
    "no space left on device",
    "disk quota exceeded",
    "cannot allocate memory",
    "input/output error",
    "dial tcp",
    "connection refused",
    "connection reset",
    "i/o timeout",
    "tls handshake",
    "no such host",
    "network is unreachable",
    "temporary failure",
    "toomanyrequests",
    "service unavailable",
];

fn is_of_the_host(error: &anyhow::Error) -> bool {
    if is_away(error) || matches!(error.downcast_ref(), Some(DockerError::TooSlow { .. })) {
        return true;
    }
    // Of the whole chain, since a builder wraps what it met.
    let said = format!("{error:#}").to_ascii_lowercase();
    HOST.iter().any(|words| said.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn only_what_a_commit_did_is_held_against_it() {
        let of = |error: anyhow::Error| OfCommit::from(error).is::<OfCommit>();
        assert!(of(Halt::failed("The migration failed", "migrate ended with 1").into()));
        assert!(of(anyhow!("web answers / with 500")));
        assert!(of(DockerError::Refused("The command '/bin/sh -c false' returned a non-zero code: 1".into()).into()));
        assert!(
            OfCommit::from(anyhow!("x")).context("could not be built").is::<OfCommit>(),
            "through what is added to it"
        );
        let refused = || anyhow::Error::from(DockerError::Refused("exec: no such file".into()));
        assert!(OfCommit::is_of_migration(&refused().context(NotRun("migrate of web".into()))));
        assert!(!OfCommit::is_of_migration(&refused()), "before it was run, or after");
        assert!(OfCommit::from_gate(anyhow!("web answers / with 500")).is::<OfCommit>());
        assert!(!OfCommit::from_gate(refused()).is::<OfCommit>());
        for host in [
            DockerError::Away("no answer".into()).into(),
            DockerError::TooSlow { verb: "build", seconds: 10_800, is_long: true }.into(),
            DockerError::Refused("write /x: no space left on device".into()).into(),
            anyhow!("Get https://registry/v2/: dial tcp 10.0.0.1:443: connect: connection refused").context("pull"),
        ] {
            assert!(!of(host));
        }
    }
}
