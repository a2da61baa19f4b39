//! How the members of a Maglev table come to their slots: in turns, each taking the free slot that it prefers most.

use crate::hash::{fastrange, mix};
use crate::maglev::Member;

/// The member of each of `size` slots. Members take turns, in rounds, until each has its quota.
pub(crate) fn fill(members: &[Member], size: usize) -> Vec<u16> {
    let rounds = (size / members.len()) as u32;
    let quotas = quotas(members, size);
    let mut walks: Vec<Walk> =
        members.iter().zip(quotas).map(|(member, quota)| Walk::new(member, quota, rounds, size)).collect();
    let mut free = FreeSlots::new(size);
    let mut slots = vec![0; size];
    for _ in 0..rounds {
        for (index, walk) in walks.iter_mut().enumerate() {
            walk.due += walk.per_round;
            while walk.due >= 1 << 16 && walk.quota > 0 {
                walk.due -= 1 << 16;
                walk.quota -= 1;
                slots[free.take(walk)] = index as u16;
            }
        }
    }
    slots
}

/// How many of `size` slots each member gets: in proportion to its weight, but one at least.
///
/// The one is taken out first and the rest shared by what each deserves beyond it, rounded along the running sum so that
/// the total is exact.
fn quotas(members: &[Member], size: usize) -> Vec<u32> {
    let total: f64 = members.iter().map(|m| f64::from(m.weight)).sum();
    let beyond_one = |m: &Member| (size as f64 * f64::from(m.weight) / total - 1.0).max(0.0);
    let all_beyond: f64 = members.iter().map(beyond_one).sum();
    let rest = (size - members.len()) as f64;
    let (mut running, mut given) = (0.0, 0);
    members
        .iter()
        .map(|member| {
            running += beyond_one(member);
            let upto = (rest * (running / all_beyond)) as u32; // at the last one the quotient is exactly 1
            let quota = 1 + upto - given;
            given = upto;
            quota
        })
        .collect()
}

/// A member's walk through the slots in its own order of preference: a permutation, since the size is prime.
struct Walk {
    position: u32,
    step: u32,
    /// Slots that it still gets.
    quota: u32,
    /// Turns due, in 1/2^16, and what each round adds.
    due: u32,
    per_round: u32,
}

impl Walk {
    fn new(member: &Member, quota: u32, rounds: u32, size: usize) -> Self {
        Self {
            position: fastrange(mix(member.hash, 1), size) as u32,
            step: 1 + fastrange(mix(member.hash, 2), size - 1) as u32,
            quota,
            due: 0,
            per_round: (u64::from(quota) << 16).div_ceil(u64::from(rounds)) as u32,
        }
    }

    /// How many steps from its position `slot` is.
    fn distance(&self, slot: u32, inverse: u64, size: u32) -> u64 {
        u64::from(slot + size - self.position) * inverse % u64::from(size)
    }
}

/// The sum modulo `size` of two numbers below it. Where nothing is to be taken off, the difference wraps around to a large
/// number.
#[inline]
fn sum(a: u32, b: u32, size: u32) -> u32 {
    (a + b).min((a + b).wrapping_sub(size))
}

/// The slots that no member has yet.
struct FreeSlots {
    /// By slot, not 0: some member has it.
    taken: Vec<u8>,
    size: u32,
    left: u32,
    /// When only so many are left, walking to one takes longer than asking which of them comes first.
    few: u32,
    /// The last few.
    last: Vec<u32>,
}

impl FreeSlots {
    fn new(size: usize) -> Self {
        let few = (size / 4).isqrt(); // about where both ways cost the same
        Self { taken: vec![0; size], size: size as u32, left: size as u32, few: few as u32, last: Vec::new() }
    }

    /// Takes the free slot that comes first in the order of `walk`.
    #[inline]
    fn take(&mut self, walk: &mut Walk) -> usize {
        if self.left <= self.few {
            return self.take_of_last(walk);
        }
        // As many at once as are seldom all taken: a branch that cannot be foretold costs more than looks in vain.
        let slot = if self.left > self.size / 2 { self.first_by_two(walk) } else { self.first_by_four(walk) };
        self.left -= 1;
        self.taken[slot as usize] = 1;
        walk.position = sum(slot, walk.step, self.size);
        slot as usize
    }

    /// Looks at two slots at once, and chooses between them by a move.
    #[inline]
    fn first_by_two(&self, walk: &Walk) -> u32 {
        let add = |a, b| sum(a, b, self.size);
        let two = add(walk.step, walk.step);
        let mut a = walk.position;
        loop {
            let b = add(a, walk.step);
            let [in_a, in_b] = [a, b].map(|slot| self.taken[slot as usize]);
            if in_a & in_b == 0 {
                return if in_a == 0 { a } else { b };
            }
            a = add(a, two);
        }
    }

    /// The same with four. One by one, since vectors of so few make it twice as slow.
    #[inline]
    fn first_by_four(&self, walk: &Walk) -> u32 {
        let add = |a, b| sum(a, b, self.size);
        let two = add(walk.step, walk.step);
        let (three, four) = (add(two, walk.step), add(two, two));
        let mut a = walk.position;
        loop {
            let (b, c, d) = (add(a, walk.step), add(a, two), add(a, three));
            let in_a = self.taken[a as usize];
            let in_b = self.taken[b as usize];
            let in_c = self.taken[c as usize];
            let in_d = self.taken[d as usize];
            if in_a & in_b & in_c & in_d == 0 {
                let last = if in_c == 0 { c } else { d };
                let later = if in_b == 0 { b } else { last };
                return if in_a == 0 { a } else { later };
            }
            a = add(a, four);
        }
    }

    #[cold]
    fn take_of_last(&mut self, walk: &Walk) -> usize {
        if self.last.is_empty() {
            let free = |slot: &u32| self.taken[*slot as usize] == 0;
            self.last = (0..self.size).filter(free).collect();
        }
        let inverse = inverse(walk.step, self.size);
        let distance = |&index: &usize| walk.distance(self.last[index], inverse, self.size);
        let nearest = (0..self.last.len()).min_by_key(distance).unwrap_or(0);
        self.last.swap_remove(nearest) as usize
    }
}

/// What multiplied by `step` is 1 modulo the prime `size`, by the extended Euclidean algorithm.
fn inverse(step: u32, size: u32) -> u64 {
    let (mut rest, mut next_rest) = (size as i32, step as i32);
    let (mut factor, mut next_factor) = (0, 1);
    while next_rest != 0 {
        let quotient = rest / next_rest;
        (rest, next_rest) = (next_rest, rest - quotient * next_rest);
        (factor, next_factor) = (next_factor, factor - quotient * next_factor);
    }
    factor.rem_euclid(size as i32) as u64
}
