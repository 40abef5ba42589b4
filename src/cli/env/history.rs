//! `appliance env history`, `diff` and `undo`: what was active, what would change, and the way back.

use super::super::{JsonArgument, env_yml, print, render};
use super::{find, named};
use crate::env::diff as env_diff;
use crate::host::{Host, Mode};
use crate::source::{self, Found, Kind};
use crate::state::history::{self, Kept};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

#[derive(Debug, Args)]
pub struct DiffArguments {
    /// A number of the history, or a file; else the active env
    old: Option<String>,
    /// A number of the history, or a file; else the first source that answers
    new: Option<String>,
    #[command(flatten)]
    json: JsonArgument,
}

#[derive(Debug, Args)]
pub struct HistoryArguments {
    #[command(flatten)]
    json: JsonArgument,
}

pub async fn diff(arguments: DiffArguments) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let old = match &arguments.old {
        Some(old) => pick(&host, old).await?,
        None => Box::new(source::active(&host)?),
    };
    let new = match &arguments.new {
        Some(new) => pick(&host, new).await?,
        None => find(&host).await?,
    };
    let (changes, more) = env_diff::diff(old.envs.host(), new.envs.host());
    if arguments.json.json {
        let told = json!({ "old": old.origin, "new": new.origin, "changes": changes, "left_out": more });
        print(&format!("{}\n", serde_json::to_string_pretty(&told)?))?;
    } else if changes.is_empty() {
        print("no key differs\n")?;
    } else {
        print(&env_diff::render(&changes, more))?;
    }
    Ok(if changes.is_empty() { 0 } else { 2 })
}

/// One of the history by its number, or a file.
async fn pick(host: &Host, what: &str) -> Result<Box<Found>> {
    let Ok(number) = what.parse::<u64>() else { return named(host, what).await };
    match history::list(host)?.iter().find(|kept| kept.number == number) {
        Some(kept) => named(host, &kept.path()).await,
        None => bail!("the history has no number {number}; see: appliance env history"),
    }
}

pub async fn history(arguments: HistoryArguments) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let active = source::judged(&host, history::ACTIVE).ok().flatten();
    let all = history::list(&host)?;
    // The same text may have been active more than once; the last time is the one that counts.
    let is_active =
        |kept: &Kept| active.as_ref().is_some_and(|found| found.envs.host().file_digest.starts_with(&kept.digest));
    let current = all.iter().rev().find(|kept| is_active(kept)).map(|kept| kept.number);
    let mut rows = Vec::new();
    for kept in all.iter().rev() {
        // An older program may have kept what this one does not take.
        let domain = source::judged(&host, &kept.path()).ok().flatten();
        let domain = domain.map_or("?".to_owned(), |found| found.envs.host().host_domain.to_string());
        rows.push((kept, domain, current == Some(kept.number)));
    }
    if arguments.json.json {
        let entries: Vec<_> = rows
            .iter()
            .map(|(kept, domain, active)| {
                json!({ "number": kept.number, "activated": kept.when, "digest": kept.digest, "domain": domain, "active": active })
            })
            .collect();
        print(&format!("{}\n", serde_json::to_string_pretty(&entries)?))?;
    } else if rows.is_empty() {
        print("no env was activated yet\n")?;
    } else {
        let line = |(kept, domain, active): (&Kept, String, bool)| {
            let state = if active { "active" } else { "" };
            vec![kept.number.to_string(), kept.when.clone(), domain, kept.digest.clone(), state.to_owned()]
        };
        print(&render::table(&["NUMBER", "ACTIVATED", "DOMAIN", "DIGEST", ""], rows.into_iter().map(line)))?;
    }
    Ok(0)
}

/// The largest file that is put aside, in bytes: one that is too large to be an env may be what is to be undone.
const MAX_ASIDE: u64 = 64 << 20;

/// Puts the env before the one in `/app/env.yml` there, and what it replaces beside it.
pub async fn undo() -> Result<u8> {
    let host = Host::system(Mode::Apply);
    if env_yml().is_some_and(|path| !path.is_empty()) {
        bail!("$ENV_YML names the env; undo rewrites {} and nothing else, so unset it first", source::LOCAL);
    }
    let Some(text) = host.read(source::LOCAL, MAX_ASIDE)? else {
        let kind = find(&host).await.map_or(Kind::File, |found| found.kind);
        bail!(
            "there is no {} to go back in: the env comes from {}; change it there",
            source::LOCAL,
            if kind == Kind::File { "elsewhere" } else { kind.name() }
        );
    };
    let digest = crate::env::digest(&text);
    let kept = history::before(&host, &text, &digest)?;
    let kept = kept.context("no other env was active before this one; see: appliance env history")?;
    let old = history::read(&host, &kept)?;
    let checked = source::check(&host, Kind::File, &kept.path(), old.clone()).await;
    checked.with_context(|| {
        format!("number {} of the history is not good any more, so nothing was changed", kept.number)
    })?;
    let when = host.now().strftime("%Y%m%dT%H%M%SZ");
    let free = (1..100).map(|number| format!("{}.{when}-{number}", source::LOCAL)).find(|path| !host.exists(path));
    let aside = free.context("there are a hundred files put aside this second already")?;
    host.write_new(&aside, &text, 0o600, false)?;
    host.put(source::LOCAL, &old, 0o600)?;
    print(&format!(
        "{} is number {} of the history again, as it was activated at {}\nwhat was there is {aside}\n\
         make it so with: systemctl restart appliance\n",
        source::LOCAL,
        kept.number,
        kept.when
    ))?;
    Ok(0)
}
