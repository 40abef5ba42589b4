//! What restic prints, read: its lists, summaries and complaints, in what 0.14 and 0.18 have in common.

use anyhow::{Context, Result};
use serde::Deserialize;

/// A snapshot, as restic lists it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Snapshot {
    pub id: String,
    pub time: jiff::Timestamp,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub paths: Vec<String>,
}

impl Snapshot {
    /// The value of a tag `NAME=VALUE`.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find_map(|tag| tag.strip_prefix(name)?.strip_prefix('='))
    }
}

/// What was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The snapshot's id, or its beginning.
    pub snapshot: String,
    /// Files that were read, and their bytes.
    pub files: u64,
    pub bytes: u64,
    /// Some files could not be read; restic's own words.
    pub unread: Option<String>,
    /// Paths that could not be read, or were gone by then; an empty one: there are more than are told.
    pub passed_over: Vec<String>,
}

/// The last line of `backup --json`.
#[derive(Deserialize)]
struct Summary {
    message_type: String,
    #[serde(default)]
    snapshot_id: String,
    #[serde(default)]
    total_files_processed: u64,
    #[serde(default)]
    total_bytes_processed: u64,
}

/// A line on stderr of `backup --json` about a file that could not be read.
#[derive(Deserialize)]
struct Unread {
    #[serde(default)]
    item: String,
}

/// A regular file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub path: String,
    pub size: u64,
}

/// A line of `ls --json`.
#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    size: u64,
}

