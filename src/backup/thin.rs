//! Which runs are kept, and which of what was shipped between them. Pure: restic's own rules are not used, since a slip in one of them removes everything.

use super::runs::{BaseCopy, Shipment};
use crate::env::Keep;
use anyhow::{Result, bail};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::BTreeSet;

/// So many of the newest are kept whatever the rules say.
const NEWEST: usize = 3;

/// How many periods keep their last run, and in which one a time lies.
type Rule<'a> = (usize, &'a dyn Fn(&Timestamp) -> String);

/// The runs that may go: each is its id and its time, and they come in the order in which they were made, the newest first. One that was
/// drilled stays, whatever the rules say.
///
/// # Errors
/// A run lies in the future, or more than half of many would go at once: something is wrong with a clock, or with the rules.
pub fn to_forget(
    runs: &[(String, Timestamp)],
    drilled: Option<&str>,
    keep: Keep,
    now: Timestamp,
) -> Result<Vec<String>> {
    let newest = runs.iter().take(NEWEST).map(|(id, _)| id.as_str());
    let mut runs: Vec<&(String, Timestamp)> = runs.iter().collect();
    runs.sort_by_key(|(id, at)| (std::cmp::Reverse(*at), id.as_str()));
    if let Some((id, at)) = runs.first().filter(|(_, at)| *at > now) {
        bail!(
            "the run {id} is of {at}, which is in the future by this host's clock; nothing is removed. If the clock is right now, forget the \
             run's snapshots by hand, by their ids: appliance backup key, restic snapshots --tag run={id}, restic forget SNAPSHOT…"
        );
    }
    // By their times, too: what was made before the clock was set back.
    let latest = runs.iter().take(NEWEST).map(|(id, _)| id.as_str());
    let mut kept: BTreeSet<&str> = newest.chain(latest).chain(drilled).collect();
    let day = |at: &Timestamp| at.to_zoned(TimeZone::UTC).date();
    let week = |at: &Timestamp| {
        let week = day(at).iso_week_date();
        format!("{}-{}", week.year(), week.week())
    };
    let month = |at: &Timestamp| format!("{}-{}", day(at).year(), day(at).month());
    let daily = |at: &Timestamp| day(at).to_string();
    let rules: [Rule; 3] = [(keep.daily, &daily), (keep.weekly, &week), (keep.monthly, &month)];
    for (count, period) in rules {
        let mut seen = BTreeSet::new();
        for (id, at) in &runs {
            // The first that is met is the period's last.
            if seen.len() < count && seen.insert(period(at)) {
                kept.insert(id);
            }
        }
    }
    let gone: Vec<String> =
        runs.iter().filter(|(id, _)| !kept.contains(id.as_str())).map(|(id, _)| id.clone()).collect();
    if runs.len() > 2 * NEWEST && gone.len() * 2 > runs.len() {
        bail!(
            "{} of {} runs would go at once, so none does; if 'appliance.backup.keep' is meant so, forget some by hand: restic forget",
            gone.len(),
            runs.len()
        );
    }
    Ok(gone)
}

/// So many of the newest shipments are kept whatever the rules say.
const NEWEST_SHIPMENTS: usize = 12;

/// The snapshots of bases and shipments that may go; shipments come in the order in which they were made, the newest first. What stays brings
/// the databases back to any moment of the last `days`, and the files to the last hour of each of them; nothing is kept that only holds what
/// another one holds, too.
///
/// # Errors
/// One lies in the future: something is wrong with a clock.
pub fn shipped_to_forget(
    bases: &[&BaseCopy],
    shipments: &[&Shipment],
    days: usize,
    now: Timestamp,
) -> Result<Vec<String>> {
    let times = bases.iter().map(|one| one.at).chain(shipments.iter().map(|one| one.at));
    if let Some(at) = times.max().filter(|at| *at > now) {
        bail!(
            "something was shipped at {at}, which is in the future by this host's clock; none of what was shipped is removed. If the clock is right \
             now, forget by hand what lies in the future, by the ids of its snapshots: appliance backup key, restic snapshots, restic forget SNAPSHOT…"
        );
    }
    let hours = i64::try_from(days).unwrap_or(i64::MAX / 24).saturating_mul(24);
    let since = now.checked_sub(jiff::SignedDuration::from_hours(hours)).unwrap_or(Timestamp::MIN);
    // The window begins in what this one is the base of.
    let Some(oldest) = bases.iter().filter(|one| one.at <= since).max_by_key(|one| one.at) else {
        return Ok(superseded(shipments, None));
    };
    // Whatever a clock said when it was made.
    let newest = shipments.first().and_then(|last| bases.iter().find(|base| base.id == last.base));
    let is_newest = |base: &BaseCopy| newest.is_some_and(|newest| newest.id == base.id);
    let bases = bases.iter().filter(|one| one.at < oldest.at && !is_newest(one)).map(|one| one.snapshot.clone());
    Ok(bases.chain(superseded(shipments, Some((oldest, newest.copied())))).collect())
}

