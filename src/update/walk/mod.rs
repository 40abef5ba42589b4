//! Machines on which an app runs, made of fakes, and what must hold on them whatever has failed: the old release runs or the new one, with
//! the database that belongs to it, and nothing is left over. Who walks them is `tests.rs`, and `supervise/walk_tests.rs`.

#[path = "../../../tests/host/sample.rs"]
#[allow(clippy::disallowed_methods)] // What a sample is taken by follows from the time.
pub mod sample;
mod tests;

use crate::env::Env;
use crate::host::Dir;
use crate::host::docker::{Docker, Look, OneOff};
use crate::host::fake::{Fault, TestHost};
use crate::prepare::nginx;
use crate::stack::actions::Occasion;
use crate::stack::{apply, surroundings};
use crate::state::{Ledger, StackLock};
use crate::value::Commit;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub const ENV: &str = "appliance:\n  domain: a.example.test\n  storage: {ignore: {data: yes, volatile: yes}}\n\
                   app:\n  name: shop\n  git: {source: 'https://git.example.test/shop.git', branch: main}\n  \
                   migrate: {service: web, command: [./migrate], when: 'migrations/*'}\n";
/// A service with a route, which is replaced by way of a bridge; one that is replaced beside; one that is replaced in its place.
const COMPOSE: &str = "services:\n  web: {build: ., ports: ['127.0.0.1:8000:80'], depends_on: [cache]}\n  worker: {build: .}\n  \
                       cache: {image: 'redis:7', volumes: ['data:/data'], environment: {VERSION: '@'}}\nvolumes: {data: }\n";
/// Its containers.
pub const NAMES: [&str; 3] = ["shop_cache_1", "shop_web_1", "shop_worker_1"];
const ADDRESS: &str = "127.0.0.1:8000";
const APP: &str = "shop";

pub fn commit(version: u8) -> Commit {
    version.to_string().repeat(40).parse().expect("40 digits are a commit")
}

pub fn env() -> Env {
    Env::of_text(ENV)
}

/// Puts a version on the server; the even ones have a migration.
pub fn publish(test: &TestHost, version: u8) {
    let compose = COMPOSE.replace('@', &version.to_string());
    let migration = format!("migrations/{version}");
    let mut files = vec![("docker-compose.yml", compose.as_str())];
    if version.is_multiple_of(2) {
        files.push((&migration, ""));
    }
    test.git.commit(commit(version).as_str(), &files);
}

/// A host on which version 1 runs, or is to run.
pub async fn machine(runs: bool) -> (TestHost, Env) {
    let test = TestHost::in_memory();
    let host = &test.host;
    for directory in [
        "/etc/nginx/conf.d",
        "/app",
        "/data",
        "/run/appliance",
        "/var/lib/appliance",
        "/etc/sysctl.d",
        "/etc/systemd/system",
        "/root",
    ] {
        host.ensure_dir(directory, &Dir::plain()).expect("it can be made");
    }
    host.ensure_dir("/data/etc", &Dir::plain()).expect("it can be made");
    host.ensure_link("/app/etc", "/data/etc").expect("it can be made");
    for (path, text) in [
        ("/etc/nginx/nginx.conf", "include /etc/nginx/conf.d/*.conf;"),
        ("/etc/postgresql/15/main/postgresql.conf", "port = 5432\n"),
        ("/etc/postgresql/15/main/pg_hba.conf", "local all postgres peer\n"),
        ("/etc/postgresql/15/main/pg_ident.conf", ""),
        ("/var/lib/postgresql/15/main/PG_VERSION", "15\n"),
        ("/app/etc/shop/database_url.env", "DATABASE_URL=postgres://app:abcdefgh-ABCDEFGH_1@172.17.0.1:5432/shop\n"),
    ] {
        host.put(path, text.as_bytes(), 0o600).expect("it can be written");
    }
    for unit in ["appliance.service", "nginx.service", "docker.service", "postgresql@15-main.service"] {
        host.start_unit(unit).await.expect("it can be started");
    }
    test.docker.images.lock().expect("no test panics here").insert("redis:7".to_owned(), "sha-redis".to_owned());
    test.sql.put(APP, "notes");
    publish(&test, 1);
    let env = env();
    if runs {
        bring_up(&test, &env).await;
    }
    let_migrate(&test, true);
    (test, env)
}

async fn bring_up(test: &TestHost, env: &Env) {
    let host = &test.host;
    let alone = StackLock::take_of(host, &env.app.name, "test", Duration::from_secs(1)).await.expect("it is free");
    let mut ledger = Ledger::default();
    let built = super::first(env, &mut ledger, host, &alone, &|_| ()).await.expect("version 1 is built");
    surroundings::ensure(&built.stack, host).await.expect("networks can be made");
    apply::up(&built.stack, &built.release.images, host, Occasion::Start, &|_| ()).await.expect("version 1 comes up");
    ledger = Ledger { current: Some(built.release), in_flight: None, ..ledger };
    ledger.write(host, &env.app.name).expect("it can be written");
    nginx::ensure_site(env, host).await.expect("the site is made");
}

