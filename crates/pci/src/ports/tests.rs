use super::*;
use crate::{HostBridge, Windows};

fn ports() -> ConfigPorts {
    let segment = Segment::new(0, Windows::default(), Arc::new(HostBridge::new())).unwrap();
    ConfigPorts::new(Arc::new(segment))
}

fn get<const N: usize>(ports: &ConfigPorts, offset: u64) -> [u8; N] {
    let mut data = [0x55; N];
    ports.read(offset, &mut data);
    data
}

fn select(ports: &ConfigPorts, address: u32) {
    assert_eq!(ports.write(0, &address.to_le_bytes()), Effect::None);
}

#[test]
fn the_address_register_selects_what_the_data_window_shows() {
    let ports = ports();
    assert_eq!(get(&ports, 4), [0xff; 4], "not enabled");
    select(&ports, 0x8000_0000);
    assert_eq!(get(&ports, 0), 0x8000_0000_u32.to_le_bytes(), "how software finds the mechanism");
    assert_eq!(get(&ports, 4), [0x36, 0x1b, 0x08, 0x00]);
    assert_eq!((get(&ports, 6), get(&ports, 5)), ([0x08, 0x00], [0x1b]));
    select(&ports, 0x8000_003c);
    assert_eq!(ports.write(4, &[0x0b]), Effect::None);
    assert_eq!(get(&ports, 4), [0x0b, 0, 0, 0]);
    for absent in [0x8000_0800, 0x8000_0100, 0x8001_0000, 0x0000_0000] {
        select(&ports, absent);
        assert_eq!(get(&ports, 4), [0xff; 4], "{absent:#x}");
    }
}

#[test]
fn reserved_bits_stay_clear_and_other_widths_do_not_reach_the_address() {
    let ports = ports();
    select(&ports, u32::MAX);
    assert_eq!(get(&ports, 0), 0x80ff_fffc_u32.to_le_bytes());
    for (offset, data) in [(0, &[0; 1][..]), (0, &[0; 2]), (1, &[0; 4]), (0, &[0; 8]), (3, &[0; 1])] {
        assert_eq!(ports.write(offset, data), Effect::None);
        assert_eq!(get(&ports, 0), 0x80ff_fffc_u32.to_le_bytes());
    }
    assert_eq!((get(&ports, 0), get(&ports, 3), get(&ports, 1)), ([0xff], [0xff], [0xff; 4]));
}

#[test]
fn accesses_past_the_window_are_nobodys() {
    let ports = ports();
    select(&ports, 0x8000_0000);
    for offset in [5, 7, 8, u64::MAX] {
        assert_eq!(get(&ports, offset), [0xff; 4]);
        assert_eq!(ports.write(offset, &[0; 4]), Effect::None);
    }
    assert_eq!(get(&ports, 4), [0xff; 8]);
}

#[test]
fn the_address_survives_saving_and_not_a_reset() {
    let (old, new) = (ports(), ports());
    select(&old, 0x8000_0008);
    new.persist().unwrap().restore_blob(&old.persist().unwrap().save_blob().unwrap()).unwrap();
    assert_eq!(get(&new, 0), 0x8000_0008_u32.to_le_bytes());
    assert!(new.restore(ConfigPortsState { address: 1 }).is_err());
    old.reset().unwrap();
    assert_eq!(get(&old, 0), [0; 4]);
}
