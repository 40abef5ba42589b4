//! Whole directories: copied, compared, put in each other's places. Whether that may be done is decided elsewhere.
#![allow(clippy::disallowed_methods)] // This is the door they are disallowed for.

use super::beside::sync_parent;
use super::cmd::{MAX_TAIL, Output};
use super::{Cmd, Host};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What a directory takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub bytes: u64,
    pub files: u64,
}

/// The slowest disk that is waited for, in bytes a second, and what is allowed beside.
const SLOWEST: u64 = 1 << 20;
const AT_LEAST: Duration = Duration::from_secs(3600);

impl Host {
    /// What a directory takes on its own file system; what vanishes meanwhile, as it does where services run, does not count.
    ///
    /// # Errors
    /// The directory is not there, or something in it cannot be looked at.
    pub async fn extent(&self, path: &str) -> Result<Extent> {
        let measure = |option: &'static str| {
            let cmd = Cmd::new("du", ["--summarize", "--one-file-system", option, path]).deadline(AT_LEAST);
            async move { told_by_du(&self.try_ask(cmd).await?).with_context(|| format!("could not measure {path}")) }
        };
        Ok(Extent { bytes: measure("--block-size=1").await?, files: measure("--inodes").await? })
    }

    /// Copies a directory with everything that belongs to its files, without other file systems mounted in it, compares the two, and
    /// waits until the copy is on the disk. What an interrupted copy left there is removed before.
    ///
    /// # Errors
    /// What could not be read or written, or the first difference.
    pub async fn copy_tree(&self, from: &str, to: &str, extent: Extent) -> Result<()> {
        self.remove_tree(to).await?;
        let deadline = AT_LEAST + Duration::from_secs(extent.bytes / SLOWEST);
        let copy = ["--archive", "--one-file-system", "--no-target-directory", from, to];
        self.ask(ends_with_us("cp", &copy).deadline(deadline)).await?;
        // The disk writes what is in memory while that is compared.
        let sync = self.ask(Cmd::new("sync", ["--file-system", to]).deadline(deadline));
        let (_, difference) = tokio::try_join!(sync, self.difference(from, to))?;
        match difference {
            Some(difference) => bail!("the copy is not the same: {difference}"),
            None => Ok(()),
        }
    }

    /// Removes a directory with everything in it; other file systems mounted in it stay.
    pub async fn remove_tree(&self, path: &str) -> Result<()> {
        if self.exists(path) {
            let remove = ["--recursive", "--force", "--one-file-system", path];
            self.ask(ends_with_us("rm", &remove).deadline(AT_LEAST)).await?;
        }
        Ok(())
    }

    /// Puts one name in another's place, on the disk; an empty directory there is replaced. `false`: the file system cannot do it.
    pub fn rename(&self, from: &str, to: &str) -> Result<bool> {
        let failed = || format!("could not put {from} in the place of {to}");
        self.before_change(to)?;
        match fs::rename(self.path(from), self.path(to)) {
            Ok(()) => {
                sync_parent(&self.path(to)).with_context(failed)?;
                sync_parent(&self.path(from)).with_context(failed)?;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::CrossesDevices => Ok(false),
            Err(error) => Err(error).with_context(failed),
        }
    }

    /// The first difference between two directories: names, kinds, sizes, contents, owners, modes, times, extended attributes, links.
    async fn difference(&self, one: &str, other: &str) -> Result<Option<String>> {
        let (one, other) = (self.path(one), self.path(other));
        let work = tokio::task::spawn_blocking(move || difference(&one, &other));
        work.await.context("the comparison was interrupted")?
    }
}

/// The number that `du` told. Where all it complains of are names that were gone when it came to them, it is as good as any.
fn told_by_du(output: &Output) -> Result<u64> {
    let is_cut = output.stderr.len() >= MAX_TAIL;
    let complaints = output.stderr.lines().skip(usize::from(is_cut));
    let doubtful = complaints.filter(|line| !line.ends_with(": No such file or directory")).collect::<Vec<_>>();
    if !matches!(output.code, Some(0 | 1)) || !doubtful.is_empty() {
        bail!("du ended with {:?}: {}", output.code, doubtful.join("; "));
    }
    let number = output.stdout.split_whitespace().next().and_then(|number| number.parse().ok());
    number.with_context(|| format!("du tells no size: {}", output.stderr.trim()))
}

/// A program that goes on for no moment longer than this process: the next run would meet it in the same directory.
fn ends_with_us(program: &str, args: &[&str]) -> Cmd {
    Cmd::new("setpriv", ["--pdeathsig", "KILL", program].iter().chain(args).copied())
}

