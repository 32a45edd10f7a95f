use drystone_bus::Effect;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks. No code here panics with a lock held, so a poisoned lock guards sound state.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Splits an access into byte accesses at consecutive offsets, as the ISA bus does for an 8-bit device.
pub(crate) fn read(offset: u64, data: &mut [u8], mut register: impl FnMut(u64) -> u8) {
    for (i, byte) in (0..).zip(data) {
        *byte = offset.checked_add(i).map_or(0xff, &mut register);
    }
}

/// As [`read`], for a write. The first byte that has an effect on the machine says what the access does.
pub(crate) fn write(offset: u64, data: &[u8], mut register: impl FnMut(u64, u8) -> Effect) -> Effect {
    let mut effect = Effect::None;
    for (i, byte) in (0..).zip(data) {
        let Some(at) = offset.checked_add(i) else { break };
        let one = register(at, *byte);
        if effect == Effect::None {
            effect = one;
        }
    }
    effect
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_accesses_are_consecutive_byte_accesses() {
        let mut data = [0; 3];
        read(4, &mut data, |at| at as u8);
        assert_eq!(data, [4, 5, 6]);
        let mut seen = Vec::new();
        let effect = write(4, &[7, 8, 9], |at, value| {
            seen.push((at, value));
            if at == 5 { Effect::Reset } else { Effect::None }
        });
        assert_eq!((seen, effect), (vec![(4, 7), (5, 8), (6, 9)], Effect::Reset));
    }

    #[test]
    fn an_access_past_the_last_offset_ends() {
        let mut data = [0; 2];
        read(u64::MAX, &mut data, |_| 1);
        assert_eq!(data, [1, 0xff]);
        let mut writes = 0;
        let _ = write(u64::MAX, &[1, 2], |_, _| {
            writes += 1;
            Effect::None
        });
        assert_eq!(writes, 1);
    }
}
