use super::GuestCpu;
use crate::MsrAction;
use crate::fake::Op;
use crate::fake::rendezvous::Access;

impl GuestCpu {
    /// RDMSR. A general protection fault fails the vCPU.
    pub fn rdmsr(&mut self, index: u32) -> u64 {
        let value = self.try_rdmsr(index);
        value.unwrap_or_else(|| self.fail(&format!("RDMSR of {index:#x} faults")))
    }

    /// WRMSR. A general protection fault fails the vCPU.
    pub fn wrmsr(&mut self, index: u32, value: u64) {
        if !self.try_wrmsr(index, value) {
            self.fail(&format!("WRMSR to {index:#x} faults"));
        }
    }

    /// RDMSR; `None` for a general protection fault.
    pub fn try_rdmsr(&mut self, index: u32) -> Option<u64> {
        self.count_step();
        let own = self.meet.lock().msrs.get(&index).copied();
        let value = match self.fate(index, false, own.is_some()) {
            None => own,
            Some(MsrAction::Refuse) => None,
            Some(MsrAction::HandOver) => {
                let answer = self.access(Access::ReadMsr { index });
                answer.try_into().ok().map(u64::from_le_bytes)
            }
        };
        self.recorder.push(self.id, Op::ReadMsr { index, value });
        value
    }

    /// WRMSR; false for a general protection fault.
    pub fn try_wrmsr(&mut self, index: u32, value: u64) -> bool {
        self.count_step();
        let known = self.meet.lock().msrs.contains_key(&index);
        let accepted = match self.fate(index, true, known) {
            None => self.meet.lock().msrs.insert(index, value).is_some(),
            Some(MsrAction::Refuse) => false,
            Some(MsrAction::HandOver) => !self.access(Access::WriteMsr { index, value }).is_empty(),
        };
        self.recorder.push(self.id, Op::WriteMsr { index, value, accepted });
        accepted
    }

    /// What becomes of an access; `None` if it is the fake CPU's own register.
    fn fate(&self, index: u32, write: bool, known: bool) -> Option<MsrAction> {
        let filter = &self.vm.msrs;
        filter.action(index, write).or(match (known, filter.hand_over_unknown) {
            (true, _) => None,
            (false, true) => Some(MsrAction::HandOver),
            (false, false) => Some(MsrAction::Refuse),
        })
    }
}
