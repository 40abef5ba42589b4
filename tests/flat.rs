//! `env show --format export`, evaluated by bash and by dash, gives exactly the values: random trees against `eval`.
//! The expected variables are worked out here, by the rule of docs/env.md, not by the program's own code.
#![allow(clippy::disallowed_methods)] // The house's door is for the house; tests run the program from outside.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use std::process::Command;

#[derive(Debug, Clone)]
enum Tree {
    Null,
    Boolean(bool),
    Text(String),
    List(Vec<Tree>),
    Map(BTreeMap<String, Tree>),
}

/// Texts that shells stumble over more often than letters would.
fn text() -> impl Strategy<Value = String> {
    let nasty = prop::sample::select(vec![
        "'",
        "\"",
        "\\",
        "$",
        "`",
        "!",
        "\n",
        "\t",
        " ",
        "  ",
        "$(id)",
        "${x}",
        "\\n",
        "*",
        "~",
        "#",
        ";",
        "&",
        "|",
        "=",
        "ä",
        "€",
        "\u{1f600}",
        "-n",
        "-e",
        "\r",
        "%s",
        "''",
        "'\\''",
        "yes",
        "null",
        "x",
        "0",
        "\u{7f}",
        "\u{1}",
        "\u{85}",
        "\u{a0}",
        "\u{2028}",
    ]);
    prop::collection::vec(prop_oneof![nasty.prop_map(str::to_owned), "[a-zA-Z0-9 ]{0,8}"], 0..8)
        .prop_map(|parts| parts.concat())
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![1 => Just(Tree::Null), 1 => any::<bool>().prop_map(Tree::Boolean), 6 => text().prop_map(Tree::Text)];
    leaf.prop_recursive(4, 40, 6, |inner| {
        // Keys whose names differ still after they are made upper case.
        let keys = prop::collection::btree_map("[a-z][a-z0-9]{0,6}([_-][a-z0-9]{1,3})?", inner.clone(), 0..6);
        prop_oneof![prop::collection::vec(inner, 0..5).prop_map(Tree::List), keys.prop_map(Tree::Map)]
    })
}

/// JSON is YAML, and its writer is not ours.
fn json(tree: &Tree) -> serde_json::Value {
    match tree {
        Tree::Null => serde_json::Value::Null,
        Tree::Boolean(value) => (*value).into(),
        Tree::Text(text) => text.as_str().into(),
        Tree::List(items) => items.iter().map(json).collect(),
        Tree::Map(entries) => {
            serde_json::Value::Object(entries.iter().map(|(key, value)| (key.clone(), json(value))).collect())
        }
    }
}

fn expect(name: &str, tree: &Tree, into: &mut BTreeMap<String, String>) {
    match tree {
        Tree::Null => drop(into.insert(name.to_owned(), String::new())),
        Tree::Boolean(value) => drop(into.insert(name.to_owned(), value.to_string())),
        Tree::Text(text) => drop(into.insert(name.to_owned(), text.trim().to_owned())),
        Tree::List(items) => {
            into.insert(format!("{name}_LEN"), items.len().to_string());
            for (index, item) in items.iter().enumerate() {
                expect(&format!("{name}_{index}"), item, into);
            }
        }
        Tree::Map(entries) => {
            for (key, value) in entries {
                expect(&format!("{name}_{}", key.to_uppercase().replace('-', "_")), value, into);
            }
        }
    }
}

/// Two paths may have one name (`a: {b_c: 1}` and `a_b: {c: 2}`); which of them counts is not what is tested here.
fn is_clear(tree: &Tree) -> bool {
    fn count(tree: &Tree) -> usize {
        match tree {
            Tree::List(items) => 1 + items.iter().map(count).sum::<usize>(),
            Tree::Map(entries) => entries.values().map(count).sum(),
            _ => 1,
        }
    }
    let mut names = BTreeMap::new();
    expect("X", tree, &mut names);
    names.len() == count(tree)
}

/// What a shell's environment holds after the `eval`, without what was in it before.
fn evaluated(shell: &str, file: &str) -> BTreeMap<String, String> {
    let script = "eval \"$(\"$1\" env show --format export own)\" && exec env -0";
    let output = Command::new(shell)
        .args(["-c", script, shell, env!("CARGO_BIN_EXE_appliance")])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("ENV_YML", file)
        .output()
        .unwrap_or_else(|error| panic!("{shell} can be run: {error}"));
    assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("the values are UTF-8");
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| name.starts_with("OWN")).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn eval_gives_exactly_the_values_in_bash_and_dash() {
    let cases = std::env::var("APPLIANCE_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(150);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let directory = tempfile::tempdir().expect("a directory can be made");
    let file = directory.path().join("env.yml").display().to_string();
    let mut runner = TestRunner::new(config);
    let strategy = prop::collection::btree_map("[a-z][a-z0-9]{0,5}", tree(), 1..5).prop_map(Tree::Map);
    let outcome = runner.run(&strategy.prop_filter("one name, one path", is_clear), |own| {
        let whole = serde_json::json!({
            "appliance": { "domain": "a.example.test" },
            "app": { "name": "shop", "git": { "source": "/srv/shop.git" } },
            "own": json(&own),
        });
        std::fs::write(&file, format!("#cloud-config\n{whole:#}\n")).expect("the file can be written");
        let mut expected = BTreeMap::new();
        expect("OWN", &own, &mut expected);
        for shell in ["bash", "dash"] {
            prop_assert_eq!(&evaluated(shell, &file), &expected, "{}", shell);
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
