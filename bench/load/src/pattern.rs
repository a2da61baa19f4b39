//! The bytes that fill bodies, blocks and datagrams: printable, the same in every process, and different from place to
//! place, so that data which was moved does not look right.

/// Fill `bytes` with the pattern from its beginning.
pub fn fill(bytes: &mut [u8]) {
    let mut state: u64 = 1;
    for byte in bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = b'0' + (state >> 58) as u8;
    }
}

/// The first `length` bytes of the pattern.
pub fn bytes(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fill(&mut bytes);
    bytes
}
