//! What PostgreSQL is told, as a function of the host's memory and processors.

use std::net::Ipv4Addr;

/// How many connections more there are than for one app. In wide steps: a change needs a restart, and one more app must not disturb the
/// others.
fn for_more_apps(apps: usize) -> u64 {
    match apps {
        0 | 1 => 0,
        2..=10 => 200,
        11..=25 => 400,
        _ => 800,
    }
}

/// How many connections each of several apps may have, so that none takes another one's: some stay for the appliance and operators.
/// `None`: an app that has the cluster to itself may have all.
pub fn connection_limit(max_connections: u64, apps: usize) -> Option<u64> {
    const OF_OTHERS: u64 = 13;
    let apps = u64::try_from(apps).ok().filter(|apps| *apps > 1)?;
    Some((max_connections.saturating_sub(OF_OTHERS) / apps).max(5))
}

/// The drop-in, by the formula of docs/postgresql.md; integer division throughout.
pub fn tuning(mem_mb: u64, cores: u64, apps: usize, bridge: Ipv4Addr) -> String {
    let pg_mb = mem_mb.saturating_sub(2560 + 256 * cores).max(512);
    let max_connections = 36 + 8 * cores + for_more_apps(apps);
    let shared_mb = pg_mb / 4;
    let work_kb = ((pg_mb - shared_mb) * 1024 / 96 / cores).clamp(4096, 65536);
    let cache_mb = (3 * pg_mb / 4).max(2048);
    format!(
        "# Written by appliance; changes are overwritten.\n\
         listen_addresses = 'localhost,{bridge}'\n\
         max_connections = {max_connections}\n\
         shared_buffers = {shared_mb}MB\n\
         work_mem = {work_kb}kB\n\
         effective_cache_size = {cache_mb}MB\n\
         password_encryption = 'scram-sha-256'\n\
         shared_preload_libraries = 'pg_stat_statements'\n"
    )
}

/// What takes effect at a reload (PostgreSQL's documentation, "context" in pg_settings); everything else needs a restart.
const RELOADED: [&str; 6] = [
    "work_mem",
    "effective_cache_size",
    "password_encryption",
    "archive_command",
    "archive_library",
    "basic_archive.archive_directory",
];

/// Whether going from one drop-in to another needs a restart.
pub fn needs_restart(before: &str, after: &str) -> bool {
    let weighty = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.filter(|line| !RELOADED.iter().any(|name| line.starts_with(name))).map(str::to_owned).collect()
    };
    weighty(before) != weighty(after)
}

/// MemTotal of /proc/meminfo, in MiB.
pub fn mem_mb(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib / 1024)
}

/// The processors of /proc/cpuinfo.
pub fn cores(cpuinfo: &str) -> u64 {
    cpuinfo.lines().filter(|line| line.starts_with("processor")).count().max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);

    #[test]
    fn by_memory_and_cores() {
        let mut table = format!("{:>8} {:>5}  connections shared work_mem effective_cache\n", "MiB", "cores");
        for mem in [512, 1024, 2048, 4096, 8192, 16_384, 65_536, 131_072, 1_048_576] {
            for cores in [1, 2, 4, 16, 128] {
                let text = tuning(mem, cores, 1, BRIDGE);
                let value = |name: &str| {
                    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} = ")));
                    line.expect("the setting is there").to_owned()
                };
                let values = ["max_connections", "shared_buffers", "work_mem", "effective_cache_size"].map(value);
                table.push_str(&format!("{mem:>8} {cores:>5}  {}\n", values.join(" ")));
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn the_formula_by_hand() {
        // 8192 − 2560 − 256·4 = 4608; /4 = 1152; (4608 − 1152)·1024/96/4 = 9216; 3·4608/4 = 3456.
        let text = tuning(8192, 4, 1, BRIDGE);
        for line in
            ["max_connections = 68", "shared_buffers = 1152MB", "work_mem = 9216kB", "effective_cache_size = 3456MB"]
        {
            assert!(text.lines().any(|other| other == line), "{text}");
        }
    }

    #[test]
    fn apps_share_the_connections_and_one_more_seldom_needs_a_restart() {
        let max = |apps| {
            let text = tuning(4096, 2, apps, BRIDGE);
            let line = text.lines().find_map(|line| line.strip_prefix("max_connections = "));
            line.and_then(|number| number.parse::<u64>().ok()).expect("the setting is there")
        };
        let limits: Vec<_> = [1, 2, 10, 11, 50].iter().map(|apps| connection_limit(max(*apps), *apps)).collect();
        assert_eq!(limits, [None, Some(119), Some(23), Some(39), Some(16)]);
        for apps in 2..=50 {
            let limit = connection_limit(max(apps), apps).expect("there are several");
            assert!(limit * apps as u64 + 13 <= max(apps), "{apps}: all together leave room");
        }
        let restarts = (2..50).filter(|apps| max(*apps) != max(apps + 1)).count();
        assert_eq!(restarts, 2);
    }

    #[test]
    fn only_what_must_be_is_restarted_for() {
        let now = tuning(8192, 4, 1, BRIDGE);
        assert!(!needs_restart(&now, &now));
        assert!(!needs_restart(&now, &now.replace("work_mem = 9216kB", "work_mem = 4096kB")));
        assert!(!needs_restart(&now, &format!("# another remark\n{now}")));
        assert!(needs_restart(&now, &now.replace("1152MB", "1153MB")));
        assert!(needs_restart(&now, &tuning(8192, 4, 1, Ipv4Addr::new(10, 0, 0, 1))));
        assert!(needs_restart("", &now));
    }

    #[test]
    fn what_the_kernel_tells() {
        assert_eq!(mem_mb("MemTotal:        2048000 kB\n"), Some(2000));
        assert_eq!(cores("processor : 0\nx\nprocessor : 1\n"), 2);
    }
}
