use super::*;
use crate::env::Allow;
use crate::stack::compose;

const TIGHT: Allow = Allow { privileged: false, binds: Binds::Own };

fn said(service: &str, more: &str, allow: Allow) -> String {
    let project: AppName = "shop".parse().expect("the name is valid");
    let text = format!("services:\n  a: {service}\n{more}");
    let (stack, report) = compose::of_text(&text, &project, "/app/shop/c.yml", &BTreeMap::new());
    let mut stack = stack.unwrap_or_else(|| panic!("{}", report.render("c")));
    stack.allow = allow;
    check(&stack, "/app/shop/c.yml").err().map_or_else(String::new, |error| error.to_string())
}

#[test]
fn what_leads_to_root_is_refused_and_named() {
    for (service, named) in [
        ("{image: x, privileged: yes}", "services.a.privileged"),
        ("{image: x, cap_add: [CAP_SYS_ADMIN]}", "cap_add: CAP_SYS_ADMIN"),
        ("{image: x, cap_add: [all]}", "cap_add: all"),
        ("{image: x, security_opt: ['seccomp:unconfined']}", "security_opt: seccomp"),
        ("{image: x, security_opt: ['no-new-privileges:false']}", "security_opt: no-new"),
        ("{image: x, devices: [/dev/sda]}", "devices: /dev/sda"),
        ("{image: x, device_cgroup_rules: ['b *:* rwm']}", "device_cgroup_rules"),
        ("{image: x, cgroup_parent: /}", "cgroup_parent"),
        ("{image: x, runtime: other}", "runtime"),
        ("{image: x, pid: host}", "services.a.pid"),
        ("{image: x, ipc: host}", "services.a.ipc"),
        ("{image: x, ipc: 'container:db'}", "services.a.ipc"),
        ("{image: x, uts: host}", "services.a.uts"),
        ("{image: x, userns_mode: host}", "userns_mode"),
        ("{image: x, network_mode: host}", "network_mode"),
        ("{image: x, network_mode: 'container:other'}", "network_mode"),
        ("{image: x, oom_score_adj: -1000}", "oom_score_adj"),
        ("{image: x, logging: {driver: syslog, options: {syslog-address: 'unix:///run/x'}}}", "logging.driver"),
        ("{build: {context: ., network: host}}", "build.network"),
        ("{build: {context: ., network: 'container:db'}}", "build.network"),
        ("{image: x, volumes: ['/:/host']}", "volumes: /"),
        ("{image: x, volumes: ['/var/run/docker.sock:/s']}", "docker.sock"),
        ("{image: x, volumes: ['/app/shop/../../etc:/e']}", "services.a.volumes"),
        ("{image: x, volumes: ['/data/shopping-vault:/e']}", "/data/shopping-vault"),
        ("{image: x, volumes: ['/data/appliance:/e']}", "/data/appliance"),
        ("{image: x, volumes: ['/app/etc:/e']}", "volumes: /app/etc"),
        ("{image: x, volumes: ['/app/etc/shop:/e']}", "only with :ro"),
        ("{image: x, volumes: ['/data/shop-a:/a', '/data/shop-a/b:/b']}", "/data/shop-a/b (below /data/shop-a"),
        ("{image: x, volumes: ['/app/shop-a:/a', '/data/shop-a/b:/b']}", "/data/shop-a/b (below /app/shop-a"),
        ("{image: x, volumes: ['.:/a', '/app/etc/shop/shop/b:/b:ro']}", "(below /app/shop,"),
        ("{image: x, env_file: /etc/shadow}", "env_file: /etc/shadow"),
        ("{image: x, env_file: /data/shop-vault/env}", "env_file: /data/shop-vault/env"),
        ("{build: /root}", "build.context: /root"),
        ("{build: /data/shop-vault}", "build.context: /data/shop-vault"),
        ("{build: {context: ., dockerfile: ../../etc/shadow}}", "build.dockerfile: ../../etc/shadow"),
        ("{build: {context: ., dockerfile: /etc/shadow}}", "build.dockerfile: /etc/shadow"),
        ("{build: {context: ., additional_contexts: {all: /root}}}", "build.additional_contexts: /root"),
    ] {
        assert!(said(service, "", TIGHT).contains(named), "{service}: {}", said(service, "", TIGHT));
        assert_eq!(said(service, "", Allow::default()), "", "{service} is anybody's without the key");
    }
}

