//! `--name value` pairs of the command line.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use crate::http;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Up,
    /// From the server.
    Down,
}

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
        Ok(self.optional(name)?.unwrap_or(default))
    }

    /// The value of a number, if it is there.
    pub fn optional<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(text) = self.0.remove(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("--{name} {text:?} is not usable"))
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

    /// `--rate`, if it is there: so many per second.
    pub fn rate(&mut self) -> Result<Option<f64>, String> {
        match self.optional::<f64>("rate")? {
            Some(rate) if !(rate > 0.0 && rate <= 1e6) => {
                Err("--rate must be above 0 and at most 1000000 per second".to_owned())
            }
            rate => Ok(rate),
        }
    }

    /// `--direction down|up`.
    pub fn direction(&mut self, default: Direction) -> Result<Direction, String> {
        match self.0.remove("direction").as_deref() {
            None => Ok(default),
            Some("down") => Ok(Direction::Down),
            Some("up") => Ok(Direction::Up),
            Some(other) => Err(format!("--direction {other:?} is neither down nor up")),
        }
    }

    /// `--size`: bytes of a reply's body.
    pub fn size(&mut self) -> Result<usize, String> {
        let size = self.value("size", http::MESSAGE)?;
        if (http::MESSAGE..=http::MAX_SIZE).contains(&size) {
            return Ok(size);
        }
        Err(format!("--size must be from {} to {} bytes", http::MESSAGE, http::MAX_SIZE))
    }

    /// The lists of `--target` and of `--targets-file` (a line each); at least one of them must be there.
    pub fn targets(&mut self) -> Result<Vec<SocketAddr>, String> {
        let Some(path) = self.0.remove("targets-file") else { return self.addresses("target") };
        let mut targets = if self.0.contains_key("target") { self.addresses("target")? } else { Vec::new() };
        let text = std::fs::read_to_string(&path).map_err(|error| format!("--targets-file {path}: {error}"))?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            targets.push(line.parse().map_err(|_| format!("--targets-file {path}: {line:?} is not ADDR:PORT"))?);
        }
        if targets.is_empty() { Err(format!("--targets-file {path} holds no target")) } else { Ok(targets) }
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
