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

/// Numbers that follow from a seed (Knuth's constants).
pub struct Random(u64);

impl Random {
    pub fn of(seed: u32) -> Random {
        Random(u64::from(seed))
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits fit") % bound
    }
}
