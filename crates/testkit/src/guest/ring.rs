use super::messages::{END_OF_INTERRUPT, SPURIOUS_VECTOR};
use super::{DATA, FIRST_VECTOR, Interrupts, READY_PORT};
use crate::{Asm, Guest};
use drystone_hypervisor::Msi;

/// Asks the next vCPU for a reply.
const REQUEST: u8 = FIRST_VECTOR;
/// Answers the one before.
const REPLY: u8 = FIRST_VECTOR + 1;
/// A local APIC's command register (Intel SDM volume 3, 11.6.1).
const COMMAND_LOW: u64 = 0xfee0_0300;
const COMMAND_HIGH: u64 = 0xfee0_0310;
/// A byte that is not 0 here ends the guest of [`passes_messages`] after its current round.
pub const STOP: u64 = DATA + 0xff0;
const MULTIPLIER: u8 = 3;

/// What a vCPU of [`passes_messages`] has done; in guest memory, little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Requests that it was sent.
    pub requests: u64,
    /// Replies that it was sent.
    pub replies: u64,
    /// Rounds that it began; valid once it is done.
    pub rounds: u64,
    /// What it computed; see [`result_of`].
    pub result: u64,
    /// Not 0 once the others are valid for good, but for `requests`.
    pub done: u64,
}

impl Progress {
    /// How many bytes it takes.
    pub const LEN: usize = 40;

    /// Where the one of vCPU `id` is.
    pub fn address(id: u32) -> u64 {
        DATA + u64::from(id) * 0x40
    }

    /// From guest memory.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let word = |n: usize| u64::from_le_bytes(bytes[n * 8..n * 8 + 8].try_into().unwrap());
        Self { requests: word(0), replies: word(1), rounds: word(2), result: word(3), done: word(4) }
    }
}

/// What a vCPU that made `rounds` rounds has computed.
pub fn result_of(rounds: u64) -> u64 {
    (1..=rounds).fold(0, |sum: u64, n| sum.wrapping_mul(MULTIPLIER.into()).wrapping_add(n))
}

/// The vCPU `id` of `count` in a ring: in each round it computes, sends an interrupt to the next one, and halts until that
/// one replies; at any time it replies to the one before. Writes to [`READY_PORT`] once its local APIC is on, and works
/// from then on. Everything that it needs is in registers, in memory and in its local APIC, so it can be saved between any
/// two instructions.
pub fn passes_messages(id: u32, count: u32) -> Guest {
    let (next, before) = ((id + 1) % count, (id + count - 1) % count);
    let guest = Guest::new(Asm::new(), move |cpu| closure(cpu, id, next as u8, before as u8));
    let (code, handlers) = machine_code(id, next, before);
    Guest { code, interrupts: Some(Interrupts { handlers }), ..guest }
}

/// RBX counts rounds, R12 is what was computed.
fn machine_code(id: u32, next: u32, before: u32) -> (Asm, Vec<(u8, usize)>) {
    let [requests, replies, rounds, result, done] = [0, 8, 16, 24, 32].map(|at| Progress::address(id) + at);
    let send = |code: Asm, to: u32, vector: u8| {
        let code = code.mov_rdi(COMMAND_HIGH).mov_rax(u64::from(to) << 24).store(4);
        code.mov_rdi(COMMAND_LOW).mov_rax(vector.into()).store(4)
    };
    let mut code = Asm::new().mov_rdi(SPURIOUS_VECTOR).mov_rax(0x1ff).store(4).out_imm(READY_PORT as u8, 0);
    let again = code.here();
    code = code.cli().mov_rdi(replies).load(8).raw(&[0x48, 0x39, 0xd8]); // cmp rax, rbx
    let (code, waits) = code.jnz_forward();
    let (code, ends) = code.mov_rdi(STOP).load(1).raw(&[0x84, 0xc0]).jnz_forward(); // test al, al
    let code = code.inc_ebx().raw(&[0x4d, 0x6b, 0xe4, MULTIPLIER]).raw(&[0x49, 0x01, 0xdc]); // imul r12; add r12, rbx
    let code = send(code, next, REQUEST).sti().jmp(again);
    let code = code.land(waits).sti().hlt().jmp(again);
    let code = code.land(ends).mov_rdi(rounds).store_rbx().mov_rdi(result).raw(&[0x4c, 0x89, 0x27]); // mov [rdi], r12
    let code = code.mov_rdi(done).inc_at_rdi();
    let idle = code.here();
    let code = code.sti().hlt().jmp(idle);
    let end = |code: Asm| {
        let code = code.mov_rdi(END_OF_INTERRUPT).mov_rax(0).store(4);
        code.pop_rdi().pop_rax().iretq()
    };
    let on_request = code.here();
    let code = code.push_rax().push_rdi().mov_rdi(requests).inc_at_rdi();
    let code = end(send(code, before, REPLY));
    let on_reply = code.here();
    let code = end(code.push_rax().push_rdi().mov_rdi(replies).inc_at_rdi());
    (code, vec![(REQUEST, on_request), (REPLY, on_reply)])
}

/// As the machine code, but begun anew after each restore, so every step's outcome is in a register before the next one
/// can be interrupted: R9 counts requests, R10 replies, R11 the replies that were sent.
fn closure(cpu: &mut drystone_hypervisor::fake::GuestCpu, id: u32, next: u8, before: u8) {
    let at = Progress::address(id);
    let mut stop = [0];
    if cpu.regs().rbx == 0 {
        cpu.out8(READY_PORT, 0);
    }
    loop {
        let taken = cpu.take_message();
        cpu.set_regs(|r| match taken {
            Some(REQUEST) => r.r9 += 1,
            Some(_) => r.r10 += 1,
            None => {}
        });
        let regs = cpu.regs();
        let progress = [regs.r9, regs.r10, regs.rbx, regs.r12].map(u64::to_le_bytes).concat();
        cpu.ram_write(at, &progress).unwrap();
        cpu.ram_read(STOP, &mut stop).unwrap();
        if regs.r11 < regs.r9 {
            cpu.send_message(Msi::fixed(before, REPLY));
            cpu.set_regs(|r| r.r11 += 1);
        } else if regs.r10 == regs.rbx && stop == [0] {
            cpu.send_message(Msi::fixed(next, REQUEST));
            cpu.set_regs(|r| {
                r.rbx += 1;
                r.r12 = r.r12.wrapping_mul(MULTIPLIER.into()).wrapping_add(r.rbx);
            });
        } else {
            if regs.r10 == regs.rbx {
                cpu.ram_write(at + 32, &[1]).unwrap();
            }
            cpu.halt();
        }
    }
}
