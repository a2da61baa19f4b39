//! Descriptors that a process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Allow as many as an ordinary process may allow itself.
pub fn raise() {
    let limit = getrlimit(Resource::Nofile);
    // an unlimited one is raised by no one; what is refused shows when the connections are opened
    let _raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// How many are allowed now.
pub fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
