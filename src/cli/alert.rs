//! `appliance alert …` and `appliance watch`: what is wrong, who is told, and whether that works.

use super::{JsonArgument, print, render};
use crate::alert::{self, Channel, HOME, Key, Phase, Silence, Spool};
use crate::host::{Host, Mode};
use crate::source;
use crate::value::rule::RULES;
use crate::value::{RuleLimits, Severity};
use crate::watch;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum AlertCommand {
    /// List what is wrong (exit 0 nothing, 2 something)
    #[command(after_help = "Example:\n  appliance alert list --json | jq -r '.[].key'")]
    List(JsonArgument),
    /// Say that somebody sees to an alert: it is not told again, but when it is over
    #[command(after_help = "Example:\n  appliance alert ack disk.full:/data --for 24h")]
    Ack(AckArguments),
    /// Have a rule, or one thing that it is about, not told for a while
    #[command(
        after_help = "Example:\n  appliance alert silence disk.full:/data --for 2h --why 'a bigger disk comes tonight'"
    )]
    Silence(SilenceArguments),
    /// List what is silenced, until when and why
    #[command(after_help = "Example:\n  appliance alert silences")]
    Silences(JsonArgument),
    /// End a silence before its time
    #[command(after_help = "Example:\n  appliance alert unsilence disk.full:/data")]
    Unsilence {
        /// The rule, or the alert, as it was silenced
        key: String,
    },
    /// List the channels: who is told, when that worked last, and what waits
    #[command(after_help = "Example:\n  appliance alert channels")]
    Channels(JsonArgument),
    /// Tell all channels, or one, and print what each receiver answered (exit 0 all took it, 1 one did not)
    #[command(after_help = "Example:\n  appliance alert test")]
    Test(TestArguments),
    /// Tell all channels something: for scripts of root's
    #[command(after_help = "Example:\n  appliance alert send warning 'the import was not complete'")]
    Send(SendArguments),
    /// List the rules: what is looked at, and when it is told
    #[command(after_help = "Example:\n  appliance alert rules")]
    Rules,
}

#[derive(Debug, Args)]
pub struct AckArguments {
    /// The alert, as `appliance alert list` names it
    key: String,
    /// For how long
    #[arg(long = "for", value_name = "TIME", default_value = "8h", value_parser = duration)]
    time: SignedDuration,
}

#[derive(Debug, Args)]
pub struct SilenceArguments {
    /// The rule, or the alert, as `appliance alert list` names it
    key: String,
    /// For how long
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: SignedDuration,
    /// Why, for whoever wonders later
    #[arg(long, value_name = "TEXT")]
    why: String,
}

#[derive(Debug, Args)]
pub struct TestArguments {
    /// The channel (default: all)
    channel: Option<String>,
}

#[derive(Debug, Args)]
pub struct SendArguments {
    severity: Level,
    /// One line
    text: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    Warning,
    Error,
    Critical,
}

impl From<Level> for Severity {
    fn from(level: Level) -> Severity {
        match level {
            Level::Warning => Severity::Warning,
            Level::Error => Severity::Error,
            Level::Critical => Severity::Critical,
        }
    }
}

/// The longest time that something is not told, in hours.
const LONGEST_H: i64 = 24 * 90;
/// How long the receivers' answers to a test are waited for.
const ANSWERS: Duration = Duration::from_secs(90);
/// After so long it is looked for answers again, though nothing told of one.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The most that may wait for a watch that does not run.
const MAX_HANDED_OVER: usize = 500;
/// What has to hold for longer before it fires is not listed before: a new host without a backup is not wrong yet. In seconds.
const MAX_HOLD_S: i64 = 3600;
/// The longest text that is sent, in characters.
const MAX_TEXT: usize = 500;

fn duration(text: &str) -> Result<SignedDuration, String> {
    let right = || format!("a time like 30m or 8h, at most {LONGEST_H}h");
    let time: SignedDuration = text.parse().map_err(|_| right())?;
    let is_good = time > SignedDuration::ZERO && time <= SignedDuration::from_hours(LONGEST_H);
    if is_good { Ok(time) } else { Err(right()) }
}

pub async fn watch() -> Result<u8> {
    watch::run(&Host::system(Mode::Apply)).await.map(|()| 0)
}

pub async fn alert(command: AlertCommand) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    match command {
        AlertCommand::List(json) => list(json.json, &host),
        AlertCommand::Ack(arguments) => acknowledge(&arguments, &host).await,
        AlertCommand::Silence(arguments) => silence(arguments, &host).await,
        AlertCommand::Silences(json) => silences(json.json, &host),
        AlertCommand::Unsilence { key } => unsilence(&key, &host).await,
        AlertCommand::Channels(json) => channels(json.json, &host),
        AlertCommand::Test(arguments) => test(arguments.channel.as_deref(), &host).await,
        AlertCommand::Send(arguments) => send(&arguments, &host),
        AlertCommand::Rules => rules(&host),
    }
}

