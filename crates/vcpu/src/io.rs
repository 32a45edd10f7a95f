use crate::counters::{ExitCounters, ExitCounts, Kind, count};
use drystone_bus::{Bus, Effect};
use drystone_hypervisor::IoHandler;
use std::sync::Arc;
use std::time::Instant;

/// Answers the accesses to model-specific registers that a VM's configuration hands over
/// ([`MsrFilter`](drystone_hypervisor::MsrFilter)). Called on vCPU threads, also on several at once; it does not block.
pub trait MsrHandler: Send + Sync {
    /// RDMSR on vCPU `vcpu`: the value, or `None` for a general protection fault.
    fn read(&self, vcpu: u32, index: u32) -> Option<u64>;
    /// WRMSR on vCPU `vcpu`: whether it is accepted. If not, the guest gets a general protection fault.
    fn write(&self, vcpu: u32, index: u32, value: u64) -> bool;
}

/// Answers a vCPU's accesses from the devices on a [`Bus`], and keeps what a write asked of the machine. Ranges that the
/// guest moves are moved at once: its next instruction may use them.
///
/// One per vCPU. [`VcpuSet`](crate::VcpuSet) makes its own; this is for run loops of other make.
pub struct BusIo {
    bus: Arc<Bus>,
    msrs: Option<(u32, Arc<dyn MsrHandler>)>,
    effect: Effect,
    counters: Arc<ExitCounters>,
    /// Why and when the guest was left that has not been entered again.
    out: Option<(Kind, Instant)>,
}

impl BusIo {
    /// An adapter to `bus`.
    pub fn new(bus: Arc<Bus>) -> Self {
        Self::counting(bus, Arc::default())
    }

    pub(crate) fn counting(bus: Arc<Bus>, counters: Arc<ExitCounters>) -> Self {
        Self { bus, msrs: None, effect: Effect::None, counters, out: None }
    }

    /// Has `handler` answer what vCPU `vcpu` asks of model-specific registers; without one every such access faults.
    #[must_use]
    pub fn with_msrs(self, vcpu: u32, handler: Arc<dyn MsrHandler>) -> Self {
        Self { msrs: Some((vcpu, handler)), ..self }
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

    /// The guest was left for an access, or for one more of the same exit.
    fn left(&mut self, kind: Kind) {
        count(&self.counters.of(kind).count);
        if self.out.is_none() {
            self.out = Some((kind, Instant::now()));
        }
    }

    /// The guest is about to be entered: what it was out for is over.
    pub(crate) fn entering(&mut self) {
        if let Some((kind, since)) = self.out.take() {
            self.counters.of(kind).times.take(since.elapsed());
        }
    }

    /// The guest is not entered again for now, and what it was out for is no access any more.
    pub(crate) fn staying_out(&mut self) {
        self.out = None;
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
        self.left(Kind::PioRead);
        self.bus.pio.read(port.into(), data);
    }
    fn pio_write(&mut self, port: u16, data: &[u8]) {
        self.left(Kind::PioWrite);
        let effect = self.bus.pio.write(port.into(), data);
        self.keep(effect);
    }
    /// No exit, and not what the guest waits for.
    fn deferred_write(&mut self, port: u16, data: &[u8]) {
        let effect = self.bus.pio.write(port.into(), data);
        self.keep(effect);
    }
    fn mmio_read(&mut self, addr: u64, data: &mut [u8]) {
        self.left(Kind::MmioRead);
        self.bus.mmio.read(addr, data);
    }
    fn mmio_write(&mut self, addr: u64, data: &[u8]) {
        self.left(Kind::MmioWrite);
        let effect = self.bus.mmio.write(addr, data);
        self.keep(effect);
    }
    fn rdmsr(&mut self, index: u32) -> Option<u64> {
        self.left(Kind::MsrRead);
        self.msrs.as_ref().and_then(|(vcpu, handler)| handler.read(*vcpu, index))
    }
    fn wrmsr(&mut self, index: u32, value: u64) -> bool {
        self.left(Kind::MsrWrite);
        self.msrs.as_ref().is_some_and(|(vcpu, handler)| handler.write(*vcpu, index, value))
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

    /// vCPU 3 has register 5, which is 6 and takes even values.
    struct Msrs;
    impl MsrHandler for Msrs {
        fn read(&self, vcpu: u32, index: u32) -> Option<u64> {
            ((vcpu, index) == (3, 5)).then_some(6)
        }
        fn write(&self, vcpu: u32, index: u32, value: u64) -> bool {
            (vcpu, index) == (3, 5) && value.is_multiple_of(2)
        }
    }

    #[test]
    fn registers_are_the_handlers_or_nobodys() {
        let mut io = BusIo::new(Arc::new(Bus::default()));
        assert_eq!((io.rdmsr(5), io.wrmsr(5, 2)), (None, false));
        let mut io = io.with_msrs(3, Arc::new(Msrs));
        assert_eq!((io.rdmsr(5), io.rdmsr(6)), (Some(6), None));
        assert_eq!((io.wrmsr(5, 2), io.wrmsr(5, 3)), (true, false));
        assert_eq!((io.counts().msr_reads, io.counts().msr_writes), (3, 3));
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
