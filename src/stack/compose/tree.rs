//! From files to one tree: each is parsed and filled in with variables, its `extends` are resolved, the files are laid over each
//! other, and what they `include` is added. What the keys mean is not known here.

use super::merge::{merge, merge_service};
use crate::env::document::{self, Key, Kind, Mark, Node, Place};
use crate::env::reader::{Fields, Reading, Unknown};
use crate::stack::env_file;
use crate::stack::interpolate::{Found, interpolate};
use crate::stack::ports::join;
use std::collections::BTreeMap;

/// The largest compose file that is read, in bytes.
pub const MAX_BYTES: u64 = 1 << 20;
/// The most files of one project.
const MAX_FILES: usize = 1000;
/// How deep files may include others, and services extend others.
const MAX_DEPTH: usize = 16;
/// What all values of a project may come to, in bytes.
const MAX_TOTAL: usize = 64 << 20;

/// The most services of one stack.
pub const MAX_SERVICES: usize = 500;

/// Gives the bytes of a file, `None` if it is not there; at most [`MAX_BYTES`] and one more.
pub type ReadFile<'a> = &'a dyn Fn(&str) -> anyhow::Result<Option<Vec<u8>>>;

/// Variables by name.
pub type Variables = BTreeMap<String, String>;

/// The files that were read, in the order of [`Place::file`]: path, and the directory from which their relative paths count.
#[derive(Debug, Default)]
pub struct Sources(Vec<(String, String)>);

impl Sources {
    /// The directory from which a relative path at this place counts.
    pub fn base(&self, place: Place) -> &str {
        self.0.get(usize::from(place.file)).map_or("/", |(_, base)| base)
    }

    /// A path that stands at this place, made absolute.
    pub fn absolute(&self, place: Place, path: &str) -> String {
        join(self.base(place), path)
    }

    pub fn paths(&self) -> Vec<String> {
        self.0.iter().map(|(path, _)| path.clone()).collect()
    }

    fn name(&self, place: Place) -> &str {
        self.0.get(usize::from(place.file)).map_or("", |(path, _)| path)
    }
}

/// Reads trees, and remembers what was learnt on the way.
pub struct Loader<'a> {
    pub reading: &'a Reading,
    pub read: ReadFile<'a>,
    pub sources: Sources,
    pub found: Found,
    /// How much all values have come to.
    total: usize,
    /// There are more files than are read, and it was told.
    is_full: bool,
    /// Files that services are extended from, so that each is read once.
    extended: BTreeMap<String, (Variables, Node)>,
}

const KINDS: [&str; 5] = ["services", "networks", "volumes", "secrets", "configs"];

