use acpi_tables::aml::{Device, Scope};
use acpi_tables::{Aml, AmlSink};

/// A device below `\_SB`, by its name of four characters.
pub(crate) fn system_bus_device(name: &str, children: Vec<&dyn Aml>, sink: &mut dyn AmlSink) {
    let device = Device::new(name.into(), children);
    Scope::new("\\_SB_".into(), vec![&device]).to_aml_bytes(sink);
}
