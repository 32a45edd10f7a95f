use crate::Interrupts;
use drystone_bus::Interrupt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bit 0 of InterruptStatus: a used buffer notification.
const USED: u32 = 1;
/// Bit 1: a configuration change notification.
const CONFIG: u32 = 2;

/// One interrupt line for all, and the register that says why it rose.
pub(super) struct Line {
    status: AtomicU32,
    interrupt: Arc<dyn Interrupt>,
}

impl Line {
    /// All bits that can be set.
    pub const KNOWN: u32 = USED | CONFIG;

    pub fn new(interrupt: Arc<dyn Interrupt>) -> Self {
        Self { status: AtomicU32::new(0), interrupt }
    }

    fn raise(&self, bit: u32) {
        // The driver that this edge interrupts finds the bit, and with it all that was written before.
        self.status.fetch_or(bit, Ordering::SeqCst);
        self.interrupt.trigger();
    }

    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    pub fn reset(&self) {
        self.status.store(0, Ordering::SeqCst);
    }

    pub fn restore(&self, status: u32) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Raises what is pending once more: the edge may have been lost with the process that saved it.
    pub fn repeat(&self) {
        if self.status() != 0 {
            self.interrupt.trigger();
        }
    }
}

impl Interrupts for Line {
    fn queue(&self, _: u16) {
        self.raise(USED);
    }
    fn config(&self) {
        self.raise(CONFIG);
    }
}
