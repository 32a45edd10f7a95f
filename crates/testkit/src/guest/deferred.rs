use super::DATA;
use crate::{Asm, Guest};

/// An address register, of four bytes.
pub const ADDRESS_PORT: u16 = 0x70;
/// What it selects.
pub const SELECTED_PORT: u16 = 0x78;
/// Of no use.
pub const OTHER_PORT: u16 = 0x7c;

/// Outputs `count`, `count - 1`, …, 1 to [`ADDRESS_PORT`] in four bytes each, and halts.
pub fn counts_down(count: u32) -> Guest {
    let code = Asm::new().mov_ecx(count).mov_edx(ADDRESS_PORT.into());
    let again = code.here();
    let code = code.raw(&[0x89, 0xc8]).output(4).dec_ecx().jnz(again).hlt(); // mov eax, ecx
    Guest::new(code, move |cpu| {
        (1..=count).rev().for_each(|n| cpu.out32(ADDRESS_PORT, n));
        cpu.halt();
    })
}

/// Outputs to [`ADDRESS_PORT`], then sets the byte at [`DATA`] to 1, and does nothing more for ever.
pub fn writes_and_spins() -> Guest {
    let code = Asm::new().mov_rax(1).mov_edx(ADDRESS_PORT.into()).output(4).mov_rdi(DATA).store(1);
    let here = code.here();
    Guest::new(code.jmp(here), |cpu| {
        cpu.out32(ADDRESS_PORT, 1);
        cpu.mmio_write(DATA, &[1]);
        loop {
            cpu.step();
        }
    })
}

/// One of two vCPUs, `id` 0 or 1, that take turns: `rounds` times it waits for its turn, with outputs to [`OTHER_PORT`], outputs
/// its number to [`ADDRESS_PORT`] in four bytes and to [`SELECTED_PORT`] in one, and gives the turn to the other. Then it
/// halts.
pub fn selects_by_turns(id: u8, rounds: u32) -> Guest {
    let code = Asm::new().mov_ecx(rounds);
    let again = code.here();
    let code = code.mov_edx(OTHER_PORT.into()).output(1);
    let code = code.mov_rdi(DATA).load(1).raw(&[0x3c, id]).jnz(again); // cmp al, id
    let code = code.mov_rax(id.into()).mov_edx(ADDRESS_PORT.into()).output(4);
    let code = code.mov_edx(SELECTED_PORT.into()).output(1);
    let code = code.mov_rax((1 - id).into()).store(1).dec_ecx().jnz(again).hlt();
    Guest::new(code, move |cpu| {
        for _ in 0..rounds {
            let mut turn = [2];
            while turn != [id] {
                cpu.out8(OTHER_PORT, 0);
                cpu.mmio_read(DATA, &mut turn);
            }
            cpu.out32(ADDRESS_PORT, id.into());
            cpu.out8(SELECTED_PORT, id);
            cpu.mmio_write(DATA, &[1 - id]);
        }
        cpu.halt();
    })
}
