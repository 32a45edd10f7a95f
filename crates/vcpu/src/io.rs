use crate::counters::{ExitCounters, ExitCounts, count};
use drystone_bus::{Bus, Effect};
use drystone_hypervisor::IoHandler;
use std::sync::Arc;

/// Answers a vCPU's accesses from the devices on a [`Bus`], and keeps what a write asked of the machine. Ranges that the
/// guest moves are moved at once: its next instruction may use them.
///
/// One per vCPU. [`VcpuSet`](crate::VcpuSet) makes its own; this is for run loops of other make.
pub struct BusIo {
    bus: Arc<Bus>,
    effect: Effect,
    counters: Arc<ExitCounters>,
}

impl BusIo {
    /// An adapter to `bus`.
    pub fn new(bus: Arc<Bus>) -> Self {
        Self::counting(bus, Arc::default())
    }

    pub(crate) fn counting(bus: Arc<Bus>, counters: Arc<ExitCounters>) -> Self {
        Self { bus, effect: Effect::None, counters }
    }

    /// The last effect of a write that is for others to apply, if there was one since
    /// [`take_effect`](Self::take_effect).
    pub fn effect(&self) -> Option<Effect> {
        (self.effect != Effect::None).then_some(self.effect)
    }

    /// As [`effect`](Self::effect), and forgets it.
    pub fn take_effect(&mut self) -> Option<Effect> {
        let effect = self.effect();
        self.effect = Effect::None;
        effect
    }

    /// The accesses that went through here; the other counts stay 0.
    pub fn counts(&self) -> ExitCounts {
        self.counters.snapshot()
    }

    fn keep(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Relocate => self.bus.relocate(),
            effect => self.effect = effect,
        }
    }
}

impl IoHandler for BusIo {
    fn pio_read(&mut self, port: u16, data: &mut [u8]) {
        count(&self.counters.pio_reads);
        self.bus.pio.read(port.into(), data);
    }
    fn pio_write(&mut self, port: u16, data: &[u8]) {
        count(&self.counters.pio_writes);
        let effect = self.bus.pio.write(port.into(), data);
        self.keep(effect);
    }
    fn mmio_read(&mut self, addr: u64, data: &mut [u8]) {
        count(&self.counters.mmio_reads);
        self.bus.mmio.read(addr, data);
    }
    fn mmio_write(&mut self, addr: u64, data: &[u8]) {
        count(&self.counters.mmio_writes);
        let effect = self.bus.mmio.write(addr, data);
        self.keep(effect);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_bus::{BusDevice, Relocate};

    /// Reads as 7; a write of 1 resets, of 2 switches off, of 3 moves it.
    struct Device;
    impl BusDevice for Device {
        fn read(&self, _: u64, data: &mut [u8]) {
            data.fill(7);
        }
        fn write(&self, _: u64, data: &[u8]) -> Effect {
            match data {
                [1] => Effect::Reset,
                [2] => Effect::PowerOff,
                [3] => Effect::Relocate,
                _ => Effect::None,
            }
        }
    }

    #[test]
    fn ports_and_addresses_reach_their_own_map_and_the_last_effect_stays() {
        let bus = Arc::new(Bus::default());
        bus.pio.insert(0x64, 1, Arc::new(Device)).unwrap();
        bus.mmio.insert(0x1_0000_0000, 1, Arc::new(Device)).unwrap();
        let mut io = BusIo::new(bus.clone());
        let mut data = [0];
        io.pio_read(0x64, &mut data);
        assert_eq!(data, [7]);
        data = [0];
        io.mmio_read(0x1_0000_0000, &mut data);
        assert_eq!(data, [7]);
        io.mmio_read(0x64, &mut data);
        assert_eq!((data, bus.mmio.unclaimed(), bus.pio.unclaimed()), ([0xff], 1, 0));
        assert_eq!(io.effect(), None);
        io.pio_write(0x64, &[1]);
        io.mmio_write(0x1_0000_0000, &[2]);
        io.pio_write(0x64, &[0]);
        assert_eq!(io.take_effect(), Some(Effect::PowerOff));
        assert_eq!(io.take_effect(), None);
        let counts = io.counts();
        assert_eq!(
            (counts.pio_reads, counts.pio_writes, counts.mmio_reads, counts.mmio_writes),
            (1, 2, 2, 1)
        );
    }

    struct MoveFrom0To8;
    impl Relocate for MoveFrom0To8 {
        fn relocate(&self, bus: &Bus) {
            let device = bus.mmio.remove(0).unwrap();
            bus.mmio.insert(8, 1, device).unwrap();
        }
    }

    #[test]
    fn ranges_move_before_the_next_access_and_leave_the_kept_effect_alone() {
        let bus = Arc::new(Bus::default());
        bus.add_relocator(Arc::new(MoveFrom0To8));
        bus.mmio.insert(0, 1, Arc::new(Device)).unwrap();
        let mut io = BusIo::new(bus);
        io.mmio_write(0, &[1]);
        io.mmio_write(0, &[3]);
        let (mut old, mut new) = ([0], [0]);
        io.mmio_read(0, &mut old);
        io.mmio_read(8, &mut new);
        assert_eq!((old, new, io.effect()), ([0xff], [7], Some(Effect::Reset)));
    }
}
