//! What the kernel wants to be told of each datagram of a batch, in either direction.

use std::ptr;

use super::control::Control;
use super::name::Name;

/// One header for each datagram, and what it points to. Made once and used again for every batch.
pub(super) struct Slots {
    pub(super) names: Box<[Name]>,
    pub(super) controls: Box<[Control]>,
    pub(super) vectors: Box<[libc::iovec]>,
    pub(super) headers: Box<[libc::mmsghdr]>,
}

impl Slots {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            names: vec![Name::EMPTY; slots].into_boxed_slice(),
            controls: vec![Control::EMPTY; slots].into_boxed_slice(),
            vectors: vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; slots].into_boxed_slice(),
            headers: vec![EMPTY; slots].into_boxed_slice(),
        }
    }
}

/// A header that names nothing.
pub(super) const EMPTY: libc::mmsghdr = libc::mmsghdr {
    // SAFETY: a `msghdr` is numbers and pointers (and padding with some C libraries); zero is a value of all of them.
    msg_hdr: unsafe { std::mem::zeroed() },
    msg_len: 0,
};
