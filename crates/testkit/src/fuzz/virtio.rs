//! Virtio: whatever a guest does to a device, by way of [`GuestOp`](crate::virtio::GuestOp)s; chains that a model walks as
//! well; registers; states out of nowhere.
use super::input::Input;
use crate::virtio::{
    CANARY, DriverRing, Echo, Edges, INDIRECT, Make, MmioPort, NEXT, Plugged, Pump, Ram, Transport, WRITE,
    World,
};
use crate::virtio::{bring_up, ops, used_ram_of};
use drystone_bus::ManualClock;
use drystone_limit::LimitConfig;
use drystone_rng::Rng;
use drystone_state::{Component, Persist};
use drystone_virtio::{
    CoreState, F_INDIRECT_DESC, Host, Mmio, MmioConfig, MmioState, NEEDS_RESET, QueueState,
};
use std::io::Read;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

fn config() -> MmioConfig {
    MmioConfig { base: 0xd000_0000, gsi: 5, index: 0, shared_memory: vec![(1, 0x1_0000_0000)] }
}

fn echo(memory: &Ram, edges: Arc<Edges>, host: Host) -> Mmio<Ram> {
    Mmio::new(config(), Box::new(Echo::new(2, true)), memory.clone(), edges, host).unwrap()
}

/// Bytes that are no address of the canary, in pieces.
struct Uneven(u32);
impl Read for Uneven {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.0 = self.0.wrapping_add(1);
        let len = out.len().min(1 + (self.0 as usize * 37) % 97);
        out[..len].fill(0x0f);
        Ok(len)
    }
}

fn entropy(memory: &Ram, edges: Arc<Edges>, host: Host) -> Mmio<Ram> {
    let (rng, _) =
        Rng::new(Box::new(Uneven(0)), LimitConfig::default(), Arc::new(ManualClock::default())).unwrap();
    Mmio::new(config(), Box::new(rng), memory.clone(), edges, host).unwrap()
}

/// The first byte chooses between an orderly guest, whose every answer is checked, and any guest.
fn world<P: Plugged>(make: Make<P>, data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    if kind & 1 == 0 {
        let features =
            u64::from(kind >> 1 & 1) << 28 | u64::from(kind >> 2 & 1) << 29 | u64::from(kind >> 3 & 1) << 40;
        World::<P>::new(make, features, 1 << (kind >> 4 & 7)).run_orderly(&ops(data));
    } else {
        World::<P>::new(make, u64::MAX, 16).run(&ops(data));
    }
}

/// A device of two lanes behind virtio-mmio, and what a guest and its operator do to it.
///
/// # Panics
/// As [`World::run_orderly`] and [`World::run`].
pub fn virtio_core(data: &[u8]) {
    world::<MmioPort<Ram>>(echo, data);
}

/// The same for the entropy device.
///
/// # Panics
/// As [`World::run_orderly`] and [`World::run`].
pub fn rng(data: &[u8]) {
    world::<MmioPort<Ram>>(entropy, data);
}

/// The entropy device in a machine that goes on for as long as it is wanted.
pub fn entropy_world() -> World<MmioPort<Ram>> {
    World::new(entropy, u64::MAX, 64)
}

/// One table of descriptors, made of any bytes; one head. A model walks the chain too.
///
/// # Panics
/// If the core serves a chain that the model calls malformed, or does not serve one that it calls sound; if anything but
/// the chain's writable bytes changes.
pub fn virtio_ring(data: &[u8]) {
    const TABLE: u64 = 0x5_0000;
    let mut input = Input::new(data);
    let indirect = input.u8() & 1 == 0;
    let memory = used_ram_of(&[(0, 0x8_0000), (CANARY, 0x1000)]);
    let (edges, pump) = (Arc::new(Edges::default()), Arc::new(Pump::default()));
    let port = MmioPort(Arc::new(echo(&memory, edges, Host::new(pump.clone()))));
    let mut d = DriverRing::new(&memory, 0x1_0000, 8, false);
    bring_up(&port, &[&d], if indirect { F_INDIRECT_DESC } else { 0 });
    pump.run(port.0.core(), 64);
    let head = input.u16() % 10;
    let mut tables = [[(0u64, 0u32, 0u16, 0u16); 8]; 2];
    for (t, table) in tables.iter_mut().enumerate() {
        for (i, slot) in (0u16..).zip(table.iter_mut()) {
            let addr = match input.u8() % 8 {
                0 => TABLE + 16 * u64::from(input.u8() % 8),
                1 => 0x7_fff0 + u64::from(input.u8() % 32),
                2 => u64::MAX - u64::from(input.u8() % 32),
                _ => 0x6_0000 + u64::from(input.u16() % 0x1000),
            };
            let len = if input.u8().is_multiple_of(8) { input.u32() } else { u32::from(input.u8()) };
            *slot = (addr, len, input.u16() & (NEXT | WRITE | INDIRECT), input.u16() % 10);
            let base = if t == 0 { d.descriptors() } else { TABLE };
            d.put(base, i, (slot.0, slot.1, slot.2), slot.3);
        }
    }
    d.offer(head);
    port.notify(0);
    pump.run(port.0.core(), 64);
    let served = d.used_index() == 1;
    assert_eq!(served, port.status() & NEEDS_RESET == 0, "served or broken, never neither");
    let sound = model(&tables, head, indirect, TABLE);
    match sound {
        Some(false) => assert!(!served, "a malformed chain was served"),
        Some(true) => assert!(served, "a sound chain was not"),
        None => {} // the device's own accesses decide: buffers that are not in memory
    }
    let mut canary = [0; 0x1000];
    memory.read_slice(&mut canary, GuestAddress(CANARY)).unwrap();
    assert!(canary == [0; 0x1000]);
}

