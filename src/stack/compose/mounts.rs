//! Volumes: the top-level `volumes:`, and a service's own, short and long form (Compose Specification, "volumes").

use super::networks::read_name;
use super::values::pairs;
use super::{Context, scalar};
use crate::env::document::{self, Kind, Node, Place};
use crate::env::reader::{Fields, Reading, Unknown};
use crate::stack::model::{Form, Forms, Mount, Source, StackVolume};
use crate::stack::ports;
use crate::value::amount;

/// Reads the top-level `volumes:`, each with its place.
pub fn read_top(root: &Fields, project: &str, context: &Context) -> Vec<(StackVolume, Place)> {
    let mut all = Vec::new();
    for (key, value) in root.value("volumes").map(Node::entries).unwrap_or_default() {
        let path = format!("volumes.{}", document::shown(&key.text));
        if !ports::is_volume_name(&key.text) {
            root.error(key.place, format!("'{path}' is not a volume's name"));
            continue;
        }
        let fields = Fields::of(root.reading, Some(value), &path);
        let (name, external) = read_name(&fields, &key.text, project);
        let driver = fields.text("driver");
        let mut driver_opts = pairs(&fields, "driver_opts", context);
        let is_bind = driver.as_deref().is_none_or(|driver| driver == "local")
            && driver_opts.get("o").is_some_and(|options| options.split(',').any(|option| option == "bind"));
        if let Some(device) = driver_opts.get_mut("device").filter(|_| is_bind) {
            // Docker's own would be its data directory.
            *device = context.sources.absolute(value.place, device);
        }
        let volume = StackVolume {
            key: key.text.clone(),
            name,
            external,
            driver,
            driver_opts,
            labels: pairs(&fields, "labels", context),
        };
        let has_options = volume.driver.is_some() || !volume.driver_opts.is_empty() || !volume.labels.is_empty();
        if external && has_options {
            root.error(key.place, format!("'{path}.external' is external, so it cannot have options here"));
        }
        fields.finish(Unknown::Refuse);
        all.push((volume, key.place));
    }
    all
}

/// The later of two mounts at one place wins, as with files that are laid over each other.
fn add(mounts: &mut Vec<Mount>, mount: Mount) {
    match mounts.iter_mut().find(|known| known.target == mount.target) {
        Some(known) => *known = mount,
        None => mounts.push(mount),
    }
}

/// What a service mounts, its memory file systems (path and options), and how the mounts are written.
type Mounts = (Vec<Mount>, Vec<(String, String)>, Forms);

/// Reads `volumes:` of a service.
pub fn read(service: &Fields, context: &Context) -> Mounts {
    let (mut mounts, mut memory, mut forms) = (Vec::new(), Vec::new(), Forms::default());
    let Some(node) = service.value("volumes") else { return (mounts, memory, forms) };
    let path = service.path("volumes");
    let Kind::Sequence(items) = &*node.kind else {
        service.error(node.place, format!("'{path}' must be a list"));
        return (mounts, memory, forms);
    };
    for item in items {
        if matches!(&*item.kind, Kind::Mapping(_)) {
            match read_long(service.reading, item, &path, context) {
                Some(Long::Mount(mount)) => {
                    forms.of.insert(mount.target.clone(), long_form(item));
                    memory.retain(|(target, _): &(String, String)| *target != mount.target);
                    add(&mut mounts, mount);
                }
                Some(Long::Memory(target, options)) => {
                    mounts.retain(|mount: &Mount| mount.target != target);
                    let said = |name| item.get("tmpfs").and_then(|tmpfs| tmpfs.get(name));
                    let size = said("size").and_then(scalar::text).and_then(|text| amount::bytes(&text).ok());
                    let mode = said("mode").and_then(scalar::mode);
                    forms.memory.push((mounts.len(), target.clone(), size.map(|size| size.to_string()), mode));
                    memory.push((target, options));
                }
                None => {}
            }
        } else if let Some(text) = service.reading.text(item, &path) {
            match ports::mount(&text, context.sources.base(item.place), context.home()) {
                Ok(mount) => {
                    let source = text.split(':').next().filter(|path| path.starts_with('/')).map(str::to_owned);
                    forms.of.insert(mount.target.clone(), Form { is_short: true, creates: true, source });
                    memory.retain(|(target, _): &(String, String)| *target != mount.target);
                    add(&mut mounts, mount);
                }
                Err(problem) => service.error(item.place, format!("'{path}': {problem}")),
            }
        }
    }
    (mounts, memory, forms)
}

