//! The structures of virtio-pci, as a driver finds them and as a hostile guest uses them.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_bus::Effect;
use drystone_pci::{Function, read_bar, write_bar};
use drystone_state::{Component, Persist, RestoreError};
use drystone_testkit::as_written;
use drystone_testkit::pci::PciDriver;
use drystone_testkit::virtio::{
    DriverRing, Echo, Edges, Hoard, PciMachine, PciPort, Plugged, Pump, Ram, Transport, WRITE, bring_up, ram,
    vectors,
};
use drystone_virtio::{
    DRIVER_OK, F_RING_RESET, Host, NEEDS_RESET, Notification, Pci, PciError, PciState, Unwired, Wiring,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const NO_VECTOR: u64 = 0xffff;
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const DEVICE: u8 = 4;
const WINDOW: u8 = 5;
const SHARED: u8 = 8;
const BAR: usize = Pci::<Ram>::BAR;
const ALL_OK: u8 = 0x0f;

struct Machine {
    port: PciPort<Ram>,
    edges: Arc<Edges>,
    pump: Arc<Pump>,
}

fn machine_with(memory: &Ram, wiring: Arc<dyn Wiring>) -> Machine {
    let (edges, pump) = (Arc::new(Edges::default()), Arc::new(Pump::default()));
    let (device, host) = (Box::new(Echo::new(2, true)), Host::new(pump.clone()));
    let function = Pci::new(device, memory.clone(), vectors(3, &edges), wiring, host).unwrap();
    Machine { port: PciPort::new(Arc::new(function)), edges, pump }
}

fn machine(memory: &Ram) -> Machine {
    machine_with(memory, Arc::new(Unwired))
}

impl Machine {
    fn serve(&self) {
        self.pump.run(self.port.core(), 64);
    }
    /// A request and its answer.
    fn ask(&self, ring: &mut DriverRing, queue: u16) {
        ring.add(&[(0x40000, 8, WRITE)], false).unwrap();
        self.port.notify(queue);
        self.serve();
        assert_eq!(ring.take().unwrap().1, 1);
    }
    fn ring(&self, memory: &Ram, features: u64) -> DriverRing {
        let ring = DriverRing::new(memory, 0x10000, 16, false);
        bring_up(&self.port, &[&ring], features);
        self.serve();
        ring
    }
}

fn common<const N: usize>(port: &PciPort<Ram>, at: u64) -> u64 {
    port.read::<N>(COMMON, at)
}

#[test]
fn a_driver_finds_its_structures_by_their_capabilities() {
    let memory = ram(1 << 20);
    let Machine { port, .. } = machine(&memory);
    let kinds: Vec<_> = port.structures().iter().map(|s| s.kind).collect();
    assert_eq!(kinds, [COMMON, ISR, DEVICE, NOTIFY, SHARED, WINDOW]);
    let at = |kind| port.structure(kind).unwrap();
    assert_eq!((at(COMMON).offset % 4, at(COMMON).len), (0, 0x40));
    assert_eq!((at(DEVICE).offset % 4, at(DEVICE).len, at(ISR).len), (0, 8, 1));
    // An even power of two, and room for both queues.
    assert_eq!((port.config_u32(at(NOTIFY).at + 16), at(NOTIFY).len), (4, 8));
    let shared = at(SHARED);
    assert_eq!((shared.id, shared.bar, shared.offset, shared.len), (1, 2, 0, 0x1_0000_2000));
    let bars: Vec<_> = port.function.config().with(|c| c.bars().map(|(i, b)| (i, b.size)).collect());
    assert_eq!(bars, [(0, 0x4000), (2, 0x2_0000_0000)]);
    // Vendor, device, revision, class, subsystem: no legacy driver takes it. No interrupt pin.
    assert_eq!(
        (port.config_u32(0), port.config_u32(8), port.config_u32(0x2c)),
        (0x106a_1af4, 0xff00_0001, 0x006a_1af4)
    );
    assert_eq!(port.config_u32(0x3c) >> 8, 0);
    assert_eq!((port.device_type(), port.vectors()), (42, 3));
}

#[test]
fn common_configuration_is_what_the_core_says() {
    let memory = ram(1 << 20);
    let Machine { port, .. } = machine(&memory);
    assert_eq!(port.offered(), port.core().features());
    port.write::<4>(COMMON, 0, 2);
    assert_eq!(common::<4>(&port, 4), 0, "there are no more features");
    port.accept(0x1_2000_0008);
    assert_eq!(common::<4>(&port, 0xc), 1);
    port.write::<4>(COMMON, 8, 7);
    port.write::<4>(COMMON, 12, 0xffff_ffff);
    assert_eq!((common::<4>(&port, 8), common::<4>(&port, 12)), (7, 0));
    assert_eq!(port.core().driver_features(), 0x1_2000_0008);
    assert_eq!((common::<2>(&port, 0x12), port.max_size(0), port.max_size(1)), (2, 256, 256));
    // What belongs to features that are not offered.
    assert_eq!((common::<2>(&port, 0x38), common::<2>(&port, 0x3c), common::<2>(&port, 0x3e)), (0, 0, 0));
    let offsets = [0, 1].map(|queue| {
        port.write::<2>(COMMON, 0x16, queue);
        common::<2>(&port, 0x1e)
    });
    assert_eq!(offsets, [0, 1]);
}

/// Where other VMMs index by what the guest selects.
#[test]
fn a_queue_that_does_not_exist_is_not_there_and_harms_nobody() {
    let memory = ram(1 << 20);
    let m = machine(&memory);
    let mut ring = m.ring(&memory, 0);
    for queue in [2, 3, 0x7fff, 0x8000, 0xfffe, 0xffff] {
        m.port.write::<2>(COMMON, 0x16, queue);
        let read = |at| common::<2>(&m.port, at);
        assert_eq!((read(0x16), read(0x18), read(0x1c), read(0x1e), read(0x3a)), (queue, 0, 0, 0, 0));
        m.port.write::<2>(COMMON, 0x1a, 1);
        assert_eq!(read(0x1a), NO_VECTOR);
        for (at, width) in [(0x18, 2), (0x1c, 2), (0x3a, 2), (0x20, 4), (0x28, 8), (0x34, 4)] {
            let place = m.port.structure(COMMON).unwrap().offset + at;
            assert_eq!(write_bar(&*m.port.function, BAR, place, &[1; 8][..width]), Effect::None);
        }
        assert_eq!(
            (common::<8>(&m.port, 0x20), common::<8>(&m.port, 0x28), common::<8>(&m.port, 0x30)),
            (0, 0, 0)
        );
    }
    // A doorbell behind the last.
    let notify = m.port.structure(NOTIFY).unwrap();
    for offset in [8, 12, 0x40000, u64::MAX - notify.offset] {
        assert_eq!(write_bar(&*m.port.function, BAR, notify.offset + offset, &[0, 0]), Effect::None);
    }
    m.ask(&mut ring, 0);
    assert_eq!(m.port.status(), ALL_OK);
}

/// Where other VMMs divide by the size, or take a mask of it.
#[test]
fn a_queue_of_no_or_an_odd_size_is_refused_when_it_starts() {
    for size in [0, 3, 255, 512, 0x8000, 0xffff] {
        let memory = ram(1 << 20);
        let m = machine(&memory);
        for status in [1, 3] {
            m.port.set_status(status);
        }
        m.port.accept(1 << 32);
        m.port.set_status(0x0b);
        m.port.write::<2>(COMMON, 0x16, 0);
        m.port.write::<2>(COMMON, 0x18, size);
        for at in [0x20, 0x28, 0x30] {
            m.port.write::<8>(COMMON, at, 0x10000);
        }
        m.port.write::<2>(COMMON, 0x1c, 1);
        m.port.set_status(0x0f);
        m.port.notify(0);
        m.serve();
        assert_eq!(m.port.status() & NEEDS_RESET, NEEDS_RESET, "{size}");
        m.port.set_status(0);
        assert_eq!(m.port.status(), 0);
        let mut ring = m.ring(&memory, 0);
        m.ask(&mut ring, 0);
    }
}

/// Every width at every offset of both BARs and of configuration space, reads and writes; and what crosses from one
/// structure into the next. Only accesses of a field's own width reach it.
#[test]
fn every_access_is_safe_and_none_crosses_a_structure() {
    let memory = ram(1 << 20);
    let m = machine(&memory);
    let f = &*m.port.function;
    let natural = |at: u64| match at {
        0 | 4 | 8 | 0xc => 4,
        0x14 | 0x15 => 1,
        _ => 2,
    };
    for at in (0..0x4010).chain([u64::from(u32::MAX), u64::MAX - 8, u64::MAX]) {
        for width in 1..=8_usize {
            let mut data = [0xaa; 8];
            read_bar(f, BAR, at, &mut data[..width]);
            assert!(data[width..].iter().all(|b| *b == 0xaa));
            let address = (0x20..0x38).contains(&at) && [4, 8].contains(&width) && at % width as u64 == 0;
            if at < 0x40 && width != natural(at) && !address {
                assert_eq!(data[..width], [0; 8][..width], "{at:#x} {width}");
            }
            for value in [0xff, 0] {
                assert_eq!(write_bar(f, BAR, at, &[value; 8][..width]), Effect::None);
            }
            read_bar(f, 2, at, &mut data[..width]);
            assert_eq!(write_bar(f, 2, at, &data[..width]), Effect::None);
            read_bar(f, 5, at, &mut data[..width]);
        }
    }
    for at in 0..4096_u16 {
        for width in 1..=8_usize {
            let mut data = [0xaa; 8];
            f.config_read(at, &mut data[..width]);
            assert!(data[width..].iter().all(|b| *b == 0xaa));
            let _ = f.config_write(at, &[0xff; 8][..width]);
            let _ = f.config_write(at, &[0; 8][..width]);
        }
    }
    assert_eq!(m.port.config_u32(0), 0x106a_1af4);
    // The device's configuration space ends where it ends: the last two bytes, and two of nothing.
    m.port.set_status(0);
    m.port.config_write(0, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let mut data = [0xaa; 4];
    m.port.config_read(6, &mut data);
    assert_eq!(data, [7, 8, 0, 0]);
    m.port.enable_msix(false);
    let mut ring = m.ring(&memory, 0);
    m.ask(&mut ring, 0);
    assert_eq!(m.port.status(), ALL_OK);
}

#[test]
fn addresses_are_taken_by_halves_and_as_a_whole() {
    let memory = ram(1 << 20);
    let Machine { port, .. } = machine(&memory);
    for status in [1, 3] {
        port.set_status(status);
    }
    port.accept(1 << 32);
    port.set_status(0x0b);
    port.write::<2>(COMMON, 0x16, 1);
    port.write::<4>(COMMON, 0x24, 0x1122_3344);
    port.write::<4>(COMMON, 0x20, 0x5566_7788);
    port.write::<8>(COMMON, 0x28, 0x0102_0304_0506_0708);
    port.write::<8>(COMMON, 0x2c, u64::MAX);
    let q = port.core().queue(1).unwrap();
    assert_eq!((q.descriptors, q.available, q.used), (0x1122_3344_5566_7788, 0x0102_0304_0506_0708, 0));
    assert_eq!((common::<8>(&port, 0x20), common::<4>(&port, 0x2c)), (q.descriptors, 0x0102_0304));
    assert_eq!(common::<8>(&port, 0x24), 0);
    // The half that is written takes the place of what was there, and the other stays.
    port.write::<4>(COMMON, 0x20, 0);
    port.write::<4>(COMMON, 0x2c, 0x1000_0000);
    let q = port.core().queue(1).unwrap();
    assert_eq!((q.descriptors, q.available), (0x1122_3344_0000_0000, 0x1000_0000_0506_0708));
    // Only 1 enables (4.1.4.3.2).
    for value in [0, 2, 0xffff] {
        port.write::<2>(COMMON, 0x1c, value);
        assert_eq!(common::<2>(&port, 0x1c), 0, "{value:#x}");
    }
    port.write::<2>(COMMON, 0x1c, 1);
    assert_eq!(common::<2>(&port, 0x1c), 1);
}

#[test]
fn each_queue_and_the_configuration_have_a_vector_of_their_own() {
    let memory = ram(1 << 20);
    let m = machine(&memory);
    m.port.prepare();
    assert_eq!(common::<2>(&m.port, 0x10), NO_VECTOR);
    let mut first = DriverRing::new(&memory, 0x10000, 16, false);
    let mut second = DriverRing::new(&memory, 0x20000, 16, false);
    bring_up(&m.port, &[&first, &second], F_RING_RESET);
    m.serve();
    assert_eq!(m.edges.line(), 0);
    m.ask(&mut first, 0);
    m.ask(&mut first, 0);
    m.ask(&mut second, 1);
    assert_eq!((m.edges.queue(0), m.edges.queue(1), m.edges.config()), (2, 1, 0));
    // A vector that does not exist is none, and says so; one that is unmapped interrupts nobody.
    for (vector, reads) in [(2, 2), (3, NO_VECTOR), (0x800, NO_VECTOR), (0, 0), (NO_VECTOR, NO_VECTOR)] {
        m.port.write::<2>(COMMON, 0x16, 1);
        m.port.write::<2>(COMMON, 0x1a, vector);
        assert_eq!(common::<2>(&m.port, 0x1a), reads, "{vector:#x}");
    }
    m.ask(&mut second, 1);
    assert_eq!((m.edges.line(), m.port.take_interrupts()), (3, 0), "MSI-X is on: no bit for a queue");
    // Two queues may share one.
    m.port.write::<2>(COMMON, 0x1a, 1);
    m.ask(&mut second, 1);
    assert_eq!((m.edges.queue(0), m.edges.line()), (3, 4));
    // The reset of a queue unmaps it.
    m.port.write::<2>(COMMON, 0x16, 0);
    for no_reset in [0, 2] {
        m.port.write::<2>(COMMON, 0x3a, no_reset);
        assert!(m.port.enabled(0));
    }
    m.port.write::<2>(COMMON, 0x3a, 1);
    assert_eq!((common::<2>(&m.port, 0x1a), common::<2>(&m.port, 0x3a)), (NO_VECTOR, 0));
    // A fault is a configuration change.
    second.offer(99);
    m.port.notify(1);
    m.serve();
    assert_eq!(m.port.config_u32(4) >> 16 & 1 << 3, 0, "with MSI-X on there is no pin to be asserted");
    assert_eq!((m.port.status(), m.edges.config(), m.port.take_interrupts()), (ALL_OK | NEEDS_RESET, 1, 2));
    m.port.set_status(0);
    assert_eq!((common::<2>(&m.port, 0x10), common::<2>(&m.port, 0x1a)), (NO_VECTOR, NO_VECTOR));
}

#[test]
fn a_queue_that_may_not_be_reset_keeps_its_vector() {
    let memory = ram(1 << 20);
    let m = machine(&memory);
    m.port.prepare();
    let mut ring = m.ring(&memory, 0);
    m.port.write::<2>(COMMON, 0x16, 0);
    m.port.write::<2>(COMMON, 0x3a, 1);
    assert_eq!(common::<2>(&m.port, 0x1a), 1);
    m.ask(&mut ring, 0);
    assert_eq!(m.edges.queue(0), 1);
}

/// It is told by a configuration change that the device is dead, so it must still have a vector for that.
#[test]
fn a_reset_that_fails_keeps_the_vectors() {
    let memory = ram(1 << 20);
    let (edges, pump) = (Arc::new(Edges::default()), Arc::new(Pump::default()));
    let (device, hands) = Hoard::new(1);
    let host = Host { patience: Duration::from_millis(100), ..Host::new(pump.clone()) };
    let function =
        Pci::new(Box::new(device), memory.clone(), vectors(2, &edges), Arc::new(Unwired), host).unwrap();
    let m = Machine { port: PciPort::new(Arc::new(function)), edges, pump };
    m.port.prepare();
    let mut ring = m.ring(&memory, 0);
    ring.add(&[(0x40000, 8, WRITE)], false).unwrap();
    m.port.notify(0);
    m.serve();
    let mapped = || [0x10, 0x1a].map(|at| common::<2>(&m.port, at));
    let before = mapped();
    hands[0].set_stubborn(true);
    m.port.set_status(0);
    assert_eq!((m.port.status() & NEEDS_RESET, mapped()), (NEEDS_RESET, before));
    hands[0].set_stubborn(false);
    m.port.set_status(0);
    assert_eq!((m.port.status(), mapped()), (0, [NO_VECTOR; 2]));
}

#[test]
fn what_is_masked_is_held_and_sent_once() {
    let memory = ram(1 << 20);
    let m = machine(&memory);
    m.port.prepare();
    let mut ring = m.ring(&memory, 0);
    let pending = m.port.config_u32(m.port.msix_capability() + 8) & !7;
    let is_pending = || {
        let mut bits = [0; 8];
        read_bar(&*m.port.function, BAR, pending.into(), &mut bits);
        u64::from_le_bytes(bits)
    };
    m.port.set_entry(1, true);
    m.ask(&mut ring, 0);
    m.ask(&mut ring, 0);
    assert_eq!((m.edges.line(), is_pending()), (0, 0b10));
    m.port.set_entry(1, false);
    assert_eq!((m.edges.queue(0), is_pending()), (1, 0));
    // No bus master: nothing is sent either.
    m.port.config_write_bytes(4, &[0b010, 0]);
    m.ask(&mut ring, 0);
    assert_eq!((m.edges.queue(0), is_pending()), (1, 0b10));
    m.port.config_write_bytes(4, &[0b110, 0]);
    assert_eq!((m.edges.queue(0), is_pending()), (2, 0));
}

#[test]
fn without_msix_the_isr_status_says_why() {
    let memory = ram(1 << 20);
    let m = machine(&memory);
    let mut ring = m.ring(&memory, 0);
    let status = || m.port.config_u32(4) >> 16 & 1 << 3;
    assert_eq!(status(), 0);
    m.ask(&mut ring, 0);
    assert_eq!((m.edges.line(), status()), (0, 1 << 3));
    // Whatever is read of configuration space, the bit is where it belongs.
    let mut bytes = [0; 8];
    m.port.function.config_read(0, &mut bytes);
    assert_eq!(bytes[6] & 8, 8);
    m.port.function.config_read(6, &mut bytes[..1]);
    assert_eq!(bytes[0] & 8, 8);
    m.port.function.config_read(7, &mut bytes[..1]);
    assert_eq!(bytes[0], 0);
    let mut wide = [0xaa; 4];
    read_bar(&*m.port.function, BAR, m.port.structure(ISR).unwrap().offset, &mut wide);
    assert_eq!(wide, [1, 0, 0, 0]);
    assert_eq!((m.port.take_interrupts(), status()), (0, 0), "a read clears it");
    ring.offer(99);
    m.port.notify(0);
    m.serve();
    assert_eq!(m.port.take_interrupts(), 2);
}

#[test]
fn firmware_reaches_every_structure_through_configuration_space() {
    let memory = ram(1 << 20);
    let m = machine(&memory);
    let window = m.port.structure(WINDOW).unwrap().at;
    let choose = |bar: u8, offset: u64, len: u32| {
        m.port.config_write_bytes(window + 4, &[bar]);
        m.port.config_write_bytes(window + 8, &(offset as u32).to_le_bytes());
        m.port.config_write_bytes(window + 12, &len.to_le_bytes());
    };
    let at = |kind| m.port.structure(kind).unwrap().offset;
    let read = || m.port.config_u32(window + 16);
    let write = |value: u32| m.port.config_write_bytes(window + 16, &value.to_le_bytes());
    choose(0, at(COMMON) + 0x12, 2);
    assert_eq!(read(), 2, "num_queues");
    choose(0, at(COMMON) + 0x14, 1);
    write(0xffff_ff01);
    assert_eq!((m.port.status(), read()), (1, 1));
    choose(0, at(DEVICE) + 4, 4);
    write(0x1234_5678);
    assert_eq!(read(), 0x1234_5678);
    let mut ring = m.ring(&memory, 0);
    ring.add(&[(0x40000, 8, WRITE)], false).unwrap();
    choose(0, at(NOTIFY), 2);
    write(0);
    m.serve();
    assert!(ring.take().is_some());
    choose(0, at(ISR), 4);
    assert_eq!(read(), 0, "more than there is: no access, which would clear it");
    choose(0, at(ISR), 1);
    assert_eq!((read(), read()), (1, 0));
    // A part of the data is enough.
    choose(0, at(COMMON), 4);
    m.port.config_write_bytes(window + 16, &[1, 0]);
    assert_eq!(common::<4>(&m.port, 0), 1);
    choose(0, at(DEVICE) + 4, 4);
    write(0x1234_5678);
    for (from, len) in [(17, 1), (12, 8)] {
        choose(0, at(COMMON), 4);
        assert_eq!(read(), 1);
        choose(0, at(DEVICE) + 4, 4);
        let mut data = [0; 8];
        m.port.function.config_read(window + from, &mut data[..len]);
        let all = [4_u32, 0x1234_5678].map(u32::to_le_bytes);
        assert_eq!(data[..len], all.as_flattened()[usize::from(from) - 12..][..len], "from {from}");
    }

    // What it must not reach, and what is no access.
    let msix = u64::from(m.port.config_u32(m.port.msix_capability() + 4) & !7);
    m.port.set_entry(0, false);
    for (bar, offset, len) in [
        (0, msix, 4),
        (0, at(COMMON) + 1, 2),
        (0, at(DEVICE) + 5, 2),
        (0, at(COMMON) + 0x3e, 4),
        (0, at(ISR), 4),
        (0, at(COMMON), 3),
        (0, at(COMMON), 8),
        (0, at(COMMON), 0),
        (0, at(COMMON), u32::MAX),
        (0, 0xffff_fffc, 4),
        (0, 0x3ffe, 4),
        (2, 0, 4),
        (6, 0, 4),
        (255, 0, 4),
    ] {
        choose(bar, offset, len);
        let before = m.port.status();
        write(0xffff_ffff);
        assert_eq!((read(), m.port.status()), (0, before), "{bar} {offset:#x} {len:#x}");
    }
    // What is chosen is accessed with the data alone.
    choose(0, at(DEVICE), 4);
    write(0x1234_5678);
    m.port.config_write(0, &[0; 4]);
    m.port.config_write_bytes(0x3c, &[7]);
    let mut config = [9; 4];
    m.port.config_read(0, &mut config);
    assert_eq!(config, [0; 4], "it was written once more");
    m.ask(&mut ring, 0);
    choose(0, at(ISR), 1);
    m.port.config_u32(0);
    assert_eq!(m.port.take_interrupts(), 1, "the ISR status was read");
    let mut entry = [0; 4];
    read_bar(&*m.port.function, BAR, msix, &mut entry);
    assert_eq!(u32::from_le_bytes(entry), 0xfee0_0000, "the MSI-X table was written");
    // The window on itself, and across its edges.
    for offset in (window..window + 20).step_by(1) {
        for len in 1..=8 {
            let mut data = [0; 8];
            m.port.function.config_read(offset, &mut data[..len]);
            let _ = m.port.function.config_write(offset, &data[..len]);
        }
    }
    m.ask(&mut ring, 0);
}

/// Remembers where it was told that things are.
#[derive(Default)]
struct Places {
    doorbells: Mutex<Vec<(u16, u64)>>,
    shared: Mutex<BTreeMap<u8, Option<u64>>>,
}
impl Wiring for Places {
    fn doorbells(&self, at: &[(u16, u64)]) {
        *self.doorbells.lock().unwrap() = at.to_vec();
    }
    fn shared_memory(&self, id: u8, at: Option<u64>) {
        self.shared.lock().unwrap().insert(id, at);
    }
}

#[test]
fn doorbells_and_shared_memory_follow_their_bars() {
    let memory = ram(1 << 20);
    let places = Arc::new(Places::default());
    let m = machine_with(&memory, places.clone());
    let all: Vec<_> = m.port.function.notifications().collect();
    let notify = m.port.structure(NOTIFY).unwrap().offset;
    let one =
        |queue: u16| Notification { queue, offset: notify + 4 * u64::from(queue), width: 0, datamatch: None };
    assert_eq!(all, [one(0), one(1)]);

    let host = PciMachine::new(&memory);
    let slot = host.pci.segment().add(None, m.port.function.clone()).unwrap();
    let guest = PciDriver::new(&host.bus, drystone_testkit::virtio::ECAM);
    assert!(places.doorbells.lock().unwrap().is_empty());
    guest.enable(slot);
    let base = guest.bars(slot)[0].address;
    let expect = |base: u64| vec![(0, base + notify), (1, base + notify + 4)];
    assert_eq!(*places.doorbells.lock().unwrap(), expect(base));
    let shared = guest.bars(slot)[1].address;
    assert_eq!(places.shared.lock().unwrap()[&1], Some(shared));
    // Moved while it is on.
    guest.write(slot, 0x14, 0x180);
    guest.write(slot, 0x10, 0x4000_0000);
    assert_eq!(*places.doorbells.lock().unwrap(), expect(0x180_4000_0000));
    let mut queues = [0; 2];
    host.bus.mmio.read(0x180_4000_0012, &mut queues);
    assert_eq!(queues, [2, 0]);
    guest.write(slot, 4, 0);
    assert!(places.doorbells.lock().unwrap().is_empty());
    assert_eq!(places.shared.lock().unwrap()[&1], None);
    guest.enable(slot);
    host.pci.segment().remove(slot).unwrap();
    host.pci.segment().relocate(&host.bus);
    assert!(places.doorbells.lock().unwrap().is_empty());
}

/// 256 changes between two looks leave the core's low byte as it was.
#[test]
fn the_generation_shows_every_change() {
    let memory = ram(1 << 20);
    let m = machine(&memory);
    let state = |generation| {
        m.port.function.pause().unwrap();
        let mut state = m.port.function.save().unwrap();
        state.core.config_generation = generation;
        let next = machine(&memory);
        next.port.function.restore(as_written(&state)).unwrap();
        next
    };
    let before = m.port.generation();
    for changes in [1, 255, 256, 512] {
        assert_ne!(state(changes).port.generation(), before, "{changes} changes");
    }
    assert_eq!(state(0).port.generation(), before);
}

#[test]
fn registers_are_saved_and_restored_whole() {
    let memory = ram(1 << 20);
    let m = machine(&memory);
    m.port.prepare();
    let mut ring = m.ring(&memory, 0);
    m.port.set_entry(1, true);
    m.ask(&mut ring, 0);
    ring.offer(99);
    m.port.write::<4>(COMMON, 0, 1);
    m.port.write::<4>(COMMON, 8, 7);
    m.port.write::<2>(COMMON, 0x16, 1);
    assert!(m.port.function.save().is_err(), "running");
    m.port.function.pause().unwrap();
    let state = m.port.function.save().unwrap();
    assert_eq!(
        (state.queue_vectors.clone(), state.config_vector, state.queue_select),
        (vec![1, 0xffff], 0, 1)
    );

    let next = machine(&memory);
    next.port.function.pause().unwrap();
    let fresh = next.port.function.save().unwrap();
    for bad in [
        PciState { isr: 4, ..state.clone() },
        PciState { config_vector: 3, ..state.clone() },
        PciState { queue_vectors: vec![1], ..state.clone() },
        PciState { queue_vectors: vec![1, 3], ..state.clone() },
    ] {
        assert!(matches!(
            next.port.function.restore(bad),
            Err(RestoreError::Invalid { kind: "virtio-pci", .. })
        ));
    }
    let mut bad = state.clone();
    bad.core.status = DRIVER_OK;
    assert!(next.port.function.restore(bad).is_err());
    assert_eq!(next.port.function.save().unwrap(), fresh, "a refused state leaves nothing behind");
    // Also what this driver has left as it was.
    let other = machine(&memory);
    other.port.function.pause().unwrap();
    let all = PciState { isr: 3, config_vector: 2, generation: 9, generation_of: 5, ..state.clone() };
    other.port.function.restore(as_written(&all)).unwrap();
    assert_eq!(other.port.function.save().unwrap(), all);
    next.port.function.restore(as_written(&state)).unwrap();
    assert_eq!(next.port.function.save().unwrap(), state);
    assert_eq!(next.edges.line(), 0, "what is masked stays masked");
    next.port.set_entry(1, false);
    assert_eq!(next.edges.queue(0), 1);
    next.port.function.resume().unwrap();
    assert_eq!(next.edges.queue(0), 2, "each queue is looked at once more");

    next.port.function.pause().unwrap();
    next.port.function.reset().unwrap();
    assert_eq!(next.port.function.save().unwrap(), fresh, "reset is as built");
}

/// The message may have been lost with the process that saved the machine.
#[test]
fn a_configuration_change_that_nobody_has_looked_at_is_told_again() {
    let memory = ram(1 << 20);
    let m = machine(&memory);
    m.port.prepare();
    let mut ring = m.ring(&memory, 0);
    ring.offer(99);
    m.port.notify(0);
    m.serve();
    assert_eq!(m.edges.config(), 1);
    m.port.function.pause().unwrap();
    let next = machine(&memory);
    next.port.function.pause().unwrap();
    next.port.function.restore(m.port.function.save().unwrap()).unwrap();
    assert_eq!(next.edges.config(), 0);
    next.port.function.resume().unwrap();
    assert_eq!((next.edges.config(), next.port.take_interrupts()), (1, 2));
    next.port.function.pause().unwrap();
    next.port.function.resume().unwrap();
    assert_eq!(next.edges.config(), 1, "it was looked at");
}

#[test]
fn what_cannot_be_on_pci_is_refused() {
    struct Odd(u32, u32, Vec<drystone_virtio::SharedMemory>);
    impl drystone_virtio::Worker<Ram> for Odd {
        fn on_kick(
            &mut self,
            _: u16,
            _: &mut drystone_virtio::Cx<'_, Ram>,
        ) -> Result<(), drystone_virtio::Fault> {
            Ok(())
        }
    }
    impl drystone_virtio::VirtioDevice<Ram> for Odd {
        fn describe(&self) -> drystone_virtio::Description {
            drystone_virtio::Description {
                device_type: self.0,
                queue_sizes: vec![8],
                config_len: self.1,
                shared_memory: self.2.clone(),
                ..Default::default()
            }
        }
        fn reset(&mut self) {}
        fn persist(&self) -> Option<&dyn drystone_state::PersistDyn> {
            None
        }
    }
    let memory = ram(1 << 20);
    let build = |device: Odd, count: usize| {
        let (edges, host) = (Arc::new(Edges::default()), Host::new(Arc::new(Pump::default())));
        Pci::new(Box::new(device), memory.clone(), vectors(count, &edges), Arc::new(Unwired), host).map(drop)
    };
    let region = |id| drystone_virtio::SharedMemory { id, len: 4096 };
    assert!(build(Odd(63, 0, vec![]), 1).is_ok());
    assert!(matches!(build(Odd(64, 0, vec![]), 1), Err(PciError::Type(64))));
    assert!(matches!(build(Odd(0, 0, vec![]), 1), Err(PciError::Type(0))));
    assert!(matches!(build(Odd(1, u32::MAX, vec![]), 1), Err(PciError::Size(1))));
    assert!(matches!(build(Odd(1, 0, vec![]), 0), Err(PciError::Msix(_))));
    assert!(build(Odd(1, 0, vec![]), 2048).is_ok());
    assert!(matches!(build(Odd(1, 0, vec![]), 2049), Err(PciError::Msix(_))));
    assert!(build(Odd(1, 8, vec![region(0), region(1)]), 2).is_ok());
    assert!(matches!(build(Odd(1, 8, (0..9).map(region).collect()), 2), Err(PciError::Capability(_))));
}
