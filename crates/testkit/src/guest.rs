//! Guest programs that run on a CPU and on the fake one.

use crate::Asm;
use drystone_hypervisor::Regs;
use drystone_hypervisor::fake::GuestCpu;
use std::sync::Arc;

mod deferred;
mod memory;
mod messages;
mod msrs;
mod ring;

pub use deferred::{
    ADDRESS_PORT, OTHER_PORT, SELECTED_PORT, counts_down, selects_by_turns, writes_and_spins,
};
pub use memory::{scribbles, touches_pages};
pub use messages::{FIRST_VECTOR, messages};
pub use msrs::{FAULT_PORT, MsrOp, VALUE_PORT, msrs};
pub use ring::{Progress, STOP, passes_messages, result_of};

type FakeGuest = Arc<dyn Fn(&mut GuestCpu) + Send + Sync>;

/// A guest program twice: as machine code for a CPU and as a closure for the fake one. Both make the same accesses in
/// the same order, so that the same assertions hold on both.
#[derive(Clone)]
pub struct Guest {
    pub(crate) code: Asm,
    pub(crate) fake: FakeGuest,
    pub(crate) regs: Regs,
    pub(crate) data: Vec<(u64, Vec<u8>)>,
    pub(crate) interrupts: Option<Interrupts>,
}

/// What a guest that takes interrupts needs in its interrupt descriptor table.
#[derive(Clone)]
pub(crate) struct Interrupts {
    /// Vector and offset of its handler in the code.
    pub(crate) handlers: Vec<(u8, usize)>,
}

impl Guest {
    /// `code` runs in 64-bit mode at privilege level 0 with 4 GiB mapped one to one, interrupts off, and a stack.
    pub fn new(code: Asm, fake: impl Fn(&mut GuestCpu) + Send + Sync + 'static) -> Self {
        let regs = Regs::default();
        Self { code, fake: Arc::new(fake), regs, data: Vec::new(), interrupts: None }
    }

    /// A guest for hypervisors that run machine code only.
    pub fn machine_code(code: Asm) -> Self {
        Self::new(code, |cpu| cpu.fail("this guest is machine code"))
    }

    /// Registers at the start. RIP, RSP and RFLAGS are set by whoever starts it.
    #[must_use]
    pub fn regs(self, regs: Regs) -> Self {
        Self { regs, ..self }
    }

    /// Puts `bytes` into RAM at `addr` before it starts.
    #[must_use]
    pub fn data(mut self, addr: u64, bytes: &[u8]) -> Self {
        self.data.push((addr, bytes.to_vec()));
        self
    }
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").field("code", &self.code).finish_non_exhaustive()
    }
}

/// The value that width tests write: each byte differs.
pub const PATTERN: u64 = 0x8877_6655_4433_2211;
/// Where [`RAM`](crate::RAM) has room for a guest's data.
pub const DATA: u64 = 0x8_0000;
/// A guest-physical address without RAM, for devices.
pub const DEVICE: u64 = 0xd000_0000;
/// What [`interrupts`] writes to this port once it is ready.
pub const READY_PORT: u16 = 0x99;
/// Where [`interrupts`] writes the number of each interrupt that it takes.
pub const INTERRUPT_PORT: u16 = 0x98;

/// Outputs the low bytes of [`PATTERN`] to port 0x10 in each width, then inputs from 0x28 and outputs what it got to
/// 0x29 in each width, then halts.
pub fn port_io() -> Guest {
    let mut code = Asm::new().mov_rax(PATTERN).mov_edx(0x10).output(1).output(2).output(4);
    for width in [1, 2, 4] {
        code = code.mov_edx(0x28).input(width).mov_edx(0x29).output(width);
    }
    Guest::new(code.hlt(), |cpu| {
        for width in [1, 2, 4] {
            cpu.pio_out(0x10, &PATTERN.to_le_bytes()[..width]);
        }
        for width in [1, 2, 4] {
            let mut data = vec![0; width];
            cpu.pio_in(0x28, &mut data);
            cpu.pio_out(0x29, &data);
        }
        cpu.halt();
    })
}

