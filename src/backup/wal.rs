//! PostgreSQL's log of changes (WAL), as files: their names, their order, and which shipments together hold all from one to another. Pure.

use anyhow::{Context, Result, bail};
use std::fmt;
use std::str::FromStr;

/// A file of the log: the 24 digits of its name. The names of one timeline sort like their contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    pub timeline: u32,
    /// Each holds so many segments as fit into 4 GiB.
    log: u32,
    part: u32,
}

impl FromStr for Segment {
    type Err = anyhow::Error;
    fn from_str(name: &str) -> Result<Segment> {
        let is_one = name.len() == 24 && name.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
        let number = |at: usize| name.get(at..at + 8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match (is_one, number(0), number(8), number(16)) {
            (true, Some(timeline), Some(log), Some(part)) => Ok(Segment { timeline, log, part }),
            _ => bail!("'{name}' is no segment of PostgreSQL's log"),
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline, self.log, self.part)
    }
}

impl Segment {
    /// The one behind it, where each has so many bytes.
    pub fn next(self, bytes: u64) -> Segment {
        let per_log = u32::try_from((1_u64 << 32) / bytes.max(1 << 20)).unwrap_or(u32::MAX);
        match self.part + 1 < per_log {
            true => Segment { part: self.part + 1, ..self },
            false => Segment { log: self.log.saturating_add(1), part: 0, ..self },
        }
    }
}

/// The segments among names, in their order; whatever else lies there is left out.
pub fn segments(names: &[String]) -> Vec<Segment> {
    let mut all: Vec<Segment> = names.iter().filter_map(|name| name.parse().ok()).collect();
    all.sort();
    all
}

/// The first one that is missing between two, both included.
pub fn hole(all: &[Segment], first: Segment, last: Segment, bytes: u64) -> Option<Segment> {
    let mut wanted = first;
    while wanted <= last {
        if !all.contains(&wanted) {
            return Some(wanted);
        }
        wanted = wanted.next(bytes);
    }
    None
}

/// What one snapshot holds of the log: all from one segment to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    pub snapshot: String,
    pub first: Segment,
    pub last: Segment,
}

impl Stretch {
    /// How many segments it holds.
    pub fn count(&self, bytes: u64) -> u64 {
        let (mut at, mut count) = (self.first, 0);
        // No spool holds more.
        while at <= self.last && count < 1 << 20 {
            (at, count) = (at.next(bytes), count + 1);
        }
        count
    }
}

/// The fewest snapshots that together hold all from `first` to `last`.
///
/// # Errors
/// There is a hole; it is said where.
pub fn chain(stretches: &[Stretch], first: Segment, last: Segment, bytes: u64) -> Result<Vec<String>> {
    let (mut wanted, mut chain) = (first, Vec::new());
    while wanted <= last {
        let holds = |one: &&Stretch| one.first <= wanted && wanted <= one.last;
        let best = stretches.iter().filter(holds).max_by_key(|one| one.last);
        let best =
            best.with_context(|| format!("the segment {wanted} of PostgreSQL's log is not in the repository"))?;
        chain.push(best.snapshot.clone());
        wanted = best.last.next(bytes);
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BYTES: u64 = 16 << 20;

    fn segment(name: &str) -> Segment {
        name.parse().expect("it is one")
    }

    #[test]
    fn names_are_read_counted_and_written() {
        let last_of_log = segment("0000000100000002000000FF");
        assert_eq!(last_of_log.next(BYTES).to_string(), "000000010000000300000000");
        assert_eq!(segment("000000010000000200000003").next(1 << 30).to_string(), "000000010000000300000000");
        for other in [
            "00000001.history",
            "0000000100000002000000f0",
            "000000010000000200000003.00000028.backup",
            "é00000010000000200000003",
        ] {
            assert!(other.parse::<Segment>().is_err(), "{other}");
        }
        let names = ["000000010000000000000004", "archtemp.x", "000000010000000000000002"].map(str::to_owned);
        let (two, four) = (segment(&names[2]), segment(&names[0]));
        assert_eq!(segments(&names), [two, four]);
        assert_eq!(hole(&segments(&names), two, four, BYTES), Some(two.next(BYTES)));
        assert_eq!(hole(&segments(&names), four, four, BYTES), None);
    }

    #[test]
    fn a_chain_has_no_hole_and_nothing_that_another_one_holds() {
        let stretch = |snapshot: &str, first: u32, last: u32| Stretch {
            snapshot: snapshot.to_owned(),
            first: Segment { timeline: 1, log: 0, part: first },
            last: Segment { timeline: 1, log: 0, part: last },
        };
        let all = [stretch("a", 1, 3), stretch("b", 1, 5), stretch("c", 6, 7), stretch("d", 9, 9)];
        let at = |part: u32| Segment { timeline: 1, log: 0, part };
        assert_eq!(chain(&all, at(2), at(7), BYTES).expect("all is there"), ["b", "c"]);
        assert_eq!(chain(&all, at(9), at(9), BYTES).expect("all is there"), ["d"]);
        let said = chain(&all, at(2), at(9), BYTES).expect_err("8 is missing").to_string();
        assert!(said.contains("000000010000000000000008"), "{said}");
        let other = Segment { timeline: 2, ..at(2) };
        assert!(chain(&all, other, other, BYTES).is_err(), "another timeline");
    }

    proptest! {
        #[test]
        fn a_chain_holds_every_segment_or_there_is_a_hole(parts in prop::collection::vec((0_u32..30, 0_u32..6), 0..12), from in 0_u32..30, count in 0_u32..10) {
            let at = |part: u32| Segment { timeline: 1, log: 0, part };
            let all: Vec<Stretch> = parts.iter().enumerate().map(|(n, (first, more))| Stretch { snapshot: n.to_string(), first: at(*first), last: at(first + more) }).collect();
            let held = |part: u32, by: &dyn Fn(&Stretch) -> bool| all.iter().any(|one| by(one) && one.first <= at(part) && at(part) <= one.last);
            match chain(&all, at(from), at(from + count), BYTES) {
                Ok(chosen) => prop_assert!((from..=from + count).all(|part| held(part, &|one| chosen.contains(&one.snapshot)))),
                Err(_) => prop_assert!(!(from..=from + count).all(|part| held(part, &|_| true))),
            }
        }
    }
}
