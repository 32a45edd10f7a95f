use vm_memory::GuestAddressSpace;

/// Guest memory as a device sees it: any `vm-memory` address space that threads can share. The one type parameter
/// that crosses a crate border in a device or transport signature.
///
/// Implemented for everything that qualifies: `Arc<GuestMemoryMmap>`, `GuestMemoryAtomic<…>` (so that regions can
/// come and go), and vm-memory's `IommuMemory`. `T: Send` lets a request in flight keep its snapshot of the map.
pub trait Mem: GuestAddressSpace<T: Send> + Send + Sync + 'static {}

impl<X: GuestAddressSpace<T: Send> + Send + Sync + 'static> Mem for X {}
