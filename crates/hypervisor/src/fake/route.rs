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
}

impl FakeRoute {
    pub(super) fn new(vm: Arc<Shared>, event: &EventFd) -> Result<Self, Error> {
        let attempt = || "wire an event to an interrupt message".into();
        vm.irqs(attempt)?;
        let event = event.try_clone().map_err(|cause| Error::Call { attempt: attempt(), cause })?;
        Ok(Self { vm, event, token: Mutex::default() })
    }
}

impl MsiRoute for FakeRoute {
    fn set(&self, message: Option<Msi>) -> Result<(), Error> {
        let irqs = self.vm.irqs(|| "set an interrupt message".into())?;
        let mut token = lock(&self.token);
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
    }
}
