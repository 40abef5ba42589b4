//! The commands about PostgreSQL itself; the app's database is `database.rs`'s.

use super::agreed::AgreedArgument;
use super::update::{ready, watched};
use super::{JsonArgument, print};
use crate::env::Env;
use crate::host::{Host, Mode};
use crate::report::sentry;
use crate::source;
use crate::update;
use anyhow::{Context, Result, bail};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum PostgresCommand {
    /// Show which cluster is in use, which one is kept, and what is installed
    #[command(after_help = "Example:\n  appliance postgres show --json | jq -r .in_use")]
    Show(JsonArgument),
    /// Go to the newest major version that is installed; the old cluster is kept
    #[command(after_help = "Example:\n  apt install postgresql-17 && appliance postgres upgrade --yes")]
    Upgrade(AgreedArgument),
    /// Go to the cluster that is kept from before an upgrade; called again, forth
    #[command(after_help = "Example:\n  appliance postgres back")]
    Back(AgreedArgument),
    /// Remove the cluster that is kept from before an upgrade
    #[command(after_help = "Example:\n  appliance postgres forget --yes")]
    Forget(AgreedArgument),
}

pub async fn postgres(command: PostgresCommand) -> Result<u8> {
    match command {
        PostgresCommand::Show(arguments) => show(arguments.json),
        PostgresCommand::Upgrade(arguments) => upgrade(&arguments).await,
        PostgresCommand::Back(arguments) => back(&arguments).await,
        PostgresCommand::Forget(arguments) => forget(&arguments).await,
    }
}

fn show(json: bool) -> Result<u8> {
    let clusters = update::clusters(&Host::system(Mode::Check))?;
    if json {
        print(&format!("{}\n", serde_json::to_string(&clusters)?))?;
        return Ok(0);
    }
    let none = || "none".to_owned();
    let mut text = format!("in use: {}\n", clusters.in_use.unwrap_or_else(none));
    if let Some(kept) = clusters.kept {
        text.push_str(&format!(
            "kept: {kept} (appliance postgres back goes to it, appliance postgres forget removes it)\n"
        ));
    }
    text.push_str(&format!("newest installed: {}\n", clusters.newest.unwrap_or_else(none)));
    print(&text)?;
    Ok(0)
}

/// The env of the app that has the host to itself.
///
/// # Errors
/// The host has several apps, whose databases are in one cluster.
fn alone(host: &Host) -> Result<Env> {
    let envs = source::active(host)?.envs;
    if !envs.is_alone() {
        bail!("going to another PostgreSQL is not supported yet where env.yml has 'apps:'");
    }
    Ok(envs.host().clone())
}

async fn upgrade(agreed: &AgreedArgument) -> Result<u8> {
    let host = ready().await?;
    let env = alone(&host)?;
    let Some((from, to)) = update::upgrade_waiting(&host).await? else {
        print("nothing to do: the newest PostgreSQL that is installed is in use\n")?;
        return Ok(0);
    };
    agreed.ask(&format!(
        "the app is stopped while PostgreSQL's data is copied from {} to {to}, and visitors see the status page meanwhile; {} is kept",
        from.id, from.id
    ))?;
    let _reports = sentry::start(&env, &host);
    watched(&env, &host, false, async |reporter| update::upgrade(&env, &to, &host, reporter).await).await?;
    print(&format!(
        "{to} is in use now; {} is kept: appliance postgres back goes back to it, appliance postgres forget removes it\n",
        from.id
    ))?;
    Ok(0)
}

async fn back(agreed: &AgreedArgument) -> Result<u8> {
    let host = ready().await?;
    let env = alone(&host)?;
    let to = update::kept(&host)?.context("no other cluster is kept")?;
    let from = update::clusters(&host)?.in_use.context("no cluster is in use")?;
    agreed.ask(&format!("the app goes to {to}: what was written since it was left stays in {from}, which is kept"))?;
    let _reports = sentry::start(&env, &host);
    watched(&env, &host, false, async |reporter| update::back(&env, &to, &host, reporter).await).await?;
    print(&format!("{to} is in use now; {from} is kept\n"))?;
    Ok(0)
}

async fn forget(agreed: &AgreedArgument) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let Some(kept) = update::kept(&host)? else {
        print("nothing to do: no other cluster is kept\n")?;
        return Ok(0);
    };
    agreed.ask(&format!("{kept} and all data in it is removed"))?;
    update::forget(&kept, &host).await?;
    print(&format!("{kept} is gone\n"))?;
    Ok(0)
}