impl<'a> Loader<'a> {
    pub fn new(reading: &'a Reading, read: ReadFile<'a>) -> Loader<'a> {
        Loader {
            reading,
            read,
            sources: Sources::default(),
            found: Found::default(),
            total: 0,
            is_full: false,
            extended: BTreeMap::new(),
        }
    }

    /// The tree of the files of a project, the later over the earlier, with what they include. `from` is who asks for them.
    pub fn project(
        &mut self,
        files: &[String],
        directory: &str,
        variables: &Variables,
        from: Place,
        depth: usize,
    ) -> Option<Node> {
        let mut whole: Option<Node> = None;
        for file in files {
            let tree = self.file(file, directory, variables, from)?;
            let tree = self.extend_all(&tree, variables);
            // Each file's own, so that a later file changes what an earlier one includes.
            let tree = self.include_all(&tree, variables, depth);
            whole = Some(match whole {
                Some(lower) => merge(&lower, &tree),
                None => tree,
            });
        }
        Some(without_marks(&whole?))
    }

    fn file(&mut self, path: &str, base: &str, variables: &Variables, from: Place) -> Option<Node> {
        let refuse = |text: String| {
            self.reading.error(from, text);
            None
        };
        let index = self.sources.0.len();
        if index >= MAX_FILES {
            // Told once, whatever else would be read.
            return if std::mem::replace(&mut self.is_full, true) {
                None
            } else {
                refuse(format!("this project has more than {MAX_FILES} files"))
            };
        }
        let bytes = match (self.read)(path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return refuse(format!("there is no file {path}")),
            Err(error) => return refuse(format!("{path} cannot be read: {error:#}")),
        };
        self.sources.0.push((path.to_owned(), base.to_owned()));
        // MAX_FILES fits.
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        match document::parse_with_marks(&bytes, MAX_BYTES) {
            // Several documents in one file are laid over each other like files.
            Ok(roots) => roots
                .iter()
                .map(|root| self.filled_in(root, index, variables))
                .reduce(|lower, upper| merge(&lower, &upper)),
            Err(problem) => {
                let place = Place { file: index, line: problem.line, column: problem.column };
                self.reading.error(place, problem.message);
                None
            }
        }
    }

    /// The tree with every value interpolated and every place with its file; keys stay as they are.
    fn filled_in(&mut self, node: &Node, file: u16, variables: &Variables) -> Node {
        let kind = match &*node.kind {
            Kind::Scalar { text, plain } => match interpolate(text, variables, &mut self.found) {
                Ok(filled) if self.total.saturating_add(filled.len()) > MAX_TOTAL => {
                    if self.total <= MAX_TOTAL {
                        self.reading.error(
                            Place { file, ..node.place },
                            format!("all values come to more than {MAX_TOTAL} bytes"),
                        );
                    }
                    self.total = MAX_TOTAL + 1;
                    Kind::Scalar { text: String::new(), plain: false }
                }
                // What a variable gave is a text, also if it is empty.
                Ok(filled) => {
                    self.total += filled.len();
                    Kind::Scalar { plain: *plain && !text.contains('$'), text: filled }
                }
                Err(problem) => {
                    self.reading.error(Place { file, ..node.place }, format!("this value {problem}"));
                    Kind::Scalar { text: String::new(), plain: false }
                }
            },
            Kind::Sequence(items) => {
                Kind::Sequence(items.iter().map(|item| self.filled_in(item, file, variables)).collect())
            }
            Kind::Mapping(entries) => {
                let entry = |(key, value): &(Key, Node)| {
                    let key = Key { place: Place { file, ..key.place }, text: key.text.clone() };
                    (key, self.filled_in(value, file, variables))
                };
                Kind::Mapping(entries.iter().map(entry).collect())
            }
        };
        node.with_kind(kind).in_file(file)
    }

    /// The tree with every service's `extends` resolved.
    fn extend_all(&mut self, root: &Node, variables: &Variables) -> Node {
        let Some(services) = root.get("services") else { return root.clone() };
        if services.entries().len() > MAX_SERVICES {
            // The reader refuses it; nothing is gained by making it larger.
            return root.clone();
        }
        let each = services
            .entries()
            .iter()
            .map(|(key, service)| (key.clone(), self.extended(root, &key.text, service, variables, &mut Vec::new())));
        let services = services.with_kind(Kind::Mapping(each.collect()));
        with_entry(root, "services", services)
    }

    fn extended(
        &mut self,
        root: &Node,
        name: &str,
        service: &Node,
        variables: &Variables,
        chain: &mut Vec<(String, String)>,
    ) -> Node {
        let Some(extends) = service.get("extends").filter(|node| !node.is_null()) else { return service.clone() };
        let own = without_entry(service, "extends");
        let (file, base) = match &*extends.kind {
            Kind::Scalar { text, .. } => (None, Some(text.clone())),
            _ => {
                let fields = Fields::of(self.reading, Some(extends), &format!("services.{name}.extends"));
                let parts = (fields.text("file"), fields.text("service"));
                fields.finish(Unknown::Refuse);
                parts
            }
        };
        let place = extends.place;
        let Some(base) = base else {
            self.reading.error(place, format!("'services.{name}.extends.service' is missing"));
            return own;
        };
        let link = (self.sources.name(service.place).to_owned(), name.to_owned());
        if chain.contains(&link) || chain.len() >= MAX_DEPTH {
            let names: Vec<&str> = chain.iter().map(|(_, name)| name.as_str()).collect();
            self.reading.error(place, format!("these services extend each other: {}", names.join(", ")));
            return own;
        }
        chain.push(link);
        let root = match file {
            None => Some(root.clone()),
            Some(file) => self.extended_file(&self.sources.absolute(place, &file), variables, place),
        };
        let Some(root) = root else { return own };
        let Some(lower) = root.get("services").and_then(|services| services.get(&base)) else {
            let file = self.sources.name(root.place);
            self.reading.error(place, format!("there is no service {} in {file}", document::shown(&base)));
            return own;
        };
        let lower = self.extended(&root, &base, lower, variables, chain);
        chain.pop();
        merge_service(&lower, &own)
    }

    fn extended_file(&mut self, path: &str, variables: &Variables, from: Place) -> Option<Node> {
        // Another included file may have other variables.
        if let Some((_, root)) = self.extended.get(path).filter(|(known, _)| known == variables) {
            return Some(root.clone());
        }
        let root = self.file(path, parent(path), variables, from)?;
        self.extended.insert(path.to_owned(), (variables.clone(), root.clone()));
        Some(root)
    }

    /// The tree with what it includes added to it.
    fn include_all(&mut self, root: &Node, variables: &Variables, depth: usize) -> Node {
        let Some(include) = root.get("include").filter(|node| !node.is_null()) else { return root.clone() };
        let mut whole = without_entry(root, "include");
        let Kind::Sequence(items) = &*include.kind else {
            self.reading.error(include.place, "'include' must be a list");
            return whole;
        };
        if depth >= MAX_DEPTH {
            self.reading.error(include.place, format!("files include each other more than {MAX_DEPTH} deep"));
            return whole;
        }
        for item in items {
            if let Some(included) = self.include(item, variables, depth) {
                whole = self.united(&whole, &included, item.place);
            }
        }
        whole
    }

    fn include(&mut self, item: &Node, variables: &Variables, depth: usize) -> Option<Node> {
        let place = item.place;
        let absolute = |text: &String| self.sources.absolute(place, text);
        let (files, directory, env_files) = match &*item.kind {
            Kind::Scalar { text, .. } => (vec![absolute(text)], None, None),
            _ => {
                let fields = Fields::of(self.reading, Some(item), "include");
                let files = super::values::texts(&fields, "path").iter().map(absolute).collect();
                let directory = fields.text("project_directory").as_ref().map(absolute);
                let env_files = fields
                    .value("env_file")
                    .map(|_| super::values::texts(&fields, "env_file").iter().map(absolute).collect::<Vec<_>>());
                fields.finish(Unknown::Refuse);
                (files, directory, env_files)
            }
        };
        let Some(first) = files.first() else {
            self.reading.error(place, "'include.path' is missing");
            return None;
        };
        let directory = directory.unwrap_or_else(|| parent(first).to_owned());
        let named = env_files.is_some();
        let (mut inner, none, mut found) = (Variables::new(), Variables::new(), Found::default());
        let known = env_file::Known::project(variables, &none);
        for path in env_files.unwrap_or_else(|| vec![join(&directory, ".env")]) {
            match (self.read)(&path) {
                Ok(None) if !named => {}
                Ok(None) => self.reading.error(place, format!("there is no file {path}")),
                Err(error) => self.reading.error(place, format!("{path} cannot be read: {error:#}")),
                Ok(Some(bytes)) => match env_file::parse(&String::from_utf8_lossy(&bytes), known, &mut found) {
                    Ok(more) => inner.extend(more),
                    Err(error) => self.reading.error(place, format!("{path} is broken: {error:#}")),
                },
            }
        }
        self.found.missing.append(&mut found.missing);
        // What the project itself sets wins.
        inner.extend(variables.clone());
        self.project(&files, &directory, &inner, place, depth + 1)
    }

    /// Both trees' services, networks and so on. What stands in both is an error: one would win in silence.
    fn united(&self, own: &Node, included: &Node, place: Place) -> Node {
        let mut whole = own.clone();
        for kind in KINDS {
            let Some(more) = included.get(kind).filter(|node| !node.entries().is_empty()) else { continue };
            let Some(known) = whole.get(kind).filter(|node| !node.is_null()) else {
                whole = with_entry(&whole, kind, more.clone());
                continue;
            };
            let mut entries = known.entries().to_vec();
            for (key, value) in more.entries() {
                match entries.iter().find(|(name, _)| name.text == key.text) {
                    // The same file may be included by several, and the same network named.
                    Some((_, known)) if is_same(known, value) => {}
                    Some(_) => {
                        let text = format!("'{kind}.{}' is included, but stands here too", document::shown(&key.text));
                        self.reading.error(place, text);
                    }
                    None => entries.push((key.clone(), value.clone())),
                }
            }
            let united = known.with_kind(Kind::Mapping(entries));
            whole = with_entry(&whole, kind, united);
        }
        whole
    }
}

