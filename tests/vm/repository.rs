//! The repository of the app that emulated machines run: `tests/vm/app`, with its base image in it.

use crate::appliance::free_port;
use crate::host::rootfs::{self, run};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Python with its PostgreSQL client, and nothing else.
const BASE: &str = "python3,python3-psycopg2";

/// The repository: a bare one, and a checkout beside it.
pub struct Repository {
    directory: tempfile::TempDir,
    /// git, and the port where it serves it on loopback.
    daemon: Option<(Child, u16)>,
}

impl Repository {
    /// On this machine's disk, for as long as this lives.
    pub fn make() -> Repository {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let work = directory.path().join("work");
        let base = rootfs::cache().join("vm-app-base-2.tar.gz");
        {
            let _lock = rootfs::lock_cache();
            rootfs::build_part(&base, |target| {
                let tar = target.display().to_string();
                rootfs::mmdebstrap("extract", BASE, "bookworm", &format!("{tar}.tar"), &[]);
                run("sh", &["-ec", &format!("gzip -1 <'{tar}.tar' >'{tar}'; rm '{tar}.tar'")]);
            });
        }
        fs::create_dir_all(&work).expect("the directory can be made");
        let script = format!(
            "cd '{work}'; cp -r {app}/. .; cp '{base}' base.tar.gz; git init -q -b main .; git config user.name S; git config user.email s@example.test
             git add -A; git commit -q -m v1; git clone -q --bare . ../shop.git",
            work = work.display(),
            app = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vm/app"),
            base = base.display()
        );
        run("sh", &["-ec", &script]);
        Repository { directory, daemon: None }
    }

    /// Served too.
    pub fn serve() -> Repository {
        let mut repository = Repository::make();
        let port = free_port();
        // Itself, and not a child of git's, which would outlive it.
        let daemon = Command::new("sh")
            .args(["-c", "exec \"$(git --exec-path)/git-daemon\" \"$@\"", "sh"])
            .args(["--reuseaddr", "--export-all", "--listen=127.0.0.1", &format!("--port={port}")])
            .arg(format!("--base-path={}", repository.directory.path().display()))
            .stdin(Stdio::null())
            .spawn()
            .expect("git can be run");
        repository.daemon = Some((daemon, port));
        repository
    }

    pub fn bare(&self) -> PathBuf {
        self.directory.path().join("shop.git")
    }

    pub fn port(&self) -> u16 {
        self.daemon.as_ref().expect("it is served").1
    }

    /// Another version, which migrates the database.
    pub fn push(&self, version: usize) {
        let script = format!(
            "cd '{}/work'; sed -i -e 's/^VERSION = .*/VERSION = \"v{version}\"/' app.py
             sed -i -e '/CREATE TABLE/a\\        database().execute(\"ALTER TABLE note ADD COLUMN IF NOT EXISTS v{version} text\")' app.py
             git commit -q -a -m v{version}; git push -q ../shop.git main",
            self.directory.path().display()
        );
        run("sh", &["-ec", &script]);
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        if let Some((mut daemon, _)) = self.daemon.take() {
            drop(daemon.kill());
            drop(daemon.wait());
        }
    }
}
