//! The configuration space (5.1.4).
use crate::shared::Shared;

/// Bytes of it: up to `mtu`.
pub(crate) const LEN: usize = 12;

pub(crate) const LINK_UP: u16 = 1;
pub(crate) const ANNOUNCE: u16 = 2;

pub(crate) fn content(shared: &Shared) -> [u8; LEN] {
    let [a, b, c, d, e, f] = shared.mac().0;
    let [s0, s1] = shared.status().to_le_bytes();
    let [p0, p1] = (shared.counters.len() as u16).to_le_bytes();
    let [m0, m1] = shared.mtu.unwrap_or(0).to_le_bytes();
    [a, b, c, d, e, f, s0, s1, p0, p1, m0, m1]
}
