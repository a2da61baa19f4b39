//! A model of what surrounds a session: peers with finite socket buffers and bad habits, and a relay that drives the
//! session on a virtual clock as the engine does on the real one.
#![allow(unreachable_pub, reason = "shared with the test that uses it")]

pub mod peer;
pub mod relay;
mod shadow;
