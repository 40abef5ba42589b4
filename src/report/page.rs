//! The status page: one self-contained file that nginx serves with 503 while it exists, and the same as JSON for machines.
//! What a page says follows from the status; how nginx chooses between the two is `prepare/nginx/mod.rs`.

use crate::host::{File, Host};
use crate::state::{Status, StepState};
use crate::value::{Phase, Stage, Tenant};
use anyhow::{Context, Result};
use base64::Engine;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Its existence is the switch.
const PAGE: &str = "503.html";
const PAGE_JSON: &str = "503.json";
/// What nginx shows when the app does not answer although it should.
const UNAVAILABLE: &str = "unavailable.html";
const UNAVAILABLE_JSON: &str = "unavailable.json";

/// The directory that nginx serves the pages from: the host's (`None`), or that of an app.
pub fn root(of: Option<&Tenant>) -> String {
    const OF_HOST: &str = "/var/www/html";
    of.map_or_else(|| OF_HOST.to_owned(), |tenant| tenant.path(OF_HOST, |name| format!("/var/www/appliance/{name}")))
}
/// After how many seconds the page looks again.
pub const REFRESH_S: u32 = 5;

const TEMPLATE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");

/// What the page says.
#[derive(Debug, Clone, Serialize)]
pub struct View {
    /// The phase's name, or `unavailable`.
    pub phase: &'static str,
    pub title: &'static str,
    pub text: String,
    /// Further lines, for example the sources that were tried.
    pub details: Vec<String>,
    pub steps: Vec<Part>,
    /// How many of the steps are done.
    pub done: usize,
    /// Since when it stands like this, where that is known.
    pub since: Option<jiff::Timestamp>,
    /// After how many seconds the page looks again.
    pub look_again_s: u32,
}

/// One step of what is going on.
#[derive(Debug, Clone, Serialize)]
pub struct Part {
    pub title: &'static str,
    pub state: StepState,
}

impl View {
    fn new(phase: &'static str, title: &'static str, text: impl Into<String>) -> View {
        let text = text.into();
        let (details, steps, done, since) = (Vec::new(), Vec::new(), 0, None);
        View { phase, title, text, details, steps, done, since, look_again_s: REFRESH_S }
    }

    fn with_steps(self, steps: Vec<Part>) -> View {
        View { done: steps.iter().filter(|part| part.state == StepState::Done).count(), steps, ..self }
    }

    /// The page of a status. Tells a visitor little: reasons of a failure are for the operator.
    pub fn of(status: &Status) -> View {
        let name = status.phase.name();
        let steps = |app: StepState| {
            let steps = status.steps.iter().map(|known| Part { title: known.step.title(), state: known.state });
            steps.chain([Part { title: "The service itself", state: app }]).collect()
        };
        let view = match &status.phase {
            Phase::Standby { .. } => {
                let text = "This appliance is on standby. It will be back when its operator starts it.";
                View::new(name, "Not in service", text)
            }
            Phase::Preparing { step } => {
                let text = format!("The host is being prepared: {}.", step.title());
                View::new(name, "Getting ready", text).with_steps(steps(StepState::Waiting))
            }
            // What exactly is for the operator: it names images and services.
            Phase::Starting { .. } => View::new(name, "Starting", "Almost there: the service is being started.")
                .with_steps(steps(StepState::Running)),
            Phase::Updating { stage } => {
                let state = |known: &Stage| match known.cmp(stage) {
                    std::cmp::Ordering::Less => StepState::Done,
                    std::cmp::Ordering::Equal => StepState::Running,
                    std::cmp::Ordering::Greater => StepState::Waiting,
                };
                let parts = Stage::ALL.iter().map(|known| Part { title: known.title(), state: state(known) }).collect();
                View::new(name, "Updating", format!("A new version is being put in place: {}.", stage.title()))
                    .with_steps(parts)
            }
            Phase::Running { .. } => View::new(name, "Back in a moment", "The service is about to answer."),
            Phase::Failed { .. } => {
                let text = "Something went wrong and the operator has been told. For the operator: appliance status";
                View::new(name, "Out of service", text)
            }
        };
        View { since: Some(status.since), ..view }
    }

