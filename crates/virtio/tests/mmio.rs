//! The registers of virtio-mmio.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_bus::{BusDevice, Effect};
use drystone_state::{Component, Persist, RestoreError};
use drystone_testkit::virtio::{
    DriverRing, Echo, Edges, MmioPort, Pump, Ram, Transport, WRITE, bring_up, ram,
};
use drystone_virtio::{F_RING_RESET, Host, Mmio, MmioConfig, MmioState, Notification};
use std::sync::Arc;

fn device(memory: &Ram) -> (MmioPort<Ram>, Arc<Edges>, Arc<Pump>) {
    let (edges, pump) = (Arc::new(Edges::default()), Arc::new(Pump::default()));
    let config =
        MmioConfig { base: 0xd000_0000, gsi: 5, index: 0x1a, shared_memory: vec![(1, 0x5_0000_1000)] };
    let device = Box::new(Echo::new(2, true));
    let mmio = Mmio::new(config, device, memory.clone(), edges.clone(), Host::new(pump.clone())).unwrap();
    (MmioPort(Arc::new(mmio)), edges, pump)
}

#[test]
fn a_driver_finds_what_it_looks_for() {
    let memory = ram(1 << 20);
    let (port, ..) = device(&memory);
    assert_eq!((port.read(0), port.read(4), port.read(8)), (u32::from_le_bytes(*b"virt"), 2, 42));
    assert_ne!(port.read(0xc), 0);
    assert_eq!(port.offered(), port.0.core().features());
    port.write(0x14, 2);
    assert_eq!(port.read(0x10), 0, "there are no more features");
    assert_eq!((port.max_size(0), port.max_size(1), port.max_size(2)), (256, 256, 0));
    port.write(0x30, 0x1_0000);
    assert_eq!((port.read(0x34), port.read(0x44), port.read(0xc0)), (0, 0, 0), "that is not queue 0");
    assert_eq!(port.shared_memory(1), Some((0x1_0000_2000, 0x5_0000_1000)));
    assert_eq!(port.shared_memory(0), None);
}

#[test]
fn a_driver_drives_it_and_interrupts_say_why() {
    let memory = ram(1 << 20);
    let (port, edges, pump) = device(&memory);
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    bring_up(&port, &[&d], F_RING_RESET);
    pump.run(port.0.core(), 8);
    assert_eq!((port.status(), edges.line(), port.take_interrupts()), (0x0f, 0, 0));
    d.add(&[(0x40000, 8, WRITE)], false).unwrap();
    port.notify(0);
    assert_eq!(d.used_index(), 0, "a vCPU serves nothing");
    pump.run(port.0.core(), 8);
    assert_eq!((d.take().unwrap().1, edges.line(), port.read(0x60)), (1, 1, 1));
    port.write(0x64, 2);
    assert_eq!(port.read(0x60), 1);
    assert_eq!((port.take_interrupts(), port.read(0x60)), (1, 0));
    d.add(&[(0x40000, 8, WRITE)], false).unwrap();
    port.write(0x50, 0x1_0000);
    pump.run(port.0.core(), 8);
    assert_eq!(d.take(), None, "that is not queue 0");
    port.notify(0);
    pump.run(port.0.core(), 8);
    assert_eq!((d.take().unwrap().1, port.take_interrupts()), (1, 1));
    assert!(port.reset_queue(0) && !port.enabled(0));
    // A queue that is no queue.
    port.notify(2);
    port.write(0x50, 0x1_0000);
    pump.run(port.0.core(), 8);
    // NEEDS_RESET is a configuration change.
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    port.set_queue(0, 16, [d.descriptors(), d.available(), d.used()]);
    d.offer(99);
    port.notify(0);
    pump.run(port.0.core(), 8);
    assert_eq!((port.status(), port.read(0x60)), (0x4f, 2));
    port.set_status(0);
    assert_eq!((port.status(), port.read(0x60)), (0, 0), "a reset clears InterruptStatus");
}

#[test]
fn queue_ready_stops_a_queue_and_queue_reset_must_be_negotiated() {
    let memory = ram(1 << 20);
    let (port, _, pump) = device(&memory);
    let d = DriverRing::new(&memory, 0x10000, 16, false);
    bring_up(&port, &[&d], 0);
    assert!(port.reset_queue(0) && port.enabled(0), "not agreed on");
    port.write(0x44, 7);
    assert!(port.enabled(0));
    port.write(0x44, 0);
    assert!(!port.enabled(0));
    pump.run(port.0.core(), 8);
    assert_eq!(port.status(), 0x0f);
}