/// Outputs 8 bytes from [`DATA`] to port 0x30 as items of each width, fills 8 bytes behind them from port 0x31 as items of
/// each width, and outputs those to 0x30 again as bytes; then halts.
pub fn string_io() -> Guest {
    let mut code = Asm::new();
    for width in [1, 2, 4] {
        code = code.mov_rsi(DATA).mov_ecx(8 / width as u32).mov_edx(0x30).rep_outs(width);
    }
    for width in [1, 2, 4] {
        code = code.mov_rdi(DATA + 8).mov_ecx(8 / width as u32).mov_edx(0x31).rep_ins(width);
        code = code.mov_rsi(DATA + 8).mov_ecx(8).mov_edx(0x30).rep_outs(1);
    }
    let guest = Guest::new(code.hlt(), |cpu| {
        let mut data = [0; 8];
        cpu.ram_read(DATA, &mut data).unwrap();
        for width in [1, 2, 4] {
            cpu.rep_out(0x30, width, &data);
        }
        for width in [1, 2, 4] {
            cpu.rep_in(0x31, width, &mut data);
            cpu.rep_out(0x30, 1, &data);
        }
        cpu.halt();
    });
    guest.data(DATA, &PATTERN.to_le_bytes())
}

/// Stores the low bytes of [`PATTERN`] at [`DEVICE`] in each width, then loads from there and stores what it got 0x100
/// bytes further up in each width, then halts.
pub fn mmio() -> Guest {
    let mut code = Asm::new().mov_rax(PATTERN).mov_rdi(DEVICE);
    for width in [1, 2, 4, 8] {
        code = code.store(width);
    }
    for width in [1, 2, 4, 8] {
        code = code.mov_rdi(DEVICE).load(width).mov_rdi(DEVICE + 0x100).store(width);
    }
    Guest::new(code.hlt(), |cpu| {
        for width in [1, 2, 4, 8] {
            cpu.mmio_write(DEVICE, &PATTERN.to_le_bytes()[..width]);
        }
        for width in [1, 2, 4, 8] {
            let mut data = vec![0; width];
            cpu.mmio_read(DEVICE, &mut data);
            cpu.mmio_write(DEVICE + 0x100, &data);
        }
        cpu.halt();
    })
}

/// Halts (interrupts off), outputs 1 to port 0x10, halts for ever.
pub fn halts() -> Guest {
    let code = Asm::new().hlt().out_imm(0x10, 1);
    let end = code.here();
    Guest::new(code.hlt().jmp(end), |cpu| {
        cpu.halt();
        cpu.out8(0x10, 1);
        loop {
            cpu.halt();
        }
    })
}

/// Reads linear address 2^39, which is not mapped, without any handler: a triple fault.
pub fn triple_fault() -> Guest {
    Guest::new(Asm::new().mov_rdi(1 << 39).load(1).hlt(), |cpu| cpu.shutdown())
}

/// Never does anything, for ever.
pub fn spins() -> Guest {
    Guest::new(Asm::new().jmp(0), |cpu| {
        loop {
            cpu.step();
        }
    })
}

/// Inputs a byte from port 0x28, then spins.
pub fn inputs_then_spins() -> Guest {
    let code = Asm::new().mov_edx(0x28).input(1);
    let end = code.here();
    Guest::new(code.jmp(end), |cpu| {
        cpu.in8(0x28);
        loop {
            cpu.step();
        }
    })
}

/// Outputs 0, 1, 2, … to port 0x10. Its only state is in RBX, so it can be saved between any two instructions.
pub fn counts() -> Guest {
    Guest::new(Asm::new().mov_edx(0x10).mov_eax_ebx().inc_ebx().output(1).jmp(0), |cpu| {
        loop {
            let byte = cpu.regs().rbx as u8;
            cpu.set_regs(|r| r.rbx += 1);
            cpu.out8(0x10, byte);
        }
    })
}

/// Stores BL at \[RDI\] and halts, over and over: set the registers in between.
pub fn pokes() -> Guest {
    Guest::new(Asm::new().store_bl().hlt().jmp(0), |cpu| {
        loop {
            let regs = cpu.regs();
            cpu.mmio_write(regs.rdi, &[regs.rbx as u8]);
            cpu.halt();
        }
    })
}

