use super::lock;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// How many operations are kept; older ones are forgotten.
const KEPT: usize = 16 * 1024;

/// One thing that a guest did. Data is little endian and as wide as the access.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields are what they are everywhere in this crate
pub enum Op {
    /// IN, with what it read.
    PioRead { port: u16, data: Vec<u8> },
    /// OUT.
    PioWrite { port: u16, data: Vec<u8> },
    /// A load from outside RAM, with what it read.
    MmioRead { addr: u64, data: Vec<u8> },
    /// A store outside RAM.
    MmioWrite { addr: u64, data: Vec<u8> },
    /// A write that rang a doorbell and did not exit.
    Doorbell { addr: crate::IoAddress, data: Vec<u8> },
    /// Bytes read from RAM: where, and how many.
    RamRead { addr: u64, len: usize },
    /// Bytes written to RAM: where, and how many.
    RamWrite { addr: u64, len: usize },
    /// HLT.
    Halt,
    /// Took an interrupt.
    Interrupt { gsi: u32 },
    /// Took an interrupt message.
    Message { vector: u8 },
    /// Took a non-maskable interrupt.
    Nmi,
    /// RDMSR, with what it read; `None` if it faulted.
    ReadMsr { index: u32, value: Option<u64> },
    /// WRMSR, and whether it was accepted.
    WriteMsr { index: u32, value: u64, accepted: bool },
    /// Triple fault.
    Shutdown,
    /// The program gave up, or used up its steps.
    Failed { why: String },
}

#[derive(Debug, Default)]
struct Log {
    ops: VecDeque<(u32, Op)>,
    forgotten: u64,
}

/// What guests did, in order; the newest 16,384 operations. Clones share one log.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<Log>>);

impl Recorder {
    /// Everything that the vCPU numbered `vcpu` did and that is still kept.
    pub fn ops(&self, vcpu: u32) -> Vec<Op> {
        lock(&self.0).ops.iter().filter(|(id, _)| *id == vcpu).map(|(_, op)| op.clone()).collect()
    }

    /// As [`ops`](Self::ops), without accesses to RAM.
    pub fn events(&self, vcpu: u32) -> Vec<Op> {
        let mut ops = self.ops(vcpu);
        ops.retain(|op| !matches!(op, Op::RamRead { .. } | Op::RamWrite { .. }));
        ops
    }

    /// Everything that all vCPUs did, each with the vCPU's number.
    pub fn all(&self) -> Vec<(u32, Op)> {
        lock(&self.0).ops.iter().cloned().collect()
    }

    /// How many operations were dropped because the log was full.
    pub fn forgotten(&self) -> u64 {
        lock(&self.0).forgotten
    }

    /// Forgets everything.
    pub fn clear(&self) {
        *lock(&self.0) = Log::default();
    }

    pub(super) fn push(&self, vcpu: u32, op: Op) {
        let mut log = lock(&self.0);
        if log.ops.len() >= KEPT {
            log.ops.pop_front();
            log.forgotten += 1;
        }
        log.ops.push_back((vcpu, op));
    }
}
