//! Starts, walked through every effect: each fails once, and each is once the last thing that the process does. The next start, which meets
//! no fault, brings the app up.

use super::Board;
use super::follow::follow;
use super::releases::Running;
use super::start::{choose, start};
use crate::env::Env;
use crate::error::{Halt, Severity};
use crate::host::Host;
use crate::host::fake::{Fault, TestHost};
use crate::update::walk::sample::{Random, is_soak, seed};
use crate::update::walk::{
    ENV, NAMES, assert_database, check, commit, faults, for_each, in_paused_time, let_migrate, machine, publish,
};
use crate::update::{Reporter, Wish, update};
use std::time::Duration;

/// What is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walk {
    /// A known release, after the machine was off.
    Known,
    /// The supervisor of an app that runs, as after an upgrade of the package.
    Replaced,
    /// The first release.
    First,
    /// An update with a migration was cut off at its effect of that number, with the machine.
    CutOff(usize),
}

impl Walk {
    async fn begin(self) -> (TestHost, Env) {
        let (test, env) = machine(self != Walk::First).await;
        let put = |path: &str, text: &str| test.host.put(path, text.as_bytes(), 0o600).expect("it can be written");
        put(crate::env::LOCAL, ENV);
        put("/proc/meminfo", "MemTotal: 8000000 kB\n");
        put("/var/lib/docker/x", "");
        put("/dev/null", "");
        if let Walk::CutOff(at) = self {
            publish(&test, 2);
            test.faults.choose(Some((at, Fault::Killed)));
            let host = test.another();
            let done = test.faults.run(update(&env, Wish::default(), &host, Reporter(&|_| ()))).await;
            assert!(done.is_none(), "an update has more than {at} effects: {done:?}");
            test.faults.choose(None);
        }
        match self {
            Walk::Replaced => (running(&test).await, env),
            _ => {
                test.turn_off();
                (test, env)
            }
        }
    }
}

/// What the supervisor does to bring its one app up.
async fn begin_start(host: &Host) -> anyhow::Result<Running> {
    let board = Board::new(host);
    let found = choose(host, None, &board).await?;
    start(host, &found, found.envs.host(), &board).await
}

async fn walk(walk: Walk, from: &TestHost, env: &Env, chosen: Option<(usize, Fault)>) -> Vec<String> {
    let test = from.copy();
    let_migrate(&test, true);
    test.faults.choose(chosen);
    let host = test.another();
    let done = test.faults.run(begin_start(&host)).await.map(|done| done.map(drop));
    let effects = test.faults.effects();
    let context = match chosen {
        Some((at, fault)) => {
            format!("{walk:?}, {fault:?} at {at} ({}): {done:?}", effects.get(at).map_or("-", String::as_str))
        }
        None => format!("{walk:?}: {done:?}"),
    };
    assert!(chosen.is_some() || matches!(done, Some(Ok(()))), "{context}");
    if let (Walk::Known | Walk::Replaced, Some((_, Fault::Refused | Fault::Away))) = (walk, chosen) {
        assert!(
            matches!(done, Some(Ok(()))),
            "nobody looks at the machine, so one fault must not leave the app down: {context}"
        );
    }
    test.faults.choose(None);
    let next = test.another();
    if !matches!(done, Some(Ok(()))) {
        // What systemd does with one that died; an operator with one that failed.
        let mut again = begin_start(&next).await.map(drop);
        // A program that another test starts holds a copy of the lock's file until it has become that program; the clock of this test does
        // not wait for that.
        for _ in 0..50 {
            if !again.as_ref().is_err_and(|error| error.to_string().contains("holds the lock")) {
                break;
            }
            #[allow(clippy::disallowed_methods)]
            // The condition is another process's, and this runtime's clock runs ahead of it.
            std::thread::sleep(Duration::from_millis(20));
            again = begin_start(&next).await.map(drop);
        }
        again.unwrap_or_else(|error| panic!("{context}: the next start: {error:?}"));
    }
    if walk == Walk::Replaced {
        assert_eq!(
            *test.docker.log.lock().expect("no test panics here"),
            [""; 0],
            "nothing is done to what runs: {context}"
        );
    }
    let ledger = check(&test, env, &context).await;
    let current = ledger.current.expect("there is a current release").commit;
    let (versions, migrations): (&[u8], &[u8]) = match walk {
        Walk::Known | Walk::Replaced => (&[1], &[]),
        Walk::First => (&[1], &[1]),
        Walk::CutOff(_) if current == commit(2) => (&[2], &[2]),
        Walk::CutOff(_) => (&[1], &[]),
    };
    assert!(versions.iter().any(|version| commit(*version) == current), "{context}");
    assert_database(&test, migrations, &context);
    effects
}

