//! How far a test's deadlines are stretched. A deadline bounds a hang: it must not be met by a host that is merely slow, on a machine
//! where other work runs too.

use sha2::{Digest, Sha256};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What the measured work takes on an idle machine of two cores.
const IDLE: Duration = Duration::from_millis(150);
/// Even a machine that is idle now may be busy later.
const LEAST: u32 = 5;
/// A hang is to be noticed before CI gives up.
const MOST: u32 = 20;

/// Measured once per process, and printed.
pub fn factor() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    *FACTOR.get_or_init(|| {
        let took = work();
        let factor = (took.as_millis() * u128::from(LEAST)).div_ceil(IDLE.as_millis());
        let factor = u32::try_from(factor).unwrap_or(MOST).clamp(LEAST, MOST);
        println!("deadlines are stretched by {factor}: what takes {IDLE:.1?} on an idle machine took {took:.1?}");
        factor
    })
}

/// A deadline that was chosen for an idle machine, for this one.
pub fn stretched(deadline: Duration) -> Duration {
    deadline * factor()
}

/// What tests do most: starting processes, and arithmetic.
fn work() -> Duration {
    let began = Instant::now();
    for _ in 0..100 {
        assert!(Command::new("true").status().is_ok_and(|status| status.success()), "true can be run");
    }
    let mut digest = Sha256::new();
    for _ in 0..64 {
        digest.update(vec![0_u8; 1 << 20]);
    }
    assert_eq!(digest.finalize().len(), 32);
    began.elapsed()
}
