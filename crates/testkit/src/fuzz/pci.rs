//! Any accesses to a PCI bus, its BARs, MSI-X structures and hot-plug registers, at every width and offset, while the host
//! adds, removes, saves and restores functions.

mod device;

use super::input::Input;
use device::{Device, WINDOWS, device, placed};
use drystone_bus::{AddressMap, Bus, Clock, Effect, Interrupt, ManualClock};
use drystone_pci::{
    Attachment, ConfigPorts, Function, HostBridge, HotPlug, HotPlugEvent, HotPlugParts, Segment,
};
use drystone_state::{Component, Persist};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const STEPS: usize = 2048;
const ECAM: u64 = 0xe000_0000;
const PLUG: u16 = 0x620;

struct Silent;
impl Interrupt for Silent {
    fn trigger(&self) {}
}

struct Machine {
    bus: Arc<Bus>,
    pci: Attachment,
    ports: Arc<ConfigPorts>,
    plug: Arc<HotPlug>,
    clock: Arc<ManualClock>,
    devices: BTreeMap<u8, Arc<Device>>,
}

/// Runs `data` as a list of steps.
///
/// # Panics
/// If two BARs are ever on one address, or one outside of the windows; if the bus and the functions disagree about who is
/// where; if a vector sends more than it was triggered; if who a function is changes; or if a machine and its restored copy
/// differ.
pub fn pci(data: &[u8]) {
    let mut input = Input::new(data);
    let mut machine = Machine::new();
    [0, 1, 2].into_iter().for_each(|kind| machine.plug(None, kind));
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        machine.step(&mut input);
        machine.check();
    }
}

impl Machine {
    fn new() -> Self {
        let segment = Arc::new(Segment::new(0, WINDOWS, Arc::new(HostBridge::new())).unwrap());
        let (bus, clock) = (Arc::new(Bus::default()), Arc::new(ManualClock::default()));
        let ports = Arc::new(ConfigPorts::new(segment.clone()));
        bus.pio.insert(ConfigPorts::BASE.into(), ConfigPorts::LEN, ports.clone()).unwrap();
        let parts = HotPlugParts {
            segment: segment.clone(),
            base: PLUG,
            guest: Arc::new(Silent),
            host: Arc::new(Silent),
            clock: clock.clone(),
        };
        let plug = Arc::new(HotPlug::new(parts));
        bus.pio.insert(PLUG.into(), HotPlug::LEN, plug.clone()).unwrap();
        let pci = Attachment::new(segment, bus.clone(), ECAM).unwrap();
        Self { bus, pci, ports, plug, clock, devices: BTreeMap::new() }
    }

