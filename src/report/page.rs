//! The status page: one self-contained file that nginx serves with 503 while it exists.

use crate::host::{File, Host};
use crate::value::{Phase, Step};
use anyhow::{Context, Result};

/// Its existence is the switch (spec/product.md, "The command line").
pub const PAGE: &str = "/var/www/html/503.html";
/// What nginx shows when the app does not answer although it should.
pub const UNAVAILABLE: &str = "/var/www/html/unavailable.html";
/// After how many seconds the page looks again.
pub const REFRESH_S: u32 = 5;

const TEMPLATE: &str = include_str!("page.html");

/// What the page says.
#[derive(Debug, Clone)]
pub struct View {
    pub title: String,
    pub text: String,
    /// Further lines, for example the sources that were tried.
    pub details: Vec<String>,
    /// The running step and how many there are.
    pub progress: Option<(usize, usize)>,
}

impl View {
    /// The page of a phase. Tells a visitor little: reasons of a failure are for the operator.
    pub fn of(phase: &Phase) -> View {
        let view = |title: &str, text: &str| View {
            title: title.to_owned(),
            text: text.to_owned(),
            details: Vec::new(),
            progress: None,
        };
        match phase {
            Phase::Standby { .. } => {
                view("Not in service", "This appliance is on standby. It will be back when its operator starts it.")
            }
            Phase::Preparing { step } => View {
                progress: Step::ALL.iter().position(|known| known == step).map(|at| (at + 1, Step::ALL.len())),
                ..view("Getting ready", &format!("The host is being prepared: {step}."))
            },
            Phase::Starting { what } => view("Starting", &format!("Almost there: {what}.")),
            Phase::Running { .. } => view("Back in a moment", "The service is about to answer."),
            Phase::Failed { .. } => view(
                "Out of service",
                "Something went wrong and the operator has been told. For the operator: appliance status",
            ),
        }
    }

    /// The page without an env: it says which sources were tried.
    pub fn without_env(tried: Vec<String>) -> View {
        View {
            title: "Waiting for its configuration".to_owned(),
            text: "This appliance has no env.yml yet. Put one in place and run: systemctl start appliance".to_owned(),
            details: tried,
            progress: None,
        }
    }
}

/// The page as HTML; everything that is put in is escaped.
pub fn render(view: &View) -> Result<String> {
    let mut templates = minijinja::Environment::new();
    templates.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    templates.add_template("page.html", TEMPLATE).context("the page's template is broken")?;
    let template = templates.get_template("page.html").context("the page's template is missing")?;
    let values = minijinja::context! {
        title => view.title.as_str(),
        text => view.text.as_str(),
        details => view.details.clone(),
        progress => view.progress.map(|(at, of)| vec![at, of]),
    };
    template
        .render(minijinja::context! { view => values, refresh => REFRESH_S })
        .context("could not render the status page")
}

/// Puts the page up.
pub fn show(host: &Host, view: &View) -> Result<()> {
    host.put(PAGE, render(view)?.as_bytes(), 0o644)
}

/// Takes the page down.
pub fn clear(host: &Host) -> Result<()> {
    host.discard(PAGE)
}

/// The page for the moments in which a container does not answer.
pub fn unavailable() -> Result<File> {
    let view = View {
        title: "Back in a moment".to_owned(),
        text: "The service does not answer right now. This page looks again by itself.".to_owned(),
        details: Vec::new(),
        progress: None,
    };
    Ok(File::text(render(&view)?).mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_escaped() {
        let view = View::without_env(vec!["<script>x</script>".to_owned()]);
        let html = render(&view).expect("the page renders");
        assert!(html.contains("&lt;script&gt;") && !html.contains("<script>x"));
    }

    #[test]
    fn a_failure_keeps_its_reason_from_visitors() {
        let html = render(&View::of(&Phase::Failed { reason: "web died 6 times".into() })).expect("the page renders");
        assert!(!html.contains("web died"));
        assert!(html.contains("appliance status"));
    }

    #[test]
    fn the_step_is_counted() {
        let html = render(&View::of(&Phase::Preparing { step: Step::Hostname })).expect("the page renders");
        assert!(html.contains("Step 2 of 10"), "{html}");
    }
}
