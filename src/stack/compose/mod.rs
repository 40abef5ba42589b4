//! A compose project's files into the model. A key that is not supported is an error that names it. `tree.rs` makes one tree of
//! them, `service.rs` and the others read its parts; here is what concerns the whole.

mod build;
mod deploy;
mod grants;
mod merge;
mod mounts;
mod networks;
mod options;
pub mod print;
mod print_parts;
mod print_values;
mod references;
mod scalar;
mod service;
mod tree;
mod values;
mod words;
mod written;

pub use tree::{MAX_BYTES, ReadFile, Variables};

use super::model::*;
use crate::env::document::{Node, Place};
use crate::env::reader::{Fields, Reading, Unknown};
use crate::env::{Allow, Report};
use crate::value::{AppName, ServiceName};
use grants::Kinds;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use tree::{Loader, MAX_SERVICES, Sources};

/// What there is to read.
pub struct Project<'a> {
    /// The project is called after the app, whatever the files say: paths and names follow from it.
    pub name: &'a AppName,
    /// Absolute; the later over the earlier.
    pub files: &'a [String],
    /// From where relative paths in them count.
    pub directory: &'a str,
    pub variables: &'a Variables,
    pub read: ReadFile<'a>,
}

/// The place of a key, the key, and the version of the engine's API that it needs.
type Needed = (Place, String, (u32, u32));

/// What the readers of the parts have to know of the whole.
struct Context<'a> {
    sources: &'a Sources,
    variables: &'a Variables,
    secrets: BTreeMap<String, Option<Content>>,
    configs: BTreeMap<String, Option<Content>>,
    needs: RefCell<Vec<Needed>>,
    hidden: RefCell<BTreeSet<String>>,
}

impl Context<'_> {
    /// A key asks for an engine whose API has at least this version.
    fn need(&self, place: Place, key: &str, api: (u32, u32)) {
        self.needs.borrow_mut().push((place, key.to_owned(), api));
    }

    /// What `~` stands for: the same as `$HOME`.
    fn home(&self) -> &str {
        self.variables.get("HOME").map_or("/root", String::as_str)
    }

    /// A value came from outside of the files and may be a secret.
    fn hide(&self, value: Option<&str>) {
        self.hidden.borrow_mut().extend(value.map(str::to_owned));
    }
}

/// Reads a project. There is a stack only if there is no error.
pub fn read(project: &Project) -> (Option<Stack>, Report) {
    let reading = Reading::default();
    let mut loader = Loader::new(&reading, project.read);
    let root = loader.project(project.files, project.directory, project.variables, Place::START, 0);
    let (sources, found) = (loader.sources, loader.found);
    let stack = root.and_then(|root| read_stack(&reading, &root, project, &sources, found.used));
    for name in found.missing {
        reading.warning(Place::START, format!("the variable {name} is not set and counts as empty"));
    }
    let mut report = reading.finish().report;
    report.name_files(&sources.paths());
    if report.has_errors() { (None, report) } else { (stack, report) }
}

