use acpi_tables::Aml;
use std::ops::Range;

/// The machine that the tables describe. `Default` has no CPU, which is refused, and nothing else.
#[derive(Clone, Copy, Default)]
pub struct AcpiConfig<'a> {
    /// The local APIC ids of the vCPUs, the boot processor's first. A vCPU's place here is its ACPI processor UID.
    pub apic_ids: &'a [u32],
    /// ISA interrupts that do not arrive at the I/O APIC input of their number, high-active and edge-triggered.
    pub overrides: &'a [InterruptOverride],
    /// There are two 8259s, as with KVM's in-kernel interrupt controllers: the guest is told to mask them.
    pub dual_8259: bool,
    /// What resets the machine, if anything does.
    pub reset: Option<ResetRegister>,
    /// What puts the machine to sleep and powers it off, if anything does. The sleep types are in the AML (`\_S5_`).
    pub sleep: Option<SleepRegisters>,
    /// There is a CMOS real-time clock at ports 0x70 and 0x71.
    pub cmos_rtc: bool,
    /// There is a keyboard controller at ports 0x60 and 0x64 (it may be there for reset only).
    pub i8042: bool,
    /// There are devices on the ISA bus that a user can see, such as serial ports.
    pub legacy_devices: bool,
    /// What the components say about themselves, in the order of the list.
    pub aml: &'a [AmlPart<'a>],
    /// Further tables, complete with header and checksum, listed in the XSDT as they are, for example an MCFG.
    pub tables: &'a [&'a dyn Aml],
}

/// AML of one component, and where in the namespace it goes.
#[derive(Clone, Copy)]
pub enum AmlPart<'a> {
    /// At the root: what names its own scope, or is defined there (`\_S5_`).
    Root(&'a dyn Aml),
    /// Into the scope `\_SB_`: devices.
    SystemBus(&'a dyn Aml),
}

/// An 8-bit register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// At an I/O port.
    Port(u16),
    /// At a guest-physical address.
    Memory(u64),
}

/// What resets the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetRegister {
    /// The register.
    pub register: Register,
    /// What to write to it.
    pub value: u8,
}

/// The sleep registers of a hardware-reduced machine (ACPI 6.5, 4.8.3.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SleepRegisters {
    /// Where the guest writes the sleep type (bits 2-4) and sleep enable (bit 5).
    pub control: Register,
    /// Where the guest reads that it was woken (bit 7).
    pub status: Register,
}

/// Which level of an interrupt line is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polarity {
    /// High, as on ISA.
    High,
    /// Low, as on PCI.
    Low,
}

/// What of an interrupt line counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The change, as on ISA.
    Edge,
    /// The level, as on PCI.
    Level,
}

/// An ISA interrupt that does not arrive as it would by itself (ACPI 6.5, 5.2.12.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterruptOverride {
    /// The ISA interrupt, 0 to 15.
    pub isa_irq: u8,
    /// The I/O APIC input, 0 to 23.
    pub gsi: u32,
    /// Its polarity.
    pub polarity: Polarity,
    /// Its trigger mode.
    pub trigger: Trigger,
}

/// Why there can be no tables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcpiError {
    /// No CPU.
    #[error("ACPI tables: no CPU to describe")]
    NoCpu,
    /// Two CPUs with one local APIC id, or the broadcast id.
    #[error("ACPI tables: local APIC id {0:#x} is given twice, or is the broadcast id")]
    ApicId(u32),
    /// An override for an interrupt or input that does not exist, or the second for one.
    #[error("ACPI tables: cannot route ISA interrupt {isa_irq} to input {gsi}: {cause}")]
    Override {
        /// The ISA interrupt.
        isa_irq: u8,
        /// The I/O APIC input.
        gsi: u32,
        /// What is wrong.
        cause: &'static str,
    },
    /// A table given by the caller whose header, length or checksum is wrong.
    #[error("ACPI tables: the {index}. further table is no table: {cause}")]
    Table {
        /// Its place in the list, from 1.
        index: usize,
        /// What is wrong.
        cause: &'static str,
    },
    /// They need more than their place in low memory.
    #[error("ACPI tables: {len} bytes do not fit into {:#x}..{:#x}", area.start, area.end)]
    TooLarge {
        /// What they need, in bytes.
        len: usize,
        /// Where they go.
        area: Range<u64>,
    },
    /// Guest memory refused.
    #[error("ACPI tables: cannot write to guest memory: {0}")]
    Write(String),
}
