//! Which target is dialled next: all in turn, or drawn at random.

use std::net::SocketAddr;

use crate::args::Args;

/// The targets of a command.
#[derive(Clone)]
pub struct Targets {
    all: Vec<SocketAddr>,
    random: Option<fastrand::Rng>,
    turn: usize,
}

impl Targets {
    /// Read `--target`, `--targets-file` and `--seed`. Without a seed they are taken in turn.
    pub fn from_args(args: &mut Args, seed: Option<u64>) -> Result<Self, String> {
        let all = args.targets()?;
        let seed = args.optional("seed")?.or(seed);
        Ok(Self { all, random: seed.map(fastrand::Rng::with_seed), turn: 0 })
    }

    /// The next one.
    pub fn next(&mut self) -> SocketAddr {
        let place = match &mut self.random {
            Some(random) => random.usize(..self.all.len()),
            None => self.turn % self.all.len(),
        };
        self.turn += 1;
        self.all[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(words: &str) -> Targets {
        let mut args = Args::parse(words.split_ascii_whitespace().map(str::to_owned)).unwrap();
        Targets::from_args(&mut args, None).unwrap()
    }

    /// Rules are placed anywhere among 10,000; without random draws only the first ones would be measured, and without
    /// the seed no two contestants would be asked the same.
    #[test]
    fn a_seed_draws_the_same_targets_from_all_of_them() {
        let list = "--target 10.0.0.1:1,10.0.0.2:1,10.0.0.3:1,10.0.0.4:1";
        let draw = |mut targets: Targets| -> Vec<SocketAddr> { (0..64).map(|_| targets.next()).collect() };
        let first = draw(targets(&format!("{list} --seed 7")));
        assert_eq!(first, draw(targets(&format!("{list} --seed 7"))));
        assert_ne!(first, draw(targets(&format!("{list} --seed 8"))));
        let mut seen = first;
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn without_a_seed_they_are_taken_in_turn() {
        let mut targets = targets("--target 10.0.0.1:1,10.0.0.2:1");
        let turns: Vec<String> = (0..3).map(|_| targets.next().to_string()).collect();
        assert_eq!(turns, ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.1:1"]);
    }
}
