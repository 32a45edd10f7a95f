use arbitrary::{Arbitrary, Unstructured};

/// One thing that a guest, or its operator, does. The same stream drives property tests, fuzzers and soak tests.
///
/// The first group is what orderly drivers do; [`World::run`](super::World::run) does all of them,
/// [`World::run_orderly`](super::World::run_orderly) does these alone and checks more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
#[allow(
    missing_docs,
    reason = "fields are named after what they are; each variant says what is done with them"
)]
pub enum GuestOp {
    /// Makes a chain available: segments of some lengths, the readable ones first.
    Add { queue: u8, readable: [u8; 2], writable: [u8; 2], indirect: bool },
    /// Notifies, if the device wants it.
    Kick { queue: u8 },
    /// Takes back what is used.
    Collect { queue: u8 },
    /// Wants an interrupt after some more are used.
    WantInterrupt { queue: u8, after: u8 },
    /// The device's event loop serves every queue that is rung.
    Serve,
    /// The machine is paused, saved, and rebuilt from what was saved.
    Move,
    /// The machine is paused and runs on.
    Pause,
    /// One queue is reset and set up anew.
    ResetQueue { queue: u8 },

    /// Notifies without being asked.
    Notify { queue: u16 },
    /// Writes a descriptor of a table.
    Descriptor { queue: u8, index: u8, addr: Address, len: u32, flags: u8, next: u16 },
    /// Puts a head into the available ring.
    Offer { queue: u8, head: u16 },
    /// Stores an available index.
    SetAvailable { queue: u8, index: u16 },
    /// Overwrites 8 bytes of a ring's memory.
    Scribble { queue: u8, word: u16, value: u64 },
    /// Reads a register, of any width at any offset.
    Read { offset: u16, width: u8 },
    /// Writes a register.
    Write { offset: u16, width: u8, value: u64 },
    /// Writes the status.
    Status { value: u8 },
    /// Sets up a queue anywhere, of any size.
    SetQueue { queue: u8, size: u16, areas: [Address; 3] },
    /// Resets and brings the device up.
    BringUp { features: u64, size: u8 },
    /// Resets the device.
    Reset,
    /// The operator resets the machine.
    ResetMachine,
}

/// A guest-physical address that is likely to be interesting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum Address {
    /// In the rings.
    Rings(u16),
    /// In the buffers.
    Buffers(u16),
    /// Around the end of memory.
    Edge(u8),
    /// Around the last address.
    Last(u8),
    /// Anywhere but in the canary.
    Any(u64),
}

/// Most operations in one stream.
const MOST: usize = 1024;

/// The stream that some bytes mean.
pub fn ops(data: &[u8]) -> Vec<GuestOp> {
    let mut bytes = Unstructured::new(data);
    let mut ops = Vec::new();
    while !bytes.is_empty() && ops.len() < MOST {
        let Ok(op) = GuestOp::arbitrary(&mut bytes) else { break };
        ops.push(op);
    }
    ops
}
