use crate::Interrupts;
use drystone_bus::Interrupt;
use drystone_pci::{Config, Msix};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

/// Bit 0 of the ISR status: a used buffer notification.
const USED: u8 = 1;
/// Bit 1: a configuration change notification.
const CONFIG: u8 = 2;
/// The vector of what shall not interrupt (4.1.5.1.2).
pub(super) const NO_VECTOR: u16 = 0xffff;
/// The high byte of PCI's status register has no bit for us; this is the offset of the low one.
const PCI_STATUS: u16 = 0x06;
/// Interrupt Status: the function would assert its interrupt pin.
const PCI_INTERRUPT_STATUS: u8 = 1 << 3;

/// What a device's interrupts come to: a message of the vector that the driver chose, or a bit of the ISR status while MSI-X
/// is off.
pub(super) struct Signals {
    /// With MSI-X structures, always.
    pub config: Config,
    isr: AtomicU8,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
    vectors: Vec<Arc<dyn Interrupt>>,
}

/// A state as it is saved.
pub(super) struct SavedSignals {
    pub isr: u8,
    pub config_vector: u16,
    pub queue_vectors: Vec<u16>,
}

impl Signals {
    /// All bits of the ISR status that can be set.
    pub const KNOWN: u8 = USED | CONFIG;

    pub fn new(config: Config, queues: usize) -> Self {
        let interrupts = |msix: &Msix| (0..=u16::MAX).map_while(|n| msix.interrupt(n)).collect();
        Self {
            vectors: config.msix().map(interrupts).unwrap_or_default(),
            config,
            isr: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
        }
    }

    fn uses_messages(&self) -> bool {
        self.config.msix().is_some_and(Msix::is_enabled)
    }

    fn send(&self, vector: &AtomicU16) {
        if let Some(vector) = self.vectors.get(usize::from(vector.load(Ordering::SeqCst))) {
            vector.trigger();
        }
    }

    /// The ISR status, which a read clears.
    pub fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::SeqCst)
    }

    /// Shows in what was read of configuration space that an interrupt pin would be asserted (4.1.4.5.1).
    pub fn show_status(&self, offset: u16, data: &mut [u8]) {
        let at = PCI_STATUS.checked_sub(offset).map(usize::from);
        if let Some(byte) = at.and_then(|at| data.get_mut(at))
            && !self.uses_messages()
            && self.isr.load(Ordering::SeqCst) != 0
        {
            *byte |= PCI_INTERRUPT_STATUS;
        }
    }

    pub fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::SeqCst)
    }

    pub fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(self.existing(vector), Ordering::SeqCst);
    }

    /// The vector of a queue, also of one that does not exist.
    pub fn queue_vector(&self, queue: u16) -> u16 {
        self.queue_vectors.get(usize::from(queue)).map_or(NO_VECTOR, |v| v.load(Ordering::SeqCst))
    }

    pub fn set_queue_vector(&self, queue: u16, vector: u16) {
        if let Some(own) = self.queue_vectors.get(usize::from(queue)) {
            own.store(self.existing(vector), Ordering::SeqCst);
        }
    }

    /// A mapping to a vector that does not exist fails, and reads so.
    fn existing(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.vectors.len() { vector } else { NO_VECTOR }
    }

    /// The driver reset the device: nothing interrupts any more. MSI-X is PCI's, and stays as it is.
    pub fn unmap(&self) {
        self.isr.store(0, Ordering::SeqCst);
        let all = self.queue_vectors.iter().chain([&self.config_vector]);
        all.for_each(|vector| vector.store(NO_VECTOR, Ordering::SeqCst));
    }

    /// As built.
    pub fn reset(&self) {
        let Self { config, isr: _, config_vector: _, queue_vectors: _, vectors: _ } = self;
        self.unmap();
        config.reset();
    }

    /// Sends a configuration change once more that the driver may not have seen: the message may have been lost with the
    /// process that saved it. One too many finds nothing new. The core repeats those of queues.
    pub fn repeat(&self) {
        if self.isr.load(Ordering::SeqCst) & CONFIG != 0 && self.uses_messages() {
            self.send(&self.config_vector);
        }
    }

    pub fn save(&self) -> SavedSignals {
        SavedSignals {
            isr: self.isr.load(Ordering::SeqCst),
            config_vector: self.config_vector(),
            queue_vectors: self.queue_vectors.iter().map(|v| v.load(Ordering::SeqCst)).collect(),
        }
    }

    /// Says why no save can have given `state`.
    pub fn check(&self, state: &SavedSignals) -> Result<(), String> {
        let SavedSignals { isr, config_vector, queue_vectors } = state;
        if isr & !Self::KNOWN != 0 {
            return Err(format!("ISR status {isr:#x}"));
        }
        let (found, own) = (queue_vectors.len(), self.queue_vectors.len());
        if found != own {
            return Err(format!("vectors of {found} queues, there are {own}"));
        }
        let mut all = queue_vectors.iter().chain([config_vector]);
        match all.find(|vector| self.existing(**vector) != **vector) {
            Some(vector) => Err(format!("vector {vector}, there are {}", self.vectors.len())),
            None => Ok(()),
        }
    }

    /// Takes over a state that was checked.
    pub fn restore(&self, state: &SavedSignals) {
        let SavedSignals { isr, config_vector, queue_vectors } = state;
        self.isr.store(*isr, Ordering::SeqCst);
        self.config_vector.store(*config_vector, Ordering::SeqCst);
        for (own, vector) in self.queue_vectors.iter().zip(queue_vectors) {
            own.store(*vector, Ordering::SeqCst);
        }
    }
}

impl Interrupts for Signals {
    fn queue(&self, index: u16) {
        if !self.uses_messages() {
            self.isr.fetch_or(USED, Ordering::SeqCst);
        } else if let Some(vector) = self.queue_vectors.get(usize::from(index)) {
            self.send(vector);
        }
    }

    fn config(&self) {
        self.isr.fetch_or(CONFIG, Ordering::SeqCst);
        if self.uses_messages() {
            self.send(&self.config_vector);
        }
    }
}
