//! `appliance app add`: one more entry in the list of apps. The file is changed as text, so that all else in it stays as it was written.

use super::super::print;
use crate::env::document::{self, Block, Kind, Node};
use crate::env::{Env, LOCAL, MAX_BYTES};
use crate::host::{Host, Mode};
use crate::value::{AppName, Domain};
use anyhow::{Context, Result, bail};
use clap::Args;

#[derive(Debug, Args)]
pub struct AddArguments {
    /// The new app's name
    name: AppName,
    /// The app of the list from which it takes everything else
    #[arg(long, value_name = "NAME")]
    like: AppName,
    /// Its domain
    #[arg(long)]
    domain: Domain,
    /// Write it into /app/env.yml; what was there is kept beside it
    #[arg(long)]
    write: bool,
}

pub async fn add(arguments: AddArguments) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let bytes = host.read(LOCAL, MAX_BYTES)?.with_context(|| format!("there is no {LOCAL}"))?;
    let before = String::from_utf8(bytes).ok().with_context(|| format!("{LOCAL} is not UTF-8 text"))?;
    let (text, entry) = with_entry(&before, &arguments.name, &arguments.like, &arguments.domain)?;
    let parsed = Env::parse(text.as_bytes());
    if parsed.envs.is_none() {
        bail!("{LOCAL} would not be good with that entry:\n{}", parsed.report.render(LOCAL));
    }
    if !arguments.write {
        print(&entry)?;
        return Ok(0);
    }
    let aside = format!("{LOCAL}.{}", host.now().strftime("%Y%m%dT%H%M%SZ"));
    host.write_new(&aside, before.as_bytes(), 0o600, false)?;
    host.put(LOCAL, text.as_bytes(), 0o600)?;
    print(&format!(
        "{LOCAL} names the app {} now; what was there is {aside}\nbring it up with: appliance apply\n",
        arguments.name
    ))?;
    Ok(0)
}

/// The text with one more entry behind the last one, and the entry.
fn with_entry(text: &str, name: &AppName, like: &AppName, domain: &Domain) -> Result<(String, String)> {
    let root = document::parse(text.as_bytes(), MAX_BYTES)
        .map_err(|problem| anyhow::anyhow!("{LOCAL}: {}", problem.message))?;
    let Some(apps) = root.get("apps") else {
        bail!("{LOCAL} has no list 'apps'; make its app the first entry of one (docs/apps.md)");
    };
    let Kind::Sequence(items) = &*apps.kind else { bail!("'apps' in {LOCAL} is no list") };
    let last = items.last().with_context(|| format!("'apps' in {LOCAL} is empty"))?;
    // Where an item begins, its dash stands two characters before; in brackets there is none.
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let first_line = lines.get(last.place.line.saturating_sub(1) as usize).copied().unwrap_or_default();
    let indent: String = first_line.chars().take_while(|c| *c == ' ').collect();
    if !first_line[indent.len()..].starts_with("- ") {
        bail!(
            "the list 'apps' in {LOCAL} stands in brackets; add the entry by hand: {{name: {name}, like: {like}, domain: {domain}}}"
        );
    }
    let entry = format!("{indent}- name: {name}\n{indent}  like: {like}\n{indent}  domain: {domain}\n");
    let end = last_line(last) as usize;
    // Blocks end with lines that belong to them: up to the next one that is indented as the list, or less.
    let is_further = |line: &&str| {
        let own = line.chars().take_while(|c| *c == ' ').count();
        line.trim().is_empty() || own > indent.len()
    };
    let more = lines[end.min(lines.len())..].iter().take_while(|line| is_further(line)).count();
    let at = (end + more).min(lines.len());
    let mut whole = lines[..at].concat();
    if !whole.ends_with('\n') {
        whole.push('\n');
    }
    whole.push_str(&entry);
    whole.push_str(&lines[at..].concat());
    Ok((whole, entry))
}

/// The last line on which something of a node begins or ends.
fn last_line(node: &Node) -> u32 {
    // That of a block of text is behind its last line.
    let end = if node.block == Block::No { node.end.line } else { node.end.line.saturating_sub(1) };
    let own = node.place.line.max(end);
    match &*node.kind {
        Kind::Scalar { .. } => own,
        Kind::Sequence(items) => items.iter().map(last_line).max().unwrap_or(own).max(own),
        Kind::Mapping(entries) => entries.iter().map(|(_, value)| last_line(value)).max().unwrap_or(own).max(own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(text: &str) -> Result<Vec<String>, String> {
        let name = |text: &str| text.parse::<AppName>().expect("the name is valid");
        let domain = "new.example.test".parse().expect("the domain is valid");
        let (whole, _) = with_entry(text, &name("new"), &name("a"), &domain).map_err(|error| format!("{error:#}"))?;
        let parsed = Env::parse(whole.as_bytes());
        let envs = parsed.envs.ok_or_else(|| format!("{}\n{whole}", parsed.report.render("t")))?;
        // All else stands as it did.
        let rest = whole.replacen("- name: new\n", "", 1);
        for line in text.lines() {
            assert!(rest.contains(line), "{line} is lost in:\n{whole}");
        }
        Ok(envs.iter().map(|env| env.app.name.as_str().to_owned()).collect())
    }

    #[test]
    fn an_entry_is_added_behind_the_last_one_however_that_ends() {
        let head = "appliance: {domain: a.example.test}\n";
        for (what, text) in [
            ("plain", format!("{head}apps:\n- name: a\n  git: {{source: /srv/x}}\n")),
            (
                "indented, and keys behind",
                format!("apps:\n    - name: a\n      git:\n        source: /srv/x\n\n# the host\n{head}"),
            ),
            (
                "a block of text",
                format!(
                    "{head}apps:\n  - name: a\n    git: {{source: /srv/x}}\n    settings: |\n      A=1\n\n      B=2\n"
                ),
            ),
            (
                "a block, and keys behind",
                format!("apps:\n  - name: a\n    git: {{source: /srv/x}}\n    settings: |\n      A=1\n{head}"),
            ),
            ("no end of line", format!("{head}apps:\n  - name: a\n    git: {{source: /srv/x}}")),
        ] {
            assert_eq!(add(&text).unwrap_or_else(|said| panic!("{what}: {said}")), ["a", "new"], "{what}");
        }
        let brackets = format!("{head}apps: [{{name: a, git: {{source: /srv/x}}}}]\n");
        assert!(add(&brackets).is_err_and(|said| said.contains("by hand")));
        let alone = format!("{head}app: {{name: a, git: {{source: /srv/x}}}}\n");
        assert!(add(&alone).is_err_and(|said| said.contains("no list 'apps'")));
    }
}
