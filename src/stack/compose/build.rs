//! A service's `build:` (Compose Build Specification).

use super::Context;
use super::service::{pairs, texts};
use crate::env::document::{self, Kind};
use crate::env::reader::{Fields, Unknown};
use crate::stack::model::Build;

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
        dockerfile: fields.text("dockerfile").unwrap_or_else(|| "Dockerfile".to_owned()),
        args: pairs(&fields, "args", context),
        target: fields.text("target").unwrap_or_default(),
        labels: pairs(&fields, "labels", context),
        cache_from: texts(&fields, "cache_from"),
        network: fields.text("network"),
    };
    fields.finish(Unknown::Refuse);
    Some(build)
}

/// Docker would fetch what is no directory; the appliance builds what is in the checkout.
fn checked_context(fields: &Fields, path: String, text: &str) -> String {
    if text.contains("://") || text.starts_with("git@") {
        fields.error(fields.place(), format!("the build context '{}' must be a directory", document::shown(text)));
    }
    path
}
