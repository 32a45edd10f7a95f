//! PCI, through the enhanced configuration space (PCI Express base specification, 7.2.2).

use crate::physical::Physical;
use core::fmt::Write;

const MULTIFUNCTION: u32 = 1 << 23;

/// Prints the functions of the first bus at `ecam`.
pub fn print(out: &mut dyn Write, memory: &dyn Physical, ecam: u64, bus: u8) {
    for device in 0..32_u64 {
        for function in 0..8_u64 {
            let at = ecam + (u64::from(bus) << 20 | device << 15 | function << 12);
            let id = memory.register(at);
            if id & 0xffff == 0xffff {
                if function == 0 {
                    break;
                }
                continue;
            }
            let (class, header) = (memory.register(at + 8), memory.register(at + 12));
            say!(
                out,
                "  {bus:02x}:{device:02x}.{function}  {:04x}:{:04x}  class {:02x}{:02x}, {}",
                id & 0xffff,
                id >> 16,
                class >> 24,
                class >> 16 & 0xff,
                name(class >> 16)
            );
            if function == 0 && header & MULTIFUNCTION == 0 {
                break;
            }
        }
    }
}

fn name(class: u32) -> &'static str {
    match class {
        0x0100 => "SCSI storage",
        0x0108 => "NVMe storage",
        0x0180 => "mass storage",
        0x0200 => "network",
        0x0300 => "display",
        0x0600 => "host bridge",
        0x0601 => "ISA bridge",
        0x0604 => "PCI bridge",
        0x0780 => "console",
        _ => "other",
    }
}
