//! Problems of a file, with their places: collected, sorted, rendered. Used for env.yml and for compose files.

use serde::Serialize;
use std::fmt;

/// A place in a file, line and column from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Which of the files that are read together (a compose file may have others beside it); 0 is the first.
    pub file: u16,
    pub line: u32,
    pub column: u32,
}

impl Place {
    pub const START: Place = Place { file: 0, line: 1, column: 1 };
}

/// Whether a problem stops the file from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One problem of a file. Never holds a secret: readers of secret keys leave the offending text out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    /// The file, if it is another than the one that the report is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Which file it is, by [`Place::file`].
    #[serde(skip)]
    pub source: u16,
    /// Where, from 1.
    pub line: u32,
    /// Where, in characters, from 1.
    pub column: u32,
    /// What is wrong and what would be right, one line.
    pub message: String,
    /// The line itself with a caret below; what may be a secret in it is left out (see `quote.rs`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quote: Option<Quote>,
}

/// A line of the file, fit to be printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quote {
    pub text: String,
    /// Where in the text the caret goes, in characters, from 0.
    pub caret: usize,
}

impl Diagnostic {
    pub fn error(place: Place, message: impl Into<String>) -> Self {
        let message = message.into();
        Diagnostic {
            severity: Severity::Error,
            file: None,
            source: place.file,
            line: place.line,
            column: place.column,
            message,
            quote: None,
        }
    }

    pub fn warning(place: Place, message: impl Into<String>) -> Self {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(place, message) }
    }

    /// `FILE:LINE:COLUMN: error: message`.
    pub fn render(&self, file: &str) -> String {
        let file = self.file.as_deref().unwrap_or(file);
        let kind = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        format!("{file}:{}:{}: {kind}: {}", self.line, self.column, self.message)
    }

    /// The same with the line below it, and a caret below that.
    pub fn render_quoted(&self, file: &str) -> String {
        let head = self.render(file);
        let Some(quote) = &self.quote else { return head };
        let (line, indent) = (self.line.to_string(), " ".repeat(quote.caret));
        let margin = " ".repeat(line.len());
        format!("{head}\n  {line} | {}\n  {margin} | {indent}^", quote.text)
    }
}

/// How many problems of one file are kept; a broken file can have one on every line.
const MAX_KEPT: usize = 100;

/// All problems of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    found: Vec<Diagnostic>,
    left_out: usize,
}

/// A message without the numbers of list items.
fn without_numbers(message: &str) -> impl PartialEq + '_ {
    message.split('[').map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit())).collect::<Vec<_>>()
}

impl Report {
    pub fn push(&mut self, diagnostic: Diagnostic) {
        // A part of a file that is read more than once, for several apps, has its problems once.
        let is_same = |known: &Diagnostic| {
            diagnostic.message.contains("apps[")
                && (known.line, known.column, known.severity)
                    == (diagnostic.line, diagnostic.column, diagnostic.severity)
                && without_numbers(&known.message) == without_numbers(&diagnostic.message)
        };
        if self.found.iter().any(is_same) {
            return;
        }
        if self.found.len() < MAX_KEPT {
            self.found.push(diagnostic);
            return;
        }
        self.left_out += 1;
        // A file full of warnings must not hide its errors.
        if diagnostic.severity == Severity::Error
            && let Some(last) = self.found.iter().rposition(|found| found.severity == Severity::Warning)
        {
            self.found.remove(last);
            self.found.push(diagnostic);
        }
    }

    /// How many problems are not among those that are told.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Whether further warnings are only counted.
    pub fn is_full(&self) -> bool {
        self.found.len() >= MAX_KEPT
    }

    pub fn has_errors(&self) -> bool {
        self.found.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Line and column of the first error of the env itself.
    pub fn first_error(&self) -> Option<(u32, u32)> {
        let errors = self.found.iter().filter(|found| found.severity == Severity::Error);
        errors.map(|found| (found.line, found.column)).min()
    }

    /// The problems in the order of their places.
    pub fn sorted(mut self) -> Self {
        self.found.sort_by_key(|diagnostic| (diagnostic.source, diagnostic.line, diagnostic.column));
        self
    }

    /// Puts the files' names to problems of other files than the first.
    pub fn name_files(&mut self, names: &[String]) {
        for diagnostic in self.found.iter_mut().filter(|diagnostic| diagnostic.source > 0) {
            diagnostic.file = names.get(usize::from(diagnostic.source)).cloned();
        }
    }

    pub fn all(&self) -> &[Diagnostic] {
        &self.found
    }

    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.found.iter().filter(|diagnostic| diagnostic.severity == Severity::Warning)
    }

    /// The problems, to have their lines quoted.
    pub(super) fn all_mut(&mut self) -> &mut [Diagnostic] {
        &mut self.found
    }

    /// One line per problem: for the journal, the status and reports.
    pub fn render(&self, file: &str) -> String {
        self.render_each(file, |diagnostic| diagnostic.render(file))
    }

    /// Every problem with its line: for people at a terminal.
    pub fn render_quoted(&self, file: &str) -> String {
        self.render_each(file, |diagnostic| diagnostic.render_quoted(file))
    }

    fn render_each(&self, file: &str, render: impl Fn(&Diagnostic) -> String) -> String {
        let mut lines: Vec<String> = self.found.iter().map(render).collect();
        if self.left_out > 0 {
            lines.push(format!("{file}: and {} more", self.left_out));
        }
        lines.join("\n")
    }

    /// The report as an error, for those who need the file.
    pub fn into_error(self, file: &str) -> BrokenFile {
        BrokenFile { file: file.to_owned(), kind: FileKind::Env, report: self }
    }
}

/// What a file is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// An env, whatever it is called and wherever it came from.
    Env,
    Compose,
}

impl FileKind {
    /// The command that shows what is wrong with it.
    pub fn checked_by(self) -> &'static str {
        match self {
            FileKind::Env => "appliance env check",
            FileKind::Compose => "appliance plan --stack",
        }
    }
}

/// A file that cannot be used, with all its problems.
#[derive(Debug, Clone, thiserror::Error)]
pub struct BrokenFile {
    pub file: String,
    pub kind: FileKind,
    pub report: Report,
}

impl fmt::Display for BrokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report.render(&self.file))
    }
}

/// The candidate nearest to a misspelt word, if any is near enough to be meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance with transpositions counted once (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        let keys = ["domain", "standby", "allowed_hosts"];
        assert_eq!(nearest("domian", keys), Some("domain"));
        assert_eq!(nearest("alowed_host", keys), Some("allowed_hosts"));
        assert_eq!(nearest("customer_id", keys), None);
    }

    #[test]
    fn many_warnings_never_hide_an_error() {
        let place = Place { file: 0, line: 1, column: 1 };
        let mut report = Report::default();
        for _ in 0..MAX_KEPT + 5 {
            report.push(Diagnostic::warning(place, "w"));
        }
        report.push(Diagnostic::error(place, "e"));
        assert!(report.has_errors());
        assert!(report.render("f").ends_with("and 6 more"));
    }
}
