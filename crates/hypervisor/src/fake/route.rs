use super::irq::{Target, is_written};
use super::lock;
use super::vm::Shared;
use crate::{Error, Msi, MsiRoute};
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::EventFd;

/// An event that sends a message while it is registered; while it is masked it is not.
pub(super) struct FakeRoute {
    vm: Arc<Shared>,
    event: EventFd,
    token: Mutex<Option<u64>>,
    /// The input of the VMM's I/O APIC whose message it is.
    pin: Option<u32>,
}

impl FakeRoute {
    pub(super) fn new(vm: Arc<Shared>, event: &EventFd, pin: Option<u32>) -> Result<Self, Error> {
        let attempt = || "wire an event to an interrupt message".into();
        let irqs = vm.irqs(attempt)?;
        let event = event.try_clone().map_err(|cause| Error::Call { attempt: attempt(), cause })?;
        if let Some(pin) = pin {
            irqs.take_pin(pin)?;
        }
        Ok(Self { vm, event, token: Mutex::default(), pin })
    }
}

impl MsiRoute for FakeRoute {
    fn set(&self, message: Option<Msi>) -> Result<(), Error> {
        let irqs = self.vm.irqs(|| "set an interrupt message".into())?;
        let mut token = lock(&self.token);
        if let (Some(pin), Some(message)) = (self.pin, message) {
            irqs.set_pin(pin, message);
        }
        match (*token, message.map(Target::Message)) {
            (None, Some(target)) => *token = Some(irqs.register(&self.event, target)?),
            (Some(registered), Some(target)) => irqs.change(registered, target),
            (Some(registered), None) => {
                irqs.unregister(registered);
                *token = None;
            }
            (None, None) => {}
        }
        Ok(())
    }

    fn is_pending(&self) -> bool {
        lock(&self.token).is_none() && is_written(&self.event)
    }
}

impl Drop for FakeRoute {
    fn drop(&mut self) {
        let _ = self.set(None);
        if let (Some(irqs), Some(pin)) = (&self.vm.irqs, self.pin) {
            irqs.free_pin(pin);
        }
    }
}
