//! What the guest says, and what it answers.

use crate::acpi::Place;
use crate::console::Console;
use crate::line::{Line, Typed};
use crate::machine::Machine;
use crate::memory::{self, Bytes, RAM};
use crate::physical::Physical;
use crate::{clock, cpu, pci, rtc, sys};
use core::fmt::Write;

const HELP: &str = "\
help          this
cpu  mem  acpi  pci  time  serial  cmdline
              what there is of it
all           all of them
check         write to both ends of every range of RAM, and read back
echo TEXT     say it again
reset         start this guest again
poweroff      end it
crash         end it by a triple fault";

/// Says everything once, then answers lines.
pub fn run(machine: &Machine, out: &mut Console) -> ! {
    say!(out, "A small guest, built into drystone. It finds:\n");
    all(machine, out);
    say!(out, "\nType help for what it answers, poweroff to leave.");
    let mut line = Line::new();
    loop {
        let _ = out.write_str("> ");
        read_line(machine, out, &mut line);
        answer(machine, out, line.text());
        line.clear();
    }
}

fn read_line(machine: &Machine, out: &mut Console, line: &mut Line) {
    loop {
        match out.read() {
            Some(byte) if line.take(byte, out) == Typed::Done => return,
            Some(_) => (),
            None => match &machine.interrupts {
                Some(interrupts) => interrupts.wait(),
                None => core::hint::spin_loop(),
            },
        }
    }
}

fn answer(machine: &Machine, out: &mut Console, line: &str) {
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    match command {
        "" => (),
        "help" | "?" => say!(out, "{HELP}"),
        "all" => all(machine, out),
        "cpu" => processors(machine, out),
        "mem" => ram(machine, out),
        "acpi" => tables(machine, out),
        "pci" => devices(machine, out),
        "time" => time(out),
        "serial" => say!(out, "serial     port 0x3f8, {}", out.kind()),
        "cmdline" => cmdline(machine, out),
        "check" => check(machine, out),
        "echo" => say!(out, "{}", rest.trim_start()),
        "reset" => end(out, machine.power.reset, "reset"),
        "poweroff" => end(out, machine.power.off, "power off"),
        "crash" => sys::crash(),
        _ => say!(out, "{command}: no such command; help lists them"),
    }
}

fn all(machine: &Machine, out: &mut Console) {
    processors(machine, out);
    ram(machine, out);
    tables(machine, out);
    devices(machine, out);
    say!(out, "serial     port 0x3f8, {}", out.kind());
    time(out);
    cmdline(machine, out);
}

fn processors(machine: &Machine, out: &mut Console) {
    match &machine.madt {
        Some(madt) => say!(out, "processors {}", madt.processors),
        None => say!(out, "processors at least 1: there is no MADT that lists them"),
    }
    cpu::print(out, sys::cpuid);
}

fn ram(machine: &Machine, out: &mut Console) {
    let Some(info) = &machine.info else {
        say!(out, "memory     unknown: this guest was not started by PVH");
        return;
    };
    let ranges = info.ranges(&machine.memory);
    let (total, usable) = (memory::total(ranges.clone()), memory::usable(ranges.clone()));
    say!(out, "memory     {}, of which {} may be used", Bytes(total), Bytes(usable));
    memory::print(out, ranges);
    if let Some((start, len)) = info.initrd(&machine.memory) {
        say!(out, "initrd     {len} bytes at {start:#x}");
    }
}

fn tables(machine: &Machine, out: &mut Console) {
    if machine.rsdp() == 0 {
        say!(out, "ACPI       none");
        return;
    }
    say!(out, "ACPI       root pointer at {:#x}", machine.rsdp());
    for table in machine.tables() {
        let sound = if table.is_sound(&machine.memory) { "" } else { ", its checksum is wrong" };
        say!(out, "  {} at {:#x}, {} bytes{sound}", table.name(), table.at, table.len);
    }
}

fn devices(machine: &Machine, out: &mut Console) {
    match machine.ecam {
        Some((at, first, last)) => {
            say!(out, "PCI        configuration space at {at:#x}, bus {first} to {last}");
            pci::print(out, &machine.memory, at, first);
        }
        None => say!(out, "PCI        none"),
    }
}

fn time(out: &mut Console) {
    let read = |register| {
        sys::write_port(0x70, register);
        sys::read_port(0x71)
    };
    match rtc::read(read) {
        Some(time) => say!(out, "clock      {time}"),
        None => say!(out, "clock      none"),
    }
    match cpu::has_kvm_clock(sys::cpuid).then(clock::read).flatten() {
        Some(now) => say!(
            out,
            "kvm-clock  {}.{:03} s, time-stamp counter {}.{:03} MHz",
            now.nanoseconds / 1_000_000_000,
            now.nanoseconds / 1_000_000 % 1000,
            now.tsc_khz / 1000,
            now.tsc_khz % 1000
        ),
        None => say!(out, "kvm-clock  none"),
    }
}

fn cmdline(machine: &Machine, out: &mut Console) {
    let mut text = [0; 256];
    if let Some(at) = machine.info.map(|i| i.cmdline).filter(|at| *at != 0) {
        machine.memory.read(at, &mut text);
    }
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    let text = text.get(..end).unwrap_or_default();
    say!(out, "cmdline    {}", core::str::from_utf8(text).unwrap_or("not UTF-8"));
}

/// The lowest MiB holds what the VMM has put there, and the next ones this guest itself.
const OWN_END: u64 = 4 << 20;

fn check(machine: &Machine, out: &mut Console) {
    let Some(info) = &machine.info else { return };
    for range in info.ranges(&machine.memory).filter(|r| r.kind == RAM && r.start + r.len > OWN_END) {
        let (first, last) = (range.start.max(OWN_END), range.start + range.len - 8);
        let good = [first, last].iter().all(|at| machine.memory.holds(*at));
        say!(out, "{first:#x} and {last:#x}: {}", if good { "good" } else { "BAD" });
    }
}

fn end(out: &mut Console, register: Option<(Place, u8)>, what: &str) {
    match register {
        Some((Place::Port(port), value)) => sys::write_port(port, value),
        Some((Place::Memory(at), value)) => crate::hardware::Memory.write_8(at, value),
        None => {
            say!(out, "ACPI names no register to {what}");
            return;
        }
    }
    say!(out, "the register to {what} did nothing");
}
