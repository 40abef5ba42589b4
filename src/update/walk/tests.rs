//! Updates, going back and finishing what was cut off, walked through every effect: each fails once, and each is once the last thing that the
//! process does.

use super::{assert_database, check, commit, faults, for_each, in_paused_time, let_migrate, machine, publish, visit};
use crate::env::Env;
use crate::host::Host;
use crate::host::fake::{Fault, TestHost};
use crate::state::{Ledger, UpdateLock};
use crate::update::{Back, Reporter, UpdateEvent, Wish, rollback, undo, update};
use crate::value::Commit;
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    /// To a version whose migration fails.
    Broken,
}

impl Walk {
    fn target(self) -> u8 {
        match self {
            Walk::Plain | Walk::PlainBack | Walk::Sick => 3,
            Walk::Migrating | Walk::Back | Walk::Broken => 2,
        }
    }

    /// Brings a machine to where the walk begins.
    async fn begin(self) -> (TestHost, Env) {
        let (test, env) = machine(true).await;
        publish(&test, self.target());
        if matches!(self, Walk::Back | Walk::PlainBack) {
            update(&env, Wish::default(), &test.host, SILENT).await.expect("the update succeeds");
        }
        if self == Walk::Sick {
            let image = format!("sha-shop-web:{}", commit(3).short());
            test.docker.sick.lock().expect("no test panics here").insert(image);
        }
        (test, env)
    }

    async fn go(self, env: &Env, host: &Host, reporter: Reporter<'_>) -> anyhow::Result<()> {
        match self {
            Walk::Plain | Walk::Migrating | Walk::Sick | Walk::Broken => {
                update(env, Wish::default(), host, reporter).await.map(drop)
            }
            Walk::Back | Walk::PlainBack => {
                let agreed = Back::look(&Ledger::read_for(host, &env.app.name)?)?;
                rollback(env, &agreed, host, reporter).await
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
            Walk::Back | Walk::PlainBack | Walk::Sick | Walk::Broken => commit(1),
        }
    }
}

const SILENT: Reporter<'static> = Reporter(&|_| ());

/// One walk with one fault; what the fault leaves is taken up by whoever comes next, who has none.
async fn walk(walk: Walk, start: &TestHost, env: &Env, chosen: Option<(usize, Fault)>) -> Vec<String> {
    let test = start.copy();
    let_migrate(&test, walk != Walk::Broken);
    // While the page is shown, nobody is promised the app.
    let is_page = Arc::new(Mutex::new(false));
    let shown = is_page.clone();
    let show = move |event: UpdateEvent<'_>| match event {
        UpdateEvent::Page => *shown.lock().expect("no test panics here") = true,
        UpdateEvent::Served => *shown.lock().expect("no test panics here") = false,
        _ => {}
    };
    let visit = visit(&test);
    test.faults.watch(move || if *is_page.lock().expect("no test panics here") { None } else { visit() });
    test.faults.choose(chosen);
    let host = test.another();
    let done = test.faults.run(walk.go(env, &host, Reporter(&show))).await;
    let effects = test.faults.effects();
    let context = match chosen {
        Some((at, fault)) => {
            format!("{walk:?}, {fault:?} at {at} ({}): {done:?}", effects.get(at).map_or("-", String::as_str))
        }
        None => format!("{walk:?}: {done:?}"),
    };
    if chosen.is_none() {
        assert_eq!(done.as_ref().is_some_and(Result::is_err), [Walk::Sick, Walk::Broken].contains(&walk), "{context}");
    }
    // Visitors never miss a beat, whatever fails, as long as there is no migration.
    assert_eq!(test.faults.take_seen(), Vec::<String>::new(), "{context}");
    test.faults.choose(None);
    drop(host);
    let next = test.another();
    let alone = UpdateLock::take(&next, "test", Duration::from_secs(1)).await.expect("a dead process holds no lock");
    let recovered = undo::recover(env, &next, &alone, Reporter(&show)).await;
    recovered.unwrap_or_else(|error| panic!("{context}: {error:?}"));
    drop(alone);
    let ledger = check(&test, env, &context).await;
    let current = ledger.current.expect("there is a current release").commit;
    assert!([commit(1), commit(walk.target())].contains(&current), "{context}");
    assert_database(&test, walk.migrations(&current), &context);
    if chosen.is_none() && [Walk::Sick, Walk::Broken].contains(&walk) {
        assert_eq!(ledger.failed, [commit(walk.target())], "{context}");
    }
    if matches!(walk, Walk::Plain | Walk::Migrating) {
        // What Docker refuses to build or to run is the commit's; of all else it is not guilty.
        let effect = chosen.and_then(|(at, _)| effects.get(at)).map_or("-", String::as_str);
        let is_its_own = ["docker build ", "docker tag ", "docker create shop_migrate_1", "docker run "];
        let is_guilty = is_its_own.iter().any(|own| effect.starts_with(own));
        assert!(ledger.failed.is_empty() || is_guilty, "no fault of the commit's: {context}");
    }
    if done.is_some_and(|done| done.is_ok()) {
        assert_eq!(current, walk.ends_at(), "{context}");
    }
    // Nothing of it keeps the next one from its way.
    if ![Walk::Sick, Walk::Broken].contains(&walk) && current != walk.ends_at() {
        let again = async {
            match walk {
                Walk::Plain | Walk::Migrating => {
                    update(env, Wish { force: true, ..Wish::default() }, &next, SILENT).await.map(drop)
                }
                _ => walk.go(env, &next, SILENT).await,
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

fn walk_through(kind: Walk) {
    let (from, env) = in_paused_time(kind.begin());
    let effects = in_paused_time(walk(kind, &from, &env, None));
    let faults = faults(&effects);
    for_each(&faults, async |chosen| drop(walk(kind, &from, &env, Some(*chosen)).await));
    println!("{kind:?}: {} effects, {} faults", effects.len(), faults.len());
}

#[test]
fn an_update_survives_every_fault() {
    walk_through(Walk::Plain);
}

#[test]
fn an_update_with_a_migration_survives_every_fault() {
    walk_through(Walk::Migrating);
}

#[test]
fn a_rollback_with_the_database_survives_every_fault() {
    walk_through(Walk::Back);
}

#[test]
fn a_rollback_survives_every_fault() {
    walk_through(Walk::PlainBack);
}

#[test]
fn an_update_whose_migration_fails_survives_every_fault() {
    walk_through(Walk::Broken);
}

#[test]
fn an_update_that_does_not_pass_the_gate_survives_every_fault() {
    walk_through(Walk::Sick);
}