#[test]
fn what_is_not_only_this_projects_is_refused_and_named() {
    let (volume, network) = ("{image: x, volumes: ['v:/v']}", "{image: x, networks: [n]}");
    for (service, more, named) in [
        ("{image: x, secrets: [s]}", "secrets: {s: {file: /etc/shadow}}", "secrets: /etc/shadow"),
        ("{image: x, configs: [s]}", "configs: {s: {file: /root/.ssh/id}}", "configs: /root/.ssh/id"),
        (volume, "volumes: {v: {driver_opts: {type: none, o: bind, device: /}}}", "volumes.v.driver_opts"),
        (volume, "volumes: {v: {driver_opts: {type: tmpfs, o: bind, device: /}}}", "volumes.v.driver_opts"),
        (
            volume,
            "volumes: {v: {driver_opts: {type: tmpfs, o: 'size=1m,bind', device: tmpfs}}}",
            "volumes.v.driver_opts",
        ),
        (volume, "volumes: {v: {driver_opts: {type: overlay, o: 'lowerdir=/', device: overlay}}}", "driver_opts"),
        (volume, "volumes: {v: {driver_opts: {type: nfs, o: 'addr=10.0.0.1', device: ':/'}}}", "driver_opts"),
        (volume, "volumes: {v: {external: true}}", "volumes.v.external"),
        (volume, "volumes: {v: {name: other_v}}", "volumes.v.name"),
        (volume, "volumes: {v: {driver: other}}", "volumes.v.driver"),
        (network, "networks: {n: {external: true}}", "networks.n.external"),
        (network, "networks: {n: {name: host}}", "networks.n.name"),
        (network, "networks: {n: {driver: macvlan, driver_opts: {parent: eth0}}}", "networks.n.driver"),
        (network, "networks: {n: {driver_opts: {com.docker.network.bridge.name: br0}}}", "networks.n.driver_opts"),
        (network, "networks: {n: {ipam: {driver: other}}}", "networks.n.ipam.driver"),
        (network, "networks: {n: {ipam: {config: [{subnet: 169.254.0.0/16}]}}}", "networks.n.ipam.config"),
        (network, "networks: {n: {ipam: {config: [{subnet: 8.8.8.0/24}]}}}", "networks.n.ipam.config"),
        (network, "networks: {n: {ipam: {config: [{subnet: 10.0.0.0/7}]}}}", "networks.n.ipam.config"),
        (network, "networks: {n: {ipam: {config: [{subnet: 'fd00:ec2::/64'}]}}}", "networks.n.ipam.config"),
        (network, "networks: {n: {ipam: {config: [{subnet: 'fd00::/16'}]}}}", "networks.n.ipam.config"),
        (network, "networks: {n: {ipam: {config: [{subnet: '2001:db8::/64'}]}}}", "networks.n.ipam.config"),
        (
            "{image: x, network_mode: bridge, links: ['b:v']}\n  b: {image: x, scale: 0, container_name: v}",
            "",
            "services.a.links",
        ),
        ("{image: x, networks: {n: {link_local_ips: [169.254.169.254]}}}", "networks: {n: {}}", "link_local_ips"),
    ] {
        assert!(said(service, more, TIGHT).contains(named), "{more}: {}", said(service, more, TIGHT));
    }
}

#[test]
fn what_an_app_needs_is_its_own() {
    for (service, more) in [
        (
            "{build: ., volumes: ['./data:/d', '/data/shop-vault:/v', '/app/etc/shop/x:/x:ro', '/volatile/shop-cache:/c', 'v:/n']}",
            "volumes: {v: {}}",
        ),
        ("{image: x, volumes: ['/app/etc/shop/shop/media:/m']}", ""),
        ("{build: {context: ./a, dockerfile: b/Dockerfile, network: none, additional_contexts: {b: ./b}}}", ""),
        ("{image: x, cap_add: [NET_BIND_SERVICE], cap_drop: [ALL], security_opt: ['no-new-privileges:true']}", ""),
        ("{image: x, ipc: private, init: yes, tmpfs: /tmp, env_file: /app/etc/shop/database_url.env}", ""),
        (
            "{image: x, volumes: ['v:/v']}",
            "volumes: {v: {driver_opts: {type: tmpfs, device: tmpfs, o: 'size=1m,uid=7'}}}",
        ),
        ("{image: x, networks: [n]}", "networks: {n: {internal: true, ipam: {config: [{subnet: 172.30.0.0/24}]}}}"),
        ("{image: x, secrets: [s], logging: {driver: json-file}}", "secrets: {s: {file: ./s}}"),
    ] {
        assert_eq!(said(service, more, TIGHT), "", "{service}");
    }
}

#[test]
fn the_two_halves_are_asked_for_one_by_one() {
    let service = "{image: x, privileged: yes, volumes: ['/:/host']}";
    let privileged = said(service, "", Allow { privileged: true, binds: Binds::Own });
    assert!(privileged.contains("volumes: /") && !privileged.contains("privileged"), "{privileged}");
    let binds = said(service, "", Allow { privileged: false, binds: Binds::Any });
    assert!(binds.contains("privileged") && !binds.contains("volumes"), "{binds}");
}

#[test]
fn files_are_read_where_root_or_the_commit_has_put_them() {
    let app: AppName = "shop".parse().expect("the name is valid");
    for (path, main, is) in [
        ("/app/shop/x/y.yml", "/app/shop/compose.yml", true),
        ("/app/etc/shop/.env", "/app/shop/compose.yml", true),
        ("/srv/c.yml", "/srv/c.yml", true),
        ("/srv/.env", "/srv/c.yml", true),
        ("/srv/below/x.yml", "/srv/c.yml", false),
        ("/etc", "/c.yml", false),
        ("/etc/shadow", "/app/shop/compose.yml", false),
        ("/app/shop/../../etc/shadow", "/app/shop/compose.yml", false),
        ("/data/shop-vault/x", "/app/shop/compose.yml", false),
        ("/app/etc/other/x", "/app/shop/compose.yml", false),
    ] {
        assert_eq!(is_readable(path, main, &app), is, "{path}");
    }
}
