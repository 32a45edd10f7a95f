//! The driver's half of virtio: rings, transports, a third-party driver, streams of what guests do, and devices to do it
//! to.
mod devices;
mod foreign;
mod foreign_bus;
mod host;
mod ops;
mod pci;
mod ring;
mod transport;
mod world;

pub use devices::{Echo, Hoard, Hoarded};
pub use foreign::{Arena, Foreign, ForeignHal};
pub use foreign_bus::{ECAM, ForeignBus, ForeignEcam, PciMachine};
pub use host::{Edges, Log, Pump, within};
pub use ops::{Address, GuestOp, ops};
pub use pci::{PciPort, Structure, same_over_mmio_and_pci, vectors};
pub use ring::{Buf, DriverRing, INDIRECT, NEXT, WRITE};
pub use transport::{CorePort, MmioPort, Plugged, Transport, bring_up};
pub use world::{CANARY, Make, Outcome, World};

use drystone_memory::RamMap;
use std::cell::RefCell;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

/// Guest memory of the tests: regions of one moment, with dirty tracking, as in a real machine.
pub type Ram = Arc<RamMap>;

/// `bytes` of zeros from address 0 on.
pub fn ram(bytes: usize) -> Ram {
    ram_of(&[(0, bytes)])
}

/// Where memory is, and the memory.
type Placed = (Vec<(u64, usize)>, Ram);

thread_local! {
    /// What [`used_ram_of`] may give away again.
    static USED: RefCell<Vec<Placed>> = const { RefCell::new(Vec::new()) };
}

/// As [`ram_of`]; what a caller of this thread has had before, and nobody holds any more, is given away again: a fuzzer's body
/// would spend most of its time with the mapping of memory.
pub fn used_ram_of(ranges: &[(u64, usize)]) -> Ram {
    USED.with_borrow_mut(|used| {
        let free = |(at, ram): &&Placed| at == ranges && Arc::strong_count(ram) == 1;
        if let Some((_, ram)) = used.iter().find(free) {
            ranges.iter().for_each(|(at, len)| clear(ram, *at, *len));
            return ram.clone();
        }
        let ram = ram_of(ranges);
        used.push((ranges.to_vec(), ram.clone()));
        used.truncate(8);
        ram
    })
}

/// Writes `len` zeros from `at` on.
///
/// # Panics
/// If there is no memory.
pub fn clear(ram: &Ram, at: u64, len: usize) {
    static ZEROS: [u8; 0x4000] = [0; 0x4000];
    for from in (0..len).step_by(ZEROS.len()) {
        let piece = &ZEROS[..ZEROS.len().min(len - from)];
        ram.write_slice(piece, GuestAddress(at + from as u64)).expect("guest memory");
    }
}

/// Whether `len` bytes from `at` on are `expected`, from its front on.
///
/// # Panics
/// If there is no memory.
pub fn holds(ram: &Ram, at: u64, expected: &[u8]) -> bool {
    let mut found = [0; 0x1000];
    (at..).step_by(found.len()).zip(expected.chunks(found.len())).all(|(at, piece)| {
        let found = &mut found[..piece.len()];
        ram.read_slice(found, GuestAddress(at)).expect("guest memory");
        found == piece
    })
}

/// Zeros at these addresses, of these lengths.
pub fn ram_of(ranges: &[(u64, usize)]) -> Ram {
    let ranges: Vec<_> = ranges.iter().map(|(at, len)| (GuestAddress(*at), *len)).collect();
    Arc::new(RamMap::from_ranges(&ranges).expect("guest memory"))
}