/// An alert, as it is listed.
#[derive(Serialize)]
struct Row {
    key: String,
    severity: Severity,
    phase: Phase,
    since: Timestamp,
    summary: String,
    remedy: String,
    acknowledged_until: Option<Timestamp>,
}

fn list(json: bool, host: &Host) -> Result<u8> {
    let known = alert::known(Spool(host))?;
    let now = host.now();
    let rows: Vec<Row> = known
        .alerts()
        .iter()
        .filter(|alert| alert.phase != Phase::Pending || alert.condition.hold_s <= MAX_HOLD_S)
        .map(|alert| Row {
            key: alert.condition.key.to_string(),
            severity: alert.condition.severity,
            phase: alert.phase,
            since: alert.since,
            summary: alert.condition.summary.clone(),
            remedy: alert.condition.remedy.clone(),
            acknowledged_until: alert.acknowledged_until.filter(|until| *until > now),
        })
        .collect();
    let code = if rows.iter().any(|row| row.phase == Phase::Firing) { 2 } else { 0 };
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?;
        return Ok(code);
    }
    if rows.is_empty() {
        print("nothing is wrong\n")?;
        return Ok(code);
    }
    let lines = rows.iter().map(|row| {
        let state = match (row.phase, row.acknowledged_until) {
            (Phase::Firing, Some(_)) => "acknowledged",
            (Phase::Firing, None) => "firing",
            (Phase::Pending, _) => "pending",
            (Phase::Recovering, _) => "recovering",
        };
        let since = row.since.strftime("%Y-%m-%d %H:%M UTC").to_string();
        vec![row.key.clone(), row.severity.name().to_owned(), state.to_owned(), since, row.summary.clone()]
    });
    print(&render::table(&["ALERT", "SEVERITY", "STATE", "SINCE", "WHAT"], lines))?;
    rows.iter().try_for_each(|row| print(&format!("{}: {}\n", row.key, row.remedy)))?;
    Ok(code)
}

fn key(text: &str) -> Result<Key> {
    let key: Key = text.parse()?;
    if RULES.iter().any(|rule| rule.name == key.rule) {
        return Ok(key);
    }
    bail!("there is no rule '{}'; see: appliance alert rules", key.rule)
}

fn after(time: SignedDuration, host: &Host) -> Result<Timestamp> {
    host.now().checked_add(time).context("that is too long")
}

async fn acknowledge(arguments: &AckArguments, host: &Host) -> Result<u8> {
    let key = key(&arguments.key)?;
    let until = after(arguments.time, host)?;
    if !alert::acknowledge(&key, until, Spool(host), host).await? {
        bail!("nothing is wrong with {key}; see: appliance alert list");
    }
    print(&format!("{key} is not told again until {until}, but when it is over\n"))?;
    Ok(0)
}

async fn silence(arguments: SilenceArguments, host: &Host) -> Result<u8> {
    let key = key(&arguments.key)?;
    let until = after(arguments.time, host)?;
    if arguments.why.chars().count() > MAX_TEXT || arguments.why.chars().any(char::is_control) {
        bail!("--why must be one line of at most {MAX_TEXT} characters");
    }
    let said = format!("{key} is not told until {until}\n");
    let subject = Some(key.subject).filter(|subject| !subject.is_empty());
    let silence = Silence { rule: key.rule, subject, until, why: arguments.why };
    alert::silence(silence, Spool(host), host).await?;
    print(&said)?;
    Ok(0)
}

fn silences(json: bool, host: &Host) -> Result<u8> {
    let now = host.now();
    let known = alert::known(Spool(host))?.silences;
    let lasting: Vec<Silence> = known.into_iter().filter(|silence| silence.until > now).collect();
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&lasting)?))?;
        return Ok(0);
    }
    if lasting.is_empty() {
        print("nothing is silenced\n")?;
        return Ok(0);
    }
    let lines = lasting.into_iter().map(|silence| {
        let until = silence.until.strftime("%Y-%m-%d %H:%M UTC").to_string();
        vec![silence.key().to_string(), until, silence.why]
    });
    print(&render::table(&["SILENCED", "UNTIL", "WHY"], lines))?;
    Ok(0)
}

async fn unsilence(text: &str, host: &Host) -> Result<u8> {
    let key = key(text)?;
    if !alert::unsilence(&key, Spool(host), host).await? {
        bail!("{key} is not silenced; see: appliance alert silences");
    }
    print(&format!("{key} is sent again\n"))?;
    Ok(0)
}

/// A channel, as it is listed.
#[derive(Serialize)]
struct ChannelRow {
    channel: String,
    last_success: Option<Timestamp>,
    failing_since: Option<Timestamp>,
    /// Since when the oldest event waits.
    waiting_since: Option<Timestamp>,
    given_up: u64,
    last_answer: Option<String>,
}

