//! Updates, going back and finishing what was cut off, walked through every effect: each fails once, and each is once the last thing that the
//! process does. Whatever happens, the old release runs or the new one, with the database that belongs to it, and nothing is left over.

use super::{News, Told, Wish, rollback, undo, update};
use crate::env::Env;
use crate::host::docker::{Docker, Look};
use crate::host::fake::{Fault, TestHost};
use crate::host::{Dir, Host};
use crate::prepare::nginx;
use crate::stack::actions::Occasion;
use crate::stack::{apply, surroundings};
use crate::state::{Ledger, Lock};
use crate::value::Commit;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const ENV: &str = "appliance:\n  domain: a.example.test\n  storage: {ignore: {data: yes, volatile: yes}}\n\
                   app:\n  name: shop\n  git: {source: 'https://git.example.test/shop.git', branch: main}\n  \
                   migrate: {service: web, command: [./migrate], when: 'migrations/*'}\n";
/// A service with a route, which is replaced by way of a bridge; one that is replaced beside; one that is replaced in its place.
const COMPOSE: &str = "services:\n  web: {build: ., ports: ['127.0.0.1:8000:80'], depends_on: [cache]}\n  worker: {build: .}\n  \
                       cache: {image: 'redis:7', volumes: ['data:/data'], environment: {VERSION: '@'}}\nvolumes: {data: }\n";
const NAMES: [&str; 3] = ["shop_cache_1", "shop_web_1", "shop_worker_1"];
const ADDRESS: &str = "127.0.0.1:8000";
const APP: &str = "shop";

fn commit(version: u8) -> Commit {
    version.to_string().repeat(40).parse().expect("40 digits are a commit")
}

fn env() -> Env {
    Env::parse(ENV.as_bytes()).env.expect("the env is valid")
}

/// Puts a version on the server; the even ones have a migration.
fn publish(test: &TestHost, version: u8) {
    let compose = COMPOSE.replace('@', &version.to_string());
    let migration = format!("migrations/{version}");
    let mut files = vec![("docker-compose.yml", compose.as_str())];
    if version.is_multiple_of(2) {
        files.push((&migration, ""));
    }
    test.git.commit(commit(version).as_str(), &files);
}

/// A host on which version 1 runs.
async fn machine() -> (TestHost, Env) {
    let test = TestHost::in_memory();
    let host = &test.host;
    for directory in ["/etc/nginx/conf.d", "/app", "/data", "/run/appliance", "/var/lib/appliance"] {
        host.ensure_dir(directory, &Dir::plain()).expect("it can be made");
    }
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
    let alone = Lock::take(host, "test", Duration::from_secs(1)).await.expect("it is free");
    let mut ledger = Ledger::default();
    let built = super::first(&env, &mut ledger, host, &alone, &|_| ()).await.expect("version 1 is built");
    surroundings::ensure(&built.stack, host).await.expect("networks can be made");
    apply::up(&built.stack, &built.release.images, host, Occasion::Start, &|_| ()).await.expect("version 1 comes up");
    ledger = Ledger { current: Some(built.release), in_flight: None, ..ledger };
    ledger.write(host, &env.app.name).expect("it can be written");
    nginx::ensure_site(&env, host).await.expect("the site is made");
    let_migrate(&test);
    (test, env)
}

/// A migration writes into the app's database.
fn let_migrate(test: &TestHost) {
    let sql = test.sql.clone();
    *test.docker.one_offs.lock().expect("no test panics here") = Some(Box::new(move |_, image| {
        let before = sql.content(APP).unwrap_or_default();
        sql.put(APP, &format!("{before} migrated by {image}"));
        crate::host::docker::OneOff { exit_code: 0, tail: String::new() }
    }));
}

/// What a visitor gets while the app is said to be served.
fn visit(test: &TestHost) -> impl Fn() -> Option<String> + Send + 'static {
    let (docker, root) = (test.docker.clone(), test.host.path("/"));
    move || {
        let bridged = root.join(format!("{}/web-8000", nginx::SLOTS.trim_start_matches('/'))).exists();
        let own: SocketAddr = ADDRESS.parse().expect("it is an address");
        let bridge = SocketAddr::new(crate::value::BRIDGE_ADDRESS.into(), own.port());
        match docker.answer(if bridged { bridge } else { own }) {
            Some(200) => None,
            other => Some(format!("a visitor gets {other:?}")),
        }
    }
}

