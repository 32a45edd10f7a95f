use super::Interrupts;
use crate::{Asm, Guest};

/// Where [`msrs`] writes what it read: the low 32 bits, then the high ones.
pub const VALUE_PORT: u16 = 0x10;
/// Where [`msrs`] writes 13 for each general protection fault.
pub const FAULT_PORT: u16 = 0x12;
const GENERAL_PROTECTION: u8 = 13;

/// One access of [`msrs`].
#[derive(Debug, Clone, Copy)]
pub enum MsrOp {
    /// RDMSR of a register.
    Read(u32),
    /// WRMSR to a register.
    Write(u32, u64),
}

/// Makes `ops`, writes the value of each read to [`VALUE_PORT`] (0 after a fault), and each fault to [`FAULT_PORT`]; then
/// halts.
pub fn msrs(ops: &[MsrOp]) -> Guest {
    let ops = ops.to_vec();
    let mut code = Asm::new();
    for op in &ops {
        code = match *op {
            MsrOp::Read(index) => {
                // mov ebx, edx
                let read = code.mov_ecx(index).rdmsr().raw(&[0x89, 0xd3]).mov_edx(VALUE_PORT.into());
                read.output(4).mov_eax_ebx().output(4)
            }
            MsrOp::Write(index, value) => {
                code.mov_ecx(index).mov_rax(value & 0xffff_ffff).mov_edx((value >> 32) as u32).wrmsr()
            }
        };
    }
    code = code.hlt();
    let handler = code.here();
    // Over the error code; add qword [rsp], 2: behind the instruction; xor edx, edx; the value is 0.
    code = code.raw(&[0x48, 0x83, 0xc4, 0x08, 0x48, 0x83, 0x04, 0x24, 0x02]);
    code = code.out_imm(FAULT_PORT as u8, GENERAL_PROTECTION).raw(&[0x31, 0xd2]).mov_rax(0).iretq();
    let guest = Guest::new(code, move |cpu| {
        for op in &ops {
            match *op {
                MsrOp::Read(index) => {
                    let value = cpu.try_rdmsr(index);
                    if value.is_none() {
                        cpu.out8(FAULT_PORT, GENERAL_PROTECTION);
                    }
                    let value = value.unwrap_or(0);
                    cpu.out32(VALUE_PORT, value as u32);
                    cpu.out32(VALUE_PORT, (value >> 32) as u32);
                }
                MsrOp::Write(index, value) => {
                    if !cpu.try_wrmsr(index, value) {
                        cpu.out8(FAULT_PORT, GENERAL_PROTECTION);
                    }
                }
            }
        }
        cpu.halt();
    });
    Guest { interrupts: Some(Interrupts { handlers: vec![(GENERAL_PROTECTION, handler)] }), ..guest }
}
