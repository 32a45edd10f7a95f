//! virtio-pci: any accesses to configuration space and BARs, at every width and offset; saved states out of nowhere; and the
//! same guest over virtio-mmio and virtio-pci.
use super::input::Input;
use crate::virtio::{
    Echo, Edges, GuestOp, PciPort, Plugged, Pump, Ram, Transport, World, ops, same_over_mmio_and_pci,
    used_ram_of, vectors,
};
use drystone_bus::Effect;
use drystone_pci::{Function, read_bar, write_bar};
use drystone_state::{Component, Persist};
use drystone_virtio::{Host, Mmio, MmioConfig, Pci, PciState, QueueState, Wiring};
use std::sync::Arc;

const BAR: usize = Pci::<Ram>::BAR;
const BAR_SIZE: u64 = 0x4000;
const SHARED: usize = Pci::<Ram>::SHARED_MEMORY_BAR;
const STEPS: usize = 512;
/// More than this in one stream is compared too slowly.
const COMPARED: usize = 64;

/// Holds every device to what it promises of its doorbells.
struct Bounded;
impl Wiring for Bounded {
    fn doorbells(&self, at: &[(u16, u64)]) {
        assert!(at.is_empty() || at.len() == 2);
        assert!(at.windows(2).all(|pair| pair[1].1 - pair[0].1 == 4));
    }
}

fn on_pci(memory: &Ram, edges: Arc<Edges>, host: Host) -> Pci<Ram> {
    let device = Box::new(Echo::new(2, true));
    Pci::new(device, memory.clone(), vectors(3, &edges), Arc::new(Bounded), host).unwrap()
}

fn on_mmio(memory: &Ram, edges: Arc<Edges>, host: Host) -> Mmio<Ram> {
    let config = MmioConfig { base: 0xd000_0000, gsi: 5, index: 0, shared_memory: vec![] };
    Mmio::new(config, Box::new(Echo::new(2, true)), memory.clone(), edges, host).unwrap()
}

/// The first byte chooses what is done: a guest's operations over virtio-pci, the same over both transports, or accesses to
/// registers.
///
/// # Panics
/// As [`World::run`], as [`same_over_mmio_and_pci`], or: if an access of a width that a field of the common configuration
/// does not have reaches it; if the identity of the function changes; if a refused state leaves something behind, or a
/// restored one is not what was given; if a reset does not lead to the status 0; if an access has any effect but that BARs
/// move.
pub fn virtio_pci(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 4 {
        0 => World::<PciPort<Ram>>::new(on_pci, u64::MAX, 16).run(&ops(data)),
        1 => {
            let ops: Vec<GuestOp> = ops(data).into_iter().take(COMPARED).collect();
            let both = (on_mmio as _, on_pci as _);
            same_over_mmio_and_pci(both, u64::MAX, 16, &ops, kind & 4 == 0);
        }
        _ => registers(&mut Input::new(data)),
    }
}

struct Machine {
    memory: Ram,
    edges: Arc<Edges>,
    pump: Arc<Pump>,
    port: PciPort<Ram>,
}

impl Machine {
    fn build(&self) -> PciPort<Ram> {
        let host = Host::new(self.pump.clone());
        PciPort::new(Arc::new(on_pci(&self.memory, self.edges.clone(), host)))
    }

    fn access(&self, input: &mut Input<'_>) {
        let (what, how) = (input.u8(), input.u8());
        let mut data = input.u64().to_le_bytes();
        let width = usize::from(how % 8) + 1;
        let (data, write) = (&mut data[..width], how & 0x80 != 0);
        let function = &*self.port.function;
        let room = |size: u64, at: u64| at.min(size - width as u64);
        match what % 8 {
            // Where there is something.
            0..=2 => self.bar(BAR, u64::from(input.u8() & 0x3f), write, data),
            3 => self.bar(BAR, room(BAR_SIZE, input.u16().into()), write, data),
            4 => self.bar(
                BAR,
                room(BAR_SIZE, u64::from(input.u8() & 3) << 12 | u64::from(input.u8() & 0x1f)),
                write,
                data,
            ),
            5 => self.bar(SHARED, input.u64(), write, data),
            _ => {
                let near = u64::from(input.u8());
                let at = if what & 8 == 0 { near } else { u64::from(input.u16() & 0xfff) };
                let at = room(0x1000, at) as u16;
                if write {
                    let effect = function.config_write(at, data);
                    assert!(matches!(effect, Effect::None | Effect::Relocate), "{effect:?}");
                } else {
                    function.config_read(at, data);
                }
            }
        }
    }

