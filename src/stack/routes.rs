//! Which service answers which path (docs/stack.md). Pure.

use super::model::{Port, Protocol, Published, Service, Stack};
use crate::value::Route;
use anyhow::{Context, Result, bail};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const PATH_LABEL: &str = "appliance.route";
const PORT_LABEL: &str = "appliance.port";

/// The stack's routes: from labels; else ECS's own; else `/` on the first service that publishes a TCP port.
pub fn routes(stack: &Stack) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for service in &stack.services {
        if let Some(unknown) = service
            .labels
            .keys()
            .find(|label| label.starts_with("appliance.") && ![PATH_LABEL, PORT_LABEL].contains(&label.as_str()))
        {
            bail!(
                "the label {unknown} of the service {} is not supported; {PATH_LABEL} and {PORT_LABEL} are",
                service.name
            );
        }
        if let Some(path) = service.labels.get(PATH_LABEL) {
            routes.push(labelled(service, path)?);
        }
    }
    for (index, route) in routes.iter().enumerate() {
        if let Some(other) = routes[..index].iter().find(|other| other.path == route.path) {
            bail!("the services {} and {} both want the route {}", other.service, route.service, route.path);
        }
    }
    if !routes.is_empty() {
        return Ok(routes);
    }
    let by_published = |port: u16, path: &str| {
        let service = stack
            .services
            .iter()
            .find_map(|service| Some((service, published(service).find(|p| p.published == Published::Fixed(port))?)));
        service.and_then(|(service, port)| route(service, path, port))
    };
    if stack.project.as_str() == "ecs" {
        return Ok([by_published(5000, "/"), by_published(5095, "/pdf-as-web")].into_iter().flatten().collect());
    }
    let first = stack.services.iter().find_map(|service| route(service, "/", published(service).next()?));
    Ok(first.into_iter().collect())
}

/// Binds the ports behind the routes to this host's loopback, whatever the file says, and gives back what that changes, in words: nginx
/// alone decides who gets to the app, and in whose name. `own` is the address of the app's ports: 127.0.0.1, or another one where several
/// apps may publish the same port.
///
/// # Errors
/// As for [`routes`]: which ports are to be bound is not known.
pub fn bind_to_loopback(stack: &mut Stack, own: Ipv4Addr) -> Result<Vec<String>> {
    let routes = routes(stack)?;
    let mut said = Vec::new();
    for service in &mut stack.services {
        for port in service.ports.iter_mut().filter(|port| port.protocol == Protocol::Tcp) {
            let is_routed = |route: &Route| {
                route.service == service.name.as_str() && port.published == Published::Fixed(route.upstream.port())
            };
            let is_open = port.address.is_none_or(|address| !address.is_loopback());
            if !is_open {
                if own != Ipv4Addr::LOCALHOST && routes.iter().any(is_routed) {
                    port.address = Some(IpAddr::V4(own));
                }
                continue;
            }
            let at = port.address.map_or_else(|| "every address".to_owned(), |address| address.to_string());
            if routes.iter().any(is_routed) {
                port.address = Some(IpAddr::V4(own));
                said.push(format!(
                    "the port {} of the service {} is published on {at}, and has a route; it is bound to {own}, so that visitors \
                     come by nginx",
                    port.target, service.name
                ));
            } else if let Published::Fixed(number) = port.published {
                said.push(format!(
                    "the port {} of the service {} is published on {at} as {number}: whoever reaches this host reaches it, past nginx; \
                     '127.0.0.1:{number}:{}' keeps it to the host",
                    port.target, service.name, port.target
                ));
            }
        }
        // What was published on several addresses is one port now.
        let mut seen: Vec<Port> = Vec::new();
        service.ports.retain(|port| {
            let is_new = !seen.contains(port);
            if is_new {
                seen.push(port.clone());
            }
            is_new
        });
    }
    Ok(said)
}

fn labelled(service: &Service, path: &str) -> Result<Route> {
    let name = &service.name;
    if !Route::is_path(path) {
        bail!("the label {PATH_LABEL} of the service {name} must be a path prefix like '/' or '/api'");
    }
    let port = match service.labels.get(PORT_LABEL) {
        Some(target) => published(service).find(|port| port.target.to_string() == *target).with_context(|| {
            format!(
                "the label {PORT_LABEL} of the service {name} is '{target}', which is not among its published ports"
            )
        })?,
        None => published(service)
            .next()
            .with_context(|| format!("the service {name} has a route, but publishes no port"))?,
    };
    route(service, path, port)
        .with_context(|| format!("the service {name} has a route, but its port is published on no fixed number"))
}