/// How a mount that is a mapping is written.
fn long_form(node: &Node) -> Form {
    let of = |node: &Node, name: &str| {
        node.entries().iter().find(|(key, _)| key.text == name).map(|(_, value)| value.clone())
    };
    let creates = of(node, "bind").and_then(|bind| of(&bind, "create_host_path")).and_then(|said| scalar::text(&said));
    let source = of(node, "source").and_then(|source| scalar::text(&source)).filter(|path| path.starts_with('/'));
    Form { is_short: false, creates: creates.as_deref() == Some("true"), source }
}

enum Long {
    Mount(Mount),
    Memory(String, String),
}

#[expect(clippy::too_many_lines, reason = "one key after the other")]
fn read_long(reading: &Reading, node: &Node, path: &str, context: &Context) -> Option<Long> {
    let fields = Fields::of(reading, Some(node), path);
    let (kind, source, target) = (fields.text("type"), fields.text("source"), fields.text("target"));
    let read_only = fields.boolean("read_only").unwrap_or(false);
    // It says something to Docker Desktop only.
    fields.text("consistency");
    let (bind, volume, tmpfs) = (fields.fields("bind"), fields.fields("volume"), fields.fields("tmpfs"));
    let must_exist = bind.boolean("create_host_path") == Some(false);
    let propagation = bind.text("propagation").filter(|text| {
        let good = ports::is_propagation(text);
        if !good {
            bind.error(
                bind.place(),
                format!("'{}' must be rprivate, rslave, rshared or one without the r", bind.path("propagation")),
            );
        }
        good
    });
    let selinux = bind.text("selinux").and_then(|text| {
        if text != "z" && text != "Z" {
            bind.error(bind.place(), format!("'{}' must be z or Z", bind.path("selinux")));
        }
        text.chars().next()
    });
    let no_copy = volume.boolean("nocopy").unwrap_or(false);
    let subpath = volume.text("subpath");
    if subpath.is_some() {
        context.need(volume.place(), &volume.path("subpath"), (1, 45));
    }
    let mut options = Vec::new();
    if let Some(text) = tmpfs.text("size") {
        match amount::bytes(&text) {
            Ok(size) => options.push(format!("size={size}")),
            Err(problem) => tmpfs.error(tmpfs.place(), format!("'{}': {problem}", tmpfs.path("size"))),
        }
    }
    if let Some(node) = tmpfs.value("mode") {
        match scalar::mode(node) {
            Some(mode) if mode <= 0o7777 => options.push(format!("mode={mode:o}")),
            _ => tmpfs.error(node.place, format!("'{}' must be an octal mode like 1777", tmpfs.path("mode"))),
        }
    }
    if selinux.is_some() && must_exist {
        bind.error(
            bind.place(),
            format!("'{}' and 'create_host_path: false' cannot stand together", bind.path("selinux")),
        );
    }
    let wrong = |text: String| {
        fields.error(node.place, text);
        None
    };
    let target = match target {
        Some(target) if target.starts_with('/') && !target.contains(':') => ports::join("/", &target),
        _ => return wrong(format!("'{path}.target' must be an absolute path without a colon")),
    };
    let mount = |source| Mount {
        no_copy,
        subpath: subpath.clone(),
        propagation: propagation.clone(),
        selinux,
        must_exist,
        ..Mount::plain(source, &target, read_only)
    };
    let long = match (kind.as_deref(), source) {
        (Some("bind"), Some(source)) if source.starts_with('~') => match ports::in_home(&source, context.home()) {
            Some(path) => Some(Long::Mount(mount(Source::Path(path)))),
            None => {
                wrong(format!("'{path}.source' is in the home of somebody who is not known here; write the whole path"))
            }
        },
        (Some("bind"), Some(source)) if !source.contains(':') => {
            Some(Long::Mount(mount(Source::Path(context.sources.absolute(node.place, &source)))))
        }
        (Some("volume"), Some(source)) if ports::is_volume_name(&source) => {
            Some(Long::Mount(mount(Source::Volume(source))))
        }
        (Some("volume"), Some(source)) => {
            wrong(format!("'{path}.source' is '{}', but must be a volume's name", document::shown(&source)))
        }
        (Some("volume"), None) => Some(Long::Mount(mount(Source::Anonymous))),
        (Some("tmpfs"), None) if read_only => wrong(format!("'{path}.read_only' is not supported for a tmpfs")),
        (Some("tmpfs"), None) => Some(Long::Memory(target, options.join(","))),
        (Some("bind"), _) => wrong(format!("'{path}.source' is missing or has a colon")),
        (Some("tmpfs"), Some(_)) => wrong(format!("'{path}.source' has no place in a tmpfs")),
        _ => wrong(format!("'{path}.type' must be bind, volume or tmpfs")),
    };
    for part in [bind, volume, tmpfs, fields] {
        part.finish(Unknown::Refuse);
    }
    long
}
