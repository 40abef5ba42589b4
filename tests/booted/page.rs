//! The status page in a real browser: what it says in each state, in light and dark and on a phone, to a screen reader, and that it
//! follows what happens without being loaded anew. Pictures go to `target/screenshots/`.

use crate::host::apps::*;
use crate::host::browser::Browser;
use crate::host::{Machine, wait_for};
use appliance::host::{Host, Mode};
use appliance::report::page::{View, render};
use appliance::state::Status;
use appliance::value::{Phase, Stage};
use std::time::Duration;

/// What every page must be, whatever it says.
fn assert_well_made(browser: &Browser, name: &str) {
    let mut grounds = Vec::new();
    for (look, width, height, dark) in
        [("light", 1000, 800, false), ("dark", 1000, 800, true), ("phone", 360, 780, false)]
    {
        browser.look(width, height, dark);
        browser.keep(&format!("{name}-{look}"));
        let overflows = browser.run("return document.documentElement.scrollWidth > window.innerWidth");
        assert_eq!(overflows, false, "{name} is wider than its window ({look})");
        let contrast = browser.run(
            "const rgb = c => c.match(/[\\d.]+/g).map(Number);
             const light = c => { const [r, g, b] = rgb(c).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
             const ground = light(getComputedStyle(document.querySelector('main')).backgroundColor);
             return Math.min(...[...document.querySelectorAll('h1, p, li, small, time')].map(e => { const ink = light(getComputedStyle(e).color); return (Math.max(ink, ground) + .05) / (Math.min(ink, ground) + .05) }))",
        );
        // WCAG 2.2, 1.4.3.
        assert!(contrast.as_f64().is_some_and(|contrast| contrast >= 4.5), "{name}, {look}: contrast {contrast}");
        grounds.push(browser.run("return getComputedStyle(document.body).backgroundColor"));
    }
    assert!(grounds[0] != grounds[1] && grounds[0] == grounds[2], "{grounds:?}");
    let loaded = browser.run("return performance.getEntriesByType('resource').filter(e => e.name !== location.href && !e.name.endsWith('/favicon.ico')).map(e => e.name)");
    assert_eq!(loaded, serde_json::json!([]), "{name} loads something");
    assert!(browser.run("return document.documentElement.lang").as_str().is_some_and(|lang| lang == "en"));
    browser.look(1000, 800, false);
}

fn heading(browser: &Browser) -> String {
    browser
        .run("const h = document.querySelector('h1'); return h ? h.textContent : document.body.textContent")
        .as_str()
        .unwrap_or("")
        .to_owned()
}

fn wait_for_heading(browser: &Browser, wanted: &str) {
    wait_for(&format!("the heading {wanted}"), Duration::from_secs(60), || {
        let seen = heading(browser);
        if seen.contains(wanted) { Ok(()) } else { Err(seen) }
    });
}

#[test]
fn the_page_tells_what_goes_on_and_follows_it() {
    let machine = Machine::boot("page");
    let browser = Browser::start();
    let url = format!("https://{}/some/place", machine.address());
    install_notes(&machine);
    machine.put("/app/env.yml", env_yml(&machine, "v1"), 0o600);

    // Preparing, held still for as long as it is looked at.
    machine.ok("systemctl start --no-block appliance
         until grep -q '\"name\":\"preparing\",\"step\":\"postgres\"' /run/appliance/status.json; do :; done
         kill -STOP $(systemctl show -p MainPID --value appliance-supervisor)");
    // On a fresh host there is no certificate yet.
    browser.open(&url.replace("https", "http"));
    assert_eq!(heading(&browser), "Getting ready");
    assert_well_made(&browser, "preparing");
    let spoken = browser.spoken();
    let is_said = |role: &str, name: &str| spoken.iter().any(|(known, text)| known == role && text.contains(name));
    assert!(
        is_said("heading", "Getting ready")
            && is_said("progressbar", "Progress")
            && spoken.iter().any(|(role, _)| role == "status"),
        "{spoken:?}"
    );
    assert!(
        is_said("StaticText", "Database server")
            && is_said("StaticText", ": running")
            && is_said("StaticText", ": done"),
        "{spoken:?}"
    );
    assert_eq!(browser.run("return document.querySelectorAll('ol li.running').length"), 1);
    assert_eq!(browser.run("return document.querySelectorAll('ol li').length"), 14);
    let (_, body) = curl(&machine, &["-H", "Accept: application/json", &url.replace("https", "http")]);
    let told: serde_json::Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("not JSON: {body}"));
    assert_eq!((told["phase"].as_str(), told["look_again_s"].as_u64()), (Some("preparing"), Some(5)), "{body}");
    assert_eq!(told["steps"][8], serde_json::json!({ "title": "Database server", "state": "running" }), "{body}");
    assert!(told["since"].is_string(), "{body}");
    machine.ok("kill -CONT $(systemctl show -p MainPID --value appliance-supervisor)");
    wait_for_phase(&machine, "running");
    // The visitor who waited all along, and came over http, gets what was asked for: nginx leads elsewhere now.
    let at_the_app = || {
        wait_for("the app's own answer", Duration::from_secs(30), || {
            let seen = heading(&browser);
            if seen.to_lowercase().contains("not found") { Ok(()) } else { Err(seen) }
        });
    };
    at_the_app();
    assert!(browser.run("return location.protocol") == "https:");

    // Updating: no command makes it yet, so the page itself is put there. It follows along without being loaded anew.
    let put = |stage: Stage| {
        let status = Status::new(Phase::Updating { stage }, &Host::system(Mode::Check));
        machine.put("/var/www/html/503.next", render(&View::of(&status)).expect("the page renders"), 0o644);
        machine.ok("mv /var/www/html/503.next /var/www/html/503.html");
    };
    put(Stage::Build);
    // With a fragment too, which alone would not make the browser load anything.
    browser.open("about:blank");
    browser.open(&format!("{url}#/inbox"));
    assert_eq!(heading(&browser), "Updating");
    assert_well_made(&browser, "updating");
    browser.run("window.stayed = true");
    put(Stage::Gate);
    wait_for("the next stage", Duration::from_secs(30), || {
        let running = browser.run("return document.querySelector('li.running span').textContent");
        if running.as_str().is_some_and(|text| text.starts_with("Trying it out")) {
            Ok(())
        } else {
            Err(running.to_string())
        }
    });
    assert_eq!(browser.run("return window.stayed"), true, "the document was loaded anew");
    // And once the app is back, the visitor gets what was asked for.
    machine.ok("rm /var/www/html/503.html");
    at_the_app();

    // Standby, by hand.
    machine.ok("systemctl stop appliance");
    browser.open(&url);
    wait_for_heading(&browser, "Not in service");
    assert_well_made(&browser, "standby");

    // Failed: the visitor learns that, and not why.
    machine.ok("echo 'canary-reason: web died' > /run/appliance-failed; systemctl start --no-block appliance");
    wait_for_heading(&browser, "Out of service");
    assert_eq!(browser.run("return document.querySelector('main').dataset.phase"), "failed");
    assert_well_made(&browser, "failed");
    let page = browser.run("return document.documentElement.outerHTML").to_string();
    assert!(!page.contains("canary-reason") && page.contains("appliance status"), "{page}");
    let (_, body) = curl(&machine, &["-H", "Accept: application/json", &url]);
    assert!(body.contains("\"phase\": \"failed\"") && !body.contains("canary-reason"), "{body}");
}
