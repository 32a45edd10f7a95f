//! Registers as `virtio-drivers` reaches those of PCI devices: by pointers, which here are addresses on a bus.
use super::{Edges, Pump, Ram, vectors};
use drystone_bus::{Bus, Effect};
use drystone_pci::{Attachment, HostBridge, Segment, Windows};
use drystone_virtio::{Host, Pci, Unwired, VirtioDevice};
use safe_mmio::{MmioOps, set_mmio_ops};
use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::Arc;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction, PciRoot};

/// Where configuration space is.
pub const ECAM: u64 = 0xe000_0000;
/// Calls that one access may cause.
const STEPS: u32 = 1000;

type AfterWrite = Box<dyn Fn()>;

thread_local! {
    static BUS: RefCell<Option<(Arc<Bus>, AfterWrite)>> = const { RefCell::new(None) };
}

/// The bus that the drivers of this thread are on, until it is dropped.
pub struct ForeignBus(());

impl ForeignBus {
    /// Registers are on `bus`. After every write `serve` is called, which serves the devices.
    pub fn new(bus: Arc<Bus>, serve: impl Fn() + 'static) -> Self {
        BUS.set(Some((bus, Box::new(serve))));
        Self(())
    }
}

impl Drop for ForeignBus {
    fn drop(&mut self) {
        BUS.set(None);
    }
}

/// A PCI bus with virtio devices, and nothing else.
pub struct PciMachine {
    /// What a vCPU reaches.
    pub bus: Arc<Bus>,
    /// The segment.
    pub pci: Attachment,
    /// Guest memory.
    pub memory: Ram,
    /// Messages of all devices.
    pub edges: Arc<Edges>,
    /// The devices, with their event loops.
    pub devices: Vec<(u8, Arc<Pci<Ram>>, Arc<Pump>)>,
}

impl PciMachine {
    /// An empty bus.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(memory: &Ram) -> Self {
        let windows = Windows { memory_32: 0xc000_0000..0xd000_0000, memory_64: 1 << 40..1 << 41, io: 0..0 };
        let segment = Arc::new(Segment::new(0, windows, Arc::new(HostBridge::new())).expect("a segment"));
        let bus = Arc::new(Bus::default());
        let pci = Attachment::new(segment, bus.clone(), ECAM).expect("room on the bus");
        Self { bus, pci, memory: memory.clone(), edges: Arc::default(), devices: Vec::new() }
    }

    /// Puts a device into the lowest free slot.
    ///
    /// # Panics
    /// If there is no room.
    pub fn plug(&mut self, device: Box<dyn VirtioDevice<Ram>>) -> u8 {
        let pump = Arc::<Pump>::default();
        let vectors = vectors(Pci::<Ram>::vectors(device.describe().queue_sizes.len()), &self.edges);
        let host = Host::new(pump.clone());
        let function = Pci::new(device, self.memory.clone(), vectors, Arc::new(Unwired), host);
        let function = Arc::new(function.expect("a virtio-pci device"));
        let slot = self.pci.segment().add(None, function.clone()).expect("a free slot");
        self.devices.push((slot, function, pump));
        slot
    }

    /// What `virtio-drivers` needs: registers, and configuration space.
    pub fn foreign(&self) -> (ForeignBus, PciRoot<ForeignEcam>) {
        let devices = self.devices.clone();
        let serve = move || devices.iter().for_each(|(_, function, pump)| pump.run(function.core(), STEPS));
        (ForeignBus::new(self.bus.clone(), serve), PciRoot::new(ForeignEcam(self.bus.clone())))
    }
}

/// ECAM as `virtio-drivers` reaches it.
pub struct ForeignEcam(Arc<Bus>);

impl ForeignEcam {
    /// Configuration space is at [`ECAM`] of `bus`.
    pub fn new(bus: Arc<Bus>) -> Self {
        Self(bus)
    }
}

impl ConfigurationAccess for ForeignEcam {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        let mut data = [0; 4];
        self.0.mmio.read(place(function, register), &mut data);
        u32::from_le_bytes(data)
    }
    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        if self.0.mmio.write(place(function, register), &data.to_le_bytes()) == Effect::Relocate {
            self.0.relocate();
        }
    }
    unsafe fn unsafe_clone(&self) -> Self {
        Self(self.0.clone())
    }
}

fn place(function: DeviceFunction, register: u8) -> u64 {
    let DeviceFunction { bus, device, function } = function;
    ECAM + (u64::from(bus) << 20 | u64::from(device) << 15 | u64::from(function) << 12 | u64::from(register))
}

/// The address itself: never followed, because every access goes through [`Trap`].
pub(super) fn pointer(addr: u64) -> NonNull<u8> {
    NonNull::new(std::ptr::without_provenance_mut(addr as usize)).expect("no register is at address 0")
}

fn read<const N: usize>(at: usize) -> [u8; N] {
    BUS.with_borrow(|bus| {
        let (bus, _) = bus.as_ref().expect("no bus on this thread");
        let mut data = [0; N];
        bus.mmio.read(at as u64, &mut data);
        data
    })
}

fn write(at: usize, data: &[u8]) {
    BUS.with_borrow(|bus| {
        let (bus, serve) = bus.as_ref().expect("no bus on this thread");
        if bus.mmio.write(at as u64, data) == Effect::Relocate {
            bus.relocate();
        }
        serve();
    });
}

/// Every access of a driver to a register, as an access to the bus: what an exit from a guest is to a vCPU.
struct Trap;

// No function here follows a pointer; they only use its address.
impl MmioOps for Trap {
    unsafe fn read_u8(src: *const u8) -> u8 {
        u8::from_le_bytes(read(src.addr()))
    }
    unsafe fn read_u16(src: *const u16) -> u16 {
        u16::from_le_bytes(read(src.addr()))
    }
    unsafe fn read_u32(src: *const u32) -> u32 {
        u32::from_le_bytes(read(src.addr()))
    }
    unsafe fn read_u64(src: *const u64) -> u64 {
        u64::from_le_bytes(read(src.addr()))
    }
    unsafe fn write_u8(dst: *mut u8, value: u8) {
        write(dst.addr(), &[value]);
    }
    unsafe fn write_u16(dst: *mut u16, value: u16) {
        write(dst.addr(), &value.to_le_bytes());
    }
    unsafe fn write_u32(dst: *mut u32, value: u32) {
        write(dst.addr(), &value.to_le_bytes());
    }
    unsafe fn write_u64(dst: *mut u64, value: u64) {
        write(dst.addr(), &value.to_le_bytes());
    }
}

set_mmio_ops!(Trap);