    fn bar(&self, bar: usize, at: u64, write: bool, data: &mut [u8]) {
        if write {
            assert_eq!(write_bar(&*self.port.function, bar, at, data), Effect::None);
            return;
        }
        read_bar(&*self.port.function, bar, at, data);
        if bar == BAR && at < 0x40 && !has_field(at, data.len()) {
            assert!(data.iter().all(|byte| *byte == 0), "{at:#x}, {} bytes", data.len());
        }
    }

    /// Moves to another process.
    fn relocate(&mut self) {
        self.port.function.pause().unwrap();
        let state = self.port.function.save().unwrap();
        self.port = self.build();
        self.port.function.restore(state.clone()).unwrap();
        assert_eq!(self.port.function.save().unwrap(), state);
        self.port.function.resume().unwrap();
    }

    /// A state out of nowhere is refused whole, or taken.
    fn restore_anything(&mut self, input: &mut Input<'_>) {
        self.port.function.pause().unwrap();
        let mut state = self.port.function.save().unwrap();
        self.port.function.resume().unwrap();
        let new = self.build();
        new.function.pause().unwrap();
        let before = new.function.save().unwrap();
        change(&mut state, input);
        if new.function.restore(state).is_err() {
            assert_eq!(new.function.save().unwrap(), before, "a refused state left something behind");
        }
        new.function.resume().unwrap();
        self.port = new;
    }
}

/// Whether the common configuration structure has a field of this width here.
fn has_field(at: u64, len: usize) -> bool {
    match at {
        0 | 4 | 8 | 12 => len == 4,
        0x14 | 0x15 => len == 1,
        0x20..0x38 => matches!(len, 4 | 8) && at.is_multiple_of(len as u64),
        _ => len == 2 && at.is_multiple_of(2),
    }
}

fn change(state: &mut PciState, input: &mut Input<'_>) {
    match input.u8() % 8 {
        0 => state.isr = input.u8(),
        1 => state.config_vector = input.u16(),
        2 => state.queue_vectors = (0..input.u8() % 4).map(|_| input.u16() % 5).collect(),
        3 => {
            let which = usize::from(input.u8()) % state.config.registers.len();
            state.config.registers[which] = (input.u16(), input.u32());
        }
        4 => {
            if let Some(msix) = &mut state.config.msix {
                msix.pending = (0..input.u8() % 4).map(|_| input.u16() % 4).collect();
            }
        }
        5 => {
            if let Some(msix) = &mut state.config.msix {
                msix.entries.truncate(usize::from(input.u8() % 4));
                msix.entries.push((input.u64(), input.u32(), input.u8() & 1 == 0));
            }
        }
        6 => state.core.status = input.u8(),
        _ => {
            let queue = QueueState {
                size: input.u16(),
                enabled: input.u8() & 1 == 0,
                descriptors: input.u32().into(),
                available: input.u32().into(),
                used: input.u32().into(),
                next_avail: input.u8().into(),
                next_used: input.u8().into(),
                returned: (0..input.u8() % 4).map(|_| input.u8().into()).collect(),
            };
            state.core.queues[0] = queue;
        }
    }
}

fn registers(input: &mut Input<'_>) {
    let memory = used_ram_of(&[(0, 0x4_0000)]);
    let (edges, pump) = (Arc::new(Edges::default()), Arc::new(Pump::default()));
    let first = on_pci(&memory, edges.clone(), Host::new(pump.clone()));
    let mut machine = Machine { memory, edges, pump, port: PciPort::new(Arc::new(first)) };
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        match input.u8() % 16 {
            0 => machine.pump.run(machine.port.core(), 4096),
            1 => machine.relocate(),
            2 => machine.restore_anything(input),
            3 => {
                let base = (input.u8() & 1 == 0).then(|| input.u64() & !0x3fff);
                machine.port.function.bar_moved(usize::from(input.u8() % 4), base);
            }
            4 => machine.port.set_entry(u16::from(input.u8() % 3), input.u8() & 1 == 0),
            5 => machine.port.enable_msix(input.u8() & 1 == 0),
            6 => {
                machine.port.function.pause().unwrap();
                machine.port.function.reset().unwrap();
                machine.port.function.resume().unwrap();
            }
            _ => machine.access(input),
        }
        assert_eq!(machine.port.config_u32(0), 0x106a_1af4, "it says that it is another");
    }
    machine.port.set_status(0);
    machine.port.take_interrupts();
    assert_eq!((machine.port.status(), machine.port.take_interrupts()), (0, 0));
}
