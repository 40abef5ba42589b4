//! `appliance env create` and `package`: new files, and what they travel in.

use super::super::{absolute, print};
use crate::host::{Host, Mode};
use crate::provision;
use crate::value::Domain;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::future::Future;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Args)]
pub struct CreateArguments {
    /// The host's name
    domain: Domain,
    /// The file to make
    file: String,
    /// A template that comes with the program (app, ecs), or a file
    #[arg(long, default_value = "app")]
    template: String,
    /// A YAML file with values that go over the template's
    #[arg(long, value_name = "FILE")]
    extra: Option<String>,
    /// Replace a file that is there; its secrets are lost
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub struct PackageArguments {
    /// The env.yml; `meta-data.custom` and `gpgkeys.txt` are taken from its directory
    file: String,
}

/// Told to end, the work is dropped, and with it the directories that hold secrets.
async fn whole_or_not<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for signals")?;
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => bail!("interrupted; nothing was written"),
        _ = terminate.recv() => bail!("told to end; nothing was written"),
    }
}

pub async fn create(arguments: CreateArguments) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let file = absolute(&arguments.file)?;
    let extra = arguments.extra.as_deref().map(absolute).transpose()?;
    let wanted = provision::Wanted {
        domain: &arguments.domain,
        file: &file,
        template: &arguments.template,
        extra: extra.as_deref(),
        force: arguments.force,
    };
    whole_or_not(provision::create(&wanted, &host)).await?;
    print(&format!("{file} is made; what to change in it, and the DNS records to publish, stand at its beginning\n"))?;
    Ok(0)
}

pub async fn package(arguments: PackageArguments) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let made = whole_or_not(provision::package(&absolute(&arguments.file)?, &host)).await?;
    print(&format!("{}: a drive for cloud-init\n{}: for paper, {} QR codes\n", made.image, made.paper, made.codes))?;
    match made.archive {
        Some((path, recipients)) => print(&format!("{path}: encrypted to {}\n", recipients.join(", ")))?,
        None => print("no archive: there is no gpgkeys.txt beside the file\n")?,
    }
    Ok(0)
}
