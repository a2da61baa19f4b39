//! The pure half of the engine: which backend, which next, and what a flow does with its bytes.
//!
//! Nothing here does I/O, reads a clock or draws from a global source of randomness: the present time and a seeded
//! [`rng::Rng`] are arguments. Equal inputs give equal answers on every node and in every version.
//!
//! - [`hash`]: fixed hashes of addresses, names and flows
//! - [`maglev`]: lookup tables with minimal disruption, shared by equal pools; `filling`: how they are made
//! - `select`: the schedulers (maglev, random, round-robin, least-conn, p2c, source-hash, sed, nq); `lots`: drawing by weight
//! - `explain`: why a backend has its place in a flow's order
//! - [`pool`]: backends of one service port, their state across generations, picking and explaining
//! - `spec`, `state`: what a pool is made of, and what outlives its generations
//! - [`affinity`]: clients that stay with their backend; `pins`: what is remembered of them
//! - [`retry`]: retry policy, and the attempts of one flow; `budget`: what bounds retries
//! - [`session`]: what a flow does with its bytes, as a machine that gets events and gives commands
//! - [`rng`]: a small seeded generator
//! - [`histogram`]: connect times in fixed buckets
#![forbid(unsafe_code)]

pub mod affinity;
mod budget;
mod explain;
mod filling;
pub mod hash;
pub mod histogram;
mod lots;
pub mod maglev;
mod pins;
pub mod pool;
pub mod retry;
pub mod rng;
mod select;
pub mod session;
mod spec;
mod state;
