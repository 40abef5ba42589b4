//! Finding env.yml: which places are asked, in which order, and what is said when none answers. Parsing is `env/`;
//! the env's history is `state/`.

mod metadata;
mod own;

pub use crate::env::LOCAL;
use crate::env::{Diagnostic, Env, Envs, MAX_BYTES, Report, document::Place};
use crate::host::{Cmd, Drive, Host};
use crate::state::history::{self, ACTIVE};
use crate::value::{AppName, Calendar};
use anyhow::{Context, Result};
use metadata::Said;
use std::io::Read;
use std::time::Duration;

/// How long looking at all drives may take.
const LOOKING: Duration = Duration::from_secs(2);

/// Where an env comes from (docs/env.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Cidata,
    Config2,
    Ec2,
    Gce,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Cidata => "cidata",
            Kind::Config2 => "config-2",
            Kind::Ec2 => "ec2",
            Kind::Gce => "gce",
        }
    }
}

/// An env and where it came from.
#[derive(Debug)]
pub struct Found {
    pub envs: Envs,
    pub kind: Kind,
    /// The file's path, or the source and what was read from it: what stands before line and column.
    pub origin: String,
    pub bytes: Vec<u8>,
    /// Its warnings; it has no errors.
    pub report: Report,
}

/// A place that gave no env, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    pub place: String,
    pub why: String,
    /// It should have been there: an env may exist that could not be had this time.
    pub failed: bool,
}

/// What a search gave.
#[derive(Debug)]
pub enum Search {
    Found(Box<Found>),
    Nothing(Vec<Tried>),
}

/// Asks the sources in their order; the first that answers wins, even if what it says is broken.
///
/// `env_yml` is the variable `$ENV_YML`.
///
/// # Errors
/// [`crate::env::BrokenFile`] if the source that answers holds errors; anything else if it cannot be read.
pub async fn find(host: &Host, env_yml: Option<&str>) -> Result<Search> {
    let mut tried = Vec::new();
    let mut note = |place: &str, why: String, failed| tried.push(Tried { place: place.to_owned(), why, failed });
    match env_yml {
        None | Some("") => note("$ENV_YML", "not set".to_owned(), false),
        Some(path) if !path.starts_with('/') => {
            anyhow::bail!("$ENV_YML is '{path}', but must be an absolute path");
        }
        // Somebody who names a file wants that file, not the next source.
        Some(path) => match host.read_start(path, MAX_BYTES + 1)? {
            Some(bytes) => return check(host, Kind::File, path, bytes).await.map(found),
            None => anyhow::bail!("$ENV_YML names {path}, but there is no such file"),
        },
    }
    match host.read_start(LOCAL, MAX_BYTES + 1)? {
        Some(bytes) => return check(host, Kind::File, LOCAL, bytes).await.map(found),
        None => note(LOCAL, "there is no such file".to_owned(), false),
    }
    let drives = host.drives(LOOKING).await;
    for (kind, label, path) in
        [(Kind::Cidata, "cidata", "user-data"), (Kind::Config2, "config-2", "openstack/latest/user_data")]
    {
        let place = format!("a drive labelled {label}");
        match ask_drive(host, &drives, label, path).await {
            Said::Text(bytes) => return check(host, kind, &format!("{}:{path}", kind.name()), bytes).await.map(found),
            Said::Nothing(why) => note(&place, why, false),
            // A drive with this label is the source; what is wrong with it is not mended by asking another one.
            Said::Failed(why) if drives.is_ok() => anyhow::bail!("{place} cannot be read: {why}"),
            Said::Failed(why) => note(&place, why, true),
        }
    }
    for (kind, place) in [(Kind::Ec2, "EC2's metadata service"), (Kind::Gce, "GCE's metadata service")] {
        match metadata::ask(host, kind).await? {
            Said::Text(bytes) => {
                return check(host, kind, &format!("{}:user-data", kind.name()), bytes).await.map(found);
            }
            Said::Nothing(why) => note(place, why, false),
            Said::Failed(why) => note(place, why, true),
        }
    }
    Ok(Search::Nothing(tried))
}

