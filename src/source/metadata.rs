//! The metadata services of clouds: EC2 (IMDSv2 first, then v1) and GCE. Asked only where something makes them plausible,
//! each for a bounded time; whatever they send is bounded too.

use super::Kind;
use crate::env::MAX_BYTES;
use crate::host::http::{Answer, Request};
use crate::host::{Host, Route};
use anyhow::Result;
use std::time::Duration;

/// What a source said.
pub enum Said {
    /// The text of an env, perhaps.
    Text(Vec<u8>),
    /// It is not there, or has nothing.
    Nothing(String),
    /// It should be there, but could not be asked.
    Failed(String),
}

/// How long one service may take (docs/env.md).
const PATIENCE: Duration = Duration::from_secs(3);
/// How much of it may go to the session token.
const TOKEN_PATIENCE: Duration = Duration::from_secs(1);
const ADDRESS: &str = "http://169.254.169.254";
/// A session token is short; anything else is not one.
const MAX_TOKEN: usize = 1024;

/// Asks one service.
pub async fn ask(host: &Host, kind: Kind) -> Result<Said> {
    if !is_plausible(host, kind)? {
        let text =
            "not asked: neither the machine's DMI data nor a route to 169.254.169.254 alone says that it is there";
        return Ok(Said::Nothing(text.to_owned()));
    }
    let asking = async {
        match kind {
            Kind::Gce => ask_gce(host).await,
            _ => ask_ec2(host).await,
        }
    };
    Ok(match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(said)) => said,
        Ok(Err(error)) => Said::Failed(format!("{ADDRESS} did not answer: {error:#}")),
        Err(_) => Said::Failed(format!("{ADDRESS} did not answer within {} s", PATIENCE.as_secs())),
    })
}

/// IMDSv2 asks for a token first; a service that has no tokens is asked without.
async fn ask_ec2(host: &Host) -> Result<Said> {
    let url = format!("{ADDRESS}/latest/api/token");
    let lifetime = [("X-aws-ec2-metadata-token-ttl-seconds", "60")];
    let request = Request { method: "PUT", url: &url, headers: &lifetime, wanted: "Content-Type", max: MAX_TOKEN };
    // What has no tokens may also not answer, or answer with something else; then it is asked without.
    let token = match tokio::time::timeout(TOKEN_PATIENCE, host.request(request)).await {
        Ok(Ok(Answer { status: 200, body, .. })) => String::from_utf8(body).ok().filter(|token| is_token(token)),
        _ => None,
    };
    let url = format!("{ADDRESS}/latest/user-data");
    let headers: Vec<(&str, &str)> = token.iter().map(|token| ("X-aws-ec2-metadata-token", token.as_str())).collect();
    let request =
        Request { method: "GET", url: &url, headers: &headers, wanted: "Content-Type", max: MAX_BYTES as usize };
    Ok(judge(host.request(request).await?))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

async fn ask_gce(host: &Host) -> Result<Said> {
    let url = format!("{ADDRESS}/computeMetadata/v1/instance/attributes/user-data");
    let flavor = [("Metadata-Flavor", "Google")];
    let request =
        Request { method: "GET", url: &url, headers: &flavor, wanted: "Metadata-Flavor", max: MAX_BYTES as usize };
    let answer = host.request(request).await?;
    // Google's own rule: what does not say so is not Google's service.
    if answer.status == 200 && answer.header.as_deref() != Some("Google") {
        return Ok(Said::Nothing("what answers is not GCE's metadata service".to_owned()));
    }
    Ok(judge(answer))
}

fn judge(answer: Answer) -> Said {
    let is_page = answer.body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'<');
    match answer.status {
        200 if answer.body.is_empty() => Said::Nothing("it has no user-data".to_owned()),
        200 if is_page => Said::Failed("it answered with a web page instead of user-data".to_owned()),
        200 => Said::Text(answer.body),
        404 => Said::Nothing("it has no user-data (404)".to_owned()),
        300..400 => Said::Failed(format!("it answered {}; redirects are not followed", answer.status)),
        status => Said::Failed(format!("it answered {status}")),
    }
}

/// Whether the firmware names the cloud, or there is a route to the service's address alone.
fn is_plausible(host: &Host, kind: Kind) -> Result<bool> {
    let names: &[&str] = match kind {
        Kind::Gce => &["google"],
        // OpenStack and others speak EC2's protocol too.
        _ => &["amazon", "ec2", "openstack", "cloudstack", "alibaba", "exoscale", "apache"],
    };
    for file in ["sys_vendor", "product_name", "bios_vendor", "bios_version", "chassis_asset_tag", "product_uuid"] {
        // Some of these only root may read; what cannot be read says nothing.
        let text = host.read_start(&format!("/sys/class/dmi/id/{file}"), 256).ok().flatten().unwrap_or_default();
        let text = String::from_utf8_lossy(&text).to_lowercase();
        let is_named = |name: &&str| match file {
            "product_uuid" => text.starts_with(*name),
            _ => text.contains(*name),
        };
        if names.iter().any(is_named) {
            return Ok(true);
        }
    }
    Ok(has_host_route(&host.routes()?))
}

/// Whether there is a host route to 169.254.169.254. Many networks have a route to all of 169.254.0.0/16 (RFC 3927), where a neighbour can
/// take that address and hand over an env.
fn has_host_route(routes: &[Route]) -> bool {
    routes.iter().any(|route| route.length == 32 && route.to.octets() == [169, 254, 169, 254])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_route_to_the_service_alone_makes_it_plausible() {
        let route =
            |to: [u8; 4], length| has_host_route(&[Route { interface: "eth0".to_owned(), to: to.into(), length }]);
        assert!(route([169, 254, 169, 254], 32));
        assert!(!route([169, 254, 168, 254], 32));
        assert!(!route([169, 254, 0, 0], 16));
        assert!(!route([0; 4], 0));
        assert!(!has_host_route(&[]));
    }

    #[test]
    fn answers_that_are_no_user_data() {
        let said = |status, body: &[u8]| judge(Answer { status, header: None, body: body.to_vec() });
        assert!(matches!(said(200, b"#cloud-config\n"), Said::Text(_)));
        assert!(matches!(said(200, b" \n<html>"), Said::Failed(_)));
        assert!(matches!(said(200, b""), Said::Nothing(_)));
        assert!(matches!(said(302, b"#cloud-config\n"), Said::Failed(why) if why.contains("redirect")));
        assert!(matches!(said(404, b""), Said::Nothing(_)));
        assert!(matches!(said(500, b"x"), Said::Failed(_)));
    }
}
