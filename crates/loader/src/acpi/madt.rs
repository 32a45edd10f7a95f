use super::{AcpiConfig, AcpiError, InterruptOverride, Polarity, Trigger, table};
use acpi_tables::Aml;
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use drystone_memory::Layout;
use std::collections::BTreeSet;

const REVISION: u8 = 5;
const PCAT_COMPAT: u32 = 1;
const ENABLED: u32 = 1;
/// Both in xAPIC mode and in an 8-bit UID, 255 means "all".
const ALL: u8 = 0xff;
const X2APIC_ALL: u32 = u32::MAX;
const NMI_LINT: u8 = 1;
const ISA_IRQS: u8 = 16;
const IO_APIC_INPUTS: u32 = 24;

/// The multiple APIC description table (ACPI 6.5, 5.2.12).
pub(super) fn madt(config: &AcpiConfig<'_>) -> Result<Vec<u8>, AcpiError> {
    check_apic_ids(config.apic_ids)?;
    check_overrides(config.overrides)?;
    let mut body = Vec::new();
    body.extend((Layout::LOCAL_APIC as u32).to_le_bytes());
    body.extend(if config.dual_8259 { PCAT_COMPAT } else { 0 }.to_le_bytes());
    let mut x2apic = false;
    for (uid, id) in (0_u32..).zip(config.apic_ids) {
        match (u8::try_from(uid), u8::try_from(*id)) {
            (Ok(uid), Ok(id)) if uid != ALL && id != ALL => {
                ProcessorLocalApic::new(uid, id, EnabledStatus::Enabled).to_aml_bytes(&mut body);
            }
            _ => {
                x2apic = true;
                x2apic_entry(&mut body, *id, uid);
            }
        }
    }
    IoApic::new(0, Layout::IO_APIC as u32, 0).to_aml_bytes(&mut body);
    config.overrides.iter().for_each(|o| override_entry(&mut body, o));
    // Local APIC NMI, and its x2APIC twin: LINT1 of all, polarity and trigger as on the bus.
    body.extend([4, 6, ALL, 0, 0, NMI_LINT]);
    if x2apic {
        body.extend([0x0a, 12, 0, 0]);
        body.extend(X2APIC_ALL.to_le_bytes());
        body.extend([NMI_LINT, 0, 0, 0]);
    }
    Ok(table(*b"APIC", REVISION, &body))
}

fn check_apic_ids(ids: &[u32]) -> Result<(), AcpiError> {
    if ids.is_empty() {
        return Err(AcpiError::NoCpu);
    }
    let mut seen = BTreeSet::new();
    match ids.iter().find(|id| **id == X2APIC_ALL || !seen.insert(**id)) {
        Some(id) => Err(AcpiError::ApicId(*id)),
        None => Ok(()),
    }
}

fn check_overrides(overrides: &[InterruptOverride]) -> Result<(), AcpiError> {
    let mut seen = BTreeSet::new();
    for InterruptOverride { isa_irq, gsi, .. } in overrides.iter().copied() {
        let cause = if isa_irq >= ISA_IRQS {
            "ISA has interrupts 0 to 15"
        } else if gsi >= IO_APIC_INPUTS {
            "the I/O APIC has inputs 0 to 23"
        } else if !seen.insert(isa_irq) {
            "it is routed twice"
        } else {
            continue;
        };
        return Err(AcpiError::Override { isa_irq, gsi, cause });
    }
    Ok(())
}

fn x2apic_entry(body: &mut Vec<u8>, id: u32, uid: u32) {
    body.extend([9, 16, 0, 0]);
    [id, ENABLED, uid].iter().for_each(|field| body.extend(field.to_le_bytes()));
}

fn override_entry(body: &mut Vec<u8>, entry: &InterruptOverride) {
    let polarity: u16 = match entry.polarity {
        Polarity::High => 1,
        Polarity::Low => 3,
    };
    let trigger: u16 = match entry.trigger {
        Trigger::Edge => 1,
        Trigger::Level => 3,
    };
    // Type 2, bus 0: ISA.
    body.extend([2, 10, 0, entry.isa_irq]);
    body.extend(entry.gsi.to_le_bytes());
    body.extend((polarity | trigger << 2).to_le_bytes());
}
