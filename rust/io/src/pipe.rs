//! Pipes for `splice(2)`, pooled: none is held by an idle flow.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// What a pipe is asked to hold, in bytes: the most that the kernel grants without privilege.
pub const PIPE_SIZE: usize = 1 << 20;

/// A kernel buffer between two sockets.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    fn new() -> Result<Self, Errno> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Refused when the user's share of pipe memory is used up: a smaller pipe works as well, with more calls.
        let _ = fcntl_setpipe_size(&write, PIPE_SIZE);
        Ok(Self { read, write })
    }

    /// Move up to `limit` bytes from socket `from` into the pipe; 0 is the end of the stream.
    ///
    /// # Errors
    /// `EAGAIN` when the socket has nothing or the pipe is full, else the connection's failure.
    pub fn fill(&self, from: impl AsFd, limit: usize) -> Result<usize, Errno> {
        splice(from, None, &self.write, None, limit, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)
    }

    /// Move up to `limit` bytes from the pipe into socket `to`.
    ///
    /// # Errors
    /// `EAGAIN` when the socket has no room, else the connection's failure.
    pub fn drain(&self, to: impl AsFd, limit: usize) -> Result<usize, Errno> {
        splice(&self.read, None, to, None, limit, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)
    }
}

/// Empty pipes for reuse, made when first needed and bounded in number.
#[derive(Debug)]
pub struct PipePool {
    idle: Vec<Pipe>,
    made: usize,
    limit: usize,
}

impl PipePool {
    /// At most `limit` pipes, idle ones and those in use.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { idle: Vec::new(), made: 0, limit }
    }

    /// Whether there may be pipes at all.
    #[must_use]
    pub fn any(&self) -> bool {
        self.limit > 0
    }

    /// An empty pipe; `None` at the limit. The caller copies instead.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE` when no descriptor is left.
    pub fn take(&mut self) -> Result<Option<Pipe>, Errno> {
        if let Some(pipe) = self.idle.pop() {
            return Ok(Some(pipe));
        }
        if self.made >= self.limit {
            return Ok(None);
        }
        let pipe = Pipe::new()?;
        self.made += 1;
        Ok(Some(pipe))
    }

    /// Give back a pipe that is empty.
    pub fn give(&mut self, pipe: Pipe) {
        self.idle.push(pipe);
    }

    /// Close a pipe that still holds bytes nobody wants any more.
    pub fn discard(&mut self, pipe: Pipe) {
        drop(pipe);
        self.made -= 1;
    }

    /// Close the idle pipes: descriptors are scarce.
    pub fn shrink(&mut self) {
        self.made -= self.idle.len();
        self.idle.clear();
    }
}