/// A migration writes into the app's database, and succeeds or fails then.
pub fn let_migrate(test: &TestHost, succeeds: bool) {
    let sql = test.sql.clone();
    *test.docker.one_offs.lock().expect("no test panics here") = Some(Box::new(move |_, image| {
        let before = sql.content(APP).unwrap_or_default();
        sql.put(APP, &format!("{before} migrated by {image}"));
        OneOff { exit_code: i64::from(!succeeds), tail: String::new() }
    }));
}

/// What a visitor gets while the app is said to be served.
pub fn visit(test: &TestHost) -> impl Fn() -> Option<String> + Send + 'static {
    let (docker, root) = (test.docker.clone(), test.host.path("/"));
    move || {
        let bridged = root.join("run/appliance/bridged/web-8000").exists();
        let own: SocketAddr = ADDRESS.parse().expect("it is an address");
        let bridge = SocketAddr::new(crate::value::BRIDGE_ADDRESS.into(), own.port());
        match docker.answer(if bridged { bridge } else { own }) {
            Some(200) => None,
            other => Some(format!("a visitor gets {other:?}")),
        }
    }
}

/// What holds once everything is done: one release runs, whole.
pub async fn check(test: &TestHost, env: &Env, context: &str) -> Ledger {
    let host = test.another();
    let ledger = Ledger::read_for(&host, &env.app.name).expect("the ledger can be read");
    assert_eq!(ledger.in_flight, None, "{context}");
    let current = ledger.current.as_ref().expect("there is a current release");
    let containers = test.docker.containers(APP, Look::Close).await.expect("the fake lists");
    let mut names: Vec<&str> = containers.iter().map(|container| container.name.as_str()).collect();
    names.sort();
    assert_eq!(names, NAMES, "{context}");
    for container in &containers {
        assert!(container.is_running(), "{context}: {container:?}");
        let image = &current.images[container.service()];
        assert_eq!(Some(&container.image_id), image.id.as_ref(), "{context}: {}", container.name);
    }
    let stack = crate::stack::load(env, &host).expect("the compose file can be read");
    let pending = apply::pending(&stack, &current.images, &host, Occasion::Mend).await.expect("it can be compared");
    assert_eq!(pending.actions, [], "{context}");
    assert_eq!(test.git.head().as_deref(), Some(current.commit.as_str()), "{context}");
    assert_eq!(host.names(&nginx::slots(&env.tenant)).expect("it can be listed"), Vec::<String>::new(), "{context}");
    assert_eq!(visit(test)(), None, "{context}");
    for left in super::writes(&env.app.name).iter().flat_map(|directory| host.names(directory).unwrap_or_default()) {
        let is_left = left.starts_with(".appliance-") || left.ends_with(".part") || left.ends_with(".new");
        assert!(!is_left, "{context}: {left}");
    }
    ledger
}

/// The database of a version, and the open door to it.
pub fn assert_database(test: &TestHost, migrations: &[u8], context: &str) {
    let by = |version: &u8| format!(" migrated by sha-shop-web:{}", commit(*version).short());
    let expected: String = std::iter::once("notes".to_owned()).chain(migrations.iter().map(by)).collect();
    let databases = test.sql.databases.lock().expect("no test panics here");
    let own = databases.get(APP).unwrap_or_else(|| panic!("{context}: the database is gone: {databases:?}"));
    assert_eq!((own.content.as_str(), own.is_open), (expected.as_str(), true), "{context}: {databases:?}");
    let known: BTreeSet<&str> = ["shop", "shop_before", "shop_failed"].into();
    let strange: Vec<&String> = databases.keys().filter(|name| !known.contains(name.as_str())).collect();
    assert!(strange.is_empty(), "{context}: {strange:?}");
}

/// Runs a test's own part, in a time that passes only while everybody waits.
pub fn in_paused_time<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime can be made").block_on(work)
}

/// How many walk at once: more than there are processors, since the end of a watch is waited for in the kernel.
const AT_ONCE: usize = 6;
/// How many of the same effect in a row are walked: what is asked over and over is asked the third time as the hundredth.
const ALIKE: usize = 3;

/// Every fault that makes a difference at these effects, by the effect's number.
pub fn faults(effects: &[String]) -> Vec<(usize, Fault)> {
    let is_alike = |at: usize| at >= ALIKE && effects[at - ALIKE..at].iter().all(|before| *before == effects[at]);
    let places = (0..effects.len()).filter(|at| !is_alike(*at));
    places.flat_map(|at| Fault::of(&effects[at]).into_iter().map(move |fault| (at, fault))).collect()
}

/// Does something for each of them, some at once.
pub fn for_each<T: Sync>(all: &[T], one: impl AsyncFn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let worker = || {
        in_paused_time(async {
            while let Some(next) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                one(next).await;
            }
        });
    };
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(worker))));
}
