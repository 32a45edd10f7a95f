use super::{AmlPart, table};
use acpi_tables::Aml;
use acpi_tables::aml::Scope;

/// Revision 2 and above: integers have 64 bits (ACPI 6.5, 5.2.11.1).
const REVISION: u8 = 2;

/// The differentiated system description table: the components' AML, each in the scope that it asks for.
pub(super) fn dsdt(parts: &[AmlPart<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut devices = Vec::<&dyn Aml>::new();
    for part in parts {
        match part {
            AmlPart::Root(aml) => aml.to_aml_bytes(&mut body),
            AmlPart::SystemBus(aml) => devices.push(*aml),
        }
    }
    if !devices.is_empty() {
        Scope::new("\\_SB_".into(), devices).to_aml_bytes(&mut body);
    }
    table(*b"DSDT", REVISION, &body)
}