fn published(service: &Service) -> impl Iterator<Item = &Port> {
    service.ports.iter().filter(|port| port.protocol == Protocol::Tcp)
}

fn route(service: &Service, path: &str, port: &Port) -> Option<Route> {
    let address = match port.address {
        Some(address) if address.is_loopback() => address,
        // See `bind_to_loopback`.
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let Published::Fixed(published) = port.published else { return None };
    let upstream = SocketAddr::new(address, published);
    Some(Route { service: service.name.as_str().to_owned(), path: path.to_owned(), upstream })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::compose;
    use crate::value::AppName;
    use std::collections::BTreeMap;

    fn of(project: &str, services: &str) -> Result<Vec<(String, String)>> {
        let project: AppName = project.parse().expect("the name is valid");
        let text = format!("services:\n{services}");
        let (stack, report) = compose::of_text(&text, &project, "/c.yml", &BTreeMap::new());
        let found = routes(&stack.unwrap_or_else(|| panic!("{}", report.render("c"))))?;
        Ok(found.into_iter().map(|route| (route.path, route.upstream.to_string())).collect())
    }

    #[test]
    fn labels_win_then_ecs_then_the_first_published() {
        let plain = "  db: {image: x}\n  web: {image: x, ports: ['8000:80']}\n  api: {image: x, ports: ['127.0.0.1:8001:80', '8002:81']}\n";
        assert_eq!(of("shop", plain).expect("routes"), [("/".into(), "127.0.0.1:8000".into())]);
        let labelled = format!("{plain}    \n")
            .replace("'8002:81']", "'8002:81'], labels: {appliance.route: /api, appliance.port: 81}");
        assert_eq!(of("shop", &labelled).expect("routes"), [("/api".into(), "127.0.0.1:8002".into())]);
        let ecs = "  ecs.web: {image: x, ports: ['127.0.0.1:5000:5000']}\n  pdfas: {image: x, ports: ['127.0.0.1:5095:8080']}\n";
        assert_eq!(of("ecs", ecs).expect("routes").len(), 2);
        assert_eq!(of("shop", "  a: {image: x}\n").expect("routes"), []);
    }

    #[test]
    fn what_has_a_route_is_reached_by_nginx_alone() {
        let text = "services:\n  web: {image: x, ports: ['8000:80', '[::]:8000:80', '0.0.0.0:8001:81', '[::1]:8002:82', '10.0.0.1:8003:83/udp']}\n";
        let project: AppName = "shop".parse().expect("the name is valid");
        let (stack, _) = compose::of_text(text, &project, "/c.yml", &BTreeMap::new());
        let mut stack = stack.expect("the file is good");
        let said = bind_to_loopback(&mut stack, Ipv4Addr::LOCALHOST).expect("the routes are good");
        assert!(
            said.len() == 3 && said[0].contains("bound to 127.0.0.1") && said[2].contains("past nginx"),
            "{said:?}"
        );
        let addresses: Vec<_> =
            stack.services[0].ports.iter().map(|port| port.address.map(|a| a.to_string())).collect();
        let expected = [Some("127.0.0.1"), Some("0.0.0.0"), Some("::1"), Some("10.0.0.1")];
        assert_eq!(addresses, expected.map(|address| address.map(str::to_owned)));
        assert_eq!(
            bind_to_loopback(&mut stack, Ipv4Addr::LOCALHOST).expect("the routes are good").len(),
            1,
            "the second time only what stays open is told"
        );
    }

    #[test]
    fn a_route_that_leads_nowhere_is_an_error() {
        for service in [
            "{image: x, labels: {appliance.route: /}}",
            "{image: x, ports: ['80:80'], labels: {appliance.route: 'x; y'}}",
            "{image: x, ports: ['80:80'], labels: {appliance.route: /, appliance.port: 81}}",
            "{image: x, ports: ['80'], labels: {appliance.route: /}}",
            "{image: x, ports: ['80:80'], labels: {appliance.host: a.de}}",
        ] {
            assert!(of("shop", &format!("  a: {service}\n")).is_err(), "{service}");
        }
    }
}