    /// The page without an env: it says which sources were tried.
    pub fn without_env(tried: Vec<String>) -> View {
        let text = "This appliance has no env.yml yet. Put one in place and run: systemctl start appliance";
        View { details: tried, ..View::new("standby", "Waiting for its configuration", text) }
    }

    fn unavailable() -> View {
        View::new("unavailable", "Back in a moment", "The service does not answer right now.")
    }
}

/// The page as HTML; everything that is put in is escaped.
pub fn render(view: &View) -> Result<String> {
    let mut templates = minijinja::Environment::new();
    templates.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    templates.add_template("page.html", TEMPLATE).context("the page's template is broken")?;
    let template = templates.get_template("page.html").context("the page's template is missing")?;
    // The one script that may run is ours.
    let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(SCRIPT));
    let view = minijinja::Value::from(minijinja::value::Serde(view));
    let values = minijinja::context! { view, script => minijinja::Value::from_safe_string(SCRIPT.to_owned()), hash };
    template.render(values).context("could not render the status page")
}

fn render_json(view: &View) -> Result<String> {
    serde_json::to_string_pretty(view).map(|text| text + "\n").context("could not render the status page")
}

/// Puts the page of the host (`None`) or of an app up.
pub fn show(host: &Host, of: Option<&Tenant>, view: &View) -> Result<()> {
    let root = root(of);
    // The switch comes last.
    host.put(&format!("{root}/{PAGE_JSON}"), render_json(view)?.as_bytes(), 0o644)?;
    host.put(&format!("{root}/{PAGE}"), render(view)?.as_bytes(), 0o644)
}

/// Takes the page down.
pub fn clear(host: &Host, of: Option<&Tenant>) -> Result<()> {
    let root = root(of);
    host.discard(&format!("{root}/{PAGE}"))?;
    host.discard(&format!("{root}/{PAGE_JSON}"))
}

/// The files for the moments in which a container does not answer, and where they lie.
pub fn unavailable(of: Option<&Tenant>) -> Result<[(String, File); 2]> {
    let view = View::unavailable();
    let file = |text: String| File::text(text).mode(0o644);
    let root = root(of);
    Ok([
        (format!("{root}/{UNAVAILABLE}"), file(render(&view)?)),
        (format!("{root}/{UNAVAILABLE_JSON}"), file(render_json(&view)?)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;
    use crate::value::Step;

    fn view(phase: Phase) -> View {
        View::of(&Status::new(phase, &TestHost::new().host))
    }

    #[test]
    fn everything_is_escaped() {
        let view = View::without_env(vec!["<script>x</script> \" ' & {{ 1 }}".to_owned()]);
        let html = render(&view).expect("the page renders");
        assert!(html.contains("&lt;script&gt;x&lt;&#x2f;script&gt; &quot; &#x27; &amp; {{ 1 }}"), "{html}");
        assert_eq!(html.matches("<script>").count(), 1, "our own");
    }

    #[test]
    fn a_failure_keeps_its_reason_from_visitors() {
        let view = view(Phase::Failed { reason: "web died 6 times".into() });
        for text in [render(&view).expect("the page renders"), render_json(&view).expect("it renders")] {
            assert!(!text.contains("web died") && text.contains("appliance status"));
        }
    }

    #[test]
    fn steps_are_told_with_their_state() {
        let mut status = Status::new(Phase::Preparing { step: Step::Ssh }, &TestHost::new().host);
        for (at, state) in [StepState::Done, StepState::Done, StepState::Running].into_iter().enumerate() {
            status.steps[at].state = state;
        }
        let view = View::of(&status);
        assert_eq!((view.done, view.steps.len()), (2, 14));
        let html = render(&view).expect("the page renders");
        assert!(html.contains("2 of 14 done") && html.contains("class=\"running\""), "{html}");
        let json: serde_json::Value = serde_json::from_str(&render_json(&view).expect("it renders")).expect("JSON");
        assert_eq!(json["steps"][2]["state"], "running");
        assert_eq!(json["phase"], "preparing");
    }

    #[test]
    fn an_update_shows_its_stages() {
        let view = view(Phase::Updating { stage: Stage::Migrate });
        assert_eq!((view.done, view.steps.len()), (3, 7));
        assert_eq!(view.steps[3].state, StepState::Running);
    }

    #[test]
    fn the_script_cannot_end_early() {
        assert!(!SCRIPT.contains("</"), "an end tag would end the element");
    }
}
