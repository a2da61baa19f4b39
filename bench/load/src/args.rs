//! `--name value` pairs of the command line.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// The options given, each taken out as it is read, so that what is left at the end was not understood.
pub struct Args(BTreeMap<String, String>);

impl Args {
    /// Collect `--name value` pairs.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = BTreeMap::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or_else(|| format!("expected an option instead of {word:?}"))?;
            let value = words.next().ok_or_else(|| format!("--{name} needs a value"))?;
            options.insert(name.to_owned(), value);
        }
        Ok(Self(options))
    }

    /// The value of a number or word, or its default.
    pub fn value<T: FromStr>(&mut self, name: &str, default: T) -> Result<T, String> {
        match self.0.remove(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("--{name} {text:?} is not usable")),
        }
    }

    /// A number of seconds, fractions allowed.
    pub fn seconds(&mut self, name: &str, default: f64) -> Result<Duration, String> {
        let seconds: f64 = self.value(name, default)?;
        Duration::try_from_secs_f64(seconds).map_err(|error| format!("--{name}: {error}"))
    }

    /// A list of `ADDR:PORT`, separated by commas; it must be there.
    pub fn addresses(&mut self, name: &str) -> Result<Vec<SocketAddr>, String> {
        let text = self.0.remove(name).ok_or_else(|| format!("--{name} ADDR:PORT is missing"))?;
        text.split(',').map(|item| item.parse().map_err(|_| format!("--{name}: {item:?} is not ADDR:PORT"))).collect()
    }

    /// A list of addresses without ports, separated by commas; empty when it is not there.
    pub fn hosts(&mut self, name: &str) -> Result<Vec<IpAddr>, String> {
        let Some(text) = self.0.remove(name) else { return Ok(Vec::new()) };
        text.split(',').map(|item| item.parse().map_err(|_| format!("--{name}: {item:?} is not an address"))).collect()
    }

    /// Refuse options that no one asked for.
    pub fn finish(&self) -> Result<(), String> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("unknown option --{name}")),
        }
    }
}
