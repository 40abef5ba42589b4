//! A service's `build:` (Compose Build Specification).

use super::Context;
use super::options;
use super::values::{pairs, said, texts};
use crate::env::document::{self, Kind};
use crate::env::reader::{Fields, Unknown};
use crate::stack::model::{Build, NamedContext};
use crate::value::amount;
use std::collections::BTreeMap;

/// Reads it, if it is there.
pub fn read(service: &Fields, context: &Context) -> Option<Build> {
    let node = service.value("build")?;
    let absolute = |path: &str| context.sources.absolute(node.place, path);
    if let Kind::Scalar { text, .. } = &*node.kind {
        return Some(Build {
            context: checked_context(service, absolute(text), text),
            dockerfile: "Dockerfile".to_owned(),
            ..Build::default()
        });
    }
    let fields = service.fields("build");
    let place = |key| fields.value(key).map_or(node.place, |node| node.place);
    let text = fields.text("context").unwrap_or_else(|| ".".to_owned());
    let build = Build {
        context: checked_context(&fields, context.sources.absolute(place("context"), &text), &text),
        dockerfile: said(&fields, "dockerfile").unwrap_or_else(|| "Dockerfile".to_owned()),
        inline: said(&fields, "dockerfile_inline"),
        tags: texts(&fields, "tags"),
        no_cache: fields.boolean("no_cache").unwrap_or(false),
        pull: fields.boolean("pull").unwrap_or(false),
        shm_size: fields.text("shm_size").and_then(|text| {
            let problem =
                |problem| fields.error(place("shm_size"), format!("'{}': {problem}", fields.path("shm_size")));
            amount::size_limit(&text).map_err(problem).ok()?
        }),
        extra_hosts: options::read_extra_hosts(&fields),
        args: pairs(&fields, "args", context),
        target: said(&fields, "target").unwrap_or_default(),
        labels: pairs(&fields, "labels", context),
        cache_from: texts(&fields, "cache_from"),
        network: said(&fields, "network"),
        contexts: contexts(&fields, context),
    };
    if build.inline.is_some() && fields.value("dockerfile").is_some() {
        fields.error(place("dockerfile_inline"), "'dockerfile' and 'dockerfile_inline' cannot stand together");
    }
    fields.finish(Unknown::Refuse);
    Some(build)
}

/// The named contexts: directories, images, and what other services build.
fn contexts(fields: &Fields, context: &Context) -> BTreeMap<String, NamedContext> {
    let place = fields.value("additional_contexts").map_or(fields.place(), |node| node.place);
    let mut all = BTreeMap::new();
    for (name, value) in pairs(fields, "additional_contexts", context) {
        let path = format!("{}.{name}", fields.path("additional_contexts"));
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:".contains(&b));
        let is_image =
            |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b));
        let found = if let Some(image) = value.strip_prefix("docker-image://").filter(|image| is_image(image)) {
            Some(NamedContext::Image(image.to_owned()))
        } else if let Some(service) = value.strip_prefix("service:") {
            service.parse().ok().map(NamedContext::Service)
        } else if value.contains("://") || value.starts_with("git@") || value.is_empty() {
            None
        } else {
            Some(NamedContext::Directory(context.sources.absolute(place, &value)))
        };
        match found.filter(|_| is_name) {
            Some(found) => drop(all.insert(name.to_ascii_lowercase(), found)),
            None => {
                let text = format!("'{path}' must be a directory, docker-image://IMAGE or service:NAME");
                fields.error(place, text);
            }
        }
    }
    all
}

/// Docker would fetch what is no directory; the appliance builds what is in the checkout.
fn checked_context(fields: &Fields, path: String, text: &str) -> String {
    if text.contains("://") || text.starts_with("git@") {
        fields.error(fields.place(), format!("the build context '{}' must be a directory", document::shown(text)));
    }
    path
}
