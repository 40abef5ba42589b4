//! Tests of `document.rs`: places, bounds, and the texts that must be refused.

use super::*;

fn refused(text: &str) -> (u32, u32, String) {
    let diagnostic = parse(text.as_bytes(), 1 << 20).expect_err("the text should be refused");
    (diagnostic.line, diagnostic.column, diagnostic.message)
}

#[test]
fn nodes_know_their_places() {
    let root = parse(b"a:\n  b: [1, x]\n", 1 << 20).expect("the text is valid");
    let list = root.get("a").and_then(|a| a.get("b")).expect("a.b is there");
    assert_eq!(list.place, Place { file: 0, line: 2, column: 6 });
    let Kind::Sequence(items) = &*list.kind else { panic!("a.b is a list") };
    assert_eq!(items[1].place, Place { file: 0, line: 2, column: 10 });
}

#[test]
fn broken_texts_are_refused_where_they_break() {
    assert_eq!(refused("a: 1\n\tb: 2\n").0, 2);
    assert!(refused("a:\n\tb: 2\n").2.contains("tab"));
    assert_eq!(
        refused("a: 1\nb: 2\na: 3\n"),
        (3, 1, "the key 'a' stands here twice; it is first set in line 1".into())
    );
    assert_eq!(refused("a: 1\n---\nb: 2\n").0, 2);
    assert!(refused("a: !!python/object:os.system x\n").2.contains("tag"));
    assert!(refused("[a]: 1\n").2.contains("key"));
    assert!(refused("a: *nobody\n").0 == 1);
    assert!(refused("a: &x [*x]\n").2.contains("alias"));
    assert!(refused("a: x\0y\n").2.contains("NUL"));
    let bad = parse(b"a: 1\nb: \xff\n", 1 << 20).expect_err("not UTF-8");
    assert_eq!((bad.line, bad.column), (2, 4));
}

#[test]
fn bounds_hold() {
    assert!(parse(&[b'a'; 100], 99).is_err());
    let deep = "[".repeat(200_000);
    assert!(refused(&deep).2.contains("deeper"));
    let deep_map: String = (0..100).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert!(refused(&deep_map).2.contains("deeper"));
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let list = vec![format!("*a{}", i - 1); 10].join(", ");
        bomb.push_str(&format!("a{i}: &a{i} [{list}]\n"));
    }
    assert!(refused(&bomb).2.contains("values"));
}

#[test]
fn merges_fill_in_and_never_override() {
    let root = parse(b"base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  x: 9\n", 1 << 20).expect("the text is valid");
    let merged = root.get("use").expect("use is there");
    let text = |key: &str| match &*merged.get(key).expect("the key is there").kind {
        Kind::Scalar { text, .. } => text.clone(),
        _ => panic!("a scalar was expected"),
    };
    assert_eq!((text("x"), text("y")), ("9".to_owned(), "2".to_owned()));
}