/// What holds once everything is done: one release runs, whole.
async fn check(test: &TestHost, env: &Env, context: &str) -> Ledger {
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
    assert_eq!(host.names(nginx::SLOTS).expect("it can be listed"), Vec::<String>::new(), "{context}");
    assert_eq!(visit(test)(), None, "{context}");
    for left in super::writes(&env.app.name).iter().flat_map(|directory| host.names(directory).unwrap_or_default()) {
        let is_left = left.starts_with(".appliance-") || left.ends_with(".part") || left.ends_with(".new");
        assert!(!is_left, "{context}: {left}");
    }
    ledger
}

/// The database of a version, and the open door to it.
fn assert_database(test: &TestHost, migrations: &[u8], context: &str) {
    let by = |version: &u8| format!(" migrated by sha-shop-web:{}", commit(*version).short());
    let expected: String = std::iter::once("notes".to_owned()).chain(migrations.iter().map(by)).collect();
    let databases = test.sql.databases.lock().expect("no test panics here");
    let own = databases.get(APP).unwrap_or_else(|| panic!("{context}: the database is gone: {databases:?}"));
    assert_eq!((own.content.as_str(), own.is_open), (expected.as_str(), true), "{context}: {databases:?}");
    let known: BTreeSet<&str> = ["shop", "shop_before", "shop_failed"].into();
    let strange: Vec<&String> = databases.keys().filter(|name| !known.contains(name.as_str())).collect();
    assert!(strange.is_empty(), "{context}: {strange:?}");
}

/// What is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walk {
    /// To a version without a migration.
    Plain,
    Migrating,
    /// Back from a version that has migrated.
    Back,
    /// Back from one that has not.
    PlainBack,
    /// To a version that does not pass the gate.
    Sick,
}

impl Walk {
    fn target(self) -> u8 {
        match self {
            Walk::Plain | Walk::PlainBack | Walk::Sick => 3,
            Walk::Migrating | Walk::Back => 2,
        }
    }

    /// Brings a machine to where the walk begins.
    async fn begin(self) -> (TestHost, Env) {
        let (test, env) = machine().await;
        publish(&test, self.target());
        if matches!(self, Walk::Back | Walk::PlainBack) {
            update(&env, Wish::default(), &test.host, NEWS).await.expect("the update succeeds");
        }
        if self == Walk::Sick {
            let image = format!("sha-shop-web:{}", commit(3).short());
            test.docker.sick.lock().expect("no test panics here").insert(image);
        }
        (test, env)
    }

    async fn go(self, env: &Env, host: &Host, news: News<'_>) -> anyhow::Result<()> {
        match self {
            Walk::Plain | Walk::Migrating | Walk::Sick => update(env, Wish::default(), host, news).await.map(drop),
            Walk::Back | Walk::PlainBack => {
                let agreed = super::Back::look(&Ledger::read_for(host, &env.app.name)?)?;
                rollback(env, &agreed, host, news).await
            }
        }
    }

    /// The versions that may run after it, and the migrations that each has.
    fn migrations(self, version: &Commit) -> &'static [u8] {
        if *version == commit(2) { &[2] } else { &[] }
    }

    fn ends_at(self) -> Commit {
        match self {
            Walk::Plain | Walk::Migrating => commit(self.target()),
            Walk::Back | Walk::PlainBack | Walk::Sick => commit(1),
        }
    }
}

/// How many of the same effect in a row are walked.
const ALIKE: usize = 3;
const NEWS: News<'static> = News(&|_| ());

