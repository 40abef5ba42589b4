//! `--yes`: what a command asks before it does something that is not undone by itself.

use super::update::is_agreed;
use anyhow::{Result, bail};
use clap::Args;

#[derive(Debug, Args)]
pub struct AgreedArgument {
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl AgreedArgument {
    /// # Errors
    /// Nobody agrees to what the text says.
    pub fn ask(&self, text: &str) -> Result<()> {
        if !self.yes && !is_agreed(text)? {
            bail!("{text}; nothing was done. With --yes it is");
        }
        Ok(())
    }
}
