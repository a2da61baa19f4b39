//! The threads of spliceway: they accept, dial, retry, relay, drain and count, without Python and without locks in the way.
//!
//! - [`engine`]: the whole of what a host can ask for; `listening`: its part about sockets; [`config`]: its sizes and errors
//! - `shared`: what all workers see: the published table, the listeners, bounds, events
//! - `registry`: names to slots, building tables off the data path; `table`: one immutable table per generation
//! - [`routes`]: which pool an address and a class of clients lead to
//! - `worker`: the loop of a thread; `accept`, `dial`, `dialled`, `relay`, `cut`: what it does when something is ready
//! - `source`: whose address backends see; `emptied`: who is served by a pool that has just lost its last backend
//! - `udp`: the same for datagrams, by sessions
//! - `flow`: one connection pair; `timer`, [`events`], `drains`: the rest; [`snapshot`]: counters as plain values
#![forbid(unsafe_code)]

mod accept;
pub mod config;
mod cut;
mod dial;
mod dialled;
mod drains;
mod emptied;
pub mod engine;
pub mod events;
mod flow;
mod listener;
mod listening;
mod registry;
mod relay;
pub mod routes;
mod shared;
pub mod snapshot;
mod source;
mod table;
mod timer;
mod udp;
mod worker;

pub use config::{Config, EngineError};
pub use engine::Engine;
pub use events::{Event, EventKind};