fn walk_through(kind: Walk) {
    let (from, env) = in_paused_time(kind.begin());
    let effects = in_paused_time(walk(kind, &from, &env, None));
    let mut faults = faults(&effects);
    if kind == Walk::First && !is_soak() {
        // Most of it is what the start of a known release does, too.
        let mut random = Random::of(seed());
        faults.retain(|_| random.below(2) == 0);
    }
    for_each(&faults, async |chosen| drop(walk(kind, &from, &env, Some(*chosen)).await));
    println!("{kind:?}: {} effects, {} faults", effects.len(), faults.len());
}

#[test]
fn a_start_of_a_known_release_survives_every_fault() {
    walk_through(Walk::Known);
}

#[test]
fn a_supervisor_that_is_replaced_survives_every_fault() {
    walk_through(Walk::Replaced);
}

#[test]
fn a_first_start_survives_every_fault() {
    walk_through(Walk::First);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_runs_is_not_taken_down_since_the_host_cannot_be_prepared() {
    for (denied, runs) in [
        ("restart appliance-update.timer", true),
        ("nginx -t", true),
        ("state of appliance-filter", true),
        ("restart appliance-update.timer", false),
    ] {
        let (test, _) = Walk::Known.begin().await;
        let test = if runs { running(&test).await } else { test };
        // What a new version of the appliance would change.
        for file in ["/etc/systemd/system/appliance-update.timer.d/appliance.conf", "/etc/nginx/conf.d/appliance.conf"]
        {
            test.host.put(file, b"# of another version\n", 0o644).expect("it can be written");
        }
        test.docker.log.lock().expect("no test panics here").clear();
        test.faults.deny(denied);
        let host = test.another();
        let started = begin_start(&host).await.map(drop);
        let effects = test.faults.effects();
        assert!(effects.iter().any(|effect| effect.starts_with(denied)), "{denied} is what a start does");
        let log = test.docker.log.lock().expect("no test panics here").clone();
        match runs {
            true => {
                started.unwrap_or_else(|error| panic!("{denied}: {error:?}"));
                assert_eq!(log, Vec::<String>::new(), "{denied}");
            }
            // Then nothing of it runs before the host is as it should be.
            false => {
                let error = started.expect_err("the host cannot be prepared");
                let halt = error.downcast::<Halt>().expect("it ends as failed");
                assert_eq!((halt.severity, halt.title.as_str()), (Severity::Failed, "The host could not be prepared"));
            }
        }
    }
}

/// The same machine once its app is up.
async fn running(from: &TestHost) -> TestHost {
    let test = from.copy();
    let host = test.another();
    begin_start(&host).await.expect("the app comes up");
    test
}

/// What happens while the app is supervised.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// A service dies.
    Death,
    /// All of them die.
    Deaths,
    /// Somebody stops one, and starts it again later.
    Hand,
}

/// Longer than any pause of the supervisor's.
const WHILE: Duration = Duration::from_secs(300);

impl Trouble {
    async fn happen(self, test: &TestHost, fault: Option<Fault>) {
        tokio::time::sleep(WHILE).await;
        match self {
            Trouble::Death => test.docker.die("shop_worker_1"),
            Trouble::Deaths => NAMES.iter().for_each(|name| test.docker.die(name)),
            Trouble::Hand => {
                // By hand, and so not among what is counted.
                test.docker.stop_by_hand("shop_worker_1");
                tokio::time::sleep(WHILE).await;
                let container = test.docker.find("shop_worker_1").expect("it is there");
                // What a daemon that went away had stopped shortly before counts as its own doing.
                let stays_down = !container.is_running() || fault == Some(Fault::Away);
                assert!(stays_down, "what was stopped by hand stays down: {:?}", test.faults.effects());
                test.docker.start_by_hand("shop_worker_1");
            }
        }
        tokio::time::sleep(WHILE).await;
    }
}

