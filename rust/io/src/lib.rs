//! Sockets, pipes, readiness and wake-ups: thin, owned, and typed. No policy lives here.
//!
//! Every descriptor is an `OwnedFd`; nothing is closed twice and nothing leaks on a panic. The `unsafe` blocks of the
//! whole workspace are in [`adopt`], [`fork`], `option`, [`thread`] and [`udp`].

pub mod adopt;
pub mod fork;
mod option;
pub mod pipe;
pub mod poll;
pub mod socket;
pub mod thread;
pub mod udp;
pub mod waker;

pub use rustix::io::Errno;
