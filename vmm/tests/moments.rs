//! A guest that computes is written down at moments that nobody chose, and continued each time by another machine: the result is that
//! of one that was left alone. On any `/dev/kvm`.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone::config::Config;
use drystone::events::Journal;
use drystone::log::Log;
use drystone::machine::{Console, Machine};
use drystone::monitor::{Handle, Request, mailbox};
use drystone::snapshot::{Restore, RestoreConfig, SnapshotRequest, Then};
use drystone_chipset::Taken;
use drystone_kvm::Kvm;
use drystone_lifecycle::Cause;
use std::path::Path;
use std::time::Duration;

const LOAD: u64 = 0x10_0000;
/// Words of memory that it works on.
const WORDS: usize = 0x2000;
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The guest: a generator whose numbers are added up all over memory, which is then folded into one number; that goes to the
/// serial port, and the machine off.
fn code(rounds: u32) -> Vec<u8> {
    let mut code = vec![0x48, 0xb8]; // mov rax, SEED
    code.extend(SEED.to_le_bytes());
    code.extend([0x48, 0xc7, 0xc1]); // mov rcx, rounds
    code.extend(rounds.to_le_bytes());
    code.extend([0x48, 0xc7, 0xc3, 0, 0, 0x40, 0]); // mov rbx, 0x400000
    for shift in [[0xe2, 13], [0xea, 7], [0xe2, 17]] {
        code.extend([0x48, 0x89, 0xc2, 0x48, 0xc1, shift[0], shift[1], 0x48, 0x31, 0xd0]); // rax ^= rax << 13, >> 7, << 17
    }
    code.extend([0x48, 0x89, 0xce, 0x81, 0xe6, 0xff, 0x1f, 0, 0]); // rsi = rcx % WORDS
    code.extend([0x48, 0x01, 0x04, 0xf3]); // add [rbx + rsi * 8], rax
    code.extend([0x48, 0xff, 0xc9, 0x75, 0xd0]); // dec rcx; jnz
    code.extend([0x48, 0x31, 0xc0, 0x48, 0xc7, 0xc1, 0, 0x20, 0, 0]); // rax = 0, rcx = WORDS
    code.extend([0x48, 0xc1, 0xc0, 5, 0x48, 0x33, 0x44, 0xcb, 0xf8]); // rol rax, 5; xor rax, [rbx + rcx * 8 - 8]
    code.extend([0x48, 0xff, 0xc9, 0x75, 0xf2]); // dec rcx; jnz
    code.extend([0x66, 0xba, 0xf8, 0x03, 0x48, 0xc7, 0xc1, 8, 0, 0, 0]); // dx = 0x3f8, rcx = 8
    code.extend([0xee, 0x48, 0xc1, 0xe8, 8, 0x48, 0xff, 0xc9, 0x75, 0xf6]); // out dx, al; shr rax, 8; dec rcx; jnz
    code.extend([0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xf4, 0xeb, 0xfd]); // off: sleep control register, S5
    code
}

/// The same, here.
fn result(rounds: u32) -> u64 {
    let (mut x, mut memory) = (SEED, vec![0_u64; WORDS]);
    for n in (1..=rounds as usize).rev() {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memory[n % WORDS] = memory[n % WORDS].wrapping_add(x);
    }
    memory.iter().rev().fold(0_u64, |fold, word| fold.rotate_left(5) ^ word)
}

/// An ELF of one segment.
fn kernel(code: &[u8]) -> Vec<u8> {
    let (at, len) = (64 + 56, code.len() as u64);
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
    elf.resize(16, 0);
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    [LOAD, 64, 0].into_iter().for_each(|v: u64| elf.extend(v.to_le_bytes()));
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    [at, LOAD, LOAD, len, len, 0x1000].into_iter().for_each(|v: u64| elf.extend(v.to_le_bytes()));
    elf.extend(code);
    elf
}

/// xorshift64*: other moments each time, as the host is never the same.
struct Random(u64);
impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }
}

/// All that the guest has said, once its machine has ended.
fn said(console: &Console, text: &mut Vec<u8>) {
    while console.output.take(text, Duration::from_secs(60)) != Taken::Closed {}
}

/// Runs a machine until it has been written to `dir`, or has ended by itself; says whether it was written.
fn live(
    make: impl FnOnce(&Handle, &Journal) -> (Machine, Console),
    dir: &Path,
    wait: Duration,
    text: &mut Vec<u8>,
) -> bool {
    let (handle, mailbox) = mailbox();
    let (machine, console) = make(&handle, &Journal::new(Log::none()));
    let monitor = mailbox.begin(machine).unwrap();
    let served = std::thread::spawn(move || monitor.serve());
    std::thread::sleep(wait);
    let request = SnapshotRequest { dir: dir.into(), memory_dir: None, then: Then::Stop };
    let written = handle.request(Request::Snapshot(request)).is_ok();
    let end = served.join().unwrap().unwrap();
    said(&console, text);
    assert!(written || end.cause == Cause::GuestPowerOff, "{end:?}");
    written
}

/// One guest from its first instruction to its last; says how often it was written down on the way.
fn chain(dir: &Path, rounds: u32, random: &mut Random) -> u32 {
    let (image, snapshot) = (dir.join("kernel"), dir.join("snapshot"));
    std::fs::write(&image, kernel(&code(rounds))).unwrap();
    let kvm = Kvm::open().unwrap();
    let mut config = Config { kernel: Some(image), cpus: 1.into(), rng: false, ..Config::default() };
    config.memory.size = "16M".parse().unwrap();
    let mut text = Vec::new();
    let mut moment = || Duration::from_micros(random.below(20_000));
    let boot = |handle: &Handle, journal: &Journal| Machine::build(&config, &kvm, handle, journal).unwrap();
    let mut written = live(boot, &snapshot, moment(), &mut text);
    let mut count = 0;
    while written {
        count += 1;
        let wanted = RestoreConfig { dir: snapshot.clone(), ..RestoreConfig::default() };
        let restore = Restore::prepare(&wanted).unwrap();
        let go_on =
            |handle: &Handle, journal: &Journal| Machine::restore(&restore, &kvm, handle, journal).unwrap();
        written = live(go_on, &snapshot, moment(), &mut text);
    }
    assert_eq!(text, result(rounds).to_le_bytes(), "after {count} snapshots");
    count
}

#[test]
fn a_guest_that_is_written_down_at_random_moments_comes_to_the_same_result() {
    if Kvm::open().is_err() {
        eprintln!("NOT RUN: /dev/kvm cannot be opened");
        return;
    }
    let wanted = if std::env::var_os("DRYSTONE_FULL").is_some() { 1000 } else { 50 };
    let dir = tempfile::tempdir().unwrap();
    let (mut total, mut rounds, mut random) = (0, 20_000, Random(0x5eed));
    while total < wanted {
        let count = chain(dir.path(), rounds, &mut random);
        total += count;
        // How fast the host is shows: a guest should live through some, and not through all.
        if count < 10 {
            rounds *= 4;
        }
    }
    println!("{total} snapshots; the last guest made {rounds} rounds");
}
