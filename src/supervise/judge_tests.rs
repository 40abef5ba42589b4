//! Tests of `judge.rs`: every rule of supervision, with a paused clock. What Docker really does is seen on a booted host.

use super::*;
use crate::host::docker::{DockerEvent, LABEL_SERVICE};
use crate::stack::compose;
use crate::value::AppName;
use std::collections::HashMap;
use std::time::Duration;

fn stack(services: &str) -> Stack {
    let text = format!("services:\n{services}");
    let (stack, report) = compose::of_text(&text, &AppName::ecs(), "/c.yml", &BTreeMap::new());
    stack.unwrap_or_else(|| panic!("{}", report.render("c")))
}

fn running(service: &str) -> Container {
    Container {
        id: format!("id-{service}"),
        name: format!("ecs_{service}_1"),
        labels: HashMap::from([(LABEL_SERVICE.to_owned(), service.to_owned())]),
        image_id: String::new(),
        state: ContainerState::Running,
        health: None,
        exit_code: 0,
        oom_killed: false,
        networks: BTreeMap::from([("ecs_default".to_owned(), "n".to_owned())]),
        network_mode: String::new(),
        addresses: Vec::new(),
    }
}

fn ended(service: &str, exit_code: i64) -> Container {
    Container { state: ContainerState::Exited, exit_code, ..running(service) }
}

fn decide(judge: &mut Judge, stack: &Stack, containers: &[Container]) -> Decision {
    let networks = BTreeMap::from([("ecs_default".to_owned(), "n".to_owned())]);
    judge.decide(stack, containers, &networks, Instant::now())
}

/// Service and reason of each restart.
fn restarts(decision: &Decision) -> Vec<String> {
    decision.restarts.iter().map(|due| format!("{}: {}", due.service, due.why)).collect()
}

fn event(action: &str, service: &str, signal: Option<i32>) -> DockerEvent {
    DockerEvent { action: action.to_owned(), container_id: format!("id-{service}"), signal, age: Duration::ZERO }
}

