//! `appliance cp`: files into and out of a service's container. The copying itself is Docker's own tool's, whose rules for
//! directories and names people know.

use super::choice::AppArgument;
use crate::host::{Host, Mode};
use crate::stack::inside::container_of;
use crate::value::ServiceName;
use anyhow::{Result, bail};
use clap::Args;

#[derive(Debug, Args)]
pub struct CopyArguments {
    /// What to copy: PATH or SERVICE:PATH; - reads a tar archive
    from: String,
    /// Where to: PATH or SERVICE:PATH; - writes a tar archive
    to: String,
    /// Which of the service's containers, from 1
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    index: u32,
    /// Keep owner and group
    #[arg(short, long)]
    archive: bool,
    /// Copy what a link points to, not the link
    #[arg(short = 'L', long)]
    follow_link: bool,
    #[command(flatten)]
    app: AppArgument,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Here(String),
    In(ServiceName, String),
}

pub async fn cp(arguments: CopyArguments) -> Result<u8> {
    let (from, to) = (side(&arguments.from), side(&arguments.to));
    let service = match (&from, &to) {
        (Side::In(service, _), Side::Here(_)) | (Side::Here(_), Side::In(service, _)) => service,
        (Side::Here(_), Side::Here(_)) => bail!("one of the two must be SERVICE:PATH"),
        (Side::In(..), Side::In(..)) => {
            bail!("copying between two services is not supported; copy to this host first")
        }
    };
    let host = Host::system(Mode::Apply);
    let project = arguments.app.active(&host)?.app.name;
    let container = container_of(&host, project.as_str(), service.as_str(), arguments.index, false).await?;
    let named = |side: &Side| match side {
        // A path that begins with '-' is no option.
        Side::Here(path) if path.starts_with('-') && path != "-" => format!("./{path}"),
        Side::Here(path) => path.clone(),
        Side::In(_, path) => format!("{}:{path}", container.id),
    };
    let mut words = vec!["cp".to_owned()];
    words.extend(arguments.archive.then(|| "--archive".to_owned()));
    words.extend(arguments.follow_link.then(|| "--follow-link".to_owned()));
    words.extend(["--".to_owned(), named(&from), named(&to)]);
    host.hand_over("docker", &words).await
}

/// A path with a colon is one of this host if it begins with `/` or `.`.
fn side(text: &str) -> Side {
    let here = || Side::Here(text.to_owned());
    if text.starts_with(['/', '.']) {
        return here();
    }
    match text.split_once(':') {
        Some((service, path)) => match service.parse() {
            Ok(service) => Side::In(service, path.to_owned()),
            Err(_) => here(),
        },
        None => here(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        assert_eq!(side("a.txt"), Side::Here("a.txt".to_owned()));
        assert_eq!(side("./a:b"), Side::Here("./a:b".to_owned()));
        assert_eq!(side("ecs.web:/a:b"), Side::In("ecs.web".parse().expect("a name"), "/a:b".to_owned()));
        assert_eq!(side("-"), Side::Here("-".to_owned()));
    }
}
