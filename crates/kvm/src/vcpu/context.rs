use super::KvmVcpu;
use crate::disassemble::first_instruction;
use drystone_hypervisor::{GuestContext, Sregs, Vcpu};

/// The longest instruction (Intel SDM volume 2, 2.3.11).
const MAX_INSTRUCTION: usize = 15;
/// Long mode is active (EFER.LMA).
const EFER_LMA: u64 = 1 << 10;

impl KvmVcpu {
    /// What the guest is doing. `bytes` is its instruction where KVM gave it, or empty. What cannot be read is left out:
    /// this explains an error, and must not be one.
    pub(super) fn context(&self, bytes: &[u8]) -> Box<GuestContext> {
        let regs = self.regs().unwrap_or_default();
        let sregs = self.sregs().unwrap_or_default();
        let mut bytes = bytes.to_vec();
        if bytes.is_empty() {
            bytes = self.code_at(linear_address(&sregs, regs.rip));
        }
        let mut instruction = None;
        if let Some((text, len)) = first_instruction(&bytes, regs.rip, code_bits(&sregs)) {
            // KVM fetches ahead: the rest belongs to the next instructions.
            bytes.truncate(len);
            instruction = Some(text);
        }
        Box::new(GuestContext { regs, sregs, bytes, instruction })
    }

    /// Guest memory at a linear address, as far as it is mapped.
    fn code_at(&self, start: u64) -> Vec<u8> {
        let mut code = vec![0; MAX_INSTRUCTION];
        let mut done = 0;
        while let Some(rest) = code.get_mut(done..).filter(|r| !r.is_empty()) {
            let linear = start.wrapping_add(done as u64);
            let Ok(page) = self.fd.translate_gva(linear) else { break };
            if page.valid == 0 {
                break;
            }
            // One page at a time: the next may lie anywhere.
            let len = rest.len().min((0x1000 - (linear & 0xfff)) as usize);
            let read = rest.get_mut(..len).map_or(0, |rest| self.vm.slots.read(page.physical_address, rest));
            if read == 0 {
                break;
            }
            done += read;
        }
        code.truncate(done);
        code
    }
}

fn code_bits(sregs: &Sregs) -> u32 {
    match (sregs.efer & EFER_LMA != 0 && sregs.cs.l, sregs.cs.db) {
        (true, _) => 64,
        (false, true) => 32,
        (false, false) => 16,
    }
}

fn linear_address(sregs: &Sregs, rip: u64) -> u64 {
    // In 64-bit mode the base of CS counts as 0; elsewhere linear addresses have 32 bits.
    if code_bits(sregs) == 64 { rip } else { sregs.cs.base.wrapping_add(rip) & 0xffff_ffff }
}
