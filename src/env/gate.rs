//! `app.gate`: what must hold, beside the default gate, before a release is good. Asking is `update/gate.rs`.

use super::document::{Kind, Node};
use super::reader::{Fields, Reading, Unknown};
use super::words;
use crate::value::ServiceName;
use std::fmt;
use std::time::Duration;

/// The most probes that are carried out.
const MAX: usize = 50;
/// How long a probe is tried unless it says so, in seconds.
const DEFAULT_TIMEOUT_S: i64 = 60;
const MAX_TIMEOUT_S: i64 = 3600;

/// Something that must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub asks: Asks,
    /// It is tried again and again for so long.
    pub timeout: Duration,
}

/// What is asked of the new containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asks {
    Http {
        service: ServiceName,
        /// `None`: the port of the service's route.
        port: Option<u16>,
        path: String,
        /// `None`: anything below 400.
        status: Option<u16>,
        /// A text that the answer holds.
        body: Option<String>,
    },
    Tcp {
        service: ServiceName,
        port: u16,
    },
    /// Run in a container of the service; good when it ends with 0.
    Command {
        service: ServiceName,
        run: Vec<String>,
    },
    /// Asked of the app's database without being able to write; good when the first value is neither missing, false nor 0.
    Sql {
        query: String,
    },
}

/// For messages. What stands in a command, a query or behind a path's `?` may be secret.
impl fmt::Display for Asks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asks::Http { service, path, .. } => {
                write!(f, "http {service} {}", path.split('?').next().unwrap_or_default())
            }
            Asks::Tcp { service, port } => write!(f, "tcp {service}:{port}"),
            Asks::Command { service, .. } => write!(f, "command in {service}"),
            Asks::Sql { .. } => write!(f, "sql"),
        }
    }
}

/// Reads the list.
pub fn read(app: &Fields) -> Vec<Probe> {
    let probes = app.list("gate", probe).unwrap_or_default();
    if let Some(node) = app.value("gate").filter(|_| probes.len() > MAX) {
        app.error(node.place, format!("'{}' has more than {MAX} probes", app.path("gate")));
    }
    probes
}

const KINDS: &str = "http, tcp, command or sql";

fn probe(reading: &Reading, node: &Node, path: &str) -> Option<Probe> {
    let fields = Fields::of(reading, Some(node), path);
    let given: Vec<&str> = node.entries().iter().map(|(key, _)| key.text.as_str()).collect();
    // All four are looked for, so that what is misspelt is told.
    let (http, tcp) = (fields.fields("http"), fields.fields("tcp"));
    let (command, sql) = (fields.fields("command"), fields.fields("sql"));
    let read = match given.as_slice() {
        ["http"] => read_http(&http),
        ["tcp"] => read_tcp(&tcp),
        ["command"] => read_command(&command),
        ["sql"] => read_sql(&sql),
        _ => {
            if matches!(&*node.kind, Kind::Mapping(_)) {
                reading.error(node.place, format!("'{path}' must have one key, {KINDS}"));
            } else if node.is_null() {
                reading.error(node.place, format!("'{path}' is empty; it must be one of {KINDS}"));
            }
            None
        }
    };
    for rest in [http, tcp, command, sql] {
        rest.finish(Unknown::Warn);
    }
    fields.finish(Unknown::Warn);
    read
}

fn timeout(fields: &Fields) -> Duration {
    let seconds = fields.get("timeout", |reading, node, path| reading.number(node, path, 1..=MAX_TIMEOUT_S));
    Duration::from_secs(u64::try_from(seconds.unwrap_or(DEFAULT_TIMEOUT_S)).unwrap_or_default())
}

fn port(fields: &Fields) -> Option<u16> {
    let port = fields.get("port", |reading, node, path| reading.number(node, path, 1..=65535));
    port.and_then(|port| u16::try_from(port).ok())
}

/// What a key must hold; that it is missing is told.
fn needed<T>(fields: &Fields, key: &'static str, value: Option<T>) -> Option<T> {
    if value.is_none() && fields.value(key).is_none() {
        fields.error(fields.place(), format!("'{}' is missing", fields.path(key)));
    }
    value
}

fn service(fields: &Fields) -> Option<ServiceName> {
    needed(fields, "service", fields.checked("service"))
}

