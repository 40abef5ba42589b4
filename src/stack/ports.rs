//! Compose's short forms: ports, mounts and durations. Pure.

use super::model::{Mount, Port, Protocol, Published, Source};
use std::net::IpAddr;
use std::time::Duration;

/// The most ports that one range may stand for.
const MAX_RANGE: u16 = 1000;

/// `[ADDRESS:][PUBLISHED:]TARGET[/PROTOCOL]` (Compose Specification, "ports", short syntax). Ranges: as many published ports as
/// targets, each to its own; or a range for one target, of which Docker takes one.
pub fn port(text: &str) -> Result<Vec<Port>, String> {
    let right = || format!("'{text}' is not [address:][published:]target[/tcp|/udp|/sctp]");
    let (main, protocol) = match text.rsplit_once('/') {
        Some((main, name)) => (main, protocol(name).ok_or_else(right)?),
        None => (text, Protocol::Tcp),
    };
    let (before, target) = match main.rsplit_once(':') {
        Some((before, target)) => (Some(before), range(target).ok_or_else(right)?),
        None => (None, range(main).ok_or_else(right)?),
    };
    let (address, published) = match before.map(|before| before.rsplit_once(':').unwrap_or(("", before))) {
        None => (None, None),
        Some((address, published)) => {
            let address = address.trim_matches(['[', ']']);
            let address = if address.is_empty() { None } else { Some(address.parse::<IpAddr>().map_err(|_| right())?) };
            let published =
                if published.is_empty() { None } else { Some(published_range(published).ok_or_else(right)?) };
            (address, published)
        }
    };
    let port = |target, published| Port { address, published, target, protocol };
    let targets = target.0..=target.1;
    match published {
        None | Some((0, _)) => Ok(targets.map(|target| port(target, Published::Any)).collect()),
        Some((first, last)) if last - first == target.1 - target.0 => {
            Ok(targets.zip(first..=last).map(|(target, own)| port(target, Published::Fixed(own))).collect())
        }
        Some((first, last)) if target.0 == target.1 => Ok(vec![port(target.0, Published::Range(first, last))]),
        Some(_) => Err(format!("'{text}' has ranges of different lengths")),
    }
}

/// A port's protocol by its name.
pub fn protocol(name: &str) -> Option<Protocol> {
    match name {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// `80` or `80-85`.
pub fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last && last - first < MAX_RANGE).then_some((first, last))
}

/// [`range`], or 0, for which Docker chooses one.
pub fn published_range(text: &str) -> Option<(u16, u16)> {
    if text == "0" { Some((0, 0)) } else { range(text) }
}

/// `PORT[-PORT][/PROTOCOL]`, as `expose:` has it: one `PORT/PROTOCOL` each.
pub fn exposed(text: &str) -> Option<Vec<String>> {
    let (ports, name) = text.split_once('/').unwrap_or((text, "tcp"));
    protocol(name)?;
    let (first, last) = range(ports)?;
    Some((first..=last).map(|port| format!("{port}/{name}")).collect())
}

/// `[SOURCE:]TARGET[:MODE]`; a relative source counts from `directory`, `~` from `home`.
pub fn mount(text: &str, directory: &str, home: &str) -> Result<Mount, String> {
    let right = || format!("'{text}' is not [source:]/target[:mode]");
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, modes) = match parts[..] {
        [target] => (None, target, ""),
        [first, second] if second.starts_with('/') => (Some(first), second, ""),
        [target, modes] => (None, target, modes),
        [source, target, modes] => (Some(source), target, modes),
        _ => return Err(right()),
    };
    if !target.starts_with('/') || target.chars().any(char::is_control) {
        return Err(right());
    }
    let source = match source {
        None => Source::Anonymous,
        Some(path) if path.starts_with('/') => Source::Path(join("/", path)),
        Some(path) if path.starts_with('.') => Source::Path(join(directory, path)),
        Some(path) if path.starts_with('~') => Source::Path(in_home(path, home).ok_or_else(right)?),
        Some(name) if is_volume_name(name) => Source::Volume(name.to_owned()),
        Some(_) => return Err(right()),
    };
    let mut mount = Mount::plain(source, &join("/", target), false);
    for mode in modes.split(',').filter(|mode| !mode.is_empty()) {
        match mode {
            "rw" => {}
            "ro" => mount.read_only = true,
            "nocopy" => mount.no_copy = true,
            "z" | "Z" => mount.selinux = mode.chars().next(),
            // They say something to Docker Desktop only.
            "cached" | "delegated" | "consistent" => {}
            _ if is_propagation(mode) => mount.propagation = Some(mode.to_owned()),
            _ => return Err(format!("'{text}' has the mode '{mode}', which is not supported")),
        }
    }
    Ok(mount)
}

/// A path that begins with `~`; `None`: it is somebody else's home.
pub fn in_home(path: &str, home: &str) -> Option<String> {
    let rest = path.strip_prefix('~')?;
    (rest.is_empty() || rest.starts_with('/')).then(|| join(home, rest.trim_start_matches('/')))
}

