//! `appliance ps`: the app's containers.

use super::choice::AppArgument;
use super::{print, render};
use crate::host::docker::{LABEL_PROJECT, Look, is_missing};
use crate::host::{Host, Mode};
use anyhow::Result;

pub async fn ps(app: &AppArgument, json: bool) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let mut containers = Vec::new();
    for env in app.all_active(&host)? {
        for container in host.docker().containers(env.app.name.as_str(), Look::Close).await? {
            match host.docker().started_at(&container.id).await {
                Ok(started) => containers.push((container, started)),
                // Gone meanwhile.
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    if json {
        let rows: Vec<serde_json::Value> = containers
            .iter()
            .map(|(container, started_at)| {
                serde_json::json!({
                    "app": container.label(LABEL_PROJECT), "service": container.service(), "name": container.name, "id": container.id, "state": container.state,
                    "health": container.health, "exit_code": container.exit_code, "started_at": started_at,
                })
            })
            .collect();
        print(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?;
        return Ok(0);
    }
    let rows = containers.iter().map(|(container, started_at)| {
        let health =
            container.health.map(|health| format!("{health:?}").to_lowercase()).unwrap_or_else(|| "-".to_owned());
        let started = started_at.get(..19).unwrap_or("-").replace('T', " ");
        vec![
            container.service().to_owned(),
            container.name.clone(),
            format!("{:?}", container.state).to_lowercase(),
            health,
            started,
        ]
    });
    print(&render::table(&["SERVICE", "CONTAINER", "STATE", "HEALTH", "STARTED (UTC)"], rows))?;
    Ok(0)
}
