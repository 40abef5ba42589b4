//! How many connections nginx takes: Debian's own limits end at some four hundred visitors. What an operator has set is left alone.

use super::{MAX_CONFIG, UNIT};
use crate::host::{Changed, File, Host, Owed};
use anyhow::{Context, Result};

pub(super) const MAIN: &str = "/etc/nginx/nginx.conf";
/// Included where these directives belong: outside of every block.
pub(super) const MODULES: &str = "/etc/nginx/modules-enabled";
pub(super) const FILES: &str = "/etc/nginx/modules-enabled/90-appliance.conf";
/// For one worker. A visitor takes two: one to nginx, one from it to the app.
const CONNECTIONS: u32 = 8192;
/// The directives of our own file. A connection may keep a worker that was told to go for an hour: a client who was revoked
/// keeps an open one until then.
const DIRECTIVES: [(&str, &str); 2] = [("worker_rlimit_nofile", "16384"), ("worker_shutdown_timeout", "1h")];

/// What is to be written.
pub(super) struct Limits {
    pub(super) main: Option<String>,
    pub(super) files: Option<String>,
}

/// The limits that are to be raised, if any.
pub(super) fn wanted(host: &Host) -> Result<Option<Limits>> {
    let main = host.read_text(MAIN, MAX_CONFIG)?.with_context(|| format!("{MAIN} is missing"))?;
    // A link leads to somebody who keeps it elsewhere.
    let raised = if host.link_target(MAIN).is_some() { None } else { raised(&main) };
    let mut others = main.clone();
    for name in host.names(MODULES)? {
        let path = format!("{MODULES}/{name}");
        if path != FILES {
            others.push_str(&host.read_text(&path, MAX_CONFIG)?.unwrap_or_default());
        }
    }
    let files = main.contains(&format!("include {MODULES}/*.conf;")).then(|| ours(&others));
    let files = files.filter(|files| host.read_text(FILES, MAX_CONFIG).ok().flatten().as_ref() != Some(files));
    Ok((raised.is_some() || files.is_some()).then_some(Limits { main: raised, files }))
}

impl Limits {
    pub(super) fn put(&self, host: &Host) -> Result<Changed> {
        let mut changed = Changed::No;
        for (path, text) in [(FILES, &self.files), (MAIN, &self.main)] {
            if let Some(text) = text {
                let file = File::text(text.as_str()).mode(0o644);
                changed = host.ensure_file_of(UNIT, Owed::Reload, path, &file)?.or(changed);
            }
        }
        Ok(changed)
    }
}

/// The lines of a configuration that are no comments, with their places.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    let places = text.split_inclusive('\n').map(move |line| {
        at += line.len();
        (at - line.len(), line)
    });
    places.filter(|(_, line)| !line.trim_start().starts_with('#'))
}

/// Our own file, without what is set elsewhere: nginx takes each only once.
fn ours(others: &str) -> String {
    let is_set =
        |name: &str| lines(others).any(|(_, line)| line.split(';').any(|part| part.trim_start().starts_with(name)));
    let set: String =
        DIRECTIVES.iter().filter(|(name, _)| !is_set(name)).map(|(name, value)| format!("{name} {value};\n")).collect();
    format!("# Written by appliance; changes are overwritten.\n{set}")
}

/// The text with more connections; none where there are enough, or it does not say so in the usual way.
fn raised(text: &str) -> Option<String> {
    const DIRECTIVE: &str = "worker_connections ";
    let (at, line) = lines(text).find(|(_, line)| line.trim_start().starts_with(DIRECTIVE))?;
    let begin = at + line.find(DIRECTIVE)? + DIRECTIVE.len();
    let digits = text[begin..].chars().take_while(char::is_ascii_digit).count();
    let number: u32 = text[begin..begin + digits].parse().ok()?;
    let is_plain = text[begin + digits..].starts_with(';');
    (is_plain && number < CONNECTIONS).then(|| format!("{}{CONNECTIONS}{}", &text[..begin], &text[begin + digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lower_limit_is_raised_and_nothing_else_is_touched() {
        let stock = "events {\n\t# worker_connections 768;\n\tworker_connections 768;\n\t# multi_accept on;\n}\n";
        let more = stock.replace("\tworker_connections 768;", "\tworker_connections 8192;");
        assert_eq!(raised(stock), Some(more.clone()));
        let dense = "events { \nworker_connections 100; multi_accept on; }\n";
        assert_eq!(raised(dense), Some(dense.replace("100", "8192")));
        for enough in [
            more.as_str(),
            "events {\n  worker_connections 20000;\n}\n",
            "# worker_connections 1;\n",
            "",
            "worker_connections x;",
        ] {
            assert_eq!(raised(enough), None, "{enough}");
        }
    }

    #[test]
    fn what_is_set_elsewhere_is_left_alone() {
        assert!(ours("# worker_rlimit_nofile 5;\n").contains("worker_rlimit_nofile 16384;"));
        let set = ours("user x; worker_rlimit_nofile 65535;\n");
        assert!(!set.contains("worker_rlimit_nofile") && set.contains("worker_shutdown_timeout 1h;"));
    }
}
