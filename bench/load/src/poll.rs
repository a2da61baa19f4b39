//! Waiting for readiness with the precision of nanoseconds.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// Let the thread's timers fire when they are due; by default the kernel may be 50 microseconds late.
pub fn be_punctual() {
    // without it the generator is late, and says so in its report
    let _set = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// Wait for `events`, at most for `time`. None came when it is over, or a signal was handled.
pub fn wait(epoll: impl AsFd, events: &mut Vec<epoll::Event>, time: Option<Duration>) -> io::Result<()> {
    let time = time.map(timespec);
    events.clear();
    match epoll::wait(epoll, spare_capacity(events), time.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// `time` as the kernel takes it.
pub fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(time.subsec_nanos()) }
}
