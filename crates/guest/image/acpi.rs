//! What of ACPI a guest of this size needs: tables, processors, the registers for power off and reset (ACPI 6.5, 5.2).

use crate::bytes::{array, u16_at, u32_at, u64_at};
use crate::physical::Physical;

const HEADER_LEN: u32 = 36;
/// Tables longer than that are not looked into.
const MAX_LEN: u32 = 1 << 20;
/// No honest machine has more tables.
const MAX_TABLES: u64 = 64;
const ENABLED_OR_MAY_BE: u32 = 0b11;
const HW_REDUCED: u32 = 1 << 20;
const RESET_SUPPORTED: u32 = 1 << 10;
const SLEEP_ENABLE_REDUCED: u8 = 1 << 5;

/// One table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    pub signature: [u8; 4],
    pub at: u64,
    pub len: u32,
}

impl Table {
    fn read(memory: &dyn Physical, at: u64) -> Option<Self> {
        let mut header = [0; 8];
        memory.read(at, &mut header);
        let len = u32_at(&header, 4);
        let sane = (HEADER_LEN..=MAX_LEN).contains(&len);
        sane.then(|| Self { signature: array(&header, 0), at, len })
    }

    /// The signature as text.
    pub fn name(&self) -> &str {
        core::str::from_utf8(&self.signature).unwrap_or("????")
    }

    /// Whether all its bytes add up to zero.
    pub fn is_sound(&self, memory: &dyn Physical) -> bool {
        let mut sum = 0_u8;
        self.each_byte(memory, |byte| sum = sum.wrapping_add(byte));
        sum == 0
    }

    fn each_byte(&self, memory: &dyn Physical, mut take: impl FnMut(u8)) {
        let (mut at, end) = (self.at, self.at + u64::from(self.len));
        let mut piece = [0; 64];
        while at < end {
            let len = (end - at).min(64) as usize;
            let piece = piece.get_mut(..len).unwrap_or_default();
            memory.read(at, piece);
            piece.iter().for_each(|byte| take(*byte));
            at += len as u64;
        }
    }
}

/// Every table that the root pointer at `rsdp` leads to: the XSDT, what it lists, and the DSDT.
pub fn tables(memory: &dyn Physical, rsdp: u64) -> impl Iterator<Item = Table> + '_ {
    let mut pointer = [0; 36];
    if rsdp != 0 {
        memory.read(rsdp, &mut pointer);
    }
    let known = pointer.starts_with(b"RSD PTR ");
    // Revision 2 and above has a 64-bit pointer to an XSDT.
    let wide = array::<1>(&pointer, 15) >= [2] && u64_at(&pointer, 24) != 0;
    let root = if wide { u64_at(&pointer, 24) } else { u32_at(&pointer, 16).into() };
    let root = known.then(|| Table::read(memory, root)).flatten();
    let size = if wide { 8 } else { 4 };
    let count = root.map_or(0, |r| u64::from(r.len - HEADER_LEN) / size).min(MAX_TABLES);
    let start = root.map_or(0, |r| r.at + u64::from(HEADER_LEN));
    let listed = (0..count).filter_map(move |i| {
        let at = start + i * size;
        Table::read(memory, if wide { memory.u64(at) } else { memory.u32(at).into() })
    });
    let with_dsdt = listed.flat_map(move |table| {
        let dsdt = (table.signature == *b"FACP").then(|| dsdt(memory, &table)).flatten();
        [Some(table), dsdt].into_iter().flatten()
    });
    root.into_iter().chain(with_dsdt)
}

fn dsdt(memory: &dyn Physical, fadt: &Table) -> Option<Table> {
    let (narrow, wide) = (memory.u32(fadt.at + 40), memory.u64(fadt.at + 140));
    let at = if fadt.len >= 148 && wide != 0 { wide } else { narrow.into() };
    Table::read(memory, at)
}

/// What the MADT says about interrupts and processors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Madt {
    pub processors: u32,
    pub local_apic: u64,
    /// Of the first I/O APIC.
    pub io_apic: u64,
    pub io_apic_base: u32,
    /// There are two 8259s, to be masked.
    pub pics: bool,
    /// Where ISA interrupt 4, that of the first serial port, arrives.
    pub serial_gsi: u32,
}

impl Madt {
    const SERIAL_IRQ: u8 = 4;

