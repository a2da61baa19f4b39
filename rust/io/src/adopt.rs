//! Taking ownership of a descriptor that came from another language as a number.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Own `fd` from now on.
///
/// # Errors
/// `EBADF` when `fd` is negative or not open.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_GETFD reads a flag of whatever `fd` names; it touches no memory and fails cleanly on a closed one.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open (checked above), and the caller gives it away: that is this function's contract.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