/// One walk with one fault; what the fault leaves is taken up by whoever comes next, who has none.
async fn walk(walk: Walk, start: &TestHost, env: &Env, chosen: Option<(usize, Fault)>) -> Vec<String> {
    let test = start.copy();
    let_migrate(&test);
    // While the page is shown, nobody is promised the app.
    let is_page = Arc::new(Mutex::new(false));
    let told = is_page.clone();
    let news = move |told_of: Told<'_>| match told_of {
        Told::Page => *told.lock().expect("no test panics here") = true,
        Told::Served => *told.lock().expect("no test panics here") = false,
        _ => {}
    };
    let visit = visit(&test);
    test.faults.watch(move || if *is_page.lock().expect("no test panics here") { None } else { visit() });
    test.faults.choose(chosen);
    let host = test.another();
    let done = test.faults.run(walk.go(env, &host, News(&news))).await;
    let effects = test.faults.effects();
    let context = match chosen {
        Some((at, fault)) => format!("{walk:?}, {fault:?} at {at} ({}): {done:?}", effects.get(at).map_or("-", String::as_str)),
        None => format!("{walk:?}: {done:?}"),
    };
    if chosen.is_none() {
        assert_eq!(done.as_ref().is_some_and(Result::is_err), walk == Walk::Sick, "{context}");
    }
    // Visitors never miss a beat, whatever fails, as long as there is no migration.
    assert_eq!(test.faults.take_seen(), Vec::<String>::new(), "{context}");
    test.faults.choose(None);
    drop(host);
    let next = test.another();
    let alone = Lock::take_update(&next, "test", Duration::from_secs(1)).await.expect("a dead process holds no lock");
    let recovered = undo::recover(env, &next, &alone, News(&news)).await;
    recovered.unwrap_or_else(|error| panic!("{context}: {error:?}"));
    drop(alone);
    let ledger = check(&test, env, &context).await;
    let current = ledger.current.expect("there is a current release").commit;
    assert!([commit(1), commit(walk.target())].contains(&current), "{context}");
    assert_database(&test, walk.migrations(&current), &context);
    if done.is_some_and(|done| done.is_ok()) {
        assert_eq!(current, walk.ends_at(), "{context}");
    }
    // Nothing of it keeps the next one from its way.
    if walk != Walk::Sick && current != walk.ends_at() {
        let again = async {
            match walk {
                Walk::Plain | Walk::Migrating => {
                    update(env, Wish { force: true, ..Wish::default() }, &next, NEWS).await.map(drop)
                }
                _ => walk.go(env, &next, NEWS).await,
            }
        };
        again.await.unwrap_or_else(|error| panic!("{context}: once more: {error:?}"));
        let ledger = check(&test, env, &format!("{context}, once more")).await;
        let current = ledger.current.expect("there is a current release").commit;
        assert_eq!(current, walk.ends_at(), "{context}, once more");
        assert_database(&test, walk.migrations(&current), &format!("{context}, once more"));
    }
    effects
}

async fn walk_through(kind: Walk) {
    let (start, env) = kind.begin().await;
    let effects = walk(kind, &start, &env, None).await;
    let mut walked = 0;
    for (at, effect) in effects.iter().enumerate() {
        // What is asked over and over is asked as well the third time as the hundredth.
        if at >= ALIKE && effects[at - ALIKE..at].iter().all(|before| before == effect) {
            continue;
        }
        for fault in Fault::of(effect) {
            walk(kind, &start, &env, Some((at, fault))).await;
            walked += 1;
        }
    }
    println!("{kind:?}: {} effects, {walked} faults", effects.len());
}

#[tokio::test(start_paused = true)]
async fn an_update_survives_every_fault() {
    walk_through(Walk::Plain).await;
}

#[tokio::test(start_paused = true)]
async fn an_update_with_a_migration_survives_every_fault() {
    walk_through(Walk::Migrating).await;
}

#[tokio::test(start_paused = true)]
async fn a_rollback_with_the_database_survives_every_fault() {
    walk_through(Walk::Back).await;
}

#[tokio::test(start_paused = true)]
async fn a_rollback_survives_every_fault() {
    walk_through(Walk::PlainBack).await;
}

#[tokio::test(start_paused = true)]
async fn an_update_that_does_not_pass_the_gate_survives_every_fault() {
    walk_through(Walk::Sick).await;
}
