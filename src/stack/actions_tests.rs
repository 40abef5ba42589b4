//! Tests of `actions.rs`: each difference and what follows from it.

use super::*;
use crate::host::docker::{ContainerState, LABEL_SERVICE};
use std::collections::HashMap;

fn want(service: &str) -> Wanted {
    Wanted {
        service: service.to_owned(),
        container: format!("x_{service}_1"),
        config_hash: "1".to_owned(),
        networks: vec!["n".to_owned()],
        ..Wanted::default()
    }
}

fn have(service: &str, hash: &str, state: ContainerState) -> Container {
    let labels = [(LABEL_CONFIG_HASH, hash), (LABEL_ONEOFF, "False"), (LABEL_SERVICE, service)];
    Container {
        id: format!("id-{service}"),
        name: format!("x_{service}_1"),
        labels: HashMap::from(labels.map(|(name, value)| (name.to_owned(), value.to_owned()))),
        image_id: String::new(),
        state,
        health: None,
        exit_code: 0,
        oom_killed: false,
        networks: BTreeMap::from([("n".to_owned(), "id-n".to_owned())]),
        network_mode: String::new(),
        addresses: Vec::new(),
    }
}

fn present(containers: &[Container]) -> Present {
    Present {
        containers: containers.to_vec(),
        networks: BTreeMap::from([("n".to_owned(), "id-n".to_owned())]),
        stopped: BTreeSet::new(),
        given_up: BTreeSet::new(),
    }
}

fn said(wanted: &[Wanted], present: &Present, occasion: Occasion) -> Vec<String> {
    let words = |action: &Action| format!("{} {}", action.container(), action.words());
    actions(wanted, present, occasion).iter().map(words).collect()
}

use ContainerState::{Created, Exited, Paused, Running};

#[test]
fn what_is_as_wanted_is_left_alone() {
    let b = Wanted { ties: vec!["a".into()], follows: vec!["a".into()], ..want("b") };
    let there = present(&[have("a", "1", Running), have("b", "1", Running)]);
    assert!(said(&[want("a"), b.clone()], &there, Occasion::Start).is_empty());
    let paused = present(&[have("a", "1", Paused), have("b", "1", Running)]);
    assert!(said(&[want("a"), b], &paused, Occasion::Start).is_empty(), "whoever paused it lets it go on");
}

#[test]
fn each_difference_has_its_action() {
    let one_off = |state| {
        let mut container = have("one", "1", state);
        container.labels.insert(LABEL_ONEOFF.to_owned(), "True".to_owned());
        container.name = format!("x_{state:?}");
        container
    };
    let mut second = have("stopped", "1", Running);
    second.name = "x_stopped_2".to_owned();
    let mut lost = have("lost", "1", Running);
    lost.networks.clear();
    let mut inside = have("inside", "1", Running);
    inside.network_mode = "container:id-of-an-earlier-one".to_owned();
    let mut moved = have("moved", "1", Running);
    moved.networks.insert("n".to_owned(), "id-old".to_owned());
    let present = present(&[
        have("stopped", "1", Exited),
        second,
        have("changed", "0", Running),
        have("tied", "1", Running),
        have("follower", "1", Running),
        lost,
        moved,
        inside,
        have("orphan", "1", Running),
        one_off(Exited),
        one_off(Running),
    ]);
    let wanted = [
        want("stopped"),
        want("changed"),
        Wanted { ties: vec!["changed".into()], ..want("tied") },
        Wanted { follows: vec!["stopped".into()], ..want("follower") },
        want("lost"),
        want("moved"),
        Wanted { shares: Some("x_follower_1".into()), ..want("inside") },
        want("new"),
    ];
    assert_eq!(
        said(&wanted, &present, Occasion::Start),
        [
            "x_stopped_2 remove: one more than the service stopped asks for",
            "x_orphan_1 remove: no service of the compose file",
            "x_Exited remove: a one-off that has ended",
            "x_stopped_1 start",
            "x_changed_1 recreate: it was made by another version of the appliance",
            "x_tied_1 recreate: it is tied to changed, which is new",
            "x_follower_1 restart: stopped was started",
            "x_lost_1 recreate: it is not connected to the network n any more",
            "x_moved_1 recreate: it is not connected to the network n any more",
            "x_inside_1 recreate: it lives in the network of a x_follower_1 that is gone",
            "x_new_1 create",
        ]
    );
}

#[test]
fn what_ended_for_good_stays_down() {
    let ended = |service: &str, code| Container { exit_code: code, ..have(service, "1", Exited) };
    let with = |restart, service: &str| Wanted { restart, ..want(service) };
    let wanted = [
        Wanted { once: true, ..with(Restart::No, "done") },
        Wanted { once: true, ..with(Restart::No, "broken") },
        with(Restart::No, "never"),
        with(Restart::OnFailure(None), "well"),
        with(Restart::OnFailure(None), "failed"),
        with(Restart::OnFailure(Some(2)), "given-up"),
        with(Restart::Always, "always"),
        with(Restart::Always, "by-hand"),
        with(Restart::No, "made"),
    ];
    let mut present = present(&[
        ended("done", 0),
        ended("broken", 1),
        ended("never", 1),
        ended("well", 0),
        ended("failed", 1),
        ended("given-up", 1),
        ended("always", 0),
        ended("by-hand", 137),
        have("made", "1", Created),
    ]);
    present.stopped.insert("id-by-hand".to_owned());
    present.given_up.insert("id-given-up".to_owned());
    let names =
        |all: Vec<String>| -> Vec<String> { all.iter().map(|said| said[2..].replace("_1 start", "")).collect() };
    let start = names(said(&wanted, &present, Occasion::Start));
    assert_eq!(start, ["broken", "never", "well", "failed", "given-up", "always", "by-hand", "made"]);
    let mend = names(said(&wanted, &present, Occasion::Mend));
    assert_eq!(mend, ["failed", "always", "made"]);
}
