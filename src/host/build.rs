//! A build context as a stream of tar, without what `.dockerignore` excludes.
#![allow(clippy::disallowed_methods)] // Reads the context from the disk.

use super::dockerfile::with_contexts;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::Stream;
use globset::{GlobBuilder, GlobMatcher};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};
use tokio::sync::mpsc;

/// The deepest directory of a context that is read.
const MAX_DEPTH: usize = 128;
/// How many chunks of at most 64 KiB wait for Docker.
const QUEUE: usize = 16;

/// The context's tar, made while Docker reads it. Links are sent as links, never followed.
///
/// # Errors
/// No such directory, no such Dockerfile inside it, or a broken `.dockerignore`.
pub fn context_stream(
    context: &Path,
    dockerfile: &str,
    contexts: &BTreeMap<String, String>,
) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
    let inside =
        Path::new(dockerfile).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !inside {
        bail!("the Dockerfile '{dockerfile}' must lie inside the build context");
    }
    let opened = fs::File::open(context).and_then(|at| open_plain(&at, Path::new(dockerfile), ResolveFlags::empty()));
    if opened.is_err() {
        bail!("there is no Dockerfile '{dockerfile}' in {}", context.display());
    }
    let rewritten = match contexts.is_empty() {
        true => None,
        false => Some(rewritten(context, dockerfile, contexts)?),
    };
    stream(context, PathBuf::new(), PathBuf::from(dockerfile), rewritten)
}

fn stream(
    context: &Path,
    below: PathBuf,
    keep: PathBuf,
    text: Option<String>,
) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
    let ignore = Ignore::read(context)?;
    let context = context.to_owned();
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        let mut tar = tar::Builder::new(Chunks { sender: sender.clone(), buffer: Vec::new() });
        tar.follow_symlinks(false);
        let dockerfile = Dockerfile { path: &keep, text: text.as_deref(), below: &below };
        let written = fs::File::open(&context)
            .and_then(|context| append(&mut tar, &context, Path::new(""), &ignore, &dockerfile, 0))
            .and_then(|()| dockerfile.append(&mut tar))
            .and_then(|()| tar.into_inner())
            .and_then(|mut chunks| chunks.flush());
        if let Err(error) = written {
            // Docker hung up, and then nobody listens; or the context could not be read, and then it is told.
            drop(sender.blocking_send(Err(error)));
        }
    });
    Ok(futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    }))
}

/// A context whose Dockerfile is none of its files.
///
/// # Errors
/// No such directory, or a broken `.dockerignore`.
pub fn inline_stream(
    context: &Path,
    dockerfile: &str,
    contexts: &BTreeMap<String, String>,
) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
    if !context.is_dir() {
        bail!("the build context {} is not a directory", context.display());
    }
    stream(context, PathBuf::new(), PathBuf::from(INLINE), Some(with_contexts(dockerfile, contexts)))
}

/// What such a Dockerfile is called in what Docker gets.
pub const INLINE: &str = ".appliance.inline.Dockerfile";

/// The Dockerfile: where it lies in the context, and what is sent in its place.
struct Dockerfile<'a> {
    path: &'a Path,
    text: Option<&'a str>,
    /// Where in the tar everything else goes.
    below: &'a Path,
}

impl Dockerfile<'_> {
    /// Sends what stands in its place, if something does.
    fn append(&self, tar: &mut tar::Builder<Chunks>) -> io::Result<()> {
        let Some(text) = self.text else { return Ok(()) };
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, self.path, text.as_bytes())
    }
}

/// The largest Dockerfile that is rewritten, and the largest `.dockerignore`, in bytes.
const MAX_TEXT: u64 = 1 << 20;

fn rewritten(context: &Path, dockerfile: &str, contexts: &BTreeMap<String, String>) -> Result<String> {
    let text = read_text(context, Path::new(dockerfile));
    let text = text.with_context(|| format!("could not read the Dockerfile {dockerfile} in {}", context.display()))?;
    Ok(with_contexts(&text, contexts))
}

/// A directory as an image that holds it and nothing else, for Dockerfiles that know it by a name.
///
/// # Errors
/// No such directory, or a broken `.dockerignore`.
pub fn directory_stream(directory: &Path) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
    if !directory.is_dir() {
        bail!("the build context {} is not a directory", directory.display());
    }
    let dockerfile = "FROM scratch\nCOPY directory/ /\n".to_owned();
    stream(directory, PathBuf::from("directory"), PathBuf::from(OF_DIRECTORY), Some(dockerfile))
}

/// The Dockerfile's name where the directory has none of its own.
pub const OF_DIRECTORY: &str = ".appliance.Dockerfile";

