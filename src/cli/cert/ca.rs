//! `appliance cert ca …`: the CA for client certificates.

use super::super::choice::AppArgument;
use super::super::{JsonArgument, absolute, print, render};
use crate::authority::{self, Entry, Packed, State};
use crate::env::Env;
use crate::host::{Host, Mode};
use crate::value::{Email, Secret};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Make a CA that signs itself, or one below another CA: first --request, then --signed
    #[command(after_help = "Examples:\n  appliance cert ca init\n  appliance cert ca init --request ca.csr\n  \
                            appliance cert ca init --signed chain.pem --parent-crl root.crl")]
    Init(InitArguments),
    /// Issue a certificate for a person or a machine, packed with its key (PKCS #12)
    #[command(after_help = "Example:\n  appliance cert ca issue 'Eva Groß' --email eva@example.org --out eva.p12")]
    Issue(IssueArguments),
    /// Revoke a certificate, by its serial number or its name; nginx knows within a second
    #[command(after_help = "Example:\n  appliance cert ca revoke 'Eva Groß'")]
    Revoke {
        /// Serial number or name
        which: String,
    },
    /// List what was issued
    #[command(after_help = "Example:\n  appliance cert ca list --json")]
    List(JsonArgument),
    /// Sign the revocation list anew if it is a day old, and tell what is about to end (what appliance-crl.timer runs)
    #[command(hide = true)]
    Refresh,
}

#[derive(Debug, Args)]
pub struct InitArguments {
    /// Write a request for a CA certificate to this file, for another CA to sign
    #[arg(long, value_name = "FILE", conflicts_with = "signed")]
    request: Option<String>,
    /// The certificate that another CA signed, with those above it, up to the root (PEM)
    #[arg(long, value_name = "FILE", requires = "parent_crl")]
    signed: Option<String>,
    /// The revocation lists of all CAs above ours (PEM)
    #[arg(long, value_name = "FILE", requires = "signed")]
    parent_crl: Option<String>,
}

#[derive(Debug, Args)]
pub struct IssueArguments {
    /// Who it is for: the certificate's common name
    name: String,
    #[arg(long)]
    email: Option<Email>,
    /// How many days it is good
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Where to put it; NAME.p12 unless told otherwise
    #[arg(long, value_name = "FILE")]
    out: Option<String>,
    /// A file whose first line is the password; else one is made and printed
    #[arg(long, value_name = "FILE")]
    password_file: Option<String>,
    /// Pack it so that old Windows and macOS can read it
    #[arg(long)]
    legacy: bool,
}

pub async fn ca(command: CaCommand, app: &AppArgument) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    if let CaCommand::Refresh = command {
        return refresh(&host, app).await;
    }
    let env = app.active(&host)?;
    match command {
        CaCommand::Init(arguments) => init(&host, &env, arguments).await,
        CaCommand::Issue(arguments) => issue(&host, &env, arguments).await,
        CaCommand::Revoke { which } => {
            let entry = authority::revoke(&host, &env.tenant, &which).await?;
            print(&format!("{} of {} is revoked\n", entry.serial, entry.name))?;
            Ok(0)
        }
        CaCommand::List(json) => list(&host, &env, json.json),
        CaCommand::Refresh => refresh(&host, app).await,
    }
}

/// Of one app, or of all: a timer runs it.
async fn refresh(host: &Host, app: &AppArgument) -> Result<u8> {
    let mut ended = Ok(0);
    for env in app.all_active(host)? {
        match authority::refresh(host, &env.tenant).await {
            Ok(worries) => {
                worries.iter().for_each(|worry| tracing::warn!("{worry}; see /data/{}-ca", env.app.name));
            }
            // The others' lists are signed all the same.
            Err(error) => ended = ended.and(Err(error.context(format!("the CA of {}", env.app.name)))),
        }
    }
    ended
}

async fn init(host: &Host, env: &Env, arguments: InitArguments) -> Result<u8> {
    let (app, domain) = (&env.tenant, env.appliance.domain.as_str());
    match (arguments.request, arguments.signed, arguments.parent_crl) {
        (Some(file), _, _) => {
            let request = authority::request(host, app, domain).await?;
            host.write_new(&absolute(&file)?, request.as_bytes(), 0o644, true)?;
            print(&format!(
                "{file} is the request; have it signed as a CA, then run:\n  appliance cert ca init --signed CHAIN --parent-crl LISTS\n"
            ))?;
        }
        (None, Some(signed), Some(lists)) => {
            authority::accept(host, app, &text(host, &signed)?, &text(host, &lists)?).await?;
            print("the CA is in place; issue with: appliance cert ca issue NAME\n")?;
        }
        _ => {
            let made = authority::init(host, app, domain).await?;
            print(if made {
                "the CA is made; issue with: appliance cert ca issue NAME\n"
            } else {
                "the CA is there already\n"
            })?;
        }
    }
    Ok(0)
}

async fn issue(host: &Host, env: &Env, arguments: IssueArguments) -> Result<u8> {
    let name = arguments.name.trim();
    let out = arguments.out.unwrap_or_else(|| format!("{}.p12", file_name(name)));
    let (password, made) = match &arguments.password_file {
        Some(file) => {
            let text = text(host, file)?;
            let line = text.lines().next().unwrap_or_default();
            if line.is_empty() {
                bail!("{file} has no password on its first line");
            }
            (Secret::new(line), false)
        }
        None => (host.new_password()?, true),
    };
    let path = absolute(&out)?;
    let packed = Packed { path: &path, password: &password, legacy: arguments.legacy };
    let entry = authority::issue(host, &env.tenant, name, arguments.email.as_ref(), arguments.days, packed).await?;
    let expires = entry.expires.strftime("%F");
    print(&format!("file      {out}\nserial    {}\nexpires   {expires}\n", entry.serial))?;
    if made {
        // Its one showing: it is kept nowhere.
        print(&format!("password  {}\n", password.expose()))?;
    }
    Ok(0)
}

fn list(host: &Host, env: &Env, json: bool) -> Result<u8> {
    let Some(entries) = authority::list(host, &env.tenant)? else {
        bail!("the CA in /data/{}-ca is not the appliance's own; whoever made it knows what it issued", env.app.name);
    };
    let now = host.now();
    let state = |entry: &Entry| match entry.state(now) {
        State::Valid => "valid",
        State::Expired => "expired",
        State::Revoked => "revoked",
    };
    if json {
        let told: Vec<_> = entries
            .iter()
            .map(|entry| {
                let mut told = json!(entry);
                told["state"] = state(entry).into();
                told
            })
            .collect();
        print(&format!("{}\n", serde_json::to_string_pretty(&told)?))?;
    } else if entries.is_empty() {
        print("nothing was issued yet\n")?;
    } else {
        let rows = entries.iter().map(|entry| {
            let day = |at: jiff::Timestamp| at.strftime("%F").to_string();
            vec![
                entry.serial.clone(),
                entry.name.clone(),
                day(entry.issued),
                day(entry.expires),
                state(entry).to_owned(),
            ]
        });
        print(&render::table(&["SERIAL", "NAME", "ISSUED", "EXPIRES", "STATE"], rows))?;
    }
    Ok(0)
}

fn text(host: &Host, file: &str) -> Result<String> {
    host.read_text(&absolute(file)?, MAX_FILE)?.with_context(|| format!("there is no file {file}"))
}

/// A name of a file for a person's name.
fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "-_.@".contains(c) { c } else { '-' };
    name.chars().map(plain).collect::<String>().trim_start_matches('.').to_owned()
}