/// Loads a byte from \[RDI\], outputs it to port 0x10 and halts, over and over: set the registers in between.
pub fn peeks() -> Guest {
    Guest::new(Asm::new().load(1).mov_edx(0x10).output(1).hlt().jmp(0), |cpu| {
        loop {
            let mut byte = [0];
            cpu.mmio_read(cpu.regs().rdi, &mut byte);
            cpu.out8(0x10, byte[0]);
            cpu.halt();
        }
    })
}

/// Outputs `values` (value, width) to port 0x70 and stores them at [`DEVICE`], then halts.
pub fn writes(values: &[(u64, usize)]) -> Guest {
    let values = values.to_vec();
    let mut code = Asm::new().mov_edx(0x70).mov_rdi(DEVICE);
    for &(value, width) in &values {
        code = code.mov_rax(value);
        code = if width < 8 { code.output(width) } else { code };
        code = code.store(width);
    }
    Guest::new(code.hlt(), move |cpu| {
        for &(value, width) in &values {
            let data = &value.to_le_bytes()[..width];
            if width < 8 {
                cpu.pio_out(0x70, data);
            }
            cpu.mmio_write(DEVICE, data);
        }
        cpu.halt();
    })
}

/// Takes interrupts 4 to 7 (through the first PIC, where there are instructions for it) and writes the number of each to
/// [`INTERRUPT_PORT`]. Writes to [`READY_PORT`] when it is ready, and halts in between.
pub fn interrupts() -> Guest {
    // ICW1 to ICW4: vectors from 0x20 on; then unmask 4 to 7 (Intel 8259A data sheet).
    let mut code = Asm::new();
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x01), (0x21, 0x0f)] {
        code = code.out_imm(port, value);
    }
    code = code.out_imm(READY_PORT as u8, 0).sti();
    let end = code.here();
    code = code.hlt().jmp(end);
    let mut handlers = Vec::new();
    for gsi in 4..8 {
        handlers.push((0x20 + gsi, code.here()));
        code = code.push_rax().out_imm(INTERRUPT_PORT as u8, gsi).out_imm(0x20, 0x20).pop_rax().iretq();
    }
    let guest = Guest::new(code, |cpu| {
        cpu.out8(READY_PORT, 0);
        loop {
            let gsi = cpu.wait_interrupt();
            cpu.out8(INTERRUPT_PORT, gsi as u8);
        }
    });
    Guest { interrupts: Some(Interrupts { handlers }), ..guest }
}

/// Lets interrupts in without a word to their controllers, and writes to [`READY_PORT`] twice; what it gets as number 4, which is input 4
/// of a first PIC that nobody has set up, it writes to [`INTERRUPT_PORT`].
pub fn lets_interrupts_in() -> Guest {
    let code = Asm::new().sti().out_imm(READY_PORT as u8, 0).out_imm(READY_PORT as u8, 1).hlt();
    let handlers = vec![(4, code.here())];
    let code = code.push_rax().out_imm(INTERRUPT_PORT as u8, 4).pop_rax().iretq();
    let guest = Guest::new(code, |cpu| {
        cpu.out8(READY_PORT, 0);
        cpu.out8(READY_PORT, 1);
        cpu.halt();
    });
    Guest { interrupts: Some(Interrupts { handlers }), ..guest }
}

/// Waits until the byte at [`DATA`] is not 0, outputs it to port 0x10 and halts.
pub fn waits_for_data() -> Guest {
    let code = Asm::new().mov_rdi(DATA);
    let again = code.here();
    let code = code.load(1).raw(&[0x84, 0xc0, 0x75, 0x05]).jmp(again); // test al, al; jnz over the jump
    Guest::new(code.mov_edx(0x10).output(1).hlt(), |cpu| {
        let mut byte = [0];
        while byte == [0] {
            cpu.ram_read(DATA, &mut byte).unwrap();
        }
        cpu.out8(0x10, byte[0]);
        cpu.halt();
    })
}

/// Outputs 1 to port 0x11, stores 7 at [`DATA`] and halts.
pub fn gives_data() -> Guest {
    let code = Asm::new().out_imm(0x11, 1).mov_rdi(DATA).mov_rax(7).store(1).hlt();
    Guest::new(code, |cpu| {
        cpu.out8(0x11, 1);
        cpu.ram_write(DATA, &[7]).unwrap();
        cpu.halt();
    })
}
