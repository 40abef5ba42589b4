//! The terminal that a command was started on: raw mode for an interactive `exec`, and its size.

use anyhow::{Context, Result};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io::{IsTerminal, stdin, stdout};

/// Whether both ends are a terminal.
pub fn is_interactive() -> bool {
    stdin().is_terminal() && stdout().is_terminal()
}

/// Raw mode for as long as this lives.
pub struct Raw(Termios);

impl Raw {
    pub fn enter() -> Result<Raw> {
        let before = tcgetattr(stdin()).context("could not read the terminal's settings")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin(), SetArg::TCSANOW, &raw).context("could not set the terminal to raw mode")?;
        Ok(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _gone = tcsetattr(stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// Whether what is printed may have colours (<https://no-color.org>).
pub fn has_colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    stdout().is_terminal() && !refused && !dumb
}

/// Rows and columns, if the output is a terminal.
pub fn size() -> Option<(u16, u16)> {
    if !stdout().is_terminal() {
        return None;
    }
    console::Term::stdout().size_checked()
}
