//! The program about itself: completions and the man page, both made from the same definitions as `--help`.

use super::{Arguments, print};
use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_mangen::Man;

pub fn completions(shell: clap_complete::Shell) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "appliance", &mut script);
    let script = String::from_utf8(script).context("the completion script is not text")?;
    print(&with_names(shell, &script))?;
    Ok(0)
}

/// The script, asking the host for its apps where `--app` wants one: what is generated knows of files alone.
fn with_names(shell: clap_complete::Shell, script: &str) -> String {
    use clap_complete::Shell;
    const NAMES: &str = "$(appliance app list --names 2>/dev/null)";
    match shell {
        Shell::Bash => {
            let files = "--app)\n                    COMPREPLY=($(compgen -f \"${cur}\"))";
            let names = format!("--app)\n                    COMPREPLY=($(compgen -W \"{NAMES}\" -- \"${{cur}}\"))");
            script.replace(files, &names)
        }
        Shell::Zsh => {
            let is_app = |line: &&str| line.contains("'--app=[");
            let named = |line: &str| match is_app(&line) {
                // In quotes of the other kind, so that the shell asks when it completes.
                true => line.replace(":NAME:_default'", ":NAME:{compadd $(appliance app list --names 2>/dev/null)}'"),
                false => line.to_owned(),
            };
            script.split_inclusive('\n').map(named).collect()
        }
        Shell::Fish => {
            let named = |line: &str| match line.contains(" -l app -d ") && line.trim_end().ends_with(" -r") {
                true => format!("{} -f -a '(appliance app list --names 2>/dev/null)'\n", line.trim_end()),
                false => line.to_owned(),
            };
            script.split_inclusive('\n').map(named).collect()
        }
        _ => script.to_owned(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap_complete::Shell;

    #[test]
    fn every_script_asks_for_the_apps_names_wherever_one_is_wanted() {
        for (shell, wanted) in [(Shell::Bash, "--app)"), (Shell::Zsh, "'--app=["), (Shell::Fish, " -l app -d ")] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "appliance", &mut script);
            let script = with_names(shell, &String::from_utf8(script).expect("it is text"));
            let (options, asked) =
                (script.matches(wanted).count(), script.matches("appliance app list --names").count());
            assert!(options > 10 && options == asked, "{shell}: {options} options, {asked} of them ask");
        }
    }
}
