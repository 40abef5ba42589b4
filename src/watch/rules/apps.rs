//! Rules about apps: their phase, updates, certificates.

use super::{Judge, day, first, key, on};
use crate::alert::Condition;
use crate::value::rule::{
    APP_DEGRADED, APP_FAILED, APP_UNSUPERVISED, CERTIFICATE, CLIENT_CA, UPDATE_FAILED, UPDATE_MISSED,
};
use crate::value::{Phase, Severity};
use crate::watch::facts::{App, Certificate, ClientCa, Facts};
use jiff::Timestamp;

const DAY: i64 = 24 * 3600;

impl Judge<'_> {
    pub(super) fn apps(&self, facts: &Facts) -> Vec<Condition> {
        let mut found: Vec<Condition> = facts.apps.iter().filter_map(app).collect();
        found.extend(facts.apps.iter().filter_map(update));
        let remedy = "systemctl status appliance-update.timer; journalctl -u appliance-update";
        match facts.last_update {
            Some(Some(last)) if self.is_older(last, &UPDATE_MISSED) => {
                let summary = format!("no update was looked for since {}", day(last));
                found.push(on(&UPDATE_MISSED, "", summary, remedy));
            }
            Some(None) => {
                let condition = on(&UPDATE_MISSED, "", "no update was looked for yet".to_owned(), remedy);
                found.push(Condition { hold_s: self.limits.seconds(&UPDATE_MISSED), ..condition });
            }
            _ => {}
        }
        found.extend(facts.certificates.iter().filter_map(|certificate| self.certificate(certificate)));
        found.extend(facts.slow.client_authorities.iter().filter_map(|known| self.client_authority(known)));
        found
    }

    fn certificate(&self, certificate: &Certificate) -> Option<Condition> {
        let Certificate { app, not_after } = certificate;
        let left = not_after - self.now.as_second();
        if left >= self.limits.seconds(&CERTIFICATE) {
            return None;
        }
        let summary = format!("the certificate of {app} ends {}", second(*not_after));
        let condition = on(&CERTIFICATE, app, summary, "appliance cert show; appliance cert renew");
        let severity = if left < 3 * DAY { Severity::Critical } else { condition.severity };
        Some(Condition { severity, ..condition })
    }

    fn client_authority(&self, known: &ClientCa) -> Option<Condition> {
        let ClientCa { app, ends } = known;
        let summary = match ends {
            Ok(ends) if ends - self.now.as_second() >= self.limits.seconds(&CLIENT_CA) => return None,
            Ok(ends) => format!("clients of {app} are let in only until {}", second(*ends)),
            Err(why) => format!("no client of {app} is let in: {}", first(why)),
        };
        Some(on(&CLIENT_CA, app, summary, "appliance cert ca refresh; systemctl status appliance-crl.timer"))
    }
}

fn second(at: i64) -> String {
    Timestamp::from_second(at).map_or_else(|_| "long ago".to_owned(), day)
}

fn app(app: &App) -> Option<Condition> {
    let name = app.name.as_str();
    if app.is_stale {
        let summary = format!("the supervisor of {name} is gone; what runs is not looked after");
        let remedy = "systemctl status appliance-supervisor; systemctl start appliance";
        return Some(on(&APP_UNSUPERVISED, name, summary, remedy));
    }
    match &app.phase {
        Phase::Failed { reason } => {
            let remedy = "appliance status; appliance logs; then appliance recover --start";
            Some(on(&APP_FAILED, name, format!("{name} is out of service: {}", first(reason)), remedy))
        }
        Phase::Running { degraded } if !degraded.is_empty() => {
            let services = degraded.join(", ");
            let remedy = format!("appliance logs {}", degraded.join(" "));
            Some(on(&APP_DEGRADED, name, format!("{name} runs, but these services keep dying: {services}"), remedy))
        }
        _ => None,
    }
}

fn update(app: &App) -> Option<Condition> {
    let (name, why) = (app.name.as_str(), app.update_trouble.as_ref()?);
    let summary = format!("the last update of {name} did not go through: {}", first(why));
    let remedy = "appliance status; appliance releases; journalctl -u appliance-update";
    Some(Condition { parents: vec![key(&APP_FAILED, name)], ..on(&UPDATE_FAILED, name, summary, remedy) })
}
