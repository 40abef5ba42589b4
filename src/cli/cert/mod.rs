//! `appliance cert …`: the host's certificate. The CA for client certificates is `ca.rs`.

mod ca;

use super::choice::AppArgument;
use super::{JsonArgument, print};

use crate::certificate;
use crate::env::Env;
use crate::host::{Host, Mode};
use crate::prepare::tls;
use crate::source;
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;

#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// Show the certificate that nginx has (exit 0 there is one, 1 there is none)
    #[command(after_help = "Example:\n  appliance cert show --json | jq .expires")]
    Show(ShowArguments),
    /// Order a new certificate now, due or not; an authority takes only so many orders a week
    #[command(after_help = "Example:\n  appliance cert renew")]
    Renew,
    /// Order another certificate and have the one in place revoked: its key may be in other hands
    #[command(after_help = "Example:\n  appliance cert revoke")]
    Revoke,
    /// The CA for client certificates: make it, issue, revoke, list
    #[command(subcommand)]
    Ca(ca::CaCommand),
}

#[derive(Debug, Args)]
pub struct ShowArguments {
    #[command(flatten)]
    json: JsonArgument,
}

pub async fn cert(command: CertCommand, app: &AppArgument) -> Result<u8> {
    match command {
        CertCommand::Show(arguments) => show(&arguments, app),
        CertCommand::Renew => renew(app).await,
        CertCommand::Revoke => revoke(app).await,
        CertCommand::Ca(command) => ca::ca(command, app).await,
    }
}

fn show(arguments: &ShowArguments, app: &AppArgument) -> Result<u8> {
    let host = Host::system(Mode::Check);
    // Who has never started it has the certificate of a host all the same.
    let place = match source::active(&host) {
        Ok(found) => tls::Place::of(&app.one(&found.envs)?.tenant),
        Err(_) => tls::Place::of_host(),
    };
    let Some(pair) = tls::current(&host, &place) else {
        bail!("there is no certificate yet; the step tls makes one: appliance prepare --step tls");
    };
    let facts = pair.facts();
    let time = |seconds| jiff::Timestamp::from_second(seconds).map_or("?".to_owned(), |time| time.to_string());
    let names: Vec<&str> = facts.names.iter().map(String::as_str).collect();
    if arguments.json.json {
        let told = json!({
            "names": names,
            "issuer": facts.issuer,
            "self_signed": facts.self_signed,
            "issued": time(facts.not_before),
            "expires": time(facts.not_after),
        });
        print(&format!("{}\n", serde_json::to_string_pretty(&told)?))?;
    } else {
        let issuer = if facts.self_signed { "self-signed" } else { &facts.issuer };
        let (names, expires) = (names.join(" "), time(facts.not_after));
        print(&format!("names    {names}\nissuer   {issuer}\nexpires  {expires}\n"))?;
    }
    Ok(0)
}

/// The active env, if it asks for a certificate by ACME.
fn env_with_acme(host: &Host, app: &AppArgument) -> Result<Env> {
    let env = app.active(host)?;
    if !certificate::is_wanted(&env) {
        bail!("the env asks for no certificate by ACME; see 'appliance.ssl' in it");
    }
    Ok(env)
}

async fn revoke(app: &AppArgument) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    certificate::revoke(&env_with_acme(&host, app)?, &host).await?;
    print("a new certificate is in place, and the one before it is revoked\n")?;
    Ok(0)
}

async fn renew(app: &AppArgument) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let env = env_with_acme(&host, app)?;
    let looked = certificate::look(&env, &host, true).await?;
    for why in &looked.left_out {
        eprintln!("left out: {why}");
    }
    print(if looked.renewed { "a new certificate is in place\n" } else { "nothing was ordered\n" })?;
    Ok(0)
}
