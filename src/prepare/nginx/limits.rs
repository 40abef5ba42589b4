//! How many connections nginx takes: Debian's own limits end at some four hundred visitors.

use super::{MAX_CONFIG, UNIT};
use crate::host::{Changed, File, Host, Owed};
use anyhow::{Context, Result};

pub(super) const MAIN: &str = "/etc/nginx/nginx.conf";
/// Included where the limit of open files belongs: outside of every block.
const FILES: &str = "/etc/nginx/modules-enabled/90-appliance.conf";
/// For one worker. A visitor takes two: one to nginx, one from it to the app.
const CONNECTIONS: u32 = 8192;

/// Raises the limits; what an operator has set higher stays.
pub(super) fn prepare(host: &Host) -> Result<Changed> {
    let files =
        format!("# Written by appliance; changes are overwritten.\nworker_rlimit_nofile {};\n", 2 * CONNECTIONS);
    let files = host.ensure_file_of(UNIT, Owed::Reload, FILES, &File::text(files).mode(0o644))?;
    let main = host.read_text(MAIN, MAX_CONFIG)?.with_context(|| format!("{MAIN} is missing"))?;
    match raised(&main) {
        Some(text) => Ok(host.ensure_file_of(UNIT, Owed::Reload, MAIN, &File::text(text))?.or(files)),
        None => Ok(files),
    }
}

/// The text with more connections; none where there are enough, or it does not say.
fn raised(text: &str) -> Option<String> {
    const DIRECTIVE: &str = "worker_connections";
    let is_it = |line: &&str| line.trim_start().starts_with(DIRECTIVE);
    let line = text.lines().find(is_it)?;
    let number: u32 = line.trim().strip_prefix(DIRECTIVE)?.split(';').next()?.trim().parse().ok()?;
    let indent = &line[..line.len() - line.trim_start().len()];
    (number < CONNECTIONS).then(|| text.replacen(line, &format!("{indent}{DIRECTIVE} {CONNECTIONS};"), 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lower_limit_is_raised() {
        let stock = "events {\n\tworker_connections 768;\n\t# multi_accept on;\n}\n";
        let raised_text = "events {\n\tworker_connections 8192;\n\t# multi_accept on;\n}\n";
        assert_eq!(raised(stock).as_deref(), Some(raised_text));
        for enough in [raised_text, "events {\n  worker_connections 20000;\n}\n", "# worker_connections 1;\n", ""] {
            assert_eq!(raised(enough), None);
        }
    }
}
