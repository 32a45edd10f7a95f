use super::*;

/// Answers every byte with its offset; remembers the last write.
#[derive(Default)]
struct Probe(Mutex<Option<(u64, Vec<u8>)>>);

impl BusDevice for Probe {
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = at as u8;
        }
    }
    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        *self.0.lock().unwrap() = Some((offset, data.to_vec()));
        Effect::PowerOff
    }
}

fn probe() -> Arc<Probe> {
    Arc::new(Probe::default())
}

#[test]
fn accesses_reach_the_device_at_its_offset_and_effects_come_back() {
    let (map, device) = (AddressMap::new(), probe());
    map.insert(0x3f8, 8, device.clone()).unwrap();
    map.insert(0x60, 1, probe()).unwrap();
    let mut data = [0; 2];
    map.read(0x3fb, &mut data);
    assert_eq!(data, [3, 4]);
    assert_eq!(map.write(0x3f9, &[7]), Effect::PowerOff);
    assert_eq!(*device.0.lock().unwrap(), Some((1, vec![7])));
    assert_eq!(map.unclaimed(), 0);
}

#[test]
fn unclaimed_and_straddling_accesses_float_and_are_counted() {
    let map = AddressMap::new();
    map.insert(0x10, 4, probe()).unwrap();
    for (addr, len) in [(0xf_u64, 1_usize), (0xf, 2), (0x13, 2), (0x14, 1), (u64::MAX, 8), (0x10, 0)] {
        let mut data = vec![0; len];
        map.read(addr, &mut data);
        assert!(data.iter().all(|b| *b == 0xff), "{addr:#x}+{len}");
        assert_eq!(map.write(addr, &data), Effect::None, "{addr:#x}+{len}");
    }
    assert_eq!(map.unclaimed(), 12);
}

#[test]
fn overlaps_and_impossible_ranges_are_refused() {
    let map = AddressMap::new();
    map.insert(0x10, 0x10, probe()).unwrap();
    for (base, len) in [(0x10, 0x10), (0x0, 0x11), (0x1f, 1), (0x18, 2), (0x0, 0x100)] {
        assert!(matches!(map.insert(base, len, probe()), Err(MapError::Overlap { .. })), "{base:#x}");
    }
    for (base, len) in [(0, 0), (u64::MAX, 2), (2, u64::MAX)] {
        let result = map.insert(base, len, probe());
        assert!(matches!(result, Err(MapError::Invalid { .. })), "{base:#x}");
    }
    map.insert(0x0, 0x10, probe()).unwrap();
    map.insert(0x20, 1, probe()).unwrap();
    map.insert(u64::MAX, 1, probe()).unwrap();
    let mut byte = [0];
    map.read(u64::MAX, &mut byte);
    assert_eq!(byte, [0]);
}

#[test]
fn a_removed_device_is_gone_and_its_range_free() {
    let map = AddressMap::new();
    map.insert(0x10, 4, probe()).unwrap();
    assert!(map.remove(0x11).is_none());
    assert!(map.remove(0x10).is_some());
    assert_eq!(map.write(0x10, &[1]), Effect::None);
    map.insert(0x10, 4, probe()).unwrap();
}
