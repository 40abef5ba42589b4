//! `appliance app diff`: what an app's checkout carries beyond its commit.

use super::super::choice::AppArgument;
use super::super::{JsonArgument, print};
use crate::host::{Host, Mode};
use crate::stack::checkout;
use crate::update::{self, Difference};
use anyhow::Result;
use clap::Args;

#[derive(Debug, Args)]
pub struct DiffArguments {
    #[command(flatten)]
    json: JsonArgument,
    #[command(flatten)]
    app: AppArgument,
}

pub async fn diff(arguments: DiffArguments) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let env = arguments.app.active(&host)?;
    let found = update::difference(&env.app, &checkout(&env), &host).await?;
    match arguments.json.json {
        true => print(&plain(&format!("{}\n", serde_json::to_string_pretty(&found)?)))?,
        false => print(&text(&found))?,
    }
    Ok(if found.is_nothing() { 0 } else { 2 })
}

fn text(found: &Difference) -> String {
    let mut text = format!("commit     {}\n", found.commit);
    found.commits.iter().for_each(|(id, subject)| text.push_str(&format!("local      {id} {subject}\n")));
    found.untracked.iter().for_each(|path| text.push_str(&format!("untracked  {}\n", path.replace('\n', "\u{fffd}"))));
    found.kept.iter().for_each(|branch| text.push_str(&format!("kept in    {branch}\n")));
    if found.is_nothing() {
        text.push_str("the files are the commit's\n");
    }
    text.push_str(&found.text);
    plain(&text)
}

/// Without what a terminal would take for a command of its own: the files are the app's.
fn plain(text: &str) -> String {
    // Marks that change the direction of what follows, too.
    let is_command = |c: char| {
        c.is_control() && !matches!(c, '\n' | '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if is_command(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_is_no_command_to_the_terminal() {
        assert_eq!(plain("+\u{1b}]0;x\u{7}\ta\n"), "+\u{fffd}]0;x\u{fffd}\ta\n");
    }
}
