//! Waiting for a change of the file system (inotify), or of what is mounted, so that nothing polls.

use super::Host;
use anyhow::{Context, Result, bail};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Wakes when one of the watched names is made, replaced, removed, or closed after writing.
pub struct Watch {
    descriptor: AsyncFd<Descriptor>,
    names: Vec<String>,
}

impl Host {
    /// Watches names in one directory, which must exist; all of them if none is given.
    pub fn watch(&self, directory: &str, names: &[&str]) -> Result<Watch> {
        let inotify =
            Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).context("could not make an inotify")?;
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        inotify.add_watch(&self.path(directory), flags).with_context(|| format!("could not watch {directory}"))?;
        // SAFETY: the descriptor is owned by the `Inotify` inside, so it stays open and the same until the `AsyncFd` that
        // owns both is dropped.
        let descriptor = unsafe { AsyncFd::register(Descriptor(inotify)) }.context("could not wait on an inotify")?;
        Ok(Watch { descriptor, names: names.iter().map(|name| (*name).to_owned()).collect() })
    }
}

impl Watch {
    /// Waits for the next change. Cancel-safe: an event that was not read stays in the kernel's queue.
    ///
    /// # Errors
    /// The directory itself is gone; what stands in its place is not watched.
    pub async fn changed(&mut self) -> Result<()> {
        loop {
            let mut ready = self.descriptor.readable().await.context("could not wait on an inotify")?;
            match ready.get_inner().0.read_events() {
                Ok(events) => {
                    let gone = AddWatchFlags::IN_DELETE_SELF
                        | AddWatchFlags::IN_MOVE_SELF
                        | AddWatchFlags::IN_IGNORED
                        | AddWatchFlags::IN_UNMOUNT;
                    if events.iter().any(|event| event.mask.intersects(gone)) {
                        bail!("the directory that is watched was taken away or replaced");
                    }
                    let ours = |name: &str| self.names.is_empty() || self.names.iter().any(|watched| watched == name);
                    // A queue that overflowed has no name; it counts, since anything may have changed.
                    if events.iter().any(|event| event.name.as_ref().is_none_or(|name| name.to_str().is_some_and(ours)))
                    {
                        return Ok(());
                    }
                }
                Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
                Err(other) => return Err(other).context("could not read an inotify"),
            }
        }
    }
}

/// Wakes when something is mounted or unmounted (proc(5), `/proc/pid/mounts`: a change is told as an exceptional condition).
pub struct Mounts(AsyncFd<std::fs::File>);

impl Host {
    /// Watches what is mounted on this machine, from now on.
    pub fn watch_mounts(&self) -> Result<Mounts> {
        #[allow(clippy::disallowed_methods)] // Part of the door: this file is never read.
        let file = std::fs::File::open("/proc/self/mountinfo").context("could not open the list of mounts")?;
        // SAFETY: a `File` owns its descriptor, which stays open and the same until the `AsyncFd` that owns both is dropped.
        let file = unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) };
        Ok(Mounts(file.context("could not wait on the list of mounts")?))
    }
}

impl Mounts {
    /// Waits for the next change. Cancel-safe.
    pub async fn changed(&mut self) -> Result<()> {
        let mut ready = self.0.ready(Interest::PRIORITY).await.context("could not wait on the list of mounts")?;
        ready.clear_ready();
        Ok(())
    }
}