/// Files whose contents are still to be compared.
#[derive(Default)]
struct Walk {
    pairs: Vec<(PathBuf, PathBuf)>,
    /// The inodes of files with several names, and of what stands for them.
    linked: HashMap<u64, u64>,
}

fn difference(one: &Path, other: &Path) -> Result<Option<String>> {
    let mut walk = Walk::default();
    let device = one.symlink_metadata().with_context(|| format!("could not look at {}", one.display()))?.dev();
    if let Some(found) = compare(one, other, device, &mut walk)? {
        return Ok(Some(found));
    }
    let (next, pairs) = (AtomicUsize::new(0), &walk.pairs);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let look = || -> Result<Option<String>> {
        let mut buffers = (vec![0; BUFFER], vec![0; BUFFER]);
        while let Some((one, other)) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if !same_contents(one, other, &mut buffers)? {
                next.store(pairs.len(), Ordering::Relaxed);
                return Ok(Some(format!("{} has other contents", other.display())));
            }
        }
        Ok(None)
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(look)).collect();
        let mut found = None;
        for thread in running {
            match thread.join() {
                Ok(result) => found = found.or(result?),
                Err(_) => bail!("a comparison of files was interrupted"),
            }
        }
        Ok(found)
    })
}

/// How much of a file is read at once.
const BUFFER: usize = 1 << 18;

fn same_contents(one: &Path, other: &Path, buffers: &mut (Vec<u8>, Vec<u8>)) -> Result<bool> {
    let open = |path: &Path| fs::File::open(path).with_context(|| format!("could not open {}", path.display()));
    let (mut left, mut right) = (open(one)?, open(other)?);
    loop {
        let count = left.read(&mut buffers.0).with_context(|| format!("could not read {}", one.display()))?;
        if count == 0 {
            // The sizes are the same.
            return Ok(true);
        }
        match right.read_exact(&mut buffers.1[..count]) {
            Ok(()) if buffers.0[..count] == buffers.1[..count] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error).with_context(|| format!("could not read {}", other.display())),
        }
    }
}