/// Supervises while there is trouble. Gives back what ended that, if anything did.
async fn supervise(
    test: &TestHost,
    host: &Host,
    running: Running,
    trouble: Trouble,
    fault: Option<Fault>,
) -> Option<anyhow::Error> {
    let board = Board::new(host);
    tokio::select! {
        ended = follow(host, &board, running) => ended.err(),
        () = trouble.happen(test, fault) => None,
    }
}

async fn supervised(from: &TestHost, env: &Env, trouble: Trouble, chosen: Option<(usize, Fault)>) -> Vec<String> {
    let test = from.copy();
    let host = test.another();
    let running = begin_start(&host).await.expect("the app comes up");
    test.faults.choose(chosen);
    let done = test.faults.run(supervise(&test, &host, running, trouble, chosen.map(|(_, fault)| fault))).await;
    let effects = test.faults.effects();
    let context = format!("{trouble:?}, {chosen:?} ({:?}): {done:?}", chosen.and_then(|(at, _)| effects.get(at)));
    assert!(matches!(done, None | Some(None)), "one fault does not end supervising: {context}");
    test.faults.choose(None);
    if done.is_none() {
        let next = test.another();
        let running = begin_start(&next).await;
        let running = running.unwrap_or_else(|error| panic!("{context}: the next start: {error:?}"));
        let board = Board::new(&next);
        tokio::select! {
            ended = follow(&next, &board, running) => panic!("{context}: {ended:?}"),
            () = tokio::time::sleep(WHILE) => {}
        }
        if let Trouble::Hand = trouble {
            test.docker.start_by_hand("shop_worker_1");
        }
    }
    check(&test, env, &context).await;
    effects
}

#[test]
fn supervising_survives_every_fault() {
    let (from, env) = in_paused_time(Walk::Known.begin());
    for trouble in [Trouble::Death, Trouble::Deaths, Trouble::Hand] {
        let effects = in_paused_time(supervised(&from, &env, trouble, None));
        let faults = faults(&effects);
        for_each(&faults, async |chosen| drop(supervised(&from, &env, trouble, Some(*chosen)).await));
        println!("{trouble:?}: {} effects, {} faults", effects.len(), faults.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_docker_that_refuses_for_an_hour_is_asked_now_and_then_and_nothing_fails_for_it() {
    let (from, env) = Walk::Known.begin().await;
    let test = from.copy();
    let host = test.another();
    let running = begin_start(&host).await.expect("the app comes up");
    test.docker.die("shop_worker_1");
    test.faults.choose(None);
    test.faults.deny("docker list shop");
    let board = Board::new(&host);
    let trouble = async {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let asked = test.faults.effects().iter().filter(|effect| effect.starts_with("docker list shop")).count();
        test.faults.choose(None);
        tokio::time::sleep(WHILE).await;
        asked
    };
    let asked = tokio::select! {
        ended = follow(&host, &board, running) => panic!("it ended: {ended:?}"),
        asked = trouble => asked,
    };
    assert!((10..300).contains(&asked), "it was asked {asked} times");
    check(&test, &env, "after an hour").await;
}

/// The effects of an update with a migration, up to its end.
const UPDATE: usize = 200;

#[test]
fn a_start_after_an_update_that_was_cut_off_survives_every_fault() {
    let mut random = Random::of(seed());
    let samples = if is_soak() { UPDATE } else { 12 };
    for sample in 0..samples {
        let kind = Walk::CutOff(if is_soak() { sample } else { random.below(UPDATE) });
        let (from, env) = in_paused_time(kind.begin());
        let effects = in_paused_time(walk(kind, &from, &env, None));
        let mut faults = faults(&effects);
        if !is_soak() {
            faults = (0..20).map(|_| faults[random.below(faults.len())]).collect();
        }
        for_each(&faults, async |chosen| drop(walk(kind, &from, &env, Some(*chosen)).await));
    }
}