impl Node {
    fn file(self) -> Option<Listed> {
        (self.r#type == "file").then_some(Listed { path: self.path, size: self.size })
    }
}

/// What restic ends with since 0.17, where it was to write JSON.
#[derive(Deserialize)]
struct ExitError {
    message: String,
}

/// Where its words on stderr are cut, in bytes.
const MAX_WORDS: usize = 8 << 10;

/// What was stored, from what `backup --json` prints.
pub fn stored(told: &str) -> Result<Stored> {
    let summary = told.lines().rev().find_map(|line| {
        serde_json::from_str::<Summary>(line).ok().filter(|summary| summary.message_type == "summary")
    });
    let summary = summary.context("restic has told no summary of what it stored")?;
    let (files, bytes) = (summary.total_files_processed, summary.total_bytes_processed);
    Ok(Stored { snapshot: summary.snapshot_id, files, bytes, unread: None, passed_over: Vec::new() })
}

/// The regular files that `ls --json` prints.
pub fn files(told: &str) -> Vec<Listed> {
    told.lines().filter_map(|line| serde_json::from_str::<Node>(line).ok()).filter_map(Node::file).collect()
}

/// What restic has passed over, from what it tells on stderr.
pub fn passed_over(stderr: &str) -> Vec<String> {
    let item = |line: &str| serde_json::from_str::<Unread>(line).ok().map(|unread| unread.item);
    let mut paths: Vec<String> = stderr.lines().filter_map(item).filter(|item| !item.is_empty()).collect();
    // Of very many not all are told.
    if paths.is_empty() || stderr.len() >= MAX_WORDS {
        paths.push(String::new());
    }
    paths
}

/// Why restic has failed, from what it tells on stderr, and what to do where that is known. What it tells of files, and the trace of calls
/// behind an error that it did not expect, are passed over.
pub fn why(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let exit = lines.iter().rev().find_map(|line| serde_json::from_str::<ExitError>(line).ok());
    let is_retry = |line: &str| line.contains("retrying after") || line.contains("operation successful after");
    let plain = || lines.iter().filter(|line| !line.starts_with(['{', '\t']) && !is_retry(line));
    // These sum up what the lines before them say.
    let sums_up = |line: &&&str| SUMMARIES.iter().any(|words| line.contains(words));
    let is_fatal = |line: &&&str| line.starts_with("Fatal:") || line.starts_with("unable to create lock");
    let fatal = plain().find(|line| is_fatal(line) && !sums_up(line));
    let said = match (exit, fatal.or_else(|| plain().find(|line| !sums_up(line))).or_else(|| plain().next())) {
        (Some(exit), _) => exit.message,
        (None, Some(line)) => (*line).to_owned(),
        (None, None) => "it says nothing".to_owned(),
    };
    // A connection that breaks names the file as well that it was about.
    let is_damaged = is_damage(stderr);
    let advice = match () {
        () if is_damaged && (said.contains("<index/") || said.contains("loading index")) => {
            "the repository's index is damaged; make it anew, as docs/backup.md says"
        }
        () if is_damaged && said.contains("<snapshot/") => {
            "that snapshot is damaged; move that file out of the repository's directory snapshots"
        }
        () if said.contains("already locked") => {
            "if that process is gone, the lock is taken away by itself once it is 30 minutes old"
        }
        () => return said,
    };
    format!("{said}: {advice}")
}

/// Last words that say no more than that something was wrong.
const SUMMARIES: [&str; 2] = ["LoadIndex returned errors", "repository contains errors"];

/// Whether restic tells of something that is not as it was written, and not only of something that could not be read.
pub fn is_damage(stderr: &str) -> bool {
    const WORDS: [&str; 6] = [
        "invalid data",
        "verification failed",
        "does not match",
        "unexpected file size",
        "not found in index",
        "not found in repository",
    ];
    WORDS.iter().any(|words| stderr.contains(words))
}

/// The first line that says something.
pub fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it says nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_restic_lists_and_sums_up_is_read() {
        // 0.14 has a time zone and nanoseconds, and short ids beside the long ones.
        let text = r#"[{"time":"2026-11-28T22:41:03.123456789+01:00","tree":"x","paths":["/m.json"],"hostname":"a.de","username":"root",
            "tags":["run=1","app=shop"],"id":"c0ffee","short_id":"c0"},{"time":"2026-11-28T21:00:00Z","id":"aa"}]"#;
        let read: Vec<Snapshot> = serde_json::from_str(text).expect("it is read");
        assert_eq!((read[0].tag("run"), read[0].tag("app"), read[0].tag("part")), (Some("1"), Some("shop"), None));
        assert!(read[1].tags.is_empty() && read[0].time > read[1].time);
        let lines = "{\"message_type\":\"status\"}\n{\"message_type\":\"summary\",\"snapshot_id\":\"ab\",\"total_files_processed\":3,\"total_bytes_processed\":7}\n";
        let expected = Stored { snapshot: "ab".to_owned(), files: 3, bytes: 7, unread: None, passed_over: Vec::new() };
        assert_eq!(stored(lines).expect("a summary"), expected);
        let listed = "{\"struct_type\":\"snapshot\"}\n{\"name\":\"a\",\"type\":\"file\",\"path\":\"/d/a\",\"size\":7}\n{\"type\":\"dir\",\"path\":\"/d\"}\n";
        assert_eq!(files(listed), [Listed { path: "/d/a".to_owned(), size: 7 }]);
        let unread = "{\"message_type\":\"error\",\"item\":\"/d/b\"}\n";
        assert_eq!((passed_over(unread), passed_over("")), (vec!["/d/b".to_owned()], vec![String::new()]));
        assert!(stored("{\"message_type\":\"status\"}\n").is_err(), "a run that was cut off has none");
    }

    #[test]
    fn why_restic_failed_is_the_line_that_says_it() {
        for (stderr, expected) in [
            ("", "it says nothing"),
            ("Fatal: unable to open config file\nIs there a repository?\n", "Fatal: unable to open config file"),
            // 0.14 shows where in its source it met what it did not expect.
            (
                "load <snapshot/f257>: invalid data returned\ngithub.com/restic/restic/internal/x\n\trestic/repository.go:222\n",
                "load <snapshot/f257>: invalid data returned: that snapshot is damaged; move that file out of the repository's directory snapshots",
            ),
            (
                "{\"message_type\":\"error\",\"item\":\"/d/b\"}\nFatal: load <index/ea4b>: invalid data returned\n",
                "Fatal: load <index/ea4b>: invalid data returned: the repository's index is damaged; make it anew, as docs/backup.md says",
            ),
            (
                "unable to create lock in backend: repository is already locked exclusively by PID 7 on a.de by root\nstorage ID 3f\n",
                "unable to create lock in backend: repository is already locked exclusively by PID 7 on a.de by root: if that process is gone, the lock is \
                 taken away by itself once it is 30 minutes old",
            ),
            (
                "Load(<snapshot/4f33>, 0, 0) returned error, retrying after 720ms: ssh command exited\nLoad(<snapshot/4f33>, 0, 0) failed: ssh command exited\n",
                "Load(<snapshot/4f33>, 0, 0) failed: ssh command exited",
            ),
            (
                "{\"message_type\":\"exit_error\",\"code\":12,\"message\":\"Fatal: wrong password or no key found\"}\n",
                "Fatal: wrong password or no key found",
            ),
        ] {
            assert_eq!(why(stderr), expected);
        }
    }
}
