//! Logs under load: what a container writes faster than the journal takes it is held back, not lost.

use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::time::{Duration, Instant};

/// Ten seconds' worth of 50,000 lines.
const LINES: usize = 500_000;

#[test]
fn half_a_million_lines_are_all_there() {
    let machine = Machine::boot("logs");
    let compose = format!(
        "services:\n  loud:\n    image: stub:1\n    restart: 'no'\n    entrypoint: [/bin/busybox, awk, 'BEGIN {{ for (i = 1; i <= {LINES}; i++) \
         print \"line \" i \" of what a busy service has to say\" }}']\n  quiet: {{image: stub:1, stop_grace_period: 1s}}\n"
    );
    let begin = Instant::now();
    start_stack(&machine, "loud", &compose);
    wait_for("the container to have written everything", Duration::from_secs(300), || {
        let state = inspect(&machine, "loud_loud_1")["State"].clone();
        if state["Status"] == "exited" { Ok(()) } else { Err(state.to_string()) }
    });
    println!("{LINES} lines were written within {:.1} s", begin.elapsed().as_secs_f64());
    let different = "journalctl COM_DOCKER_COMPOSE_SERVICE=loud -o cat --no-pager | sort -u | wc -l";
    wait_for("every line in the journal", Duration::from_secs(120), || {
        let count = machine.ok(different);
        if count.trim() == LINES.to_string() { Ok(()) } else { Err(count) }
    });
    assert_eq!(machine.ok("journalctl --no-pager -o cat | grep -c '^Suppressed ' || true").trim(), "0");
    let last = machine.ok("appliance logs -n 1 loud");
    assert!(last.starts_with(&format!("loud | line {LINES} ")), "{last}");
    assert_eq!(phase(&machine), ("running".to_owned(), 0));
}
