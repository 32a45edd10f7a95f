//! Following requests.

use super::{Answer, Monitor, Request, RequestError};
use crate::config::ShutdownSignal;
use crate::events::EventKind;
use drystone_lifecycle::{Cause, State, Verb};
use std::sync::mpsc::Sender;
use std::time::Duration;

impl Monitor {
    pub(super) fn follow(&mut self, request: Request) -> Result<(), RequestError> {
        let orchestrator = &mut self.machine.orchestrator;
        match request {
            Request::Life(Verb::Boot) => orchestrator.boot()?,
            Request::Life(Verb::Pause) => orchestrator.pause()?,
            Request::Life(Verb::Resume) => orchestrator.resume()?,
            Request::Life(Verb::Reset) => {
                orchestrator.reset(Cause::Operator)?;
                orchestrator.expect_shutdown(false);
                self.shutdown.give_up();
            }
            Request::Life(Verb::Save) => drop(orchestrator.save()?),
            Request::Life(Verb::Restore) => orchestrator.restore(&[])?,
            Request::Snapshot(request) => self.write_snapshot(&request)?,
            Request::Life(Verb::Stop) => orchestrator.stop(Cause::Operator),
            Request::PowerButton => self.press_power_button()?,
            Request::CtrlAltDel => self.type_ctrl_alt_del()?,
            Request::Nmi(vcpu) => self.send_nmi(vcpu)?,
            Request::AddDisk(disk) => self.add_disk(&disk)?,
            Request::AddNet(net) => self.add_net(&net)?,
            // They are answered later, not here.
            Request::Shutdown(_) | Request::Remove(..) => {}
        }
        Ok(())
    }

    pub(super) fn running(&self, attempt: &'static str) -> Result<(), RequestError> {
        match self.machine.orchestrator.state() {
            State::Running => Ok(()),
            state => Err(RequestError::NotRunning { attempt, state }),
        }
    }

    fn press_power_button(&self) -> Result<(), RequestError> {
        self.running("press the power button")?;
        self.machine.press_power_button();
        self.machine.journal().note(EventKind::PowerButton, None);
        Ok(())
    }

    fn type_ctrl_alt_del(&self) -> Result<(), RequestError> {
        self.running("type Ctrl-Alt-Del")?;
        self.machine.ctrl_alt_del()?;
        self.machine.journal().note(EventKind::CtrlAltDel, None);
        Ok(())
    }

    fn send_nmi(&self, vcpu: Option<u32>) -> Result<(), RequestError> {
        self.running("send a non-maskable interrupt")?;
        if let Some(id) = vcpu.filter(|id| !self.machine.vcpus.ids().any(|known| known == *id)) {
            return Err(RequestError::NoVcpu(id));
        }
        self.machine.send_nmi(vcpu).map_err(RequestError::Nmi)?;
        let to = vcpu.map_or("all vCPUs".into(), |id| format!("vCPU {id}"));
        self.machine.journal().note(EventKind::Nmi, Some(to));
        Ok(())
    }

    /// Asks the guest to shut down. `answer` is answered when it has, or is forced to.
    pub(super) fn shut_down(&mut self, time: Duration, answer: Sender<Answer>) {
        if let Err(refused) = self.running("ask for a shutdown") {
            let _ = answer.send(Err(refused));
            return;
        }
        self.machine.journal().note(EventKind::GracefulStop, Some(format!("within {} ms", time.as_millis())));
        let asked = match self.machine.shutdown_signal() {
            ShutdownSignal::PowerButton => self.press_power_button(),
            ShutdownSignal::CtrlAltDel => self.type_ctrl_alt_del(),
        };
        // A guest that cannot be asked is one that does not answer: it may still shut down, and is forced when its time is up.
        if let Err(error) = asked {
            self.machine.journal().note(EventKind::Error, Some(error.to_string()));
        }
        self.machine.orchestrator.expect_shutdown(true);
        self.shutdown.expect(time, answer);
    }

    /// Ends a machine whose guest did not in time.
    pub(super) fn force(&mut self) {
        self.machine.journal().note(EventKind::GracefulStopTimeout, None);
        self.machine.orchestrator.stop(Cause::Overdue);
    }
}
