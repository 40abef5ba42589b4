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

/// The last of what restic tells on stderr.
pub fn last_words(stderr: &str) -> String {
    let line = last_line(stderr);
    serde_json::from_str::<ExitError>(line).map_or_else(|_| line.to_owned(), |error| error.message)
}

/// The first line that says something.
pub fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it says nothing")
}

/// The last line that says something.
pub fn last_line(text: &str) -> &str {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it says nothing")
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
}
