//! Which env a start takes: what the first source says, or, where that is broken or cannot be had, the last good one.

use crate::error::Halt;
use crate::host::Host;
use crate::prepare;
use crate::source::{self, Found, Search, Tried};
use crate::state::recovering;
use anyhow::Result;

/// The env to run, and why it is not the newest one, if it is not.
pub struct Chosen {
    pub found: Box<Found>,
    pub trouble: Option<String>,
}

/// Finds the env.
///
/// # Errors
/// [`Halt`] with standby if there is none; the broken env's own error if there is no good one to go on with.
pub async fn find(host: &Host, env_yml: Option<&str>) -> Result<Chosen> {
    recovering::refuse(host)?;
    match source::find(host, env_yml).await {
        Ok(Search::Found(found)) => Ok(Chosen { found, trouble: None }),
        Ok(Search::Nothing(tried)) => {
            // An env may be where it always was, and only its service be away: that must not take the app down.
            if tried.iter().any(|tried| tried.failed)
                && let Some(chosen) = last_good(host, "no source gave an env", &source::render_tried(&tried)).await
            {
                return Ok(chosen);
            }
            Err(nothing(host, &tried).await?.into())
        }
        Err(broken) => match last_good(host, "the newest env is broken", &format!("{broken:#}")).await {
            Some(chosen) => Ok(chosen),
            None => {
                // Where it is broken is for the operator, not for visitors.
                let line = "env.yml: it holds errors; for the operator: appliance env check".to_owned();
                prepare::page::prepare_without_env(host, vec![line]).await?;
                Err(broken)
            }
        },
    }
}

async fn last_good(host: &Host, what: &str, why: &str) -> Option<Chosen> {
    match source::last_good(host) {
        Ok(found) => found.map(|found| {
            let trouble = format!("{what}, so the last good one goes on ({}): {why}", found.origin);
            Chosen { found: Box::new(found), trouble: Some(trouble) }
        }),
        // What is wrong with the newest one is what the operator has to know.
        Err(error) => {
            tracing::warn!("the last good env cannot be used either: {error:#}");
            None
        }
    }
}

/// The page and the words of a host without an env.
async fn nothing(host: &Host, tried: &[Tried]) -> Result<Halt> {
    let lines = tried.iter().map(|tried| format!("{}: {}", tried.place, tried.why)).collect();
    prepare::page::prepare_without_env(host, lines).await?;
    let text = format!("put an env.yml in place, then run: systemctl start appliance\n{}", source::render_tried(tried));
    Ok(Halt::standby("No env.yml was found", text))
}
