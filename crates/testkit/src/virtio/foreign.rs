//! The `virtio-drivers` crate as a guest in process: a driver that we did not write.
use super::{Ram, Transport};
use std::cell::RefCell;
use std::ptr::NonNull;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};
use vm_memory::{GuestAddress, GuestMemoryBackend};
use zerocopy::{FromBytes, Immutable, IntoBytes};

thread_local! {
    static ARENA: RefCell<Option<(Ram, u64, u64)>> = const { RefCell::new(None) };
}

/// Guest memory that the drivers of this thread take pages from, until it is dropped. Pages are never given back.
pub struct Arena(());

impl Arena {
    /// Pages come from `start..end`, which must be zeros, in one region, and used by nothing else.
    pub fn new(memory: &Ram, start: u64, end: u64) -> Self {
        ARENA.set(Some((memory.clone(), start.next_multiple_of(PAGE_SIZE as u64), end)));
        Self(())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        ARENA.set(None);
    }
}

/// `len` bytes of whole pages: their guest-physical address and where they are here.
fn pages(len: usize) -> (u64, NonNull<u8>) {
    ARENA.with_borrow_mut(|arena| {
        let (memory, next, end) = arena.as_mut().expect("no arena on this thread");
        let addr = *next;
        *next += (len as u64).next_multiple_of(PAGE_SIZE as u64);
        assert!(*next <= *end, "the arena is used up");
        let first = memory.get_host_address(GuestAddress(addr)).expect("in guest memory");
        let last = memory.get_host_address(GuestAddress(*next - 1)).expect("in guest memory");
        assert_eq!(last as usize - first as usize, (*next - 1 - addr) as usize, "the arena is in one region");
        (addr, NonNull::new(first).expect("mapped"))
    })
}

fn host(addr: u64) -> *mut u8 {
    ARENA.with_borrow(|arena| {
        let (memory, _, _) = arena.as_ref().expect("no arena on this thread");
        memory.get_host_address(GuestAddress(addr)).expect("in guest memory")
    })
}

/// Gives the drivers of a thread the memory of its [`Arena`].
pub struct ForeignHal;

// SAFETY: the arena hands out disjoint, page-aligned, zeroed pages, inside of one mapping that lives as long as the arena,
// and never takes them back. Nothing here or in the devices holds a Rust reference into them.
unsafe impl Hal for ForeignHal {
    fn dma_alloc(count: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        pages(count * PAGE_SIZE)
    }
    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }
    unsafe fn mmio_phys_to_virt(addr: PhysAddr, _: usize) -> NonNull<u8> {
        super::foreign_bus::pointer(addr)
    }
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        let (addr, copy) = pages(buffer.len());
        // SAFETY: the caller promises that `buffer` is readable for its length; the pages are at least as long, and new.
        unsafe { copy.as_ptr().copy_from_nonoverlapping(buffer.cast().as_ptr(), buffer.len()) };
        addr
    }
    unsafe fn unshare(addr: PhysAddr, buffer: NonNull<[u8]>, direction: BufferDirection) {
        if direction != BufferDirection::DriverToDevice {
            // SAFETY: `addr` is from `share` for a buffer of this length, which the caller promises is writable.
            unsafe { buffer.cast::<u8>().as_ptr().copy_from_nonoverlapping(host(addr), buffer.len()) };
        }
    }
}

/// Any [`Transport`] of ours as one of theirs. After every notification `serve` is called, which serves the device.
pub struct Foreign<T, F> {
    transport: T,
    serve: F,
}

impl<T: Transport, F: FnMut()> Foreign<T, F> {
    /// Wraps `transport`.
    pub fn new(transport: T, serve: F) -> Self {
        Self { transport, serve }
    }
}

impl<T: Transport, F: FnMut()> virtio_drivers::transport::Transport for Foreign<T, F> {
    fn device_type(&self) -> DeviceType {
        DeviceType::try_from(self.transport.device_type()).expect("a device type")
    }
    fn read_device_features(&mut self) -> u64 {
        self.transport.offered()
    }
    fn write_driver_features(&mut self, features: u64) {
        self.transport.accept(features);
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.transport.max_size(queue)
    }
    fn notify(&mut self, queue: u16) {
        self.transport.notify(queue);
        (self.serve)();
    }
    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(self.transport.status().into())
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.transport.set_status(status.bits() as u8);
        (self.serve)();
    }
    fn set_guest_page_size(&mut self, _: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, queue: u16, size: u32, table: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        self.transport.set_queue(queue, size as u16, [table, driver, device]);
    }
    fn queue_unset(&mut self, queue: u16) {
        self.transport.reset_queue(queue);
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        self.transport.enabled(queue)
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::from_bits_truncate(self.transport.take_interrupts())
    }
    fn read_config_generation(&self) -> u32 {
        self.transport.generation()
    }
    fn read_config_space<V: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<V> {
        let mut value = V::new_zeroed();
        self.transport.config_read(offset as u64, value.as_mut_bytes());
        Ok(value)
    }
    fn write_config_space<V: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: V,
    ) -> virtio_drivers::Result<()> {
        self.transport.config_write(offset as u64, value.as_bytes());
        Ok(())
    }
}
