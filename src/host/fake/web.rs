//! What the app's containers answer: whoever runs and publishes the port.

use super::{FakeDocker, Faults};
use crate::host::Pending;
use crate::host::http::{Probe, Web};
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::sync::Arc;

pub struct FakeWeb {
    docker: Arc<FakeDocker>,
    faults: Arc<Faults>,
}

impl FakeWeb {
    pub(super) fn new(docker: Arc<FakeDocker>, faults: Arc<Faults>) -> FakeWeb {
        FakeWeb { docker, faults }
    }
}

impl Web for FakeWeb {
    fn app<'a>(&'a self, probe: Probe<'a>) -> Pending<'a, Result<(u16, Vec<u8>)>> {
        Box::pin(async move {
            self.faults.before_waiting(&format!("ask {}", probe.address)).await?;
            let status = self.docker.answer(probe.address).context("connection refused")?;
            Ok((status, Vec::new()))
        })
    }
    fn front<'a>(&'a self, _: &'a str, _: std::time::Duration) -> Pending<'a, Result<u16>> {
        Box::pin(async move {
            self.faults.before_waiting("ask nginx").await?;
            Ok(200)
        })
    }
    fn connect<'a>(&'a self, address: SocketAddr) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            self.faults.before_waiting(&format!("connect to {address}")).await?;
            self.docker.answer(address).map(drop).context("connection refused")
        })
    }
}