fn read_http(fields: &Fields) -> Option<Probe> {
    let (service, port, timeout) = (service(fields), port(fields), timeout(fields));
    let path = fields.text("path").unwrap_or_else(|| "/".to_owned());
    if !path.starts_with('/') || path.len() > 2000 || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        let place = fields.value("path").map_or(fields.place(), |node| node.place);
        fields.error(place, format!("'{}' must be a path of a URL, like /health?full=1", fields.path("path")));
    }
    let status = fields.get("status", |reading, node, path| reading.number(node, path, 100..=599));
    let status = status.and_then(|status| u16::try_from(status).ok());
    let body = fields.text("body");
    Some(Probe { asks: Asks::Http { service: service?, port, path, status, body }, timeout })
}

fn read_tcp(fields: &Fields) -> Option<Probe> {
    let (service, port, timeout) = (service(fields), needed(fields, "port", port(fields)), timeout(fields));
    Some(Probe { asks: Asks::Tcp { service: service?, port: port? }, timeout })
}

fn read_command(fields: &Fields) -> Option<Probe> {
    let (service, timeout) = (service(fields), timeout(fields));
    let run = needed(fields, "run", words::command(fields, "run"));
    Some(Probe { asks: Asks::Command { service: service?, run: run? }, timeout })
}

fn read_sql(fields: &Fields) -> Option<Probe> {
    let timeout = timeout(fields);
    let query = needed(fields, "query", fields.text("query"));
    Some(Probe { asks: Asks::Sql { query: query? }, timeout })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;

    fn parse(gate: &str) -> Result<Vec<Probe>, String> {
        let text = format!("appliance: {{domain: a.de}}\napp:\n  name: x\n  git: {{source: /srv/x}}\n  gate:\n{gate}");
        let parsed = Env::parse(text.as_bytes());
        match parsed.envs {
            Some(envs) => Ok(envs.host().app.gate.clone()),
            None => Err(parsed.report.render("e")),
        }
    }

    #[test]
    fn probes_are_read_with_what_they_ask() {
        let probes = parse(
            "    - http: {service: web, path: '/h?x=1', status: 204, body: fine, port: 8000, timeout: 5}\n    - tcp: {service: redis, port: 6379}\n    \
             - command: {service: web, run: 'sh -c \"exit 0\"'}\n    - command: {service: web, run: [a, 'b c']}\n    - sql: {query: SELECT 1}\n",
        )
        .expect("all are sound");
        let titles: Vec<String> = probes.iter().map(|probe| probe.asks.to_string()).collect();
        assert_eq!(titles, ["http web /h", "tcp redis:6379", "command in web", "command in web", "sql"]);
        let run = |probe: &Probe| match &probe.asks {
            Asks::Command { run, .. } => run.join("|"),
            other => other.to_string(),
        };
        assert_eq!((run(&probes[2]), run(&probes[3])), ("sh|-c|exit 0".to_owned(), "a|b c".to_owned()));
        assert_eq!((probes[0].timeout.as_secs(), probes[1].timeout.as_secs()), (5, 60));
    }

    #[test]
    fn what_is_no_probe_is_told_with_its_place() {
        for (gate, expected) in [
            ("    - {}\n", "'app.gate[0]' must have one key, http, tcp, command or sql"),
            ("    - {http: {service: a}, tcp: {service: a, port: 1}}\n", "must have one key"),
            ("    - htp: {service: a}\n", "must have one key"),
            ("    - http\n", "'app.gate[0]' must be a mapping"),
            ("    -\n", "'app.gate[0]' is empty"),
            ("    - http: {path: /}\n", "'app.gate[0].http.service' is missing"),
            ("    - http: {service: a, path: health}\n", "'app.gate[0].http.path' must be a path"),
            ("    - http: {service: a, status: 99}\n", "from 100 to 599"),
            ("    - tcp: {service: a}\n", "'app.gate[0].tcp.port' is missing"),
            ("    - tcp: {service: a, port: 0}\n", "from 1 to 65535"),
            ("    - command: {service: a, run: \"a 'b\"}\n", "quotes closed"),
            ("    - sql: {query: x, timeout: 4000}\n", "from 1 to 3600"),
        ] {
            let said = parse(gate).expect_err(gate);
            assert!(said.contains(expected), "{gate}{said}");
        }
    }
}
