//! A driver's view of a virtio-pci device, without a bus; and the same guest over both transports.
use super::{Edges, GuestOp, Make, MmioPort, Plugged, Ram, Transport, World};
use drystone_bus::Interrupt;
use drystone_memory::Mem;
use drystone_pci::{Function, Latch, Message, Vector, read_bar, write_bar};
use drystone_virtio::{ACKNOWLEDGE, Interrupts, Pci, PciState, VirtioCore};
use std::sync::Arc;

/// Where a Linux guest has its local APICs.
const APIC: u64 = 0xfee0_0000;
const NO_VECTOR: u16 = 0xffff;

/// Vectors whose messages are counted: each as an edge of the line, and by its data as the configuration's (0) or a queue's
/// (number less 1).
pub fn vectors(count: usize, edges: &Arc<Edges>) -> Vec<Arc<dyn Vector>> {
    let vector = |_| {
        let edges = edges.clone();
        let send = move |message: Message| {
            edges.trigger();
            match message.data.checked_sub(1) {
                None => Interrupts::config(&*edges),
                Some(queue) if queue < 8 => Interrupts::queue(&*edges, queue as u16),
                Some(_) => {}
            }
        };
        Arc::new(Latch::new(send)) as Arc<dyn Vector>
    };
    (0..count).map(vector).collect()
}

/// A structure that a capability names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Structure {
    /// `cfg_type`.
    pub kind: u8,
    /// `id`.
    pub id: u8,
    /// The BAR.
    pub bar: u8,
    /// Offset in it.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Where the capability is.
    pub at: u16,
}

/// A driver's view of a virtio-pci device (virtio 1.3, 4.1), whose structures it finds by their capabilities.
pub struct PciPort<M: Mem> {
    /// The function.
    pub function: Arc<Pci<M>>,
    structures: Vec<Structure>,
    msix: u16,
}

impl<M: Mem> Clone for PciPort<M> {
    fn clone(&self) -> Self {
        Self { function: self.function.clone(), structures: self.structures.clone(), msix: self.msix }
    }
}

impl<M: Mem> PciPort<M> {
    /// Finds its way around the function.
    ///
    /// # Panics
    /// If a structure is missing.
    pub fn new(function: Arc<Pci<M>>) -> Self {
        let mut port = Self { function, structures: Vec::new(), msix: 0 };
        let mut at = port.config_u32(0x34) as u8;
        while at != 0 {
            let head = port.config_u32(at.into()).to_le_bytes();
            let at16 = u16::from(at);
            match head[0] {
                0x11 => port.msix = at16,
                0x09 => {
                    let wide = head[3] == 8;
                    let high = |at| if wide { u64::from(port.config_u32(at)) << 32 } else { 0 };
                    let [bar, id, ..] = port.config_u32(at16 + 4).to_le_bytes();
                    let structure = Structure {
                        kind: head[3],
                        id,
                        bar,
                        offset: u64::from(port.config_u32(at16 + 8)) | high(at16 + 16),
                        len: u64::from(port.config_u32(at16 + 12)) | high(at16 + 20),
                        at: at16,
                    };
                    port.structures.push(structure);
                }
                other => panic!("capability {other:#x}"),
            }
            at = head[1];
        }
        assert!((1..=3).chain([5]).all(|kind| port.structure(kind).is_some()) && port.msix != 0);
        port
    }

    /// The structures in the order of their capabilities.
    pub fn structures(&self) -> &[Structure] {
        &self.structures
    }

    /// The first structure of a kind.
    pub fn structure(&self, kind: u8) -> Option<Structure> {
        self.structures.iter().find(|s| s.kind == kind).copied()
    }

    /// Where the MSI-X capability is.
    pub fn msix_capability(&self) -> u16 {
        self.msix
    }