fn found(found: Found) -> Search {
    Search::Found(Box::new(found))
}

async fn ask_drive(host: &Host, drives: &Result<Vec<Drive>>, label: &str, path: &str) -> Said {
    let drives = match drives {
        Ok(drives) => drives,
        Err(error) => return Said::Failed(format!("the drives could not be looked at: {error:#}")),
    };
    // FAT knows only upper-case labels.
    let Some(drive) = drives.iter().find(|drive| drive.label.eq_ignore_ascii_case(label)) else {
        return Said::Nothing("there is none".to_owned());
    };
    match host.read_from_drive(drive, path, MAX_BYTES + 1).await {
        Ok(Some(bytes)) if bytes.is_empty() => Said::Nothing(format!("{path} on {} is empty", drive.device)),
        Ok(Some(bytes)) => Said::Text(bytes),
        Ok(None) => Said::Nothing(format!("{} has no {path}", drive.device)),
        Err(error) => Said::Failed(format!("{error:#}")),
    }
}

/// Reads one file as an env, and judges it.
pub async fn read(host: &Host, path: &str) -> Result<Option<Found>> {
    match host.read_start(path, MAX_BYTES + 1)? {
        Some(bytes) => check(host, Kind::File, path, bytes).await.map(Some),
        None => Ok(None),
    }
}

/// Reads an env that was judged when it was activated: what could have changed since is not asked again.
///
/// # Errors
/// It cannot be read, or this program does not take it.
pub fn judged(host: &Host, path: &str) -> Result<Option<Found>> {
    match host.read_start(path, MAX_BYTES + 1)? {
        Some(bytes) => {
            let parsed = Env::parse(&bytes);
            good(parsed.envs, Kind::File, path, bytes, parsed.report).map(Some)
        }
        None => Ok(None),
    }
}

/// The active env.
///
/// # Errors
/// There is none, or it is broken.
pub fn active(host: &Host) -> Result<Found> {
    judged(host, ACTIVE)?.context("there is no active env; run: systemctl start appliance, or appliance env activate")
}

/// The active env, as an app sees it.
///
/// # Errors
/// As for [`active`]; or the app is not in it any more.
pub fn active_of(host: &Host, app: &AppName) -> Result<Env> {
    let found = active(host)?;
    found.envs.of(app).cloned().with_context(|| format!("the active env has no app '{app}' any more"))
}

/// The last env that was good: the active one, or after a boot the newest that was active before it. An older one is not
/// looked for: it would be another appliance.
pub fn last_good(host: &Host) -> Result<Option<Found>> {
    if let Ok(Some(active)) = judged(host, ACTIVE) {
        return Ok(Some(active));
    }
    match history::list(host)?.last() {
        Some(newest) => judged(host, &newest.path()),
        None => Ok(None),
    }
}

/// Whether a text begins as cloud-init asks for it: such a file serves as user-data too.
pub fn is_user_data(bytes: &[u8]) -> bool {
    bytes.split(|b| *b == b'\n').next().is_some_and(|line| line.trim_ascii_end() == b"#cloud-config")
}

/// Reads what a source said into an env.
///
/// # Errors
/// [`crate::env::BrokenFile`] with every problem.
pub async fn check(host: &Host, kind: Kind, origin: &str, bytes: Vec<u8>) -> Result<Found> {
    let bytes = if kind == Kind::File { bytes } else { unpacked(bytes) };
    let parsed = Env::parse(&bytes);
    let mut report = parsed.report;
    for (calendar, spot) in parsed.calendars {
        if let Some(diagnostic) = judge_calendar(host, spot.place, &calendar).await {
            report.push(Diagnostic { quote: spot.quote, ..diagnostic });
        }
    }
    for asked in parsed.own {
        own::judge(host, asked).into_iter().for_each(|diagnostic| report.push(diagnostic));
    }
    if kind != Kind::File && !is_user_data(&bytes) {
        let text = "user-data for the appliance begins with the line '#cloud-config'; this is something else";
        report.push(Diagnostic::error(Place::START, text));
    }
    good(parsed.envs, kind, origin, bytes, report)
}

