//! Socket options that `rustix` lacks.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// Set an option whose value is an `int`.
pub(crate) fn set_int(fd: impl AsFd, level: i32, name: i32, value: i32) -> Result<(), Errno> {
    let size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel reads `size` bytes at the pointer, which are those of `value`, during the call only.
    let result = unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

/// What the system call before this one reported.
pub(crate) fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