/// Shipments from before the oldest base that the newest one does not take either, and those that others make superfluous.
fn superseded(shipments: &[&Shipment], bases: Option<(&BaseCopy, Option<&BaseCopy>)>) -> Vec<String> {
    let mut sorted: Vec<&Shipment> = shipments.to_vec();
    sorted.sort_by_key(|one| std::cmp::Reverse((one.order(), one.stretch.last)));
    let builds_on = |one: &Shipment, base: &BaseCopy| one.chain == base.chain && one.stretch.last >= base.first;
    let hour = |one: &Shipment| one.at.as_second() / 3600;
    let (mut hours, mut firsts) = (BTreeSet::new(), BTreeSet::new());
    let mut gone = Vec::new();
    for (place, one) in sorted.iter().enumerate() {
        let is_needed = bases.is_none_or(|(oldest, newest)| {
            one.at >= oldest.at || builds_on(one, oldest) || newest.is_some_and(|base| builds_on(one, base))
        });
        // The newest that begins there holds what all others hold that do.
        let is_last = firsts.insert((one.chain.as_str(), one.stretch.first));
        let is_of_hour = one.is_point && hours.insert(hour(one));
        if !is_needed || !(is_last || is_of_hour || place < NEWEST_SHIPMENTS) {
            gone.push(one.stretch.snapshot.clone());
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::wal::{Segment, Stretch, chain};
    use proptest::prelude::*;

    const NOW: &str = "2026-11-30T10:00:00Z";

    fn keep(daily: usize, weekly: usize, monthly: usize) -> Keep {
        Keep { daily, weekly, monthly, ..Keep::default() }
    }

    fn now() -> Timestamp {
        NOW.parse().expect("a time")
    }

    fn at(hours_before: i64) -> Timestamp {
        now() - jiff::SignedDuration::from_hours(hours_before)
    }

    fn nightly(nights: i64) -> Vec<(String, Timestamp)> {
        (0..nights).map(|night| (format!("{night:03}"), at(night * 24))).collect()
    }

    #[test]
    fn the_last_of_each_day_week_and_month_stay() {
        let rules = keep(3, 2, 2);
        let mut runs = nightly(5);
        // Two of one day: the later one is the day's.
        runs.push(("early".to_owned(), at(48 + 5)));
        let gone = to_forget(&runs, None, rules, now()).expect("nothing is wrong");
        // Monday the 30th, the 29th, the 28th by day; the 29th is the last of the week before as well; none of October is there.
        assert_eq!(gone, ["early", "003", "004"]);
        let gone = to_forget(&nightly(5), Some("004"), rules, now()).expect("nothing is wrong");
        assert_eq!(gone, ["003"], "the newest that was drilled is known to be good");
        assert!(to_forget(&nightly(100), None, rules, now()).is_err(), "more than half at once");
        let steady = nightly(16);
        let gone = to_forget(&steady, None, keep(14, 2, 1), now()).expect("nothing is wrong");
        assert_eq!(gone, ["014", "015"]);
        assert!(to_forget(&[("x".to_owned(), at(-1))], None, rules, now()).is_err(), "in the future");
        assert_eq!(to_forget(&nightly(3), None, keep(0, 0, 0), now()).expect("few"), [""; 0]);
    }

    const BYTES: u64 = 16 << 20;

    /// A week of bases each day and shipments every half hour; the spool is emptied after so many.
    fn shipped(days: i64, batch: i64) -> (Vec<BaseCopy>, Vec<Shipment>) {
        let segment =
            |n: i64| -> Segment { format!("{:08X}{:08X}{:08X}", 1, n / 256, n % 256).parse().expect("it is one") };
        let half_hours = days * 48;
        let bases = (0..days).map(|day| BaseCopy {
            id: format!("base {day}"),
            at: at(days * 24 - day * 24),
            machine: "aa".to_owned(),
            snapshot: format!("base {day}"),
            chain: "base 0".to_owned(),
            first: segment(day * 48),
            segment_bytes: BYTES,
            major: 15,
        });
        let shipments = (0..half_hours).map(|n| Shipment {
            id: n.to_string(),
            at: at(days * 24) + jiff::SignedDuration::from_mins(n * 30 + 5),
            machine: "aa".to_owned(),
            generation: 1,
            serial: 0,
            base: format!("base {}", n / 48),
            chain: "base 0".to_owned(),
            is_point: n % 3 != 0,
            stretch: Stretch { snapshot: n.to_string(), first: segment(n - n % batch), last: segment(n) },
            lsn: String::new(),
        });
        (bases.collect(), shipments.collect())
    }

    #[test]
    fn every_moment_of_the_window_can_still_be_reached() {
        let (bases, mut shipments) = shipped(10, 20);
        shipments.reverse();
        let refs = (bases.iter().collect::<Vec<_>>(), shipments.iter().collect::<Vec<_>>());
        let gone = shipped_to_forget(&refs.0, &refs.1, 7, now()).expect("nothing is wrong");
        let left: Vec<&Shipment> = shipments.iter().filter(|one| !gone.contains(&one.stretch.snapshot)).collect();
        // Three bases are too old for the window, but the last of them is what it begins in.
        assert_eq!(bases.iter().filter(|base| gone.contains(&base.snapshot)).count(), 3);
        let stretches: Vec<Stretch> = left.iter().map(|one| one.stretch.clone()).collect();
        for base in bases.iter().filter(|base| !gone.contains(&base.snapshot)) {
            let newest = shipments[0].stretch.last;
            chain(&stretches, base.first, newest, BYTES).expect("all of the log from each base to now is there");
        }
        let newest: Vec<&str> = shipments.iter().take(12).map(|one| one.id.as_str()).collect();
        assert!(newest.iter().all(|id| left.iter().any(|one| one.id == *id)));
        assert!(left.len() < shipments.len() * 3 / 4, "{} of {}", left.len(), shipments.len());
        let again: Vec<&BaseCopy> = bases.iter().filter(|base| !gone.contains(&base.snapshot)).collect();
        assert_eq!(shipped_to_forget(&again, &left, 7, now()).expect("nothing is wrong"), [""; 0], "it is done once");
        assert!(shipped_to_forget(&refs.0, &refs.1, 7, at(2)).is_err(), "in the future");
    }

    #[test]
    fn what_the_newest_builds_on_stays_whatever_a_clock_said() {
        let (mut bases, mut shipments) = shipped(10, 1);
        // For the last day the clock was five years behind, and what was shipped until then was given up.
        for base in bases.iter_mut().rev().take(1) {
            (base.at, base.chain) = (at(5 * 365 * 24), "behind".to_owned());
        }
        for (n, one) in shipments.iter_mut().rev().take(48).enumerate() {
            one.at = at(5 * 365 * 24) + jiff::SignedDuration::from_mins(60 * 24 - 30 * i64::try_from(n).unwrap_or(0));
            (one.chain, one.serial) = ("behind".to_owned(), 48 - n as u64);
        }
        shipments.reverse();
        let gone =
            shipped_to_forget(&bases.iter().collect::<Vec<_>>(), &shipments.iter().collect::<Vec<_>>(), 7, now())
                .expect("nothing is wrong");
        let left: Vec<&Shipment> = shipments.iter().filter(|one| !gone.contains(&one.stretch.snapshot)).collect();
        let base = bases.last().filter(|base| !gone.contains(&base.snapshot)).expect("the newest base stays");
        let stretches: Vec<Stretch> =
            left.iter().filter(|one| one.chain == base.chain).map(|one| one.stretch.clone()).collect();
        chain(&stretches, base.first, shipments[0].stretch.last, BYTES).expect("all of the log behind it is there");
        assert!(gone.iter().any(|gone| gone == "base 0"), "the others go as ever");
    }

    #[test]
    fn the_runs_made_last_stay_whatever_a_clock_said() {
        let mut runs: Vec<(String, Timestamp)> =
            (0..3).map(|n| (format!("behind {n}"), at(5 * 365 * 24 + n))).collect();
        runs.extend(nightly(10));
        let gone = to_forget(&runs, None, keep(7, 0, 0), now()).expect("nothing is wrong");
        assert_eq!(gone, ["007", "008", "009"]);
    }

    proptest! {
        #[test]
        fn never_the_newest_and_never_more_than_half(hours in prop::collection::vec(0_i64..20_000, 0..60), daily in 0_usize..30, weekly in 0_usize..10, monthly in 0_usize..13) {
            let runs: Vec<(String, Timestamp)> = hours.iter().enumerate().map(|(n, hours)| (n.to_string(), at(*hours))).collect();
            if let Ok(gone) = to_forget(&runs, None, keep(daily, weekly, monthly), now()) {
                let mut newest: Vec<_> = runs.iter().collect();
                newest.sort_by_key(|(id, at)| (std::cmp::Reverse(*at), id.clone()));
                prop_assert!(newest.iter().take(3).all(|(id, _)| !gone.contains(id)));
                prop_assert!(runs.len() <= 6 || gone.len() * 2 <= runs.len());
                // What is thinned out once stays as it is.
                let left: Vec<_> = runs.iter().filter(|(id, _)| !gone.contains(id)).cloned().collect();
                prop_assert_eq!(to_forget(&left, None, keep(daily, weekly, monthly), now()).unwrap_or_default(), Vec::<String>::new());
            }
        }
    }
}
