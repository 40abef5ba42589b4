//! What is taken as a sample in `make test`, and whole in `make soak`.

use std::time::{SystemTime, UNIX_EPOCH};

/// `make soak`: everything, instead of a sample.
pub fn is_soak() -> bool {
    std::env::var_os("APPLIANCE_MATRIX").is_some()
}

/// What a sample is taken by, another one each time; printed, so that it can be taken again.
pub fn seed() -> u32 {
    let given = std::env::var("APPLIANCE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set");
        now.subsec_nanos() ^ (now.as_secs() & u64::from(u32::MAX)) as u32
    });
    println!("the same again: APPLIANCE_SEED={seed}");
    seed
}
