use super::{Ram, clear};
use std::sync::atomic::{Ordering, fence};
use vm_memory::{Bytes, GuestAddress};

/// VIRTQ_DESC_F_NEXT.
pub const NEXT: u16 = 1;
/// VIRTQ_DESC_F_WRITE.
pub const WRITE: u16 = 2;
/// VIRTQ_DESC_F_INDIRECT.
pub const INDIRECT: u16 = 4;

/// Address, length and flags of a buffer; NEXT is added.
pub type Buf = (u64, u32, u16);

/// The driver's half of a split ring (virtio 1.3, 2.7), with direct and indirect chains and both kinds of notification
/// suppression. It can also lie.
pub struct DriverRing {
    memory: Ram,
    size: u16,
    base: u64,
    event_idx: bool,
    free: Vec<u16>,
    /// By head: the descriptors of an outstanding chain.
    owned: Vec<Vec<u16>>,
    next_avail: u16,
    kicked_at: u16,
    seen: u16,
}

impl DriverRing {
    /// How much guest memory a ring takes, with its indirect tables; up to 256 entries.
    pub const LEN: u64 = 0xd000;

    /// A ring of zeros at `base`, for up to 256 entries.
    ///
    /// # Panics
    /// If it is not in guest memory.
    pub fn new(memory: &Ram, base: u64, size: u16, event_idx: bool) -> Self {
        clear(memory, base, Self::LEN as usize);
        Self {
            memory: memory.clone(),
            size,
            base,
            event_idx,
            free: (0..size).rev().collect(),
            owned: vec![Vec::new(); size.into()],
            next_avail: 0,
            kicked_at: 0,
            seen: 0,
        }
    }

    /// Guest memory.
    pub fn memory(&self) -> &Ram {
        &self.memory
    }
    /// How many entries it has.
    pub fn size(&self) -> u16 {
        self.size
    }
    /// Address of the descriptor table.
    pub fn descriptors(&self) -> u64 {
        self.base
    }
    /// Address of the available ring.
    pub fn available(&self) -> u64 {
        self.base + 0x2000
    }
    /// Address of the used ring.
    pub fn used(&self) -> u64 {
        self.base + 0x3000
    }
    fn indirect(&self, head: u16) -> u64 {
        self.base + 0x5000 + 0x80 * u64::from(head)
    }

    /// Writes a descriptor to `table`.
    pub fn put(&self, table: u64, index: u16, buf: Buf, next: u16) {
        let (addr, len, flags) = buf;
        let raw =
            u128::from(addr) | u128::from(len) << 64 | u128::from(flags) << 96 | u128::from(next) << 112;
        self.memory.write_slice(&raw.to_le_bytes(), GuestAddress(table + 16 * u64::from(index))).unwrap();
    }

    /// Whether [`add`](Self::add) would find room for these buffers.
    pub fn has_room(&self, bufs: &[Buf], indirect: bool) -> bool {
        self.free.len() >= if indirect { 1 } else { bufs.len() }
    }

    /// Makes a chain of up to 8 buffers available, and returns its head; `None` if there is no room for it.
    pub fn add(&mut self, bufs: &[Buf], indirect: bool) -> Option<u16> {
        let count = if indirect { 1 } else { bufs.len() };
        let at = self.free.len().checked_sub(count)?;
        let ids = self.free.split_off(at);
        let head = *ids.first()?;
        let (table, indices): (u64, Vec<u16>) = if indirect {
            let table = self.indirect(head);
            self.put(self.descriptors(), head, (table, 16 * bufs.len() as u32, INDIRECT), 0);
            (table, (0..bufs.len() as u16).collect())
        } else {
            (self.descriptors(), ids.clone())
        };
        for (k, (addr, len, flags)) in bufs.iter().enumerate() {
            match indices.get(k + 1) {
                Some(next) => self.put(table, indices[k], (*addr, *len, flags | NEXT), *next),
                None => self.put(table, indices[k], (*addr, *len, *flags), 0),
            }
        }
        self.owned[usize::from(head)] = ids;
        self.offer(head);
        Some(head)
    }

    /// Puts a head into the available ring, whatever it may be.
    pub fn offer(&mut self, head: u16) {
        let slot = self.available() + 4 + 2 * u64::from(self.next_avail % self.size);
        self.memory.store(head.to_le(), GuestAddress(slot), Ordering::Relaxed).unwrap();
        self.next_avail = self.next_avail.wrapping_add(1);
        self.set_available(self.next_avail);
    }

    /// Stores the available index, whatever it may be.
    pub fn set_available(&self, index: u16) {
        self.memory.store(index.to_le(), GuestAddress(self.available() + 2), Ordering::Release).unwrap();
    }

    fn load(&self, addr: u64) -> u16 {
        u16::from_le(self.memory.load::<u16>(GuestAddress(addr), Ordering::Relaxed).unwrap())
    }

    /// Does the device want to be kicked for what was added since last asked?
    pub fn wants_kick(&mut self) -> bool {
        fence(Ordering::SeqCst);
        let wants = if self.event_idx {
            let event = self.load(self.used() + 4 + 8 * u64::from(self.size));
            let added = self.next_avail.wrapping_sub(self.kicked_at);
            self.next_avail.wrapping_sub(event).wrapping_sub(1) < added
        } else {
            self.load(self.used()) & 1 == 0
        };
        self.kicked_at = self.next_avail;
        wants
    }

    /// Takes one completion: its head and how many bytes were written.
    ///
    /// # Panics
    /// If that head is not outstanding: it was completed twice, or never offered.
    pub fn take(&mut self) -> Option<(u16, u32)> {
        if self.used_index() == self.seen {
            return None;
        }
        let slot = self.used() + 4 + 8 * u64::from(self.seen % self.size);
        let element: u64 = self.memory.read_obj(GuestAddress(slot)).unwrap();
        let (head, written) = (u64::from_le(element) as u32, (u64::from_le(element) >> 32) as u32);
        self.seen = self.seen.wrapping_add(1);
        let owned = self.owned.get_mut(head as usize).unwrap_or_else(|| panic!("head {head} does not exist"));
        let ids = std::mem::take(owned);
        assert!(!ids.is_empty(), "head {head} completed twice, or never offered");
        self.free.extend(ids);
        Some((head as u16, written))
    }

    /// The device's used index.
    pub fn used_index(&self) -> u16 {
        u16::from_le(self.memory.load::<u16>(GuestAddress(self.used() + 2), Ordering::Acquire).unwrap())
    }
    /// How many chains were offered, modulo 2^16.
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }
    /// How many completions were taken, modulo 2^16.
    pub fn seen(&self) -> u16 {
        self.seen
    }
    /// How many chains are offered and not yet taken back.
    pub fn outstanding(&self) -> usize {
        self.owned.iter().filter(|o| !o.is_empty()).count()
    }

    /// With an event index: wants an interrupt when `n` more than seen so far are used (1: at the next).
    pub fn want_interrupt_after(&self, n: u16) {
        let event = self.seen.wrapping_add(n).wrapping_sub(1);
        let at = self.available() + 4 + 2 * u64::from(self.size);
        self.memory.store(event.to_le(), GuestAddress(at), Ordering::Relaxed).unwrap();
        fence(Ordering::SeqCst);
    }

    /// Without one: VIRTQ_AVAIL_F_NO_INTERRUPT.
    pub fn set_flags(&self, flags: u16) {
        self.memory.store(flags.to_le(), GuestAddress(self.available()), Ordering::Relaxed).unwrap();
        fence(Ordering::SeqCst);
    }
}
