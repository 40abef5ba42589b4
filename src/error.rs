//! The error that ends a run. Everything else is `anyhow` with context; this type lives apart because
//! `main` and the supervisor branch on it. No effects, no formatting of pages.

use std::fmt;

/// How bad the end of a run is; decides exit code, flag and report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Nothing is wrong that a user would have to mend at once: no env, or standby. Exit code 3, no flag.
    Standby,
    /// The stack cannot run. Exit code 4, the failed flag is written, a critical report is sent.
    Failed,
}

impl Severity {
    /// The process's exit code (docs/operating.md).
    pub fn exit_code(self) -> u8 {
        match self {
            Severity::Standby => 3,
            Severity::Failed => 4,
        }
    }
}

/// Ends a run, with words for the operator. Carried through `anyhow`; looked for by `main` and the supervisor alone.
#[derive(Debug, Clone)]
pub struct Halt {
    pub severity: Severity,
    /// A few words, fit for a page's headline.
    pub title: String,
    /// What happened and what to do; may span lines. Never holds a secret.
    pub text: String,
}

impl Halt {
    pub fn standby(title: impl Into<String>, text: impl Into<String>) -> Self {
        Halt { severity: Severity::Standby, title: title.into(), text: text.into() }
    }

    pub fn failed(title: impl Into<String>, text: impl Into<String>) -> Self {
        Halt { severity: Severity::Failed, title: title.into(), text: text.into() }
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.title, self.text)
    }
}

impl std::error::Error for Halt {}