#[test]
fn every_access_of_every_width_is_safe_and_only_aligned_words_reach_registers() {
    let memory = ram(1 << 20);
    let (port, ..) = device(&memory);
    for offset in (0..0x120).chain([0xffd, 0xfff, 0x1000, u64::MAX - 8, u64::MAX]) {
        for width in 0..=8usize {
            let mut data = [0xaa; 8];
            port.0.read(offset, &mut data[..width]);
            if offset < 0x100 && (width != 4 || offset % 4 != 0) {
                assert_eq!(data[..width], [0; 8][..width], "{offset:#x} {width}");
            }
            assert!(data[width..].iter().all(|b| *b == 0xaa));
            port.0.write(offset, &[0xff; 8][..width]);
        }
    }
    // The configuration space took its part of that, byte by byte as well.
    let mut config = [0; 8];
    port.config_read(0, &mut config);
    assert_eq!(config, [0xff; 8]);
    port.config_read(6, &mut config);
    assert_eq!(config, [0xff, 0xff, 0, 0, 0, 0, 0, 0]);
    assert_eq!(port.status(), 0, "0xffffffff is no status");
    port.set_status(1);
    let mut wide = [0xaa; 8];
    BusDevice::read(&*port.0, 0x70, &mut wide[..4]);
    assert_eq!(
        (wide[..4].to_vec(), BusDevice::write(&*port.0, 0x70, &[0; 4])),
        (vec![1, 0, 0, 0], Effect::None)
    );
    assert_eq!(port.status(), 0);
}

#[test]
fn a_size_of_more_than_16_bits_is_not_cut() {
    let memory = ram(1 << 20);
    for (size, good) in [(16, true), (0x1_0010, false)] {
        let (port, _, pump) = device(&memory);
        let d = DriverRing::new(&memory, 0x10000, 16, false);
        bring_up(&port, &[], F_RING_RESET);
        pump.run(port.0.core(), 8);
        port.write(0x30, 0);
        port.write(0x38, size);
        for (offset, addr) in [(0x80, d.descriptors()), (0x90, d.available()), (0xa0, d.used())] {
            port.write(offset, addr as u32);
        }
        port.write(0x44, 1);
        assert_eq!(port.status() == 0x0f, good, "{size:#x}");
    }
}

#[test]
fn notifications_are_listed_for_the_hypervisor() {
    let memory = ram(1 << 20);
    let (port, ..) = device(&memory);
    let all: Vec<_> = port.0.notifications().collect();
    let one = |queue: u16| Notification { queue, offset: 0x50, width: 4, datamatch: Some(queue.into()) };
    assert_eq!(all, [one(0), one(1)]);
}

#[test]
fn registers_are_saved_and_restored_whole() {
    let memory = ram(1 << 20);
    let (port, _, pump) = device(&memory);
    let mut d = DriverRing::new(&memory, 0x10000, 16, false);
    bring_up(&port, &[&d], 0);
    pump.run(port.0.core(), 8);
    d.add(&[(0x40000, 8, WRITE)], false).unwrap();
    port.notify(0);
    pump.run(port.0.core(), 8);
    for (offset, value) in [(0x14, 1), (0x24, 7), (0x30, 1), (0xac, 1)] {
        port.write(offset, value);
    }
    assert!(port.0.save().is_err(), "running");
    port.0.pause().unwrap();
    let state = port.0.save().unwrap();
    assert_eq!((state.interrupt_status, state.driver_features_select, state.queue_select), (1, 7, 1));
    let blob = port.0.persist().unwrap().save_blob().unwrap();

    let (next, edges, pump) = device(&memory);
    let bad = MmioState { interrupt_status: 4, ..state.clone() };
    assert!(matches!(next.0.restore(bad), Err(RestoreError::Invalid { kind: "virtio-mmio", .. })));
    next.0.persist().unwrap().restore_blob(&blob).unwrap();
    assert_eq!(next.0.save().unwrap(), state);
    next.0.resume().unwrap();
    assert!(edges.line() >= 1, "what was pending is raised again");
    assert_eq!((next.read(0x60) & 1, next.shared_memory(1).is_some()), (1, true));
    d.add(&[(0x40000, 8, WRITE)], false).unwrap();
    pump.run(next.0.core(), 8);
    assert_eq!(std::iter::from_fn(|| d.take()).count(), 2);

    // Reset is as built.
    next.0.pause().unwrap();
    next.0.reset().unwrap();
    let (new, ..) = device(&memory);
    new.0.pause().unwrap();
    assert_eq!(next.0.save().unwrap(), new.0.save().unwrap());
}

#[test]
fn linux_finds_it_through_acpi() {
    let memory = ram(1 << 20);
    let (port, ..) = device(&memory);
    let mut aml = Vec::new();
    acpi_tables::Aml::to_aml_bytes(&*port.0, &mut aml);
    let holds = |part: &[u8]| aml.windows(part.len()).any(|w| w == part);
    assert!(holds(b"\\_SB_") && holds(b"V01A") && holds(b"_HID\x0dLNRO0005\0") && holds(b"_CCA\x01"));
    assert!(holds(&[b"_UID" as &[u8], &[0x0a, 0x1a]].concat()));
    // Memory32Fixed, writable, 0xd0000000, 0x1000; Interrupt: consumer, edge, active high, exclusive, 5.
    assert!(holds(&[0x86, 9, 0, 1, 0, 0, 0, 0xd0, 0, 0x10, 0, 0]));
    assert!(holds(&[0x89, 6, 0, 0x03, 1, 5, 0, 0, 0]));
}
