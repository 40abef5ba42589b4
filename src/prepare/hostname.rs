//! Step hostname: the host is called `appliance.domain`, and that name resolves on the host itself.

use crate::env::Env;
use crate::host::{File, Host, replace_block};
use anyhow::Result;

const HOSTS: &str = "/etc/hosts";

/// The host's own line: the name and, where there is one, its first label.
fn hosts_block(domain: &str) -> String {
    match domain.split_once('.') {
        Some((short, _)) => format!("127.0.1.1 {domain} {short}\n"),
        None if domain == "localhost" => String::new(),
        None => format!("127.0.1.1 {domain}\n"),
    }
}

pub async fn prepare(env: &Env, host: &Host) -> Result<()> {
    let domain = env.host_domain.as_str();
    let kept = host.read_text("/etc/hostname", 4096)?.unwrap_or_default();
    let live = host.read_text("/proc/sys/kernel/hostname", 4096)?.unwrap_or_else(|| kept.clone());
    if kept.trim() != domain || live.trim() != domain {
        host.set_hostname(domain).await?;
    }
    let hosts = host.read_text(HOSTS, 1 << 20)?.unwrap_or_else(|| "127.0.0.1 localhost\n".to_owned());
    host.ensure_file(HOSTS, &File::text(replace_block(&hosts, "appliance", &hosts_block(domain))))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_and_its_first_label_resolve() {
        assert_eq!(hosts_block("a.b.de"), "127.0.1.1 a.b.de a\n");
        assert_eq!(hosts_block("box"), "127.0.1.1 box\n");
        assert_eq!(hosts_block("localhost"), "");
    }
}
