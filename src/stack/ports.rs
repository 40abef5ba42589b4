//! Compose's short forms: ports, mounts, durations and sizes. Pure.

use super::model::{Mount, Port, Source};
use std::net::IpAddr;
use std::time::Duration;

/// `[ADDRESS:][PUBLISHED:]TARGET[/PROTOCOL]` (Compose Specification, "ports", short syntax) without ranges.
pub fn port(text: &str) -> Result<Port, String> {
    let right = || format!("'{text}' is not [address:][published:]target[/tcp|/udp]; ranges are not carried out");
    let (main, udp) = match text.rsplit_once('/') {
        Some((main, "tcp")) => (main, false),
        Some((main, "udp")) => (main, true),
        Some(_) => return Err(right()),
        None => (text, false),
    };
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(right);
    let (before, target) = match main.rsplit_once(':') {
        Some((before, target)) => (Some(before), number(target)?),
        None => (None, number(main)?),
    };
    let Some(before) = before else { return Ok(Port { address: None, published: None, target, udp }) };
    let (address, published) = match before.rsplit_once(':') {
        Some((address, published)) => (Some(address), published),
        None => (None, before),
    };
    let address = match address {
        Some(text) => Some(text.trim_matches(['[', ']']).parse::<IpAddr>().map_err(|_| right())?),
        None => None,
    };
    let published = if published.is_empty() { None } else { Some(number(published)?) };
    Ok(Port { address, published, target, udp })
}

/// `[SOURCE:]TARGET[:ro|rw]`; a relative source counts from the compose file's directory.
pub fn mount(text: &str, directory: &str) -> Result<Mount, String> {
    let right = || format!("'{text}' is not [source:]/target[:ro|rw]");
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [target] => (None, target, "rw"),
        [source, target @ ("ro" | "rw")] => (None, source, target),
        [source, target] => (Some(source), target, "rw"),
        [source, target, mode] => (Some(source), target, mode),
        _ => return Err(right()),
    };
    if !target.starts_with('/') || target.chars().any(char::is_control) {
        return Err(right());
    }
    let read_only = match mode {
        "ro" => true,
        "rw" => false,
        _ => return Err(format!("'{text}' has the mode '{mode}'; only ro and rw are carried out")),
    };
    let source = match source {
        None => Source::Anonymous,
        Some(path) if path.starts_with('/') => Source::Path(path.to_owned()),
        Some(path) if path.starts_with('.') => Source::Path(join(directory, path)),
        Some(name) if is_volume_name(name) => Source::Volume(name.to_owned()),
        Some(_) => return Err(right()),
    };
    Ok(Mount { source, target: target.to_owned(), read_only, no_copy: false })
}

fn is_volume_name(text: &str) -> bool {
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

/// `1h30m`, `10s`, `1.5s`, `250ms`, `100us`: the Compose Specification's durations.
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
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
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

/// A number of CPUs in billionths.
pub fn nano_cpus(text: &str) -> Option<i64> {
    let cpus: f64 = text.trim().parse().ok()?;
    // Bounded before it is made a whole number.
    (cpus > 0.0 && cpus <= 100_000.0).then_some((cpus * 1e9).round() as i64)
}

/// `512m`, `1gb`, `1144m`, `1048576`: bytes, in powers of 1024.
pub fn bytes(text: &str) -> Result<i64, String> {
    let right = || format!("'{text}' is not a size like '512m' or '1g'");
    let lower = text.to_ascii_lowercase();
    let split = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(split);
    let factor: i64 = match unit {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return Err(right()),
    };
    number.parse::<i64>().ok().and_then(|number| number.checked_mul(factor)).filter(|size| *size > 0).ok_or_else(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_every_short_form() {
        let plain = Port { address: None, published: None, target: 80, udp: false };
        assert_eq!(port("80"), Ok(plain.clone()));
        assert_eq!(port("8080:80"), Ok(Port { published: Some(8080), ..plain.clone() }));
        assert_eq!(
            port("127.0.0.1:8080:80/udp"),
            Ok(Port { address: Some([127, 0, 0, 1].into()), published: Some(8080), udp: true, ..plain.clone() })
        );
        assert_eq!(port("127.0.0.1::80"), Ok(Port { address: Some([127, 0, 0, 1].into()), ..plain }));
        for bad in ["", "0", "80/x", "8000-8010:80", "a:80", "1.2.3:1:2", "70000"] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_in_every_short_form() {
        let read = |text: &str| mount(text, "/app/x");
        assert_eq!(
            read("./a:/b:ro"),
            Ok(Mount { source: Source::Path("/app/x/a".into()), target: "/b".into(), read_only: true, no_copy: false })
        );
        assert_eq!(read("../a:/b").map(|mount| mount.source), Ok(Source::Path("/app/a".into())));
        assert_eq!(read("data:/b").map(|mount| mount.source), Ok(Source::Volume("data".into())));
        assert_eq!(read("/b").map(|mount| mount.source), Ok(Source::Anonymous));
        for bad in ["", "a:b", "/a:/b:z", "a:/b:c:d", "-x:/b"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_and_sizes() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        for bad in ["", "5", "s", "1d", "1..5s", "99999999h", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(bytes("1144m"), Ok(1144 << 20));
        for bad in ["", "m", "-1", "1t", "99999999999g", "0"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