fn good(envs: Option<Envs>, kind: Kind, origin: &str, bytes: Vec<u8>, report: Report) -> Result<Found> {
    let report = report.sorted();
    match envs {
        Some(envs) if !report.has_errors() => Ok(Found { envs, kind, origin: origin.to_owned(), bytes, report }),
        _ => Err(report.into_error(origin).into()),
    }
}

/// User-data may come compressed; what cannot be unpacked is left for the parser to complain of.
fn unpacked(bytes: Vec<u8>) -> Vec<u8> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return bytes;
    }
    let mut text = Vec::new();
    match flate2::read::MultiGzDecoder::new(&*bytes).take(MAX_BYTES + 1).read_to_end(&mut text) {
        Ok(_) => text,
        Err(_) => bytes,
    }
}

/// systemd's own word on a calendar expression.
async fn judge_calendar(host: &Host, place: Place, calendar: &Calendar) -> Option<Diagnostic> {
    let question = Cmd::new("systemd-analyze", ["calendar", "--", calendar.as_str()]).deadline(Duration::from_secs(5));
    match host.try_ask(question).await {
        Ok(output) if output.code == Some(0) => None,
        Ok(output) => {
            // The first line names expression and reason; a hint and colours follow.
            let said = output.stderr.lines().next().unwrap_or_default().trim().to_owned();
            let text = format!("systemd takes no calendar expression like this one: {said}; try '*-*-* 06:30:00'");
            Some(Diagnostic::error(place, text))
        }
        Err(error) => {
            Some(Diagnostic::warning(place, format!("the calendar expression could not be checked: {error:#}")))
        }
    }
}

/// The sources that were tried, one line each.
pub fn render_tried(tried: &[Tried]) -> String {
    tried.iter().map(|tried| format!("{}: {}", tried.place, tried.why)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;

    const GOOD: &[u8] = b"appliance: {domain: a.de}\napp: {name: x, git: {source: /srv/x}}\n";

    #[tokio::test]
    async fn the_first_source_that_answers_wins_even_broken() {
        let test = TestHost::new();
        let Search::Nothing(tried) = find(&test.host, None).await.expect("searching works") else {
            panic!("nothing is there")
        };
        assert_eq!(tried.len(), 6);
        test.host.put(LOCAL, GOOD, 0o600).expect("the file can be written");
        test.host.put("/other.yml", b"appliance: 1\n", 0o600).expect("the file can be written");
        assert!(matches!(find(&test.host, None).await, Ok(Search::Found(found)) if found.origin == LOCAL));
        let broken = find(&test.host, Some("/other.yml")).await.expect_err("a broken source does not fall through");
        assert!(broken.downcast_ref::<crate::env::BrokenFile>().is_some());
        assert!(find(&test.host, Some("/none.yml")).await.is_err());
        assert!(find(&test.host, Some("relative.yml")).await.is_err());
    }

    fn packed(text: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(text).expect("a vector takes everything");
        packer.finish().expect("a vector takes everything")
    }

    #[tokio::test]
    async fn user_data_is_unpacked_within_bounds_and_must_say_what_it_is() {
        let test = TestHost::new();
        let ask = async |bytes: &[u8]| {
            let checked = check(&test.host, Kind::Ec2, "ec2:user-data", bytes.to_vec()).await;
            checked.map(drop).map_err(|error| error.to_string())
        };
        let good = [b"#cloud-config\n", GOOD].concat();
        assert_eq!(ask(&good).await, Ok(()));
        assert_eq!(ask(&packed(&good)).await, Ok(()));
        assert!(
            ask(GOOD).await.is_err_and(|said| said.contains("ec2:user-data:1:1: error: user-data for the appliance"))
        );
        assert!(ask(&packed(&vec![b'#'; 50 << 20])).await.is_err_and(|said| said.contains("larger than")));
        assert!(ask(&packed(&good)[..20]).await.is_err_and(|said| said.contains("not UTF-8")));
    }
}
