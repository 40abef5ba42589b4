//! Tests of `apply.rs` on the stateful fake: order, and nothing to do the second time.

use super::*;
use crate::host::fake::TestHost;
use crate::stack::compose;
use crate::stack::stop::stop;
use crate::value::AppName;
use crate::value::PinnedImage;

fn stack(text: &str) -> Stack {
    let (stack, report) = compose::of_text(text, &AppName::ecs(), "/c.yml", &BTreeMap::new());
    stack.unwrap_or_else(|| panic!("{}", report.render("c")))
}

const TEXT: &str =
    "services:\n  web: {image: w, depends_on: [db]}\n  db: {image: d, volumes: ['v:/v']}\nvolumes: {v: }\n";

fn host() -> (TestHost, Images) {
    let test = TestHost::new();
    for image in ["w", "d"] {
        test.docker.images.lock().expect("no test panics here").insert(image.to_owned(), format!("sha-{image}"));
    }
    let images = [("web", "w"), ("db", "d")]
        .map(|(service, image)| (service.to_owned(), PinnedImage::unknown(image.to_owned())));
    (test, BTreeMap::from(images))
}

fn take_log(test: &TestHost) -> Vec<String> {
    std::mem::take(&mut *test.docker.log.lock().expect("no test panics here"))
}

#[tokio::test]
async fn up_goes_by_dependency_and_the_second_time_does_nothing() {
    let ((test, images), stack) = (host(), stack(TEXT));
    up(&stack, &images, &test.host, Occasion::Start, &|_| ()).await.expect("the stack comes up");
    let log = take_log(&test);
    let made = ["volume ecs_v", "network ecs_default"];
    let started = ["create ecs_db_1", "start ecs_db_1", "create ecs_web_1", "start ecs_web_1"];
    assert_eq!(log, [&made[..], &started[..]].concat());
    up(&stack, &images, &test.host, Occasion::Start, &|_| ()).await.expect("the stack is up");
    assert!(take_log(&test).is_empty());
    stop(Some(&stack), "ecs", &test.host).await.expect("the stack stops");
    assert_eq!(take_log(&test), ["stop ecs_web_1", "stop ecs_db_1"]);
    up(&stack, &images, &test.host, Occasion::Start, &|_| ()).await.expect("the stack comes up again");
    assert_eq!(take_log(&test), ["start ecs_db_1", "start ecs_web_1"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_containerd_holds_is_made_anew_only_if_it_is_not_given_up() {
    for (refusals, is_anew) in [(3, false), (usize::MAX, true)] {
        let ((test, images), stack) = (host(), stack(TEXT));
        up(&stack, &images, &test.host, Occasion::Start, &|_| ()).await.expect("the stack comes up");
        stop(Some(&stack), "ecs", &test.host).await.expect("the stack stops");
        test.docker.held.lock().expect("no test panics here").insert("ecs_db_1".to_owned(), refusals);
        take_log(&test);
        up(&stack, &images, &test.host, Occasion::Start, &|_| ()).await.expect("the stack comes up");
        let log = take_log(&test);
        assert_eq!(log.contains(&"remove ecs_db_1".to_owned()), is_anew, "{refusals}: {log:?}");
        assert!(log.contains(&"start ecs_web_1".to_owned()), "{log:?}");
        // One that dies later is started by the supervisor alone.
        let containers = test.host.docker().containers("ecs", Look::Quick).await.expect("the fake lists");
        let web = containers.iter().find(|container| container.name == "ecs_web_1").expect("it is there");
        test.docker.held.lock().expect("no test panics here").insert("ecs_web_1".to_owned(), refusals);
        start_again(&stack, &images, "web", web, &test.host).await.expect("it is started");
        let log = take_log(&test);
        assert_eq!(log.contains(&"remove ecs_web_1".to_owned()), is_anew, "{refusals}: {log:?}");
        assert!(log.last().is_some_and(|last| last.starts_with("start ecs_web_1")), "{log:?}");
    }
}

#[tokio::test]
async fn a_new_image_recreates_its_service_alone_and_plan_touches_nothing() {
    let ((test, images), stack) = (host(), stack(TEXT));
    up(&stack, &images, &test.host, Occasion::Start, &|_| ()).await.expect("the stack comes up");
    take_log(&test);
    test.docker.images.lock().expect("no test panics here").insert("w".to_owned(), "sha-new".to_owned());
    let check = test.host.in_mode(crate::host::Mode::Check);
    plan(&stack, &images, &check, Occasion::Start).await.expect("planning works");
    let entries: Vec<String> = check.journal().entries().iter().map(ToString::to_string).collect();
    assert_eq!(entries, ["container ecs_web_1: recreate: image: w (sha-w) -> w (sha-new)"]);
    assert!(take_log(&test).is_empty());
    up(&stack, &images, &test.host, Occasion::Start, &|_| ()).await.expect("the stack comes up");
    assert_eq!(
        take_log(&test),
        [
            "remove ecs_web_1.new",
            "create ecs_web_1.new",
            "stop ecs_web_1",
            "remove ecs_web_1",
            "rename ecs_web_1.new ecs_web_1",
            "start ecs_web_1"
        ]
    );
}

#[tokio::test]
async fn a_missing_image_is_named() {
    let ((test, images), stack) = (host(), stack(TEXT));
    test.docker.images.lock().expect("no test panics here").remove("d");
    let error = up(&stack, &images, &test.host, Occasion::Start, &|_| ()).await.expect_err("an image is missing");
    assert!(error.to_string().contains("the image d of the service db is missing"), "{error}");
}