    /// Reads a register of configuration space.
    pub fn config_u32(&self, at: u16) -> u32 {
        let mut data = [0; 4];
        self.function.config_read(at, &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes bytes to configuration space.
    pub fn config_write_bytes(&self, at: u16, data: &[u8]) {
        let _ = self.function.config_write(at, data);
    }

    fn place(&self, kind: u8, offset: u64) -> Option<(usize, u64)> {
        let structure = self.structure(kind)?;
        Some((structure.bar.into(), structure.offset + offset))
    }

    /// Reads in the structure of a kind; zero if there is none.
    pub fn read<const N: usize>(&self, kind: u8, offset: u64) -> u64 {
        let mut data = [0; 8];
        if let Some((bar, at)) = self.place(kind, offset) {
            read_bar(&*self.function, bar, at, &mut data[..N]);
        }
        u64::from_le_bytes(data)
    }

    /// Writes in the structure of a kind.
    pub fn write<const N: usize>(&self, kind: u8, offset: u64, value: u64) {
        if let Some((bar, at)) = self.place(kind, offset) {
            let _ = write_bar(&*self.function, bar, at, &value.to_le_bytes()[..N]);
        }
    }

    fn common<const N: usize>(&self, offset: u64) -> u64 {
        self.read::<N>(1, offset)
    }
    fn set_common<const N: usize>(&self, offset: u64, value: u64) {
        self.write::<N>(1, offset, value);
    }
    fn select(&self, queue: u16) {
        self.set_common::<2>(0x16, queue.into());
    }

    /// How many MSI-X vectors there are.
    pub fn vectors(&self) -> u16 {
        (self.config_u32(self.msix) >> 16 & 0x7ff) as u16 + 1
    }

    /// Writes an entry of the MSI-X table: a message whose data is the vector's number.
    pub fn set_entry(&self, vector: u16, masked: bool) {
        let table = self.config_u32(self.msix + 4);
        let (bar, at) = ((table & 7) as usize, u64::from(table & !7) + 16 * u64::from(vector));
        for (offset, value) in [(0, APIC as u32), (4, 0), (8, vector.into()), (12, masked.into())] {
            let _ = write_bar(&*self.function, bar, at + offset, &u32::to_le_bytes(value));
        }
    }

    /// Switches MSI-X on or off.
    pub fn enable_msix(&self, on: bool) {
        self.config_write_bytes(4, &0b110_u16.to_le_bytes());
        self.config_write_bytes(self.msix + 2, &(u16::from(on) << 15).to_le_bytes());
    }
}

impl<M: Mem> Transport for PciPort<M> {
    fn device_type(&self) -> u32 {
        let id = self.config_u32(0);
        assert_eq!(id & 0xffff, 0x1af4);
        (id >> 16) - 0x1040
    }
    fn offered(&self) -> u64 {
        let half = |select: u64| {
            self.set_common::<4>(0, select);
            self.common::<4>(4)
        };
        half(0) | half(1) << 32
    }
    fn accept(&self, features: u64) {
        for half in [0, 1] {
            self.set_common::<4>(8, half);
            self.set_common::<4>(12, features >> (32 * half) & 0xffff_ffff);
        }
    }
    fn status(&self) -> u8 {
        self.common::<1>(0x14) as u8
    }
    fn set_status(&self, status: u8) {
        self.set_common::<1>(0x14, status.into());
        if status == ACKNOWLEDGE {
            self.set_common::<2>(0x10, 0);
        }
    }
    fn max_size(&self, queue: u16) -> u32 {
        self.select(queue);
        self.common::<2>(0x18) as u32
    }
    fn set_queue(&self, queue: u16, size: u16, areas: [u64; 3]) {
        self.select(queue);
        self.set_common::<2>(0x18, size.into());
        self.set_common::<2>(0x1a, (queue + 1).into());
        let mapped = self.common::<2>(0x1a) as u16;
        assert!(mapped == queue + 1 || mapped == NO_VECTOR);
        for (offset, addr) in [0x20, 0x28, 0x30].into_iter().zip(areas) {
            self.set_common::<4>(offset, addr & 0xffff_ffff);
            self.set_common::<4>(offset + 4, addr >> 32);
        }
        self.set_common::<2>(0x1c, 1);
    }
    fn enabled(&self, queue: u16) -> bool {
        self.select(queue);
        self.common::<2>(0x1c) == 1
    }
    fn reset_queue(&self, queue: u16) -> bool {
        self.select(queue);
        self.set_common::<2>(0x3a, 1);
        self.common::<2>(0x3a) == 0
    }
    fn notify(&self, queue: u16) {
        self.select(queue);
        let notify = self.structure(2).expect("there are doorbells");
        let multiplier = self.config_u32(notify.at + 16);
        let offset = self.common::<2>(0x1e) * u64::from(multiplier);
        // A queue that does not exist has no place of its own.
        if self.common::<2>(0x18) != 0 {
            self.write::<2>(2, offset, queue.into());
        }
    }
    fn take_interrupts(&self) -> u32 {
        self.read::<1>(3, 0) as u32
    }
    fn generation(&self) -> u32 {
        self.common::<1>(0x15) as u32
    }
    fn config_read(&self, offset: u64, out: &mut [u8]) {
        out.fill(0);
        if let Some((bar, at)) = self.place(4, offset) {
            read_bar(&*self.function, bar, at, out);
        }
    }
    fn config_write(&self, offset: u64, data: &[u8]) {
        if let Some((bar, at)) = self.place(4, offset) {
            let _ = write_bar(&*self.function, bar, at, data);
        }
    }
    fn shared_memory(&self, id: u8) -> Option<(u64, u64)> {
        let region = self.structures.iter().find(|s| s.kind == 8 && s.id == id)?;
        let base = self.function.config().with(|space| space.address(region.bar.into()))?;
        Some((region.len, base + region.offset))
    }
}

impl Plugged for PciPort<Ram> {
    type State = PciState;
    type Device = Pci<Ram>;
    fn plug(device: Pci<Ram>) -> Self {
        Self::new(Arc::new(device))
    }
    fn device(&self) -> &Pci<Ram> {
        &self.function
    }
    fn core(&self) -> &Arc<VirtioCore<Ram>> {
        self.function.core()
    }
    fn prepare(&self) {
        (0..self.vectors()).for_each(|vector| self.set_entry(vector, false));
        self.enable_msix(true);
    }
    fn read_anywhere(&self, offset: u16, data: &mut [u8]) {
        if offset & 0x8000 == 0 {
            read_bar(&*self.function, Pci::<Ram>::BAR, (offset % 0x4000).into(), data);
        } else {
            self.function.config_read((offset & 0xfff).min(0xff8), data);
        }
    }
    fn write_anywhere(&self, offset: u16, data: &[u8]) {
        if offset & 0x8000 == 0 {
            let _ = write_bar(&*self.function, Pci::<Ram>::BAR, (offset % 0x4000).into(), data);
        } else {
            let _ = self.function.config_write((offset & 0xfff).min(0xff8), data);
        }
    }
}

/// Whether an operation means the same whatever is between the driver and the device.
fn is_neutral(op: &GuestOp) -> bool {
    !matches!(op, GuestOp::Read { .. } | GuestOp::Write { .. } | GuestOp::Notify { .. })
}

/// Does what `ops` say to the same device over virtio-mmio and over virtio-pci, operation by operation; `orderly` as a driver
/// does. Returns how many requests were answered and taken back.
///
/// # Panics
/// If status, completions or any byte of guest memory ever differ, or, with an orderly driver, how often an operation
/// interrupts.
pub fn same_over_mmio_and_pci(
    (mmio, pci): (Make<MmioPort<Ram>>, Make<PciPort<Ram>>),
    features: u64,
    size: u16,
    ops: &[GuestOp],
    orderly: bool,
) -> usize {
    let mut over_mmio = World::<MmioPort<Ram>>::new(mmio, features, size);
    let mut over_pci = World::<PciPort<Ram>>::new(pci, features, size);
    let mut before = (over_mmio.outcome().interrupts, over_pci.outcome().interrupts);
    for (n, op) in ops.iter().filter(|op| is_neutral(op)).enumerate() {
        if orderly {
            over_mmio.step_orderly(*op);
            over_pci.step_orderly(*op);
        } else {
            over_mmio.do_anything(*op);
            over_pci.do_anything(*op);
        }
        let other_page = over_mmio.first_other_page(&over_pci, false);
        let (a, b) = (over_mmio.outcome(), over_pci.outcome());
        // A line that is still asserted is raised again when a machine goes on; a message is not.
        let counts = orderly && !matches!(op, GuestOp::Move | GuestOp::Pause);
        let interrupts = (a.interrupts - before.0, b.interrupts - before.1);
        let same = (a.status, a.completions) == (b.status, b.completions)
            && other_page.is_none()
            && (!counts || interrupts.0 == interrupts.1);
        assert!(same, "operation {n}, {op:?}: {a:x?} and {b:x?}, {other_page:x?} is the first other page");
        before = (a.interrupts, b.interrupts);
    }
    // What was written and not marked.
    assert_eq!(over_mmio.first_other_page(&over_pci, true), None, "the first other page");
    over_mmio.outcome().completions.len()
}
