//! The script that puts back the version of the appliance that came up last. It is run as systemd runs it; on a booted host it is seen
//! in `booted/own.rs`.
#![allow(clippy::disallowed_methods)] // Drives the script from outside.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// With an installed version, which came up or did not.
    fn new(is_good: bool) -> Place {
        let place = Place { directory: tempfile::tempdir().expect("a directory can be made") };
        fs::write(place.path("appliance"), "new").expect("written");
        match is_good {
            true => fs::hard_link(place.path("appliance"), place.path("good")).expect("linked"),
            false => fs::write(place.path("good"), "old").expect("written"),
        }
        symlink("appliance", place.path("current")).expect("linked");
        place.run(&["starting"], "", "");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the supervisor's end with a result leads to.
    fn end(&self, result: &str) -> String {
        self.end_with(result, "1")
    }

    fn end_with(&self, result: &str, status: &str) -> String {
        self.run(&[], result, status);
        fs::read_link(self.path("current")).expect("a link").display().to_string()
    }

    fn run(&self, words: &[&str], result: &str, status: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("units/put-back");
        let mut command = Command::new("dash");
        command.arg(script).args(words).env("SERVICE_RESULT", result).env("EXIT_STATUS", status);
        for (variable, place) in [("APPLIANCE_LIB", ""), ("APPLIANCE_RUN", "run"), ("APPLIANCE_STATE", "state")] {
            command.env(variable, self.path(place));
        }
        let done = command.output().expect("the script can be run");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn only_a_version_that_never_came_up_is_put_back_and_only_by_its_own_fault() {
    for (result, expected) in
        [("exit-code", "good"), ("timeout", "good"), ("protocol", "good"), ("success", "appliance")]
    {
        let place = Place::new(false);
        assert_eq!(place.end(result), expected, "{result}");
        assert_eq!(place.path("state/put-back").exists(), expected == "good", "{result}");
        // Whatever comes then: nothing is put forth and back.
        assert_eq!(place.end("exit-code"), "good");
    }
    // Killed from outside is no fault, unless it goes on.
    let place = Place::new(false);
    assert_eq!((0..4).map(|_| place.end("signal")).collect::<Vec<_>>(), ["appliance", "appliance", "good", "good"]);
    // One that came up stays, whatever happens to it.
    let place = Place::new(true);
    for _ in 0..4 {
        assert_eq!((place.end("exit-code"), place.end("signal")), ("appliance".to_owned(), "appliance".to_owned()));
    }
    // It said that the app failed.
    let place = Place::new(false);
    assert_eq!(place.end_with("exit-code", "4"), "appliance");
    // The one that ended was another: the new one was unpacked meanwhile.
    fs::write(place.path("next"), "newer").expect("written");
    fs::rename(place.path("next"), place.path("appliance")).expect("renamed");
    assert_eq!((place.end("exit-code"), place.end("timeout")), ("appliance".to_owned(), "appliance".to_owned()));
    place.run(&["starting"], "", "");
    assert_eq!(place.end("timeout"), "good");
    // The first version has none behind it.
    let place = Place::new(false);
    fs::remove_file(place.path("good")).expect("removed");
    assert_eq!(place.end("exit-code"), "appliance");
}
