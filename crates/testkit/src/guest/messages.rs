use super::{INTERRUPT_PORT, Interrupts, READY_PORT};
use crate::{Asm, Guest};

/// The lowest of the four vectors that [`messages`] takes.
pub const FIRST_VECTOR: u8 = 0x50;
/// A local APIC's registers (Intel SDM volume 3, table 11-1).
pub(super) const SPURIOUS_VECTOR: u64 = 0xfee0_00f0;
pub(super) const END_OF_INTERRUPT: u64 = 0xfee0_00b0;
const NMI: u8 = 2;

/// Takes interrupt messages of the vectors [`FIRST_VECTOR`] to `FIRST_VECTOR + 3`, and NMIs, and writes the vector of each
/// to [`INTERRUPT_PORT`]. Writes to [`READY_PORT`] when its local APIC is on, and halts in between.
pub fn messages() -> Guest {
    let mut code = Asm::new().mov_rdi(SPURIOUS_VECTOR).mov_rax(0x1ff).store(4);
    code = code.out_imm(READY_PORT as u8, 0).sti();
    let end = code.here();
    code = code.hlt().jmp(end);
    let mut handlers = vec![(NMI, code.here())];
    code = code.push_rax().out_imm(INTERRUPT_PORT as u8, NMI).pop_rax().iretq();
    for vector in FIRST_VECTOR..FIRST_VECTOR + 4 {
        handlers.push((vector, code.here()));
        code = code.push_rax().out_imm(INTERRUPT_PORT as u8, vector);
        code = code.mov_rdi(END_OF_INTERRUPT).mov_rax(0).store(4).pop_rax().iretq();
    }
    let guest = Guest::new(code, |cpu| {
        cpu.out8(READY_PORT, 0);
        loop {
            if cpu.take_nmi() {
                cpu.out8(INTERRUPT_PORT, NMI);
            }
            match cpu.take_message() {
                Some(vector) => {
                    cpu.out8(INTERRUPT_PORT, vector);
                    cpu.end_of_interrupt(vector);
                }
                None => cpu.halt(),
            }
        }
    });
    Guest { interrupts: Some(Interrupts { handlers }), ..guest }
}
