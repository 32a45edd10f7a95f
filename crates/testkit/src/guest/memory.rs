use crate::{Asm, Guest};

const PAGE: u64 = 4096;

/// Stores a byte in each of `count` pages from `first` on, with an output to port 0x10 after each, and halts. (The
/// output is there for hypervisors that interpret the guest, and see only then that a list of pages is full.)
pub fn touches_pages(first: u64, count: u32) -> Guest {
    let code = Asm::new().mov_rdi(first).mov_ecx(count);
    let again = code.here();
    let code = code.store_bl().out_imm(0x10, 1).add_rdi(PAGE as u32).dec_ecx().jnz(again).hlt();
    Guest::new(code, move |cpu| {
        for page in 0..u64::from(count) {
            let byte = cpu.regs().rbx as u8;
            cpu.mmio_write(first + page * PAGE, &[byte]);
            cpu.out8(0x10, 1);
        }
        cpu.halt();
    })
}

/// Counts in RBX and stores it in one after the other of `count` pages from `first` on, for ever, with an output to port 0x10
/// after the last one. (As above; what a list has left when it counts as full, 64 entries with KVM, is to do for `count` pages.)
pub fn scribbles(first: u64, count: u32) -> Guest {
    let code = Asm::new();
    let start = code.here();
    let code = code.mov_rdi(first).mov_ecx(count);
    let again = code.here();
    let code =
        code.inc_ebx().store_rbx().add_rdi(PAGE as u32).dec_ecx().jnz(again).out_imm(0x10, 1).jmp(start);
    Guest::new(code, move |cpu| {
        loop {
            for page in 0..u64::from(count) {
                cpu.set_regs(|r| r.rbx = u64::from((r.rbx as u32).wrapping_add(1)));
                let rbx = cpu.regs().rbx;
                cpu.mmio_write(first + page * PAGE, &rbx.to_le_bytes());
            }
            cpu.out8(0x10, 1);
        }
    })
}
