//! The program about itself: completions and the man page, both made from the same definitions as `--help`.

use super::{Arguments, print};
use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_mangen::Man;

pub fn completions(shell: clap_complete::Shell) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "appliance", &mut script);
    print(&String::from_utf8(script).context("the completion script is not text")?)?;
    Ok(0)
}

/// One page with all commands, each in a section of its own: `appliance env check` has no page but this.
pub fn man() -> Result<u8> {
    let command = Arguments::command();
    let top = Man::new(command.clone());
    let mut page = Vec::new();
    let write = |page: &mut Vec<u8>| {
        top.render_title(page)?;
        top.render_name_section(page)?;
        top.render_synopsis_section(page)?;
        top.render_description_section(page)?;
        top.render_options_section(page)?;
        sections(&command, "", page)?;
        top.render_version_section(page)
    };
    write(&mut page).context("could not render the man page")?;
    print(&String::from_utf8(page).context("the man page is not text")?)?;
    Ok(0)
}

/// The sections of a command's subcommands; groups like `env` have those of their own.
fn sections(command: &clap::Command, above: &str, page: &mut Vec<u8>) -> std::io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let name = format!("{above}{}", sub.get_name());
        if sub.has_subcommands() {
            sections(sub, &format!("{name} "), page)?;
            continue;
        }
        let man = Man::new(sub.clone().bin_name(format!("appliance {name}")));
        page.extend_from_slice(format!(".SH {}\n", name.to_uppercase()).as_bytes());
        // The sections of one command stand inside its own: their headings become smaller.
        let mut inner = Vec::new();
        man.render_description_section(&mut inner)?;
        man.render_synopsis_section(&mut inner)?;
        man.render_options_section(&mut inner)?;
        man.render_extra_section(&mut inner)?;
        page.extend_from_slice(String::from_utf8_lossy(&inner).replace(".SH ", ".SS ").as_bytes());
    }
    Ok(())
}