fn read_stack(
    reading: &Reading,
    root: &Node,
    project: &Project,
    sources: &Sources,
    used: BTreeSet<String>,
) -> Option<Stack> {
    let mut context = Context {
        sources,
        variables: project.variables,
        secrets: BTreeMap::new(),
        configs: BTreeMap::new(),
        needs: RefCell::default(),
        hidden: RefCell::new(used),
    };
    let name = project.name.as_str();
    let fields = Fields::root(reading, root, "a mapping with the key 'services'")?;
    fields.text("version");
    fields.text("name");
    context.secrets = grants::read_top(&fields, Kinds::Secrets, &context);
    context.configs = grants::read_top(&fields, Kinds::Configs, &context);
    let networks = networks::read(&fields, name, &context);
    let volumes = mounts::read_top(&fields, name, &context);
    let Some(node) = fields.value("services").filter(|node| !node.entries().is_empty()) else {
        fields.error(root.place, "'services' is missing or empty; there is nothing to run");
        return None;
    };
    if node.entries().len() > MAX_SERVICES {
        fields.error(node.place, format!("there are more than {MAX_SERVICES} services"));
        return None;
    }
    let mut services = Vec::new();
    for (key, value) in node.entries() {
        match key.text.parse::<ServiceName>() {
            Ok(name) => services.extend(service::read(reading, name, value, &context)),
            Err(right) => reading.error(key.place, format!("a service's name must be {right}")),
        }
    }
    let grant_variables = written::variables(&fields);
    fields.finish(Unknown::Refuse);
    let known: Vec<ServiceName> = services.iter().map(|service| service.name.clone()).collect();
    services.retain(|service: &Service| is_active(service, &active_profiles(project.variables)));
    if services.is_empty() {
        reading.error(node.place, "every service belongs to a profile, and none is asked for; see COMPOSE_PROFILES");
    }
    references::check(&references::Parts {
        reading,
        node,
        services: &services,
        known: &known,
        networks: &networks,
        volumes: &volumes,
    });
    let needs = context.needs.take().into_iter().map(|(place, key, api)| {
        let file = sources.paths().get(usize::from(place.file)).cloned().unwrap_or_default();
        Need { api, key, at: format!("{file}:{}:{}", place.line, place.column) }
    });
    let mut stack = Stack {
        shares_host: false,
        limits: None,
        project: project.name.clone(),
        files: project.files.to_vec(),
        directory: project.directory.to_owned(),
        networks: used_networks(networks, &services),
        volumes: used_volumes(volumes, &services),
        hidden: context.hidden.take(),
        needs: needs.collect(),
        services,
        allow: Allow::default(),
        extensions: written::extensions(root.entries()),
        variables: grant_variables,
    };
    finish_restarts(&mut stack);
    Some(stack)
}

/// What others wait for to be done runs once, unless the file says otherwise.
fn finish_restarts(stack: &mut Stack) {
    let once: Vec<ServiceName> =
        stack.services.iter().map(|service| service.name.clone()).filter(|name| stack.is_one_shot(name)).collect();
    for service in stack.services.iter_mut().filter(|service| !service.restart_is_said) {
        if once.contains(&service.name) {
            service.restart = Restart::No;
        }
    }
}

/// The profiles that `COMPOSE_PROFILES` asks for.
fn active_profiles(variables: &Variables) -> Vec<&str> {
    let asked = variables.get("COMPOSE_PROFILES").map(String::as_str).unwrap_or_default();
    asked.split(',').map(str::trim).filter(|profile| !profile.is_empty()).collect()
}

fn is_active(service: &Service, asked: &[&str]) -> bool {
    let is_asked = |profile: &String| asked.contains(&profile.as_str()) || asked.contains(&"*");
    service.profiles.is_empty() || service.profiles.iter().any(is_asked)
}

fn used_networks(all: Vec<(StackNetwork, Place)>, services: &[Service]) -> Vec<StackNetwork> {
    let is_used =
        |key: &str| services.iter().any(|service| service.joined().iter().any(|joined| joined.network == key));
    all.into_iter().map(|(network, _)| network).filter(|network| is_used(&network.key)).collect()
}

fn used_volumes(all: Vec<(StackVolume, Place)>, services: &[Service]) -> Vec<StackVolume> {
    let is_mounted = |mount: &Mount, key: &str| matches!(&mount.source, Source::Volume(name) if name == key);
    let is_used = |key: &str| services.iter().any(|service| service.mounts.iter().any(|mount| is_mounted(mount, key)));
    all.into_iter().map(|(volume, _)| volume).filter(|volume| is_used(&volume.key)).collect()
}

/// For tests of the parts that need a stack: one file, given as text.
#[cfg(test)]
pub fn of_text(text: &str, project: &AppName, file: &str, variables: &Variables) -> (Option<Stack>, Report) {
    let read = |path: &str| Ok((path == file).then(|| text.as_bytes().to_vec()));
    let files = [file.to_owned()];
    self::read(&Project { name: project, files: &files, directory: tree::parent(file), variables, read: &read })
}

#[cfg(test)]
mod project_tests;
#[cfg(test)]
mod tests;
