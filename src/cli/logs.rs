//! `appliance logs`: the containers' lines from the journal, for people and for programs.

use super::choice::AppArgument;
use super::print;
use crate::host::{Host, Mode, terminal};
use crate::stack::logs::{Entry, JOURNALCTL, Lines, Query, harmless};
use crate::value::ServiceName;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::collections::BTreeMap;

#[derive(Debug, Args)]
pub struct LogsArguments {
    /// Services; else all
    services: Vec<String>,
    /// Keep showing new lines
    #[arg(short, long)]
    follow: bool,
    /// Show only the last lines
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<u32>,
    /// Show only lines since then: '10m', or as journalctl takes it: '2026-01-31 12:00'
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Show only lines until then
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Show only lines that match this regular expression; without capital letters it does not heed case
    #[arg(short, long, value_name = "PATTERN")]
    grep: Option<String>,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
    /// No colours even on a terminal
    #[arg(long)]
    no_color: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    app: AppArgument,
}

/// The colours of services, in turn: those that can be read on dark and on light.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

pub async fn logs(arguments: LogsArguments) -> Result<u8> {
    let host = Host::system(Mode::Check);
    for service in &arguments.services {
        if service.parse::<ServiceName>().is_err() {
            bail!("'{service}' is not a service's name");
        }
    }
    let envs = arguments.app.all_active(&host)?;
    let query = Query {
        projects: envs.iter().map(|env| env.app.name.as_str().to_owned()).collect(),
        services: arguments.services,
        follow: arguments.follow,
        tail: arguments.tail,
        since: arguments.since,
        until: arguments.until,
        grep: arguments.grep,
    };
    let mut shown = Shown {
        in_colour: !arguments.no_color && terminal::has_colours(),
        timestamps: arguments.timestamps,
        json: arguments.json,
        with_app: envs.len() > 1,
        known: BTreeMap::new(),
        width: 0,
    };
    let mut lines = Lines::default();
    let mut show = |line: &str| match lines.take(line) {
        Some(entry) => print(&shown.line(&entry)),
        None => Ok(()),
    };
    let ended = host.lines(JOURNALCTL, &query.arguments(), &mut show).await.context("could not read the journal")?;
    match ended {
        0 => Ok(0),
        // Nothing matched: as grep says it.
        1 if query.grep.is_some() => Ok(1),
        code => bail!("could not read the journal: {JOURNALCTL} ended with {code}"),
    }
}

struct Shown {
    in_colour: bool,
    timestamps: bool,
    json: bool,
    /// Whether lines of several apps are shown.
    with_app: bool,
    /// Which colour each origin has.
    known: BTreeMap<String, u8>,
    width: usize,
}

impl Shown {
    fn line(&mut self, entry: &Entry) -> String {
        let time = jiff::Timestamp::from_microsecond(entry.time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        if self.json {
            let stream = if entry.is_error { "stderr" } else { "stdout" };
            let line = serde_json::json!({
                "time": format!("{time:.6}"), "app": entry.project, "service": entry.service, "container": entry.container,
                "stream": stream, "message": entry.message,
            });
            return format!("{line}\n");
        }
        let origin = match self.with_app {
            true => format!("{}/{}", entry.project, entry.origin()),
            false => entry.origin(),
        };
        self.width = self.width.max(origin.len());
        let time = if self.timestamps { format!("{time:.3} ") } else { String::new() };
        let begin = format!("{origin:<width$} | ", width = self.width);
        if !self.in_colour {
            return format!("{begin}{time}{}\n", harmless(&entry.message, false));
        }
        let next = COLOURS[self.known.len() % COLOURS.len()];
        let colour = *self.known.entry(origin).or_insert(next);
        format!("\u{1b}[{colour}m{begin}\u{1b}[0m{time}{}\n", harmless(&entry.message, true))
    }
}
