//! Which images the appliance has pulled for an app. Only those are taken away when no release needs them any more: what somebody has loaded
//! or built by hand is theirs.

use super::app_directory;
use crate::host::Host;
use crate::value::AppName;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// How many are remembered, the newest of them. One that is forgotten stays with Docker.
const MAX_PULLED: usize = 1000;

/// One image, from before it is pulled until it is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// As the compose file names it.
    pub reference: String,
    /// What the reference led to before, which is not the appliance's.
    pub before: Option<String>,
    /// The image; none until the pull has ended, or if it was cut off.
    pub id: Option<String>,
}

fn path(app: &AppName) -> String {
    format!("{}/pulled.json", app_directory(app))
}

/// All that are remembered, the oldest first. A broken list is as good as none: what it named stays with Docker.
///
/// # Errors
/// The file cannot be read.
pub fn read(host: &Host, app: &AppName) -> Result<Vec<Pulled>> {
    match host.read(&path(app), MAX_BYTES)? {
        Some(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!("{} is broken and not used: {error}", path(app));
            Vec::new()
        })),
        None => Ok(Vec::new()),
    }
}

/// Writes all that are to be remembered.
pub fn write(host: &Host, app: &AppName, all: &[Pulled]) -> Result<()> {
    let newest = &all[all.len().saturating_sub(MAX_PULLED)..];
    host.put(&path(app), &serde_json::to_vec(newest).context("the list of pulled images cannot be written")?, 0o600)
}

/// Remembers that an image is about to be pulled.
pub fn begin(host: &Host, app: &AppName, reference: &str, before: Option<String>) -> Result<()> {
    let mut all = read(host, app)?;
    // A pull of the same that was cut off, or failed: what was there before that is what counts.
    if !all.iter().any(|known| known.reference == reference && known.id.is_none()) {
        all.push(Pulled { reference: reference.to_owned(), before, id: None });
        write(host, app, &all)?;
    }
    Ok(())
}

/// Remembers what was pulled. What was there already is not the appliance's.
pub fn end(host: &Host, app: &AppName, reference: &str, id: Option<String>) -> Result<()> {
    let mut all = read(host, app)?;
    let Some(at) = all.iter().position(|known| known.reference == reference && known.id.is_none()) else {
        return Ok(());
    };
    let begun = all.remove(at);
    let is_known = all.iter().any(|known| known.id == id);
    if id.is_some() && id != begun.before && !is_known {
        all.push(Pulled { id, ..begun });
    }
    write(host, app, &all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;

    #[test]
    fn only_what_was_not_there_before_is_the_appliances() {
        let test = TestHost::new();
        let (host, app) = (&test.host, AppName::ecs());
        let id = |text: &str| Some(text.to_owned());
        let pull = |reference: &str, before: Option<String>, after: Option<String>| {
            begin(host, &app, reference, before).expect("it can be written");
            end(host, &app, reference, after).expect("it can be written");
        };
        pull("a:1", None, id("sha256:1"));
        pull("b:1", id("sha256:2"), id("sha256:2"));
        pull("b:1", id("sha256:2"), id("sha256:3"));
        pull("c:1", None, id("sha256:1"));
        pull("d:1", None, None);
        let all = read(host, &app).expect("it can be read");
        let ids: Vec<_> = all.iter().map(|pulled| pulled.id.as_deref()).collect();
        assert_eq!(ids, [Some("sha256:1"), Some("sha256:3")]);

        // Cut off, then tried once more: the one of the first try is no image of somebody else's.
        begin(host, &app, "e:1", id("sha256:4")).expect("it can be written");
        begin(host, &app, "e:1", id("sha256:5")).expect("it can be written");
        end(host, &app, "e:1", id("sha256:5")).expect("it can be written");
        let all = read(host, &app).expect("it can be read");
        assert_eq!(all.last().and_then(|pulled| pulled.id.clone()), id("sha256:5"));
        // A disk that lost its contents keeps no release from being pulled.
        host.put(&path(&app), b"[{", 0o600).expect("it can be written");
        pull("f:1", None, id("sha256:6"));
        assert_eq!(read(host, &app).expect("it can be read").len(), 1);
    }
}