    /// Reads the entries of a MADT; what lies about its length ends it.
    pub fn read(memory: &dyn Physical, table: &Table) -> Self {
        let mut madt = Self {
            local_apic: memory.u32(table.at + 36).into(),
            pics: memory.u32(table.at + 40) & 1 != 0,
            serial_gsi: Self::SERIAL_IRQ.into(),
            ..Self::default()
        };
        let (mut at, end) = (table.at + 44, table.at + u64::from(table.len));
        while at + 2 <= end {
            let mut entry = [0; 16];
            memory.read(at, &mut entry);
            let [kind, len] = array(&entry, 0);
            if len < 2 || at + u64::from(len) > end {
                break;
            }
            madt.take(kind, &entry);
            at += u64::from(len);
        }
        madt
    }

    fn take(&mut self, kind: u8, entry: &[u8]) {
        match kind {
            0 if u32_at(entry, 4) & ENABLED_OR_MAY_BE != 0 => self.processors += 1,
            9 if u32_at(entry, 8) & ENABLED_OR_MAY_BE != 0 => self.processors += 1,
            1 if self.io_apic == 0 => {
                (self.io_apic, self.io_apic_base) = (u32_at(entry, 4).into(), u32_at(entry, 8));
            }
            2 if array(entry, 3) == [Self::SERIAL_IRQ] => self.serial_gsi = u32_at(entry, 4),
            5 => self.local_apic = u64_at(entry, 4),
            _ => (),
        }
    }
}

/// Where a register is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Port(u16),
    Memory(u64),
}

impl Place {
    /// Of a generic address structure (ACPI 6.5, 5.2.3.2).
    fn read(memory: &dyn Physical, at: u64) -> Option<Self> {
        let mut gas = [0; 12];
        memory.read(at, &mut gas);
        match (array(&gas, 0), u64_at(&gas, 4)) {
            (_, 0) => None,
            ([0], address) => Some(Self::Memory(address)),
            ([1], address) => u16::try_from(address).ok().map(Self::Port),
            _ => None,
        }
    }
}

/// Registers that end this run, with what to write there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Power {
    pub off: Option<(Place, u8)>,
    pub reset: Option<(Place, u8)>,
}

impl Power {
    /// From the FADT and the sleep type that the DSDT names for S5.
    pub fn read(memory: &dyn Physical, fadt: &Table) -> Self {
        let flags = memory.u32(fadt.at + 112);
        let reset = (fadt.len >= 129 && flags & RESET_SUPPORTED != 0).then(|| {
            let mut value = [0];
            memory.read(fadt.at + 128, &mut value);
            Place::read(memory, fadt.at + 116).map(|place| (place, u8::from_le_bytes(value)))
        });
        // A machine that is not hardware-reduced has PM1 blocks instead, which this guest leaves alone.
        let reduced = fadt.len >= 256 && flags & HW_REDUCED != 0;
        let off = reduced.then(|| {
            let sleep_type = s5(memory, &dsdt(memory, fadt)?)?;
            Place::read(memory, fadt.at + 244).map(|place| (place, sleep_type << 2 | SLEEP_ENABLE_REDUCED))
        });
        Self { off: off.flatten(), reset: reset.flatten() }
    }
}

/// The first element of the package `_S5_`, looked for as bytes: NameOp, the name, PackageOp, its length, the number of
/// elements, and an integer (ACPI 6.5, 20.2).
fn s5(memory: &dyn Physical, dsdt: &Table) -> Option<u8> {
    let mut last = [0_u8; 16];
    let mut found = None;
    dsdt.each_byte(memory, |byte| {
        last.rotate_left(1);
        if let Some(end) = last.last_mut() {
            *end = byte;
        }
        if found.is_none() {
            found = sleep_type(&last);
        }
    });
    // It may stand so near the end that it never came to the front.
    for _ in 0..last.len() {
        last.rotate_left(1);
        if let Some(end) = last.last_mut() {
            *end = 0xff;
        }
        found = found.or_else(|| sleep_type(&last));
    }
    found
}

fn sleep_type(bytes: &[u8]) -> Option<u8> {
    let rest = bytes.strip_prefix(b"\x08_S5_\x12").or_else(|| bytes.strip_prefix(b"\x08\\_S5_\x12"))?;
    // A package this small has a length of one byte, or of up to four whose first says how many follow.
    let follow = usize::from(*rest.first()? >> 6);
    match *rest.get(2 + follow..)? {
        [0x0a, value, ..] if value < 8 => Some(value),
        [value @ (0 | 1), ..] => Some(value),
        _ => None,
    }
}

/// Where the first PCI segment's configuration space is, with its first and last bus (PCI firmware specification, 4.1.2).
pub fn ecam(memory: &dyn Physical, mcfg: &Table) -> Option<(u64, u8, u8)> {
    let mut entry = [0; 16];
    memory.read(mcfg.at + 44, &mut entry);
    let [first, last] = array(&entry, 10);
    (mcfg.len >= 60 && u16_at(&entry, 8) == 0).then(|| (u64_at(&entry, 0), first, last))
}
