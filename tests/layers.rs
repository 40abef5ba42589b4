//! The rule of direction (the house's first rule): a folder imports only from those that it may use.

#![allow(clippy::disallowed_methods)] // Reads the sources themselves.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Folder to what it may import. Everything may use `value` and `error`.
fn allowed() -> BTreeMap<&'static str, Vec<&'static str>> {
    let rows = [
        ("value", ""),
        ("error", ""),
        ("env", ""),
        ("host", ""),
        ("source", "env host state"),
        ("state", "host"),
        ("provision", "env host source"),
        ("report", "env host state"),
        ("prepare", "env host state report"),
        ("certificate", "env host state prepare"),
        ("authority", "env host state prepare"),
        ("stack", "env host state"),
        ("update", "env host state report prepare stack"),
        ("supervise", "env host source state report prepare authority certificate stack update"),
        ("cli", "env host provision source state report prepare authority certificate stack update supervise"),
    ];
    rows.into_iter().map(|(folder, may)| (folder, may.split_whitespace().collect())).collect()
}

fn files(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).expect("the sources can be listed") {
        let path = entry.expect("the sources can be listed").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path.display().to_string());
        }
    }
}

/// The first parts of all `crate::…` paths of a text, those in braces included.
fn imports(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    for piece in text.split("crate::").skip(1) {
        let name = |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
        match piece.strip_prefix('{') {
            Some(list) => all.extend(list.split('}').next().unwrap_or("").split(',').map(|part| name(part.trim()))),
            None => all.push(name(piece)),
        }
    }
    all
}

#[test]
fn every_folder_imports_only_from_those_below_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&source, &mut found);
    let allowed = allowed();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for path in found {
        let inside = path.strip_prefix(&format!("{}/", source.display())).expect("it lies in src").to_owned();
        let folder = inside.split(['/', '.']).next().expect("a path has a first part").to_owned();
        if ["main", "lib"].contains(&folder.as_str()) {
            continue;
        }
        let may = allowed
            .get(folder.as_str())
            .unwrap_or_else(|| panic!("the folder {folder} is not in the table of tests/layers.rs"));
        for import in imports(&fs::read_to_string(&path).expect("a source can be read")) {
            seen += 1;
            let known = allowed.contains_key(import.as_str());
            if known
                && import != folder
                && !["value", "error"].contains(&import.as_str())
                && !may.contains(&import.as_str())
            {
                wrong.push(format!("{inside} imports {import}"));
            }
        }
    }
    assert!(seen > 100, "the reader of imports found only {seen}");
    assert!(wrong.is_empty(), "against the direction:\n{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_imports_sees_every_form() {
    assert_eq!(imports("use crate::a::B;\nuse crate::{c::D, e};\nlet x = crate::f::g();"), ["a", "c", "e", "f"]);
}

/// Words that name a file by its path: `docs/env.md`, `update/undo.rs`, `units/appliance.service`.
fn named_files(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let words = text.split(move |c: char| !is_part(c)).map(|word| word.trim_end_matches('.'));
    words.filter(|word| {
        let is_ours = [".rs", ".md", ".service", ".timer"].iter().any(|end| word.ends_with(end));
        is_ours && word.contains('/') && !word.starts_with('/')
    })
}

/// What a comment sends its reader to is there: a document, a decision, or a file of the sources by its path below them.
#[test]
fn comments_name_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    ["src", "tests"].iter().for_each(|directory| files(&root.join(directory), &mut sources));
    let (mut dead, mut count) = (Vec::new(), 0);
    for path in &sources {
        let text = fs::read_to_string(path).expect("the source can be read");
        let here = Path::new(path).parent().expect("a file lies in a directory");
        for (index, line) in text.lines().enumerate() {
            let Some((_, comment)) = line.split_once("//").filter(|(code, _)| !code.contains('"')) else { continue };
            for name in named_files(comment) {
                count += 1;
                let places = [root.to_owned(), root.join("src"), root.join("tests"), here.to_owned()];
                if !places.iter().any(|place| place.join(name).exists()) {
                    dead.push(format!("{path}:{}: {name}", index + 1));
                }
            }
        }
    }
    assert!(count > 40, "only {count} names were found");
    assert!(dead.is_empty(), "names of files that are not there:\n{}", dead.join("\n"));
}
