//! What a run found, and its JSON form.

use std::collections::{BTreeMap, HashMap};
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
    pub servers: HashMap<Vec<u8>, u64>,
    /// Latencies of verified requests.
    pub latency: Histogram,
    /// Verified replies and errors in each second since the start, for the kill test.
    pub timeline: Vec<(u64, u64)>,
    /// How late the generator itself began requests that were due.
    pub lag: Histogram,
}

impl Outcome {
    /// Count one error; letters that JSON would have to escape are replaced.
    pub fn error(&mut self, kind: &str) {
        let safe =
            |letter: char| if letter.is_ascii_alphanumeric() || "-=().: ".contains(letter) { letter } else { '_' };
        *self.errors.entry(kind.chars().map(safe).collect()).or_default() += 1;
    }

    /// Count as many errors of a kind as there were.
    pub fn errors(&mut self, kind: &str, count: u64) {
        (0..count).for_each(|_| self.error(kind));
    }

    /// Count one reply of `server`.
    pub fn served_by(&mut self, server: &[u8]) {
        match self.servers.get_mut(server) {
            Some(count) => *count += 1,
            None => {
                self.servers.insert(server.to_vec(), 1);
            }
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
             \"p50\": {:.9}, \"p90\": {:.9}, \"p99\": {:.9}, \"p999\": {:.9}, \"max\": {:.9}, \
             \"timeline\": [{timeline}], \"lag\": {:.9}, \"lag_p99\": {:.9}}}",
            self.window.as_secs_f64(),
            self.requests,
            self.bytes,
            self.latency.quantile(0.50),
            self.latency.quantile(0.90),
            self.latency.quantile(0.99),
            self.latency.quantile(0.999),
            self.latency.max(),
            self.lag.max(),
            self.lag.quantile(0.99),
        )
    }
}

fn join(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// Durations to three digits, in nanoseconds up to a minute.
pub struct Histogram(hdrhistogram::Histogram<u32>);

impl Default for Histogram {
    fn default() -> Self {
        // the bounds are constants that the library takes
        let made = hdrhistogram::Histogram::new_with_bounds(1, 60_000_000_000, 3);
        Self(made.unwrap_or_else(|error| unreachable!("{error}")))
    }
}

impl Histogram {
    /// Count one duration; what is longer than a minute counts as one.
    pub fn record(&mut self, duration: Duration) {
        self.0.saturating_record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The duration that the given share (0 to 1) does not exceed, in seconds; 0 when nothing was counted.
    pub fn quantile(&self, quantile: f64) -> f64 {
        Duration::from_nanos(self.0.value_at_quantile(quantile)).as_secs_f64()
    }

    /// The longest one.
    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Percentiles a few microseconds apart are what the added latency is judged by.
    #[test]
    fn quantiles_are_right_to_a_thousandth() {
        let mut histogram = Histogram::default();
        for micros in 1..=100_000 {
            histogram.record(Duration::from_micros(micros));
        }
        for (quantile, exact) in [(0.5, 0.05), (0.99, 0.099), (0.999, 0.0999), (1.0, 0.1)] {
            let measured = histogram.quantile(quantile);
            assert!((measured / exact - 1.0).abs() <= 0.001, "{quantile}: {measured}");
        }
        assert_eq!(Histogram::default().max(), 0.0);
    }
}