/// How mounts travel (mount(8), "Shared subtree operations").
pub fn is_propagation(text: &str) -> bool {
    ["private", "rprivate", "shared", "rshared", "slave", "rslave"].contains(&text)
}

/// What Docker takes as a volume's name.
pub fn is_volume_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// A path joined to a directory, with `.` and `..` taken out.
pub fn join(directory: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{directory}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `1h30m`, `10s`, `1.5s`, `250ms`, `100us`: the Compose Specification's durations; days and weeks too, as docker compose takes them.
pub fn duration(text: &str) -> Result<Duration, String> {
    let right = || format!("'{text}' is not a duration like '30s' or '1m30s'");
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return Err(right());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(right)?;
        let (number, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 24.0 * 3600.0,
            "w" => 7.0 * 24.0 * 3600.0,
            _ => return Err(right()),
        };
        let number: f64 = number.parse().map_err(|_| right())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| right())?;
        total =
            total.checked_add(part).filter(|total| *total <= Duration::from_secs(365 * 24 * 3600)).ok_or_else(right)?;
        rest = next;
    }
    Ok(total)
}

/// [`duration`], and days and weeks: `1w2d12h`.
pub fn long_duration(text: &str) -> Result<Duration, String> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    for (unit, hours) in [('w', 7 * 24), ('d', 24)] {
        if let Some((number, tail)) = rest.split_once(unit) {
            let number: u32 = number.parse().map_err(|_| format!("'{text}' is not a duration like '2d12h'"))?;
            total = total.saturating_add(Duration::from_secs(u64::from(number) * hours * 3600));
            rest = tail;
        }
    }
    if rest.is_empty() { Ok(total) } else { Ok(total.saturating_add(duration(rest)?)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_every_short_form() {
        let plain = Port { address: None, published: Published::Any, target: 80, protocol: Protocol::Tcp };
        let local: Option<IpAddr> = Some([127, 0, 0, 1].into());
        let fixed = Published::Fixed(8080);
        let one = |port: Port| Ok(vec![port]);
        assert_eq!(port("80"), one(plain.clone()));
        assert_eq!(port("8080:80"), one(Port { published: fixed, ..plain.clone() }));
        let udp = Port { address: local, published: fixed, protocol: Protocol::Udp, ..plain.clone() };
        assert_eq!(port("127.0.0.1:8080:80/udp"), one(udp));
        assert_eq!(port("127.0.0.1::80"), one(Port { address: local, ..plain.clone() }));
        let six = Port { address: Some(std::net::Ipv6Addr::LOCALHOST.into()), published: fixed, ..plain.clone() };
        assert_eq!(port("[::1]:8080:80"), one(six));
        let ranged = Port { published: Published::Range(8000, 8010), ..plain.clone() };
        assert_eq!(port("8000-8010:80"), one(ranged));
        let second = Port { published: Published::Fixed(91), target: 81, ..plain.clone() };
        assert_eq!(port("90-91:80-81"), Ok(vec![Port { published: Published::Fixed(90), ..plain }, second]));
        assert_eq!(port("0:80"), one(plain.clone()), "Docker chooses one");
        for bad in ["", "0", "80/x", "a:80", "1.2.3:1:2", "70000", "1-3:1-2", "3-1", "1-2000:1-2000"] {
            assert!(port(bad).is_err(), "{bad}");
        }
        assert_eq!(exposed("3-4/udp"), Some(vec!["3/udp".to_owned(), "4/udp".to_owned()]));
        assert_eq!(exposed("x"), None);
    }

    #[test]
    fn mounts_in_every_short_form() {
        let read = |text: &str| mount(text, "/app/x", "/root");
        assert_eq!(read("~/a:/b").map(|mount| mount.source), Ok(Source::Path("/root/a".into())));
        assert_eq!(read("./a:/b:ro"), Ok(Mount::plain(Source::Path("/app/x/a".into()), "/b", true)));
        assert_eq!(read("../a:/b").map(|mount| mount.source), Ok(Source::Path("/app/a".into())));
        assert_eq!(read("data:/b").map(|mount| mount.source), Ok(Source::Volume("data".into())));
        assert_eq!(read("/b").map(|mount| mount.source), Ok(Source::Anonymous));
        assert_eq!(read("/b:ro").map(|mount| (mount.source, mount.read_only)), Ok((Source::Anonymous, true)));
        let labelled = read("/a:/b:ro,z,rslave").expect("the modes are known");
        assert_eq!((labelled.selinux, labelled.propagation.as_deref()), (Some('z'), Some("rslave")));
        for bad in ["", "a:b", "/a:/b:q", "a:/b:c:d", "-x:/b", "~me/a:/b"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("1w1d"), Ok(Duration::from_secs(8 * 24 * 3600)));
        for bad in ["", "5", "s", "1y", "1..5s", "99999999h", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
