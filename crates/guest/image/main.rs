//! A guest that says what hardware it finds, and answers typed lines. See the crate's README.
//!
//! It is built for the host's own target, without a standard library, by the crate's build script. `entry.s` takes it from
//! the PVH entry point to privilege level 3, where it stays; the modules that touch hardware are the ones with `unsafe`.
#![no_std]
#![no_main]

#[macro_use]
mod say;

mod acpi;
mod bytes;
mod clock;
mod console;
mod cpu;
mod hardware;
mod interrupts;
mod line;
mod machine;
mod memory;
mod pci;
mod physical;
mod rtc;
mod runtime;
mod shell;
mod start_info;
mod sys;

core::arch::global_asm!(include_str!("entry.s"), options(att_syntax));

/// Called by `entry.s` in user mode, with what the PVH entry was given.
#[unsafe(no_mangle)]
extern "C" fn start(start_info: u64) -> ! {
    let mut console = console::Console::new();
    let machine = machine::Machine::find(start_info);
    shell::run(&machine, &mut console)
}
