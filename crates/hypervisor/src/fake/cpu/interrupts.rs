use super::GuestCpu;
use crate::fake::Op;
use crate::fake::rendezvous::Yield;
use crate::{Exit, Msi};

impl GuestCpu {
    /// Takes the pending interrupt line of the lowest number.
    pub fn take_interrupt(&mut self) -> Option<u32> {
        self.before_taking();
        let gsi = self.vm.irqs.as_ref().and_then(|irqs| irqs.take())?;
        self.recorder.push(self.id, Op::Interrupt { gsi });
        Some(gsi)
    }

    /// Halts until an interrupt line is pending, and takes it. A guest that never takes its messages does not halt.
    pub fn wait_interrupt(&mut self) -> u32 {
        loop {
            if let Some(gsi) = self.take_interrupt() {
                return gsi;
            }
            self.halt();
        }
    }

    /// Takes the interrupt message of the highest vector that was sent to this vCPU.
    pub fn take_message(&mut self) -> Option<u8> {
        self.before_taking();
        let vector = self.vm.irqs.as_ref().and_then(|irqs| irqs.take_vector(self.id))?;
        self.recorder.push(self.id, Op::Message { vector });
        Some(vector)
    }

    /// Halts until there is an interrupt message, and takes it.
    pub fn wait_message(&mut self) -> u8 {
        loop {
            if let Some(vector) = self.take_message() {
                return vector;
            }
            self.halt();
        }
    }

    /// Sends an interrupt message to a vCPU, as a local APIC's command register does. No kick comes between this and the
    /// next operation.
    pub fn send_message(&mut self, message: Msi) {
        self.before_taking();
        self.vm.irqs.iter().for_each(|irqs| irqs.send(message));
        self.vm.wake_all();
    }

    /// Acknowledges a message that was taken: an exit, if it is level-triggered and of an I/O APIC that is the VMM's.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        self.before_taking();
        if self.vm.irqs.as_ref().is_some_and(|irqs| irqs.is_level(vector)) {
            self.give_up_turn(Yield::Exit(Exit::IoApicEoi { vector }));
        }
    }

    /// Takes a non-maskable interrupt that was sent to this vCPU. (A CPU has no choice when.)
    pub fn take_nmi(&mut self) -> bool {
        self.before_taking();
        let taken = self.vm.irqs.as_ref().is_some_and(|irqs| irqs.take_nmi(self.id));
        if taken {
            self.recorder.push(self.id, Op::Nmi);
        }
        taken
    }

    /// Whether the guest has been told that it was stopped ([`Vcpu::notify_stopped`](crate::Vcpu::notify_stopped)) since
    /// this was last asked.
    pub fn take_stopped(&mut self) -> bool {
        std::mem::take(&mut self.meet.lock().told_stopped)
    }

    fn before_taking(&mut self) {
        self.count_step();
        self.look_for_kick();
    }
}
