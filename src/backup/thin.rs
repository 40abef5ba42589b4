//! Which runs are kept. Pure: restic's own rules are not used, since a slip in one of them removes everything.

use crate::env::Keep;
use anyhow::{Result, bail};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::BTreeSet;

/// So many of the newest are kept whatever the rules say.
const NEWEST: usize = 3;

/// How many periods keep their last run, and in which one a time lies.
type Rule<'a> = (usize, &'a dyn Fn(&Timestamp) -> String);

/// The runs that may go: each is its id and its time. The order does not matter.
///
/// # Errors
/// A run lies in the future, or more than half of many would go at once: something is wrong with a clock, or with the rules.
pub fn to_forget(runs: &[(String, Timestamp)], keep: Keep, now: Timestamp) -> Result<Vec<String>> {
    let mut runs: Vec<&(String, Timestamp)> = runs.iter().collect();
    runs.sort_by_key(|(id, at)| (std::cmp::Reverse(*at), id.as_str()));
    if let Some((id, at)) = runs.first().filter(|(_, at)| *at > now) {
        bail!("the run {id} is of {at}, which is in the future by this host's clock; nothing is removed");
    }
    let mut kept: BTreeSet<&str> = runs.iter().take(NEWEST).map(|(id, _)| id.as_str()).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: &str = "2026-11-30T10:00:00Z";

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
        let keep = Keep { daily: 3, weekly: 2, monthly: 2 };
        let mut runs = nightly(5);
        // Two of one day: the later one is the day's.
        runs.push(("early".to_owned(), at(48 + 5)));
        let gone = to_forget(&runs, keep, now()).expect("nothing is wrong");
        // Monday the 30th, the 29th, the 28th by day; the 29th is the last of the week before as well; none of October is there.
        assert_eq!(gone, ["early", "003", "004"]);
        assert!(to_forget(&nightly(100), keep, now()).is_err(), "more than half at once");
        let steady = nightly(16);
        let gone = to_forget(&steady, Keep { daily: 14, weekly: 2, monthly: 1 }, now()).expect("nothing is wrong");
        assert_eq!(gone, ["014", "015"]);
        assert!(to_forget(&[("x".to_owned(), at(-1))], keep, now()).is_err(), "in the future");
        assert_eq!(to_forget(&nightly(3), Keep { daily: 0, weekly: 0, monthly: 0 }, now()).expect("few"), [""; 0]);
    }

    proptest! {
        #[test]
        fn never_the_newest_and_never_more_than_half(hours in prop::collection::vec(0_i64..20_000, 0..60), daily in 0_usize..30, weekly in 0_usize..10, monthly in 0_usize..13) {
            let runs: Vec<(String, Timestamp)> = hours.iter().enumerate().map(|(n, hours)| (n.to_string(), at(*hours))).collect();
            if let Ok(gone) = to_forget(&runs, Keep { daily, weekly, monthly }, now()) {
                let mut newest: Vec<_> = runs.iter().collect();
                newest.sort_by_key(|(id, at)| (std::cmp::Reverse(*at), id.clone()));
                prop_assert!(newest.iter().take(3).all(|(id, _)| !gone.contains(id)));
                prop_assert!(runs.len() <= 6 || gone.len() * 2 <= runs.len());
                // What is thinned out once stays as it is.
                let left: Vec<_> = runs.iter().filter(|(id, _)| !gone.contains(id)).cloned().collect();
                prop_assert_eq!(to_forget(&left, Keep { daily, weekly, monthly }, now()).unwrap_or_default(), Vec::<String>::new());
            }
        }
    }
}