fn compare(one: &Path, other: &Path, device: u64, walk: &mut Walk) -> Result<Option<String>> {
    let failed = |path: &Path| format!("could not look at {}", path.display());
    let left = one.symlink_metadata().with_context(|| failed(one))?;
    let right = match other.symlink_metadata() {
        Ok(meta) => meta,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Some(format!("{} is missing", other.display())));
        }
        Err(error) => return Err(error).with_context(|| failed(other)),
    };
    let kind = left.file_type();
    let is_device = kind.is_block_device() || kind.is_char_device();
    let differs = if kind != right.file_type() {
        Some("is of another kind")
    } else if (left.uid(), left.gid(), left.mode()) != (right.uid(), right.gid(), right.mode()) {
        Some("has another owner or mode")
    } else if (left.mtime(), left.mtime_nsec()) != (right.mtime(), right.mtime_nsec()) {
        Some("has another time")
    } else if kind.is_file() && left.len() != right.len() || is_device && left.rdev() != right.rdev() {
        Some("has another size or number")
    } else if kind.is_symlink() && fs::read_link(one).ok() != fs::read_link(other).ok() {
        Some("leads elsewhere")
    } else if attributes(one)? != attributes(other)? {
        Some("has other extended attributes")
    } else {
        None
    };
    if let Some(differs) = differs {
        return Ok(Some(format!("{} {differs}", other.display())));
    }
    if kind.is_file() {
        match (left.nlink() > 1).then(|| walk.linked.insert(left.ino(), right.ino())).flatten() {
            Some(before) if before != right.ino() => {
                return Ok(Some(format!("{} is no link any more", other.display())));
            }
            Some(_) => {}
            None => walk.pairs.push((one.to_owned(), other.to_owned())),
        }
    }
    // What is mounted there is not part of it.
    if !kind.is_dir() || left.dev() != device {
        return Ok(None);
    }
    let names = |path: &Path| -> Result<BTreeMap<OsString, ()>> {
        let entries = fs::read_dir(path).with_context(|| format!("could not list {}", path.display()))?;
        entries
            .map(|entry| Ok((entry.with_context(|| format!("could not list {}", path.display()))?.file_name(), ())))
            .collect()
    };
    let (left, right) = (names(one)?, names(other)?);
    if let Some(more) = right.keys().find(|name| !left.contains_key(*name)) {
        return Ok(Some(format!("{} is there in addition", other.join(more).display())));
    }
    for name in left.keys() {
        if let Some(found) = compare(&one.join(name), &other.join(name), device, walk)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The extended attributes of a file, of the file itself where it is a link.
fn attributes(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let failed = || format!("could not look at the attributes of {}", path.display());
    let mut names = vec![0; 1 << 16];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).with_context(failed),
    };
    let mut all = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 1 << 16];
        let length = rustix::fs::lgetxattr(path, name, &mut value).with_context(failed)?;
        value.truncate(length);
        all.insert(name.to_vec(), value);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Exec;
    use crate::host::exec::SystemExec;
    use crate::host::fake::TestHost;

    #[tokio::test]
    async fn what_vanishes_while_it_is_measured_is_no_error_and_what_cannot_be_read_is() {
        let test = TestHost::new();
        let here = |path: &str| test.host.path(path).display().to_string();
        fs::create_dir_all(here("/there")).expect("it can be made");
        fs::write(here("/there/file"), "contents").expect("it can be written");
        let du = async |paths: &[&str]| {
            let args =
                ["--summarize", "--inodes"].map(str::to_owned).into_iter().chain(paths.iter().map(|path| here(path)));
            SystemExec.run(&Cmd::new("du", args)).await.expect("it runs")
        };
        // What du says of a name that is not there any more, in its own words.
        let vanished = du(&["/there", "/gone"]).await;
        assert_eq!(vanished.code, Some(1));
        assert_eq!(told_by_du(&vanished).expect("what is there counts"), 2);
        let nothing = told_by_du(&du(&["/gone"]).await).expect_err("there is nothing").to_string();
        assert!(nothing.contains("/gone'"), "{nothing}");
        let broken = "du: cannot read directory '/there/b': Input/output error";
        let output = Output { stderr: format!("{}{broken}\n", vanished.stderr), ..vanished };
        let error = told_by_du(&output).expect_err("a disk that cannot be read").to_string();
        assert!(error.ends_with(broken), "{error}");
    }

    #[tokio::test]
    async fn every_kind_of_difference_is_found() {
        let test = TestHost::new();
        let here = |path: &str| test.host.path(path);
        let make = |root: &str| {
            fs::create_dir_all(here(root).join("a/b")).expect("it can be made");
            fs::write(here(root).join("a/file"), "contents").expect("it can be written");
            fs::hard_link(here(root).join("a/file"), here(root).join("a/b/same")).expect("it can be linked");
            std::os::unix::fs::symlink("file", here(root).join("a/link")).expect("it can be linked");
            rustix::fs::setxattr(here(root).join("a/file"), "user.x", b"y", rustix::fs::XattrFlags::empty()).ok();
        };
        let settle = || {
            // All of one time, so that only what a case changes differs.
            let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH).set_accessed(std::time::UNIX_EPOCH);
            for root in ["/one", "/other"] {
                for path in ["a/file", "a/b", "a", ""] {
                    let file = fs::File::open(here(root).join(path)).expect("it can be opened");
                    file.set_times(time).expect("times can be set");
                }
                let link = here(root).join("a/link");
                let times = rustix::fs::Timestamps {
                    last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 },
                    last_modification: rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 },
                };
                if link.symlink_metadata().is_ok() {
                    rustix::fs::utimensat(rustix::fs::CWD, &link, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                        .expect("times can be set");
                }
            }
        };
        type Change = (&'static str, fn(&Path));
        let changes: [Change; 7] = [
            ("", |_| ()),
            ("has other contents", |root| fs::write(root.join("a/file"), "Contents").expect("it can be written")),
            ("has another size", |root| fs::write(root.join("a/file"), "less").expect("it can be written")),
            ("is missing", |root| fs::remove_file(root.join("a/b/same")).expect("it can be removed")),
            ("is there in addition", |root| fs::write(root.join("a/more"), "").expect("it can be written")),
            ("leads elsewhere", |root| {
                fs::remove_file(root.join("a/link")).expect("it can be removed");
                std::os::unix::fs::symlink("else", root.join("a/link")).expect("it can be linked");
            }),
            ("is no link any more", |root| {
                fs::remove_file(root.join("a/b/same")).expect("it can be removed");
                fs::write(root.join("a/b/same"), "contents").expect("it can be written");
                rustix::fs::setxattr(root.join("a/b/same"), "user.x", b"y", rustix::fs::XattrFlags::empty()).ok();
                let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
                fs::File::open(root.join("a/b/same")).and_then(|file| file.set_times(time)).expect("times can be set");
            }),
        ];
        for (expected, change) in changes {
            for root in ["/one", "/other"] {
                fs::remove_dir_all(here(root)).ok();
                make(root);
            }
            change(&here("/other"));
            settle();
            let found = test.host.difference("/one", "/other").await.expect("they can be compared").unwrap_or_default();
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{expected}: {found}");
        }
    }
}
