use super::{AcpiConfig, OEM_ID, OEM_REVISION, OEM_TABLE_ID, Register};
use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

// IA-PC boot architecture flags (ACPI 6.5, 5.2.9.3).
const LEGACY_DEVICES: u16 = 1 << 0;
const I8042: u16 = 1 << 1;
const VGA_NOT_PRESENT: u16 = 1 << 2;
const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

/// The fixed ACPI description table, revision 6.5: no fixed hardware, and what there is instead.
pub(super) fn fadt(config: &AcpiConfig<'_>, dsdt: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Wbinvd)
        // "No fixed-feature button": if there is a button, it is a device in the namespace.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc);
    if let Some(reset) = config.reset {
        fadt = fadt.flag(Flags::ResetRegSup);
        fadt.reset_reg = address(reset.register);
        fadt.reset_value = reset.value;
    }
    if let Some(sleep) = config.sleep {
        fadt.sleep_control_reg = address(sleep.control);
        fadt.sleep_status_reg = address(sleep.status);
    }
    let mut arch = VGA_NOT_PRESENT;
    for (on, flag) in [
        (config.legacy_devices, LEGACY_DEVICES),
        (config.i8042, I8042),
        (!config.cmos_rtc, CMOS_RTC_NOT_PRESENT),
    ] {
        arch |= if on { flag } else { 0 };
    }
    fadt.iapc_boot_arch = arch.into();
    let mut bytes = Vec::new();
    fadt.finalize().to_aml_bytes(&mut bytes);
    bytes
}

fn address(register: Register) -> GAS {
    match register {
        Register::Port(port) => GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into()),
        Register::Memory(at) => GAS::new(AddressSpace::SystemMemory, 8, 0, AccessSize::ByteAccess, at),
    }
}
