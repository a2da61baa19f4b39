//! What a run found, and its JSON form.

use std::collections::BTreeMap;
use std::time::Duration;

/// Result of one client command. Counts cover the measured window; errors cover the whole run.
#[derive(Default)]
pub struct Outcome {
    /// Length of the measured window.
    pub window: Duration,
    /// Verified replies, or verified bulk bytes.
    pub requests: u64,
    /// Verified payload bytes.
    pub bytes: u64,
    /// Errors by kind; any error makes a run worthless, except in the kill test, which counts them.
    pub errors: BTreeMap<String, u64>,
    /// Replies by the name of the server that gave them.
    pub servers: Vec<(Vec<u8>, u64)>,
    /// Latencies of verified requests.
    pub latency: Histogram,
    /// Verified replies and errors in each second since the start, for the kill test.
    pub timeline: Vec<(u64, u64)>,
    /// How late the open loop was at worst.
    pub lag: Duration,
}

impl Outcome {
    /// Count one error; letters that JSON would have to escape are replaced.
    pub fn error(&mut self, kind: &str) {
        let safe =
            |letter: char| if letter.is_ascii_alphanumeric() || "-=().: ".contains(letter) { letter } else { '_' };
        *self.errors.entry(kind.chars().map(safe).collect()).or_default() += 1;
    }

    /// Count one reply of `server`.
    pub fn served_by(&mut self, server: &[u8]) {
        match self.servers.iter_mut().find(|(name, _)| name == server) {
            Some((_, count)) => *count += 1,
            None => self.servers.push((server.to_vec(), 1)),
        }
    }

    /// One line of JSON. Times in seconds.
    pub fn to_json(&self) -> String {
        let errors = join(self.errors.iter().map(|(kind, count)| format!("\"{kind}\": {count}")));
        let servers = join(
            self.servers
                .iter()
                .map(|(name, count)| format!("\"{}\": {count}", String::from_utf8_lossy(name).escape_default())),
        );
        let timeline = join(self.timeline.iter().map(|(good, bad)| format!("[{good}, {bad}]")));
        format!(
            "{{\"seconds\": {:.6}, \"requests\": {}, \"bytes\": {}, \"errors\": {{{errors}}}, \"servers\": {{{servers}}}, \
             \"p50\": {:.6}, \"p90\": {:.6}, \"p99\": {:.6}, \"max\": {:.6}, \"timeline\": [{timeline}], \"lag\": {:.6}}}",
            self.window.as_secs_f64(),
            self.requests,
            self.bytes,
            self.latency.quantile(0.50).as_secs_f64(),
            self.latency.quantile(0.90).as_secs_f64(),
            self.latency.quantile(0.99).as_secs_f64(),
            self.latency.max.as_secs_f64(),
            self.lag.as_secs_f64(),
        )
    }
}

fn join(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// Sub-buckets of each power of two: quantiles are right to 1/32.
const FINE: u64 = 32;

/// Latencies in buckets of logarithmic width, from 1 microsecond.
#[derive(Default)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Histogram {
    /// Count one latency.
    pub fn record(&mut self, latency: Duration) {
        let bucket = Self::bucket(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
        self.max = self.max.max(latency);
    }

    /// The lower bound of the bucket in which the given quantile (0 to 1) lies.
    pub fn quantile(&self, quantile: f64) -> Duration {
        let rank = (self.count as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank.max(1) {
                return Duration::from_micros(Self::lower(bucket as u64));
            }
        }
        Duration::ZERO
    }

    fn bucket(micros: u64) -> usize {
        if micros < FINE {
            return micros as usize;
        }
        let shift = micros.ilog2() - FINE.ilog2();
        (u64::from(shift) * FINE + (micros >> shift)) as usize
    }

    fn lower(bucket: u64) -> u64 {
        if bucket < FINE {
            return bucket;
        }
        let shift = bucket / FINE - 1;
        (bucket - shift * FINE) << shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_thirtysecond() {
        let mut histogram = Histogram::default();
        for micros in 1..=100_000 {
            histogram.record(Duration::from_micros(micros));
        }
        for (quantile, exact) in [(0.5, 50_000.0), (0.99, 99_000.0), (1.0, 100_000.0)] {
            let measured = histogram.quantile(quantile).as_micros() as f64;
            assert!((measured / exact - 1.0).abs() <= 1.0 / 32.0, "{quantile}: {measured}");
        }
    }
}
