//! The program about itself: completions and the man page, both made from the same definitions as `--help`.

use super::{Arguments, print};
use anyhow::{Context, Result};
use clap::CommandFactory;

pub fn completions(shell: clap_complete::Shell) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "appliance", &mut script);
    print(&String::from_utf8(script).context("the completion script is not text")?)?;
    Ok(0)
}

/// One page with all commands: the top, then each command's own sections.
pub fn man() -> Result<u8> {
    let command = Arguments::command();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page).context("could not render the man page")?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let man = clap_mangen::Man::new(sub.clone());
        page.extend_from_slice(format!(".SH {}\n", sub.get_name().to_uppercase()).as_bytes());
        man.render_description_section(&mut page).context("could not render the man page")?;
        man.render_synopsis_section(&mut page).context("could not render the man page")?;
        man.render_options_section(&mut page).context("could not render the man page")?;
        man.render_extra_section(&mut page).context("could not render the man page")?;
    }
    print(&String::from_utf8(page).context("the man page is not text")?)?;
    Ok(0)
}
