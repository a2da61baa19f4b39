//! What a worker thread needs of the process: no signals, a name that `top -H` shows, and how many descriptors there are.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use rustix::process::{Resource, getrlimit};

/// Block all signals in the calling thread, so that the host program's threads get them (and SIGPIPE never kills it).
///
/// # Errors
/// What `pthread_sigmask(3)` reports; it does not fail with these arguments.
pub fn block_signals() -> io::Result<()> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set that it is given.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: `all` was initialised above; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// How many descriptors this process may have open at once; `None`: as many as it likes.
#[must_use]
pub fn descriptor_limit() -> Option<usize> {
    getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok())
}
