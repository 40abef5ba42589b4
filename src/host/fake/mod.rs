//! Fakes that keep state, for tests on a temporary root: Docker, systemd, PostgreSQL, git and other programs, the app's answers. They know
//! nothing of what the crate wants. Each verb can be made to fail, or to be the last that a process does (`faults.rs`).

mod docker;
mod faults;
mod git;
mod programs;
mod sql;
mod units;
mod web;

pub use docker::FakeDocker;
pub use faults::{Fault, Faults};
pub use git::FakeGit;
pub use programs::FakePrograms;
pub use sql::FakeSql;
pub use units::FakeUnits;
pub use web::FakeWeb;

use super::{Backends, Host, Mode};
use std::sync::{Arc, Mutex, MutexGuard};

/// A machine made of a temporary directory and fakes.
pub struct TestHost {
    pub host: Host,
    pub units: Arc<FakeUnits>,
    pub docker: Arc<FakeDocker>,
    pub sql: Arc<FakeSql>,
    pub git: Arc<FakeGit>,
    pub faults: Arc<Faults>,
    web: Arc<FakeWeb>,
    programs: Arc<FakePrograms>,
    directory: tempfile::TempDir,
}

impl Default for TestHost {
    fn default() -> Self {
        TestHost::new()
    }
}

impl TestHost {
    /// With `/etc/passwd` and `/etc/group` in which every name has the numbers of the user who runs the tests.
    pub fn new() -> TestHost {
        TestHost::on(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    /// In memory, where it costs nothing to wait for the disk: for tests that make thousands of machines.
    pub fn in_memory() -> TestHost {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        TestHost::on(directory.expect("a temporary directory can be made"))
    }

    fn on(directory: tempfile::TempDir) -> TestHost {
        let faults = Arc::new(Faults::default());
        let units = Arc::new(FakeUnits::new(faults.clone()));
        let docker = Arc::new(FakeDocker::new(faults.clone()));
        let sql = Arc::new(FakeSql::new(faults.clone()));
        let git = Arc::new(FakeGit::default());
        let web = Arc::new(FakeWeb::new(docker.clone(), faults.clone()));
        let programs =
            Arc::new(FakePrograms::new(directory.path().to_owned(), git.clone(), sql.clone(), faults.clone()));
        let backends = Backends {
            exec: programs.clone(),
            units: units.clone(),
            docker: docker.clone(),
            sql: sql.clone(),
            web: web.clone(),
        };
        let host =
            Host { faults: Some(faults.clone()), ..Host::new(directory.path().to_owned(), Mode::Apply, backends) };
        let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
        let names = ["root", "app", "postgres", "appliance-git"];
        let passwd: String = names.iter().map(|name| format!("{name}:x:{uid}:{gid}::/{name}:/bin/sh\n")).collect();
        let group: String = names.iter().map(|name| format!("{name}:x:{gid}:\n")).collect();
        host.put("/etc/passwd", passwd.as_bytes(), 0o644).expect("the file can be written");
        host.put("/etc/group", group.as_bytes(), 0o644).expect("the file can be written");
        TestHost { host, units, docker, sql, git, faults, web, programs, directory }
    }

    /// Another machine that is in the same state.
    pub fn copy(&self) -> TestHost {
        let copy = TestHost::in_memory();
        programs::copy_tree(self.directory.path(), copy.directory.path()).expect("the files can be copied");
        copy.units.take_state_of(&self.units);
        copy.docker.take_state_of(&self.docker);
        copy.git.take_state_of(&self.git);
        *locked(&copy.sql.databases) = locked(&self.sql.databases).clone();
        copy
    }

    /// The machine goes off and on: no container runs, and what does not outlive a boot is gone.
    pub fn turn_off(&self) {
        self.docker.end_all();
        programs::remove_tree(&self.host.path("/run/appliance")).expect("it can be removed");
    }

    /// The same machine, as another process has it.
    pub fn another(&self) -> Host {
        let backends = Backends {
            exec: self.programs.clone(),
            units: self.units.clone(),
            docker: self.docker.clone(),
            sql: self.sql.clone(),
            web: self.web.clone(),
        };
        let host = Host::new(self.directory.path().to_owned(), Mode::Apply, backends);
        Host { faults: Some(self.faults.clone()), ..host }
    }
}

/// What a fake keeps.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics here")
}
