//! How virtual CPUs are grouped, and the leaves that say so.
//!
//! A local APIC ID is made of fields: the thread in its core, the core in its socket, the socket. Every field is as wide as the
//! largest number in it needs, so IDs have gaps where a count is not a power of two.

mod amd;

use super::{Vendor, max_leaf, remove, set};
use drystone_hypervisor::{Cpuid, CpuidEntry};

/// Why vCPUs cannot be grouped as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// No socket, no core or no thread.
    #[error("a machine needs at least one vCPU: sockets {sockets}, cores {cores}, threads {threads}")]
    None {
        /// Sockets asked for.
        sockets: u32,
        /// Cores in each.
        cores: u32,
        /// Threads on each.
        threads: u32,
    },
    /// The largest local APIC ID would not fit into the 8 bits that it has.
    #[error(
        "too many vCPUs: sockets {sockets}, cores {cores}, threads {threads}: local APIC IDs end at {}",
        Topology::LAST_APIC_ID
    )]
    TooMany {
        /// Sockets asked for.
        sockets: u32,
        /// Cores in each.
        cores: u32,
        /// Threads on each.
        threads: u32,
    },
}

/// Sockets of cores of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    sockets: u32,
    cores: u32,
    threads: u32,
}

impl Topology {
    /// The largest ID of a local APIC in xAPIC mode; 255 addresses all of them (Intel SDM volume 3, 11.6.1).
    pub const LAST_APIC_ID: u32 = 254;

    /// `sockets` times `cores` in each times `threads` on each.
    ///
    /// # Errors
    /// [`TopologyError::None`] if one of them is 0, [`TopologyError::TooMany`] if an APIC ID exceeds
    /// [`LAST_APIC_ID`](Self::LAST_APIC_ID). That happens before 255 vCPUs where counts are no powers of two.
    pub fn new(sockets: u32, cores: u32, threads: u32) -> Result<Self, TopologyError> {
        if sockets == 0 || cores == 0 || threads == 0 {
            return Err(TopologyError::None { sockets, cores, threads });
        }
        let too_many = TopologyError::TooMany { sockets, cores, threads };
        let limit = Self::LAST_APIC_ID + 1;
        if sockets > limit || cores > limit || threads > limit {
            return Err(too_many);
        }
        let topology = Self { sockets, cores, threads };
        let last = topology.apic_id(topology.vcpus() - 1);
        if last > Self::LAST_APIC_ID { Err(too_many) } else { Ok(topology) }
    }

    /// One processor.
    pub const fn single() -> Self {
        Self { sockets: 1, cores: 1, threads: 1 }
    }

    /// How many vCPUs there are.
    pub fn vcpus(&self) -> u32 {
        self.sockets * self.cores * self.threads
    }

    /// How many sockets there are.
    pub fn sockets(&self) -> u32 {
        self.sockets
    }

    /// How many cores a socket has.
    pub fn cores_per_socket(&self) -> u32 {
        self.cores
    }

    /// How many threads a core has.
    pub fn threads_per_core(&self) -> u32 {
        self.threads
    }

    /// All vCPUs' local APIC IDs, ascending: the numbers to create vCPUs with, and to list in the MADT.
    pub fn apic_ids(&self) -> impl Iterator<Item = u32> + use<> {
        let topology = *self;
        (0..self.vcpus()).map(move |n| topology.apic_id(n))
    }

    fn apic_id(&self, n: u32) -> u32 {
        let (core, thread) = (n / self.threads, n % self.threads);
        let (socket, core) = (core / self.cores, core % self.cores);
        socket << self.package_bits() | core << self.thread_bits() | thread
    }

    /// Width of the thread's field in an APIC ID.
    fn thread_bits(&self) -> u32 {
        width(self.threads)
    }

    /// Width of the fields below the socket's.
    fn package_bits(&self) -> u32 {
        self.thread_bits() + width(self.cores)
    }

    /// Logical processors in a socket.
    fn package_threads(&self) -> u32 {
        self.cores * self.threads
    }
}

/// Bits that `count` different numbers take.
fn width(count: u32) -> u32 {
    u32::BITS - (count - 1).leading_zeros()
}

/// Writes the topology of the vCPU with APIC ID `id` into all leaves that the processor has for it.
pub(super) fn apply(cpuid: &mut Cpuid, vendor: Vendor, topology: &Topology, id: u32) {
    leaf_1(cpuid, topology, id);
    match vendor {
        Vendor::Intel => caches(cpuid, 4, topology, true),
        Vendor::Amd => amd::apply(cpuid, topology, id),
    }
    for leaf in [0xb, 0x1f] {
        extended(cpuid, leaf, topology, id);
    }
    // Would take precedence over 0xB.
    remove(cpuid, 0x8000_0026);
}

/// EBX: initial APIC ID (31:24), addressable IDs in the package (23:16); EDX: HTT, which says that the latter counts.
fn leaf_1(cpuid: &mut Cpuid, topology: &Topology, id: u32) {
    const HTT: u32 = 1 << 28;
    let Some(leaf) = cpuid.get_mut(1, 0) else { return };
    let addressable = 1_u32 << topology.package_bits();
    leaf.ebx = (leaf.ebx & 0xffff) | (id & 0xff) << 24 | addressable.min(255) << 16;
    set(&mut leaf.edx, HTT, topology.package_threads() > 1);
}

/// The extended topology enumeration leaf: one subleaf a level, and one that ends them.
fn extended(cpuid: &mut Cpuid, leaf: u32, topology: &Topology, id: u32) {
    const THREADS: u32 = 1 << 8;
    const CORES: u32 = 2 << 8;
    remove(cpuid, leaf);
    if max_leaf(cpuid, 0) < leaf {
        return;
    }
    let levels = [
        (topology.thread_bits(), topology.threads, THREADS),
        (topology.package_bits(), topology.package_threads(), CORES),
        (0, 0, 0),
    ];
    for (subleaf, (eax, ebx, kind)) in (0_u32..).zip(levels) {
        cpuid.0.push(CpuidEntry { leaf, subleaf: Some(subleaf), eax, ebx, ecx: kind | subleaf, edx: id });
    }
}

/// Who shares a cache, in EAX of a cache parameter leaf: APIC IDs less one in 25:14, and for Intel cores in the
/// package less one in 31:26. First and second level belong to a core, what is beyond to the socket.
fn caches(cpuid: &mut Cpuid, leaf: u32, topology: &Topology, cores_field: bool) {
    let field = |bits: u32, max: u32| ((1_u32 << bits) - 1).min(max);
    let cores = field(topology.package_bits() - topology.thread_bits(), 0x3f) << 26;
    for entry in cpuid.0.iter_mut().filter(|e| e.leaf == leaf && e.eax & 0x1f != 0) {
        let level = entry.eax >> 5 & 7;
        let bits = if level >= 3 { topology.package_bits() } else { topology.thread_bits() };
        entry.eax = (entry.eax & 0x3fff) | field(bits, 0xfff) << 14;
        if cores_field {
            entry.eax |= cores;
        }
    }
}