struct Chunks {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= 64 * 1024 {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        self.sender.blocking_send(Ok(chunk)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

fn append(
    tar: &mut tar::Builder<Chunks>,
    directory: &fs::File,
    below: &Path,
    ignore: &Ignore,
    dockerfile: &Dockerfile,
    depth: usize,
) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other(format!("{} is nested too deeply", below.display())));
    }
    // The directory that was opened, whatever has taken its place since.
    let place = by_descriptor(directory);
    let mut entries: Vec<_> = fs::read_dir(&place)?.collect::<io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = below.join(entry.file_name());
        let kind = entry.file_type()?;
        // Docker itself needs these two, whatever is excluded.
        let needed = name == dockerfile.path || name == Path::new(".dockerignore");
        let excluded = !needed && ignore.excludes(&name);
        if kind.is_dir() {
            // An exception may bring back something below an excluded directory.
            if !excluded || ignore.has_exceptions || dockerfile.path.starts_with(&name) {
                let inner =
                    open_in(directory, Path::new(&entry.file_name()), OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)?;
                if !excluded {
                    tar.append_dir(dockerfile.below.join(&name), by_descriptor(&inner))?;
                }
                append(tar, &inner, &name, ignore, dockerfile, depth + 1)?;
            }
        } else if name == dockerfile.path && dockerfile.text.is_some() && dockerfile.below == Path::new("") {
            // Sent in the end, rewritten.
        } else if !excluded && kind.is_file() {
            let mut file = open_plain(directory, Path::new(&entry.file_name()), ResolveFlags::NO_SYMLINKS)?;
            tar.append_file(dockerfile.below.join(&name), &mut file)?;
        } else if !excluded && kind.is_symlink() {
            tar.append_path_with_name(place.join(entry.file_name()), dockerfile.below.join(&name))?;
        }
    }
    Ok(())
}

/// The name of an open file that leads to it and to nothing else (proc_pid_fd(5)).
fn by_descriptor(file: &fs::File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Opens what lies in a directory, without leaving it. A pipe is not waited for.
fn open_in(directory: &fs::File, name: &Path, flags: OFlags, resolve: ResolveFlags) -> io::Result<fs::File> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = resolve | ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let opened = rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve).map_err(io::Error::from);
    opened.map(fs::File::from).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", name.display())))
}

fn open_plain(directory: &fs::File, name: &Path, resolve: ResolveFlags) -> io::Result<fs::File> {
    let file = open_in(directory, name, OFlags::empty(), resolve)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other(format!("{} is no plain file", name.display()))),
    }
}

/// The text of a file of the context; links in it lead nowhere but into it.
fn read_text(context: &Path, name: &Path) -> io::Result<String> {
    let file = open_plain(&fs::File::open(context)?, name, ResolveFlags::empty())?;
    let mut text = String::new();
    file.take(MAX_TEXT + 1).read_to_string(&mut text)?;
    match text.len() as u64 > MAX_TEXT {
        true => Err(io::Error::other(format!("{} is larger than {MAX_TEXT} bytes", name.display()))),
        false => Ok(text),
    }
}

/// The patterns of `.dockerignore`: the last one that matches a path, or a directory above it, decides.
struct Ignore {
    patterns: Vec<(GlobMatcher, bool)>,
    has_exceptions: bool,
}

impl Ignore {
    fn read(context: &Path) -> Result<Ignore> {
        match read_text(context, Path::new(".dockerignore")) {
            Ok(text) => Ignore::parse(&text),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ignore::parse(""),
            Err(other) => Err(other).context("could not read .dockerignore"),
        }
    }

    fn parse(text: &str) -> Result<Ignore> {
        let mut patterns = Vec::new();
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let (pattern, excludes) = match line.strip_prefix('!') {
                Some(rest) => (rest.trim(), false),
                None => (line, true),
            };
            let pattern = pattern.trim_start_matches("./").trim_matches('/');
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            let glob = glob.ok().with_context(|| format!(".dockerignore has a broken pattern in line {number}"))?;
            patterns.push((glob.compile_matcher(), excludes));
        }
        Ok(Ignore { has_exceptions: patterns.iter().any(|(_, excludes)| !excludes), patterns })
    }

    fn excludes(&self, path: &Path) -> bool {
        let mut excluded = false;
        for (pattern, excludes) in &self.patterns {
            if path.ancestors().any(|part| !part.as_os_str().is_empty() && pattern.is_match(part)) {
                excluded = *excludes;
            }
        }
        excluded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockerignore_works_as_docker_reads_it() {
        let ignore = Ignore::parse("# c\n*.log\n/node_modules/\n**/tmp\n!keep.log\ndocs\n!docs/README\n")
            .expect("the patterns are valid");
        let excluded = |path: &str| ignore.excludes(Path::new(path));
        assert!(excluded("a.log") && !excluded("sub/a.log") && !excluded("keep.log"));
        assert!(excluded("node_modules/x/y") && excluded("a/b/tmp/c"));
        assert!(excluded("docs/x") && !excluded("docs/README"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_context_is_streamed_without_following_links() {
        use futures_util::StreamExt;
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        fs::write(dir.path().join("Dockerfile"), "FROM x").expect("the file can be written");
        fs::write(dir.path().join("big"), vec![7; 300_000]).expect("the file can be written");
        std::os::unix::fs::symlink("/etc/shadow", dir.path().join("link")).expect("the link can be made");
        let stream = context_stream(dir.path(), "Dockerfile", &BTreeMap::new()).expect("the context is good");
        let bytes: Vec<u8> = stream.map(|chunk| chunk.expect("reading works").to_vec()).concat().await;
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries: Vec<_> =
            archive.entries().expect("it is a tar").map(|entry| entry.expect("the entry is whole")).collect();
        let kinds: Vec<_> = entries
            .iter()
            .map(|e| (e.path().expect("a path").display().to_string(), e.header().entry_type()))
            .collect();
        assert_eq!(kinds.len(), 3);
        assert!(kinds.contains(&("link".to_owned(), tar::EntryType::Symlink)));
        assert!(context_stream(dir.path(), "../Dockerfile", &BTreeMap::new()).is_err());
    }
}