/// Whether two trees say the same, wherever they stand.
fn is_same(one: &Node, other: &Node) -> bool {
    match (&*one.kind, &*other.kind) {
        _ if one.is_null() || other.is_null() => one.is_null() && other.is_null(),
        (Kind::Scalar { text: a, .. }, Kind::Scalar { text: b, .. }) => a == b,
        (Kind::Sequence(a), Kind::Sequence(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b)),
        (Kind::Mapping(a), Kind::Mapping(b)) => {
            let has = |(key, value): &(Key, Node)| other.get(&key.text).is_some_and(|same| is_same(value, same));
            a.len() == b.len() && a.iter().all(has)
        }
        _ => false,
    }
}

/// A file's directory.
pub fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((directory, _)) => directory,
    }
}

fn with_entry(node: &Node, key: &str, value: Node) -> Node {
    let mut entries = node.entries().to_vec();
    match entries.iter_mut().find(|(name, _)| name.text == key) {
        Some((_, old)) => *old = value,
        None => entries.push((Key { text: key.to_owned(), place: value.place }, value)),
    }
    node.with_kind(Kind::Mapping(entries))
}

fn without_entry(node: &Node, key: &str) -> Node {
    let entries = node.entries().iter().filter(|(name, _)| name.text != key);
    node.with_kind(Kind::Mapping(entries.cloned().collect()))
}

/// What `!reset` takes away where nothing stands below it.
fn without_marks(node: &Node) -> Node {
    match &*node.kind {
        Kind::Mapping(entries) => {
            let kept = entries.iter().filter(|(_, value)| value.mark != Some(Mark::Reset));
            node.with_kind(Kind::Mapping(kept.map(|(key, value)| (key.clone(), without_marks(value))).collect()))
        }
        _ => node.clone(),
    }
}
