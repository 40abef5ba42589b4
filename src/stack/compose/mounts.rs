//! A service's `volumes:`, short and long form (Compose Specification, "volumes").

use crate::env::document::{self, Kind, Node};
use crate::env::reader::{Fields, Reading, Unknown};
use crate::stack::model::{Mount, Source};
use crate::stack::ports;

/// What a service mounts, and its memory file systems: path and options.
pub fn read(service: &Fields, directory: &str) -> (Vec<Mount>, Vec<(String, String)>) {
    let (mut mounts, mut memory) = (Vec::new(), Vec::new());
    let Some(node) = service.value("volumes") else { return (mounts, memory) };
    let path = service.path("volumes");
    let Kind::Sequence(items) = &*node.kind else {
        service.error(node.place, format!("'{path}' must be a list"));
        return (mounts, memory);
    };
    for item in items {
        if matches!(&*item.kind, Kind::Mapping(_)) {
            match read_long(service.reading, item, &path, directory) {
                Some(Long::Mount(mount)) => mounts.push(mount),
                Some(Long::Memory(target, options)) => memory.push((target, options)),
                None => {}
            }
        } else if let Some(text) = service.reading.text(item, &path) {
            match ports::mount(&text, directory) {
                Ok(mount) => mounts.push(mount),
                Err(problem) => service.error(item.place, format!("'{path}': {problem}")),
            }
        }
    }
    (mounts, memory)
}

enum Long {
    Mount(Mount),
    Memory(String, String),
}

fn read_long(reading: &Reading, node: &Node, path: &str, directory: &str) -> Option<Long> {
    let fields = Fields::of(reading, Some(node), path);
    let (kind, source, target) = (fields.text("type"), fields.text("source"), fields.text("target"));
    let read_only = fields.boolean("read_only").unwrap_or(false);
    let (bind, volume, tmpfs) = (fields.fields("bind"), fields.fields("volume"), fields.fields("tmpfs"));
    if bind.boolean("create_host_path") == Some(false) {
        bind.error(
            bind.place(),
            format!("'{}: false' is not carried out; a missing directory is made", bind.path("create_host_path")),
        );
    }
    let no_copy = volume.boolean("nocopy").unwrap_or(false);
    let size = tmpfs.text("size").and_then(|text| {
        ports::bytes(&text)
            .map_err(|problem| tmpfs.error(tmpfs.place(), format!("'{}': {problem}", tmpfs.path("size"))))
            .ok()
    });
    let wrong = |text: String| {
        fields.error(node.place, text);
        None
    };
    let target = match target {
        Some(target) if target.starts_with('/') && !target.contains(':') => target,
        _ => return wrong(format!("'{path}.target' must be an absolute path without a colon")),
    };
    let long = match (kind.as_deref(), source) {
        (Some("bind"), Some(source)) if !source.contains(':') => Some(Long::Mount(Mount {
            source: Source::Path(ports::join(directory, &source)),
            target,
            read_only,
            no_copy: false,
        })),
        (Some("volume"), Some(source)) => match ports::mount(&format!("{source}:{target}"), directory) {
            Ok(Mount { source: source @ Source::Volume(_), .. }) => {
                Some(Long::Mount(Mount { source, target, read_only, no_copy }))
            }
            _ => wrong(format!("'{path}.source' is '{}', but must be a volume's name", document::shown(&source))),
        },
        (Some("volume"), None) => Some(Long::Mount(Mount { source: Source::Anonymous, target, read_only, no_copy })),
        (Some("tmpfs"), None) => {
            Some(Long::Memory(target, size.map(|size| format!("size={size}")).unwrap_or_default()))
        }
        (Some("bind"), _) => wrong(format!("'{path}.source' is missing or has a colon")),
        (Some("tmpfs"), Some(_)) => wrong(format!("'{path}.source' has no place in a tmpfs")),
        _ => wrong(format!("'{path}.type' must be bind, volume or tmpfs")),
    };
    for part in [bind, volume, tmpfs, fields] {
        part.finish(Unknown::Refuse);
    }
    long
}
