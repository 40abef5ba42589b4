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
        ("report", "env host state alert"),
        ("prepare", "env host state report"),
        ("certificate", "env host state prepare"),
        ("authority", "env host state prepare"),
        ("stack", "env host state"),
        ("update", "env host state report prepare stack"),
        ("backup", "env host state report prepare stack update"),
        ("alert", "env host state"),
        ("watch", "env host source state prepare backup alert"),
        ("supervise", "env host source state report prepare authority certificate stack update backup"),
        (
            "cli",
            "env host provision source state report prepare authority certificate stack update supervise backup alert watch",
        ),
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

/// A text without its comments and its unit tests.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    let lines = text[..end].lines().map(|line| line.split("//").next().unwrap_or(""));
    lines.fold(String::new(), |code, line| code + line + "\n")
}

/// The paths that a list in braces stands for.
fn spelled_out(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((before, list)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return found.push(format!("{prefix}{path}"));
    };
    let (mut depth, mut begin) = (0, 0);
    let list = list.strip_suffix('}').unwrap_or(list);
    for (at, c) in list.char_indices().chain([(list.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !list[begin..at].trim().is_empty() {
                    spelled_out(&format!("{prefix}{before}"), &list[begin..at], found);
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
}

/// All paths of a text that begin with `crate` or `super`.
fn paths(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for begin in ["crate::", "super::"] {
        for (at, _) in text.match_indices(begin) {
            // `super::super::x` is found at its first part.
            if text[..at].ends_with("::") {
                continue;
            }
            let end =
                text[at..].find([';', '(', ')', '<', '>', '|', '=', '"', '!', '?']).map_or(text.len(), |end| at + end);
            let path = &text[at..end];
            match path.contains('{') && text[..at].trim_end().ends_with("use") {
                true => spelled_out("", path, &mut found),
                false => found.push(
                    path.split(|c: char| !c.is_alphanumeric() && !"_:".contains(c))
                        .next()
                        .unwrap_or_default()
                        .to_owned(),
                ),
            }
        }
    }
    found
}

/// The module that a path leads to from another one: the longest beginning that is a file.
fn target(from: &str, path: &str, modules: &BTreeMap<String, String>) -> Option<String> {
    let mut base: Vec<&str> = from.split("::").collect();
    let mut parts = path.split("::").peekable();
    match parts.next() {
        Some("crate") => base.clear(),
        _ => drop(base.pop()),
    }
    while parts.next_if_eq(&"super").is_some() {
        base.pop();
    }
    base.extend(parts);
    let known = (1..=base.len()).rev().map(|length| base[..length].join("::")).find(|name| modules.contains_key(name));
    known.filter(|name| name != from)
}

/// The files that can be reached from one.
fn reached(from: &str, edges: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let (mut seen, mut next) = (Vec::new(), vec![from.to_owned()]);
    while let Some(name) = next.pop() {
        for to in edges.get(&name).into_iter().flatten() {
            if !seen.contains(to) {
                seen.push(to.clone());
                next.push(to.clone());
            }
        }
    }
    seen
}

/// No file uses one that uses it, by a path that begins with `crate` or `super`. That a folder's `mod.rs` names its own children is not counted:
/// it hands on what they hold.
#[test]
fn no_files_go_round_in_a_circle() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&source, &mut found);
    let is_test = |path: &String| path.ends_with("tests.rs") || path.contains("/fake/") || path.contains("/walk/");
    let mut modules = BTreeMap::new();
    for path in found.iter().filter(|path| !is_test(path)) {
        let inside = path.strip_prefix(&format!("{}/", source.display())).expect("it lies in src");
        let name = inside.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
        modules.insert(name, code(&fs::read_to_string(path).expect("a source can be read")));
    }
    let edges: BTreeMap<String, Vec<String>> = modules
        .iter()
        .map(|(name, text)| {
            (name.clone(), paths(text).iter().filter_map(|path| target(name, path, &modules)).collect())
        })
        .collect();
    let count: usize = edges.values().map(Vec::len).sum();
    assert!(count > 1000, "only {count} uses were found");
    let circles: Vec<&String> = edges.keys().filter(|name| reached(name, &edges).contains(*name)).collect();
    assert!(circles.is_empty(), "these files use each other, by some way round: {circles:?}");
}

#[test]
fn the_reader_of_paths_sees_every_form() {
    let text = "use super::a::{self, B, c::{D, e as f}};\nlet x = super::super::g::h(crate::i::J);\nuse crate::k;";
    let mut all = paths(text);
    all.sort();
    assert_eq!(
        all,
        [
            "crate::i::J",
            "crate::k",
            "super::a::B",
            "super::a::c::D",
            "super::a::c::e",
            "super::a::self",
            "super::super::g::h"
        ]
    );
    let modules: BTreeMap<String, String> =
        ["x::a", "x::a::c", "g"].map(|name| (name.to_owned(), String::new())).into();
    let to = |path: &str| target("x::y", path, &modules);
    assert_eq!(to("super::a::c::D").as_deref(), Some("x::a::c"));
    assert_eq!(to("super::a::self").as_deref(), Some("x::a"));
    assert_eq!(to("super::super::g::h").as_deref(), Some("g"));
    assert_eq!(to("crate::nothing"), None);
}