#[tokio::test(start_paused = true)]
async fn a_healthy_stack_asks_for_nothing_and_for_no_look() {
    let stack = stack("  a: {image: x}\n  b: {image: x, depends_on: [a]}\n");
    let mut judge = Judge::default();
    assert_eq!(decide(&mut judge, &stack, &[running("a"), running("b")]), Decision::default());
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_death_is_answered_at_once_with_its_reason() {
    let stack = stack("  a: {image: x}\n");
    let unhealthy = Container { health: Some(Health::Unhealthy), ..running("a") };
    let oom = Container { oom_killed: true, ..ended("a", 137) };
    for (container, expected) in
        [(ended("a", 3), "a: it ended with 3"), (oom, "a: it ran out of memory"), (unhealthy, "a: it is unhealthy")]
    {
        let mut judge = Judge::default();
        let healthy = Container { health: Some(Health::Healthy), ..running("a") };
        assert_eq!(decide(&mut judge, &stack, &[healthy]), Decision::default());
        assert_eq!(restarts(&decide(&mut judge, &stack, &[container])), [expected]);
    }
    let paused = Container { state: ContainerState::Paused, ..running("a") };
    assert_eq!(decide(&mut Judge::default(), &stack, &[paused]), Decision::default());
    let starting = Container { health: Some(Health::Starting), ..running("a") };
    assert_eq!(decide(&mut Judge::default(), &stack, &[starting]), Decision::default());
}

/// It may only be slow: what starts slower than its health check allows would be restarted for ever.
#[tokio::test(start_paused = true)]
async fn one_that_was_never_healthy_gets_ten_minutes() {
    let stack = stack("  a: {image: x}\n  b: {image: x, restart: 'no'}\n");
    let mut judge = Judge::default();
    let unhealthy = |service: &str| Container { health: Some(Health::Unhealthy), ..running(service) };
    let both = || [unhealthy("a"), unhealthy("b")];
    let first = decide(&mut judge, &stack, &both());
    assert_eq!((restarts(&first), first.wake), (Vec::new(), Some(Instant::now() + SLOW)));
    tokio::time::advance(SLOW - Duration::from_secs(1)).await;
    assert_eq!(restarts(&decide(&mut judge, &stack, &both())), [""; 0]);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(restarts(&decide(&mut judge, &stack, &both())), ["a: it is unhealthy"], "and b has no restarts");
    // Started again, it has its ten minutes again.
    assert_eq!(restarts(&decide(&mut judge, &stack, &both())), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn one_that_has_used_up_its_restarts_stays_down_for_the_next_supervisor_too() {
    let stack = stack("  a: {image: x, restart: 'on-failure:1'}\n");
    let mut judge = Judge::default();
    assert_eq!(restarts(&decide(&mut judge, &stack, &[ended("a", 1)])), ["a: it ended with 1"]);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(decide(&mut judge, &stack, &[ended("a", 1)]).restarts, []);
    assert_eq!(judge.given_up, BTreeSet::from(["id-a".to_owned()]));
    let mut next = Judge::new(ManualStops::default(), judge.given_up.clone());
    assert_eq!(decide(&mut next, &stack, &[ended("a", 1)]).restarts, []);
    // Somebody starts it by hand: it counts anew.
    decide(&mut next, &stack, &[running("a")]);
    assert_eq!(next.given_up, BTreeSet::new());
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_waits_longer_each_time_and_is_named() {
    let stack = stack("  a: {image: x}\n  b: {image: x}\n");
    let mut judge = Judge::default();
    let both = |a: Container| [a, running("b")];
    let mut waits = Vec::new();
    for _ in 0..6 {
        let decision = decide(&mut judge, &stack, &both(ended("a", 1)));
        if let Some(wake) = decision.wake.filter(|_| decision.restarts.is_empty()) {
            waits.push((wake - Instant::now()).as_millis());
            tokio::time::sleep_until(wake).await;
            assert_eq!(restarts(&decide(&mut judge, &stack, &both(ended("a", 1)))), ["a: it ended with 1"]);
        }
        decide(&mut judge, &stack, &both(running("a")));
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600]);
    assert_eq!(decide(&mut judge, &stack, &both(ended("a", 1))).looping, ["a"], "and b is not");
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert!(decide(&mut judge, &stack, &both(running("a"))).looping.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_container_of_several_is_restarted_alone() {
    let stack = stack("  a: {image: x, scale: 2}\n");
    let second = Container { name: "ecs_a_2".to_owned(), id: "id-a2".to_owned(), ..ended("a", 1) };
    let decision = decide(&mut Judge::default(), &stack, &[running("a"), second]);
    assert_eq!(decision.restarts.iter().map(|due| due.container.name.as_str()).collect::<Vec<_>>(), ["ecs_a_2"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_done_stays_done() {
    let job = "  job: {image: x}\n  a: {image: x, depends_on: {job: {condition: service_completed_successfully}}}\n";
    let stack =
        stack(&format!("{job}  never: {{image: x, restart: 'no'}}\n  fail: {{image: x, restart: on-failure}}\n"));
    let all = [ended("job", 0), running("a"), ended("never", 1), ended("fail", 0)];
    assert_eq!(decide(&mut Judge::default(), &stack, &all), Decision::default());
    let again = [ended("job", 0), running("a"), ended("never", 1), ended("fail", 2)];
    assert_eq!(restarts(&decide(&mut Judge::default(), &stack, &again)), ["fail: it ended with 2"]);
    // `docker container prune` took the job's container.
    assert_eq!(decide(&mut Judge::default(), &stack, &all[1..]), Decision::default());
}

#[tokio::test(start_paused = true)]
async fn a_stop_by_hand_wins_until_the_container_is_started() {
    let stack = stack("  a: {image: x}\n");
    let mut judge = Judge::default();
    let now = Instant::now();
    judge.manual_stops.note(&event("kill", "a", Some(15)), now);
    let open = decide(&mut judge, &stack, &[ended("a", 143)]);
    assert!(open.restarts.is_empty() && open.wake.is_some(), "whether it was a stop is not known yet");
    judge.manual_stops.note(&event("stop", "a", None), now);
    assert_eq!(decide(&mut judge, &stack, &[ended("a", 143)]), Decision::default());
    tokio::time::advance(Duration::from_secs(24 * 3600)).await;
    assert_eq!(decide(&mut judge, &stack, &[ended("a", 143)]), Decision::default(), "it is not forgotten");
    judge.manual_stops.note(&event("start", "a", None), Instant::now());
    assert_eq!(decide(&mut judge, &stack, &[running("a")]), Decision::default());
    assert_eq!(restarts(&decide(&mut judge, &stack, &[ended("a", 1)])), ["a: it ended with 1"]);
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_service_is_restarted_when_that_is_ready_again() {
    let check = "healthcheck: {test: [CMD, x]}";
    let stack = stack(&format!(
        "  db: {{image: x, {check}}}\n  web: {{image: x, depends_on: {{db: {{condition: service_healthy, restart: true}}}}}}\n  \
         side: {{image: x, network_mode: 'service:web'}}\n  other: {{image: x, depends_on: [db]}}\n"
    ));
    let side = Container { networks: BTreeMap::new(), ..running("side") };
    let all = |db: Container, web: Container| [db, web, side.clone(), running("other")];
    let healthy = |health| Container { health: Some(health), ..running("db") };
    let mut judge = Judge::default();
    assert_eq!(restarts(&decide(&mut judge, &stack, &all(ended("db", 1), running("web")))), ["db: it ended with 1"]);
    let starting = decide(&mut judge, &stack, &all(healthy(Health::Starting), running("web")));
    assert!(starting.restarts.is_empty(), "not before it is healthy: {starting:?}");
    let ready = decide(&mut judge, &stack, &all(healthy(Health::Healthy), running("web")));
    assert_eq!(restarts(&ready), ["web: db was restarted"]);
    let after = decide(&mut judge, &stack, &all(healthy(Health::Healthy), running("web")));
    assert_eq!(restarts(&after), ["side: web was restarted"], "and what follows it in turn");
    assert!(restarts(&decide(&mut judge, &stack, &all(healthy(Health::Healthy), running("web")))).is_empty(), "once");
    // Its network lives in web's container, and died with it.
    let dead = decide(&mut judge, &stack, &all(healthy(Health::Healthy), ended("web", 1)));
    assert_eq!(restarts(&dead), ["web: it ended with 1"]);
    let back = decide(&mut judge, &stack, &all(healthy(Health::Healthy), running("web")));
    assert_eq!(restarts(&back), ["side: web was restarted"]);
}

#[tokio::test(start_paused = true)]
async fn what_hands_removed_is_mended() {
    let stack = stack("  a: {image: x}\n  b: {image: x}\n");
    let gone = decide(&mut Judge::default(), &stack, &[running("a")]);
    assert_eq!(gone.mend.as_deref(), Some("the container ecs_b_1 is missing"));
    let cut = Container { networks: BTreeMap::new(), ..running("b") };
    let cut = decide(&mut Judge::default(), &stack, &[running("a"), cut]);
    assert_eq!(cut.mend.as_deref(), Some("ecs_b_1 is not connected to the network ecs_default any more"));
    let anew = Container { networks: BTreeMap::from([("ecs_default".to_owned(), "old".to_owned())]), ..ended("b", 1) };
    let anew = decide(&mut Judge::default(), &stack, &[running("a"), anew]);
    assert!(anew.mend.is_some() && anew.restarts.is_empty(), "starting it would fail: {anew:?}");
}