/// The names of the channels that the last good env has.
fn names(host: &Host) -> Result<Vec<String>> {
    // As the watch does: after a boot there may be none that is active.
    let found = source::last_good(host)?.context("there is no env yet that says who is to be told")?;
    let channels = Channel::all(found.envs.host());
    if channels.is_empty() {
        bail!("env.yml names no channel; see appliance.alert and appliance.sentry in docs/env.md");
    }
    Ok(channels.iter().map(|channel| channel.name().to_owned()).collect())
}

fn channels(json: bool, host: &Host) -> Result<u8> {
    let spool = Spool(host);
    let mut rows = Vec::new();
    for channel in names(host)? {
        let health = alert::health(&channel, spool)?;
        rows.push(ChannelRow {
            last_success: health.last_success,
            failing_since: health.failing_since,
            waiting_since: alert::oldest(&channel, spool)?,
            given_up: health.given_up,
            last_answer: health.answers.last().map(|answer| answer.text.clone()),
            channel,
        });
    }
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?;
        return Ok(0);
    }
    let at =
        |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M UTC").to_string());
    let lines = rows.into_iter().map(|row| {
        let answer = row.last_answer.unwrap_or_else(|| "never told anything; run: appliance alert test".to_owned());
        vec![row.channel, at(row.last_success), at(row.failing_since), at(row.waiting_since), answer]
    });
    print(&render::table(&["CHANNEL", "TOLD LAST", "FAILING SINCE", "WAITING SINCE", "LAST ANSWER"], lines))?;
    Ok(0)
}

async fn test(channel: Option<&str>, host: &Host) -> Result<u8> {
    let all = names(host)?;
    let wanted: Vec<String> = match channel {
        None => all,
        Some(name) if all.iter().any(|known| known == name) => vec![name.to_owned()],
        Some(name) => bail!("there is no channel '{name}'; there are: {}", all.join(", ")),
    };
    let spool = Spool(host);
    // Watched before anything is sent, so that no answer is missed.
    let mut answered = host
        .watch(&format!("{HOME}/channels"), &[])
        .context("the watch does not run; start it with: systemctl start appliance-watch")?;
    let mut open = Vec::new();
    for name in wanted {
        let text = format!("a test of the channel {name}: it works");
        let event = alert::Event::said(Severity::Warning, text, Some(name.clone()), host)?;
        alert::announce(&event, spool)?;
        open.push((name, event.id));
    }
    let mut code = 0;
    let wait = async {
        while !open.is_empty() {
            let mut left = Vec::new();
            for (name, id) in open.drain(..) {
                match alert::health(&name, spool)?.answers.into_iter().find(|answer| answer.id == id) {
                    Some(answer) => {
                        let said = if answer.is_success { "took it" } else { "did not take it" };
                        print(&format!("{name} {said}: {}\n", answer.text))?;
                        code = if answer.is_success { code } else { 1 };
                    }
                    None => left.push((name, id)),
                }
            }
            open = left;
            if !open.is_empty() {
                // While the disk is full answers lie elsewhere: so it looks again in any case.
                if let Ok(changed) = tokio::time::timeout(LOOK_AGAIN, answered.changed()).await {
                    changed?;
                }
            }
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(ANSWERS, wait).await {
        Ok(done) => done?,
        Err(_) => {
            bail!("no answer within {} s; does the watch run? See: systemctl status appliance-watch", ANSWERS.as_secs())
        }
    }
    Ok(code)
}

fn send(arguments: &SendArguments, host: &Host) -> Result<u8> {
    let text = arguments.text.trim();
    if text.is_empty() || text.chars().count() > MAX_TEXT || text.chars().any(char::is_control) {
        bail!("the text must be one line of at most {MAX_TEXT} characters");
    }
    names(host)?;
    if alert::handed_over(Spool(host))? >= MAX_HANDED_OVER {
        bail!("{MAX_HANDED_OVER} wait already; does the watch run? See: systemctl status appliance-watch");
    }
    let event = alert::Event::said(arguments.severity.into(), text.to_owned(), None, host)?;
    alert::announce(&event, Spool(host))?;
    print("it is told as soon as a receiver takes it; see: appliance alert channels\n")?;
    Ok(0)
}

fn rules(host: &Host) -> Result<u8> {
    let limits = match source::last_good(host)? {
        Some(found) => found.envs.host().appliance.alert.rules.clone(),
        None => RuleLimits::default(),
    };
    let lines = RULES.iter().map(|rule| {
        let limit = match (limits.is_off(rule), limits.of(rule)) {
            (true, _) => "off".to_owned(),
            (false, limit) => limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string()),
        };
        vec![rule.name.to_owned(), rule.severity.name().to_owned(), limit, rule.held_for(), rule.when.to_owned()]
    });
    print(&render::table(&["RULE", "SEVERITY", "LIMIT", "HELD FOR", "FIRES WHEN"], lines))?;
    Ok(0)
}
