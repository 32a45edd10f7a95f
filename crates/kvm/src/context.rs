use crate::convert;
use crate::memory::Slots;
use drystone_hypervisor::GuestContext;
use kvm_bindings::{KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, kvm_run};
use kvm_ioctls::VcpuFd;

/// The longest x86 instruction (Intel SDM volume 2, 2.3.11).
const MAX_INSTRUCTION: usize = 15;

/// What KVM says of an internal error: its kind, its data words, and the instruction's bytes if it gives them.
pub(crate) struct InternalError {
    pub(crate) suberror: u32,
    pub(crate) data: Vec<u64>,
    bytes: Vec<u8>,
}

impl InternalError {
    /// Reads it from the shared page; only meaningful after KVM_EXIT_INTERNAL_ERROR.
    pub(crate) fn read(run: &kvm_run) -> Self {
        // SAFETY: all variants of this union are plain integers; the exit reason says that this one is in use.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let count = usize::try_from(internal.ndata).unwrap_or(usize::MAX);
        let data = internal.data.iter().take(count).copied().collect();
        let mut bytes = Vec::new();
        if internal.suberror == kvm_bindings::KVM_INTERNAL_ERROR_EMULATION && internal.ndata >= 1 {
            // SAFETY: as above: with this suberror the same words have a finer layout (KVM API, 5).
            let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
            if failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0 {
                // SAFETY: the union has one variant, of plain integers.
                let insn = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
                bytes = insn.insn_bytes.iter().take(insn.insn_size.into()).copied().collect();
            }
        }
        Self { suberror: internal.suberror, data, bytes }
    }
}

/// What the guest was doing, as far as it can be found out: a report must not fail over what is missing.
pub(crate) fn read(fd: &VcpuFd, slots: &Slots, error: Option<&InternalError>) -> GuestContext {
    let regs = fd.get_regs().map(|r| convert::regs_from_kvm(&r)).unwrap_or_default();
    let sregs = fd.get_sregs().map(|s| convert::sregs_from_kvm(&s)).unwrap_or_default();
    let linear = if sregs.cs.l { regs.rip } else { sregs.cs.base.wrapping_add(regs.rip) };
    let mut bytes = error.map(|e| e.bytes.clone()).unwrap_or_default();
    if bytes.is_empty() {
        bytes = read_code(fd, slots, linear);
    }
    let bits = match (sregs.cs.l, sregs.cs.db) {
        (true, _) => 64,
        (false, true) => 32,
        (false, false) => 16,
    };
    let (instruction, len) = decode(&bytes, bits, regs.rip);
    bytes.truncate(len.unwrap_or(MAX_INSTRUCTION));
    GuestContext { regs, sregs, bytes, instruction }
}

/// The bytes at a linear address; they may go on into the next page, which may lie elsewhere.
fn read_code(fd: &VcpuFd, slots: &Slots, linear: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_INSTRUCTION {
        let at = linear.wrapping_add(bytes.len() as u64);
        let Some(physical) = fd.translate_gva(at).ok().filter(|t| t.valid != 0) else { break };
        let in_page = usize::try_from(4096 - at % 4096).unwrap_or(0);
        let mut piece = vec![0; in_page.min(MAX_INSTRUCTION - bytes.len())];
        let read = slots.read(physical.physical_address, &mut piece);
        piece.truncate(read);
        if piece.is_empty() {
            break;
        }
        bytes.extend(piece);
    }
    bytes
}

/// The instruction in assembler notation, and its length in bytes.
#[cfg(feature = "disassemble")]
fn decode(bytes: &[u8], bits: u32, rip: u64) -> (Option<String>, Option<usize>) {
    use iced_x86::{Decoder, DecoderOptions, Formatter, NasmFormatter};
    let instruction = Decoder::with_ip(bits, bytes, rip, DecoderOptions::NONE).decode();
    if instruction.is_invalid() {
        return (None, None);
    }
    let mut text = String::new();
    NasmFormatter::new().format(&instruction, &mut text);
    (Some(text), Some(instruction.len()))
}

#[cfg(not(feature = "disassemble"))]
fn decode(_bytes: &[u8], _bits: u32, _rip: u64) -> (Option<String>, Option<usize>) {
    (None, None)
}