type Table = [(u64, u32, u16, u16); 8];

/// Is the chain well-formed? `None` if it is, and names memory that is not there.
fn model(tables: &[Table; 2], head: u16, indirect: bool, table_at: u64) -> Option<bool> {
    let (mut table, mut count, mut at, mut nested) = (&tables[0], 8, head, false);
    let (mut seen, mut writable, mut total, mut mapped) = (0, false, 0u64, true);
    loop {
        if seen == count || usize::from(at) >= count {
            return Some(false);
        }
        let (addr, len, flags, next) = table[usize::from(at)];
        seen += 1;
        if flags & INDIRECT != 0 {
            if nested || !indirect || flags & NEXT != 0 || len == 0 || len % 16 != 0 || len > 16 * 1024 {
                return Some(false);
            }
            if addr != table_at || len > 128 {
                return None; // a table made of something else: not modelled
            }
            (table, count, at, nested, seen) = (&tables[1], len as usize / 16, 0, true, 0);
            continue;
        }
        total += u64::from(len);
        if total > u64::from(u32::MAX) || (flags & WRITE == 0 && writable) {
            return Some(false);
        }
        writable |= flags & WRITE != 0;
        mapped &= addr >= 0x6_0000 && addr.checked_add(len.into()).is_some_and(|end| end <= 0x8_0000);
        if flags & NEXT == 0 {
            return if mapped { Some(true) } else { None };
        }
        at = next;
    }
}

/// Accesses to the registers of virtio-mmio, of every width at every offset, and saved states out of nowhere.
///
/// # Panics
/// If a register of the wrong width or place answers; if a refused state leaves something behind, or a restored one is not
/// what was given; if a reset does not lead to the status 0.
pub fn virtio_mmio(data: &[u8]) {
    let mut input = Input::new(data);
    let memory = used_ram_of(&[(0, 0x4_0000)]);
    let (edges, pump) = (Arc::new(Edges::default()), Arc::new(Pump::default()));
    let build = || MmioPort(Arc::new(echo(&memory, edges.clone(), Host::new(pump.clone()))));
    let mut port = build();
    for _ in 0..512 {
        if input.is_empty() {
            break;
        }
        match input.u8() % 8 {
            0..=2 => {
                let (offset, width) = (place(&mut input), usize::from(input.u8() % 9));
                port.0.write(offset, &input.u64().to_le_bytes()[..width]);
            }
            3 => {
                // The registers that do something, with values that mean something.
                const USEFUL: [u64; 12] =
                    [0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0xac, 0xc0, 0x90];
                port.write(USEFUL[usize::from(input.u8() % 12)], input.u8().into());
            }
            4 => {
                let (offset, width) = (place(&mut input), usize::from(input.u8() % 9));
                let mut out = [0xa5; 8];
                port.0.read(offset, &mut out[..width]);
                let register = width == 4 && offset % 4 == 0;
                assert!(offset >= 0x100 || register || out[..width].iter().all(|b| *b == 0));
                assert!(out[width..].iter().all(|b| *b == 0xa5));
            }
            5 => pump.run(port.0.core(), 4096),
            6 => {
                port.0.pause().unwrap();
                let state = port.0.save().unwrap();
                port = build();
                port.0.restore(state.clone()).unwrap();
                assert_eq!(port.0.save().unwrap(), state);
                port.0.resume().unwrap();
            }
            _ => port = restore_anything(&port, build(), &mut input),
        }
    }
    port.set_status(0);
    assert_eq!((port.status(), port.read(0x60)), (0, 0));
}

fn place(input: &mut Input<'_>) -> u64 {
    match input.u8() {
        0 => input.u64(),
        near => u64::from(near) + u64::from(input.u8() & 3) * 64,
    }
}

/// A state out of nowhere is refused whole, or taken.
fn restore_anything(old: &MmioPort<Ram>, new: MmioPort<Ram>, input: &mut Input<'_>) -> MmioPort<Ram> {
    old.0.pause().unwrap();
    let MmioState { core: CoreState { device, .. }, .. } = old.0.save().unwrap();
    old.0.resume().unwrap();
    let mut queue = || QueueState {
        size: if input.u8().is_multiple_of(4) { input.u16() } else { 1 << (input.u8() % 9) },
        enabled: input.u8() & 1 == 0,
        descriptors: u64::from(input.u16()) << 4,
        available: u64::from(input.u16()),
        used: u64::from(input.u16()) << 2,
        next_avail: input.u8().into(),
        next_used: input.u8().into(),
        returned: (0..input.u8() % 4).map(|_| input.u8().into()).collect(),
    };
    let queues = vec![queue(), queue()];
    let state = MmioState {
        interrupt_status: u32::from(input.u8() % 8),
        device_features_select: input.u32(),
        driver_features_select: input.u32(),
        queue_select: input.u32(),
        shared_memory_select: input.u32(),
        core: CoreState {
            device_type: 42,
            status: input.u8(),
            driver_features: u64::from(input.u8()) << 28,
            config_generation: input.u32(),
            queues,
            device,
        },
    };
    new.0.pause().unwrap();
    let before = new.0.save().unwrap();
    match new.0.restore(state) {
        Ok(()) => new.0.resume().unwrap(),
        Err(_) => {
            assert_eq!(new.0.save().unwrap(), before);
            new.0.resume().unwrap();
        }
    }
    new
}