    fn plug(&mut self, slot: Option<u8>, kind: u8) {
        let new = device(kind);
        if let Ok(slot) = self.plug.plug(slot, new.clone()) {
            assert!(self.devices.insert(slot, new).is_none(), "slot {slot} had a device");
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 12 {
            // Where it matters: registers of slots that have something.
            0 | 1 => {
                let (slot, register) = (u64::from(input.u8() % 5), u64::from(input.u16() & 0xfff));
                self.access(true, ECAM + (slot << 15) + register % 0x120, input);
            }
            2 => self.access(true, ECAM + u64::from(input.u32() % 0x10_0008), input),
            3 => self.access(false, u64::from(ConfigPorts::BASE) + u64::from(input.u8() % 8), input),
            4 => self.access(false, u64::from(PLUG) + u64::from(input.u8() % 16), input),
            5 => {
                // Where BARs are.
                let all: Vec<_> = self.devices.values().flat_map(|d| placed(d)).collect();
                if let Some((io, range)) = all.get(usize::from(input.u8()) % all.len().max(1)) {
                    self.access(!io, range.start + u64::from(input.u16()) % (range.end - range.start), input);
                }
            }
            6 => self.access(input.u8() & 1 == 0, input.u64(), input),
            7 => self.plug(Some(input.u8() % 34).filter(|slot| *slot < 33), input.u8()),
            8 => drop(self.plug.request(input.u8() % 34, Duration::from_secs(input.u8().into()))),
            9 => {
                let slot = input.u8() % 34;
                assert_eq!(self.plug.pull(slot).is_ok(), self.devices.contains_key(&slot));
            }
            10 => {
                let (slot, vector) = (input.u8() % 5, input.u16());
                self.devices.get(&slot).iter().for_each(|device| device.trigger(vector));
                self.clock.advance(Duration::from_secs(1));
            }
            _ if input.u8() & 1 == 0 => *self = self.restored(),
            _ => self.reset(),
        }
        self.take_events();
    }

    fn access(&self, memory: bool, at: u64, input: &mut Input<'_>) {
        let map: &AddressMap = if memory { &self.bus.mmio } else { &self.bus.pio };
        let how = input.u8();
        let mut data = [0; 8];
        let data = &mut data[..usize::from(how % 8) + 1];
        if how & 0x80 != 0 {
            map.read(at, data);
            return;
        }
        let written = input.take(data.len());
        data[..written.len()].copy_from_slice(written);
        match map.write(at, data) {
            Effect::None => {}
            Effect::Relocate => self.bus.relocate(),
            other => panic!("{other:?}"),
        }
    }

    fn take_events(&mut self) {
        for event in self.plug.take() {
            match event {
                HotPlugEvent::Ejected { slot, function, .. } => {
                    assert_ne!(slot, 0, "the bridge");
                    self.devices.remove(&slot).expect("what is ejected was there");
                    // The bus may hold it until ranges are brought up to date, and nobody else.
                    self.pci.segment().relocate(&self.bus);
                    assert_eq!(Arc::strong_count(&function), 1);
                }
                HotPlugEvent::Overdue { slot } => assert!(self.devices.contains_key(&slot)),
            }
        }
        assert!(self.plug.next_deadline().is_none_or(|at| at > self.clock.monotonic()));
    }

    fn reset(&mut self) {
        self.devices.values().for_each(|d| d.config().reset());
        self.ports.reset().unwrap();
        self.plug.reset().unwrap();
        self.take_events();
        self.pci.resume().unwrap();
        assert!(self.devices.values().all(|d| placed(d).is_empty()), "nothing is enabled");
    }

    /// The same machine, built again and restored.
    fn restored(&self) -> Self {
        let mut new = Self::new();
        for (slot, old) in &self.devices {
            let copy = device(old.kind);
            new.pci.segment().add_saved(*slot, copy.clone()).expect("as it was built before");
            new.devices.insert(*slot, copy);
        }
        for (slot, old) in &self.devices {
            let (state, copy) = (old.config().save().unwrap(), &new.devices[slot]);
            copy.config().restore(state.clone()).expect("a state that was saved");
            copy.allow(old);
            assert_eq!(copy.config().save().unwrap(), state);
        }
        new.ports.restore(self.ports.save().unwrap()).unwrap();
        let state = self.plug.save().unwrap();
        new.plug.restore(state.clone()).expect("a state that was saved");
        assert_eq!(new.plug.save().unwrap(), state);
        new.pci.resume().unwrap();
        for (slot, old) in &self.devices {
            assert_eq!(placed(old), placed(&new.devices[slot]), "slot {slot}");
        }
        new
    }

    fn check(&self) {
        let mut all = Vec::new();
        for (slot, device) in &self.devices {
            device.check(self.pci.segment(), *slot);
            for (io, range) in placed(device) {
                let map: &AddressMap = if io { &self.bus.pio } else { &self.bus.mmio };
                let mut last = [0];
                map.read(range.end - 1, &mut last);
                assert_eq!(last[0], device.kind, "slot {slot} does not answer at {range:#x?}");
                all.push((io, range));
            }
        }
        for (i, (io, a)) in all.iter().enumerate() {
            let meets =
                |(other, b): &(bool, std::ops::Range<u64>)| io == other && a.start < b.end && b.start < a.end;
            assert!(!all[i + 1..].iter().any(meets), "two BARs at {a:#x?}");
            let inside = |start, end| start <= a.start && a.end <= end;
            let w = WINDOWS;
            let allowed = if *io {
                inside(w.io.start.into(), w.io.end.into())
            } else {
                inside(w.memory_32.start, w.memory_32.end) || inside(w.memory_64.start, w.memory_64.end)
            };
            assert!(allowed, "a BAR outside of the windows, at {a:#x?}");
        }
        let mut bridge = [0; 4];
        self.bus.mmio.read(ECAM, &mut bridge);
        assert_eq!(bridge, [0x36, 0x1b, 8, 0], "the bridge is where it was");
    }
}
