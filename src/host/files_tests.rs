//! Tests of `files.rs` on a temporary root: change only what differs, never follow what a user could have planted.

use super::*;
use crate::host::fake::TestHost;

#[test]
fn a_file_is_written_once() {
    let test = TestHost::new();
    let want = File::secret("x=1\n");
    assert!(test.host.ensure_file("/etc/x", &want).expect("the file can be written").yes());
    let before = fs::metadata(test.host.path("/etc/x")).expect("the file is there");
    assert_eq!(before.mode() & 0o7777, 0o600);
    assert!(!test.host.ensure_file("/etc/x", &want).expect("the file can be read").yes());
    let after = fs::metadata(test.host.path("/etc/x")).expect("the file is there");
    assert_eq!((before.mtime_nsec(), before.ino()), (after.mtime_nsec(), after.ino()));
}

#[test]
fn only_the_mode_is_changed_where_only_the_mode_differs() {
    let test = TestHost::new();
    let changed = test.host.ensure_file("/etc/x", &File::text("a")).expect("the file can be written");
    assert!(changed.yes());
    let inode = fs::metadata(test.host.path("/etc/x")).expect("the file is there").ino();
    assert!(test.host.ensure_file("/etc/x", &File::secret("a")).expect("the mode can be set").yes());
    let meta = fs::metadata(test.host.path("/etc/x")).expect("the file is there");
    assert_eq!((meta.ino(), meta.mode() & 0o7777), (inode, 0o600));
}

#[test]
fn check_mode_touches_nothing() {
    let test = TestHost::new();
    let check = test.host.in_mode(crate::host::Mode::Check);
    assert!(check.ensure_file("/etc/x", &File::text("a")).expect("checking works").yes());
    assert!(check.ensure_dir("/data/etc", &Dir::plain()).expect("checking works").yes());
    assert!(check.ensure_link("/app/etc", "/data/etc").expect("checking works").yes());
    check.put("/run/x", b"y", 0o644).expect("checking works");
    assert!(!check.exists("/etc/x") && !check.exists("/data") && !check.exists("/app") && !check.exists("/run/x"));
    assert_eq!(check.journal().entries().len(), 3);
}

#[test]
fn a_planted_link_is_replaced_as_a_file_and_refused_as_a_directory() {
    let test = TestHost::new();
    fs::create_dir_all(test.host.path("/victim")).expect("the directory can be made");
    fs::write(test.host.path("/victim/f"), "keep").expect("the file can be written");
    std::os::unix::fs::symlink(test.host.path("/victim/f"), test.host.path("/etc/x")).expect("the link can be made");
    assert!(test.host.ensure_file("/etc/x", &File::text("new")).expect("the link is replaced").yes());
    assert_eq!(fs::read_to_string(test.host.path("/victim/f")).expect("the file is there"), "keep");
    std::os::unix::fs::symlink(test.host.path("/victim"), test.host.path("/etc/d")).expect("the link can be made");
    assert!(test.host.ensure_dir("/etc/d", &Dir::plain()).is_err());
}

#[test]
fn blocks_are_replaced_in_place() {
    let once = replace_block("a\n", "x", "1\n");
    assert_eq!(once, "a\n# begin x\n1\n# end x\n");
    let more = format!("{once}b\n");
    assert_eq!(replace_block(&more, "x", "2\n"), "a\n# begin x\n2\n# end x\nb\n");
    assert_eq!(replace_block(&more, "x", ""), "a\nb\n");
    assert_eq!(replace_block("a", "x", "1\n"), "a\n# begin x\n1\n# end x\n");
}
