//! Where the room on file systems is going: what was free in the last hours, and when nothing will be. Pure; kept in memory alone, so that
//! it begins anew with the process.

use jiff::Timestamp;
use std::collections::{BTreeMap, VecDeque};

/// Between two samples, in seconds.
const BETWEEN_S: i64 = 300;
/// What is older is forgotten: six hours.
const MAX_SAMPLES: usize = 72;
/// Less says nothing of a pace, in seconds.
const LEAST_S: i64 = 3600;

/// What was free on each file system.
#[derive(Debug, Default)]
pub struct Trend(BTreeMap<String, VecDeque<(i64, u64)>>);

impl Trend {
    /// Takes up what is free now, if it is time for another sample.
    pub fn add(&mut self, free: &[(&str, u64)], now: Timestamp) {
        let now = now.as_second();
        self.0.retain(|place, _| free.iter().any(|(there, _)| there == place));
        for (place, free) in free {
            let samples = self.0.entry((*place).to_owned()).or_default();
            // A clock that was ahead.
            samples.retain(|(at, _)| *at <= now);
            if samples.back().is_some_and(|(at, _)| now - at < BETWEEN_S) {
                continue;
            }
            samples.push_back((now, *free));
            if samples.len() > MAX_SAMPLES {
                samples.pop_front();
            }
        }
    }

    /// Whether there is enough to judge a file system by.
    pub fn is_known(&self, place: &str) -> bool {
        self.0.get(place).is_some_and(|samples| span(samples) >= LEAST_S)
    }

    /// In how many seconds nothing will be free, at the pace of all samples; none where that is not known, or it does not become less.
    pub fn left_s(&self, place: &str) -> Option<i64> {
        let samples = self.0.get(place).filter(|samples| span(samples) >= LEAST_S)?;
        let last = samples.back()?.0;
        // One large file within the hours is no pace: the last hour alone must say so, too.
        let in_all = left_after(samples.front()?.0, samples)?;
        let of_late = left_after(last - LEAST_S, samples)?;
        Some(in_all.max(of_late))
    }
}

/// The same by the samples since a time.
fn left_after(first: i64, samples: &VecDeque<(i64, u64)>) -> Option<i64> {
    let free = samples.back()?.1;
    let points = || samples.iter().filter(|(at, _)| *at >= first).map(|(at, free)| ((at - first) as f64, *free as f64));
    let count = points().count() as f64;
    let mean_at = points().map(|(at, _)| at).sum::<f64>() / count;
    let mean_free = points().map(|(_, free)| free).sum::<f64>() / count;
    // Least squares: one large file that came and went tilts it less than the two ends would.
    let shared: f64 = points().map(|(at, free)| (at - mean_at) * (free - mean_free)).sum();
    let spread: f64 = points().map(|(at, _)| (at - mean_at).powi(2)).sum();
    let pace = shared / spread;
    (pace < 0.0).then(|| (free as f64 / -pace) as i64)
}

fn span(samples: &VecDeque<(i64, u64)>) -> i64 {
    match (samples.front(), samples.back()) {
        (Some((first, _)), Some((last, _))) => last - first,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).expect("a time")
    }

    /// Samples every 15 seconds, as the watch looks.
    fn after(hours: i64, free: impl Fn(i64) -> u64) -> Trend {
        let mut trend = Trend::default();
        for second in (0..=hours * 3600).step_by(15) {
            trend.add(&[("/data", free(second))], at(second));
        }
        trend
    }

    #[test]
    fn a_steady_pace_is_followed_to_its_end() {
        // 1000 bytes a second.
        let falling = |second: i64| 100_000_000 - 1000 * second as u64;
        let trend = after(2, falling);
        let left = trend.left_s("/data").expect("it becomes less");
        assert!((left - 92_800).abs() < 10, "{left}");
        assert_eq!((after(2, |_| 5).left_s("/data"), after(2, |at| at as u64).left_s("/data")), (None, None));
        assert!(!after(0, falling).is_known("/data") && trend.is_known("/data"));
        // What was in the first hours is forgotten.
        let slowing = |second: i64| if second < 7200 { falling(second) } else { falling(7200) };
        assert_eq!(after(9, slowing).left_s("/data"), None);
    }

    #[test]
    fn one_file_that_comes_and_goes_is_no_trend_and_a_clock_that_jumps_is_none() {
        let bump = |second: i64| if (3000..4000).contains(&second) { 50_000_000 } else { 100_000_000 };
        let left = after(6, bump).left_s("/data").unwrap_or(i64::MAX);
        assert!(left > 24 * 3600, "{left}");
        // A file that stays.
        let step = |second: i64| if second < 4 * 3600 { 100_000_000 } else { 60_000_000 };
        assert_eq!(after(6, step).left_s("/data"), None);
        let mut trend = after(2, |_| 100);
        trend.add(&[("/data", 90)], at(-86_400));
        assert!(!trend.is_known("/data"));
        trend.add(&[], at(0));
        assert!(!trend.is_known("/data") && trend.0.is_empty());
    }
}
