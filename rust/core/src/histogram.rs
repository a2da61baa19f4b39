//! Connect times in fixed buckets, cheap enough to observe on every dial.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets in seconds. A last bucket, +Inf, follows.
pub const BUCKETS: [f64; 13] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// [`BUCKETS`] in nanoseconds.
const BOUNDS: [u64; BUCKETS.len()] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
];

/// Counts per bucket, and the sum of all observations.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Histogram {
    /// Counts one observation. A value on a bound belongs to that bound's bucket.
    pub fn observe(&self, value: Duration) {
        let nanoseconds = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|&bound| bound < nanoseconds);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    /// Counts per bucket (not cumulative; the last one is +Inf).
    #[must_use]
    pub fn counts(&self) -> [u64; BUCKETS.len() + 1] {
        std::array::from_fn(|bucket| self.counts[bucket].load(Relaxed))
    }

    /// Sum of all observations in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.nanoseconds.load(Relaxed) as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Without it, latency graphs would show times in the wrong bucket.
    #[test]
    fn bounds_agree_and_belong_to_their_bucket() {
        for (bucket, (&seconds, &nanoseconds)) in BUCKETS.iter().zip(&BOUNDS).enumerate() {
            assert_eq!(Duration::from_secs_f64(seconds), Duration::from_nanos(nanoseconds));
            let histogram = Histogram::default();
            histogram.observe(Duration::from_nanos(nanoseconds));
            histogram.observe(Duration::from_nanos(nanoseconds + 1));
            let counts = histogram.counts();
            assert_eq!((counts[bucket], counts[bucket + 1]), (1, 1));
            assert_eq!(counts.iter().sum::<u64>(), 2);
        }
    }

    // Without it, the mean connect time on a dashboard would be wrong.
    #[test]
    fn sum_is_in_seconds_and_long_times_are_kept() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(1500));
        histogram.observe(Duration::from_millis(500));
        assert_eq!(histogram.seconds(), 2.0);
        assert_eq!(histogram.counts()[BUCKETS.len()], 1);
    }
}
