use super::Mmio;
use acpi_tables::aml::{Device, Interrupt, Memory32Fixed, Name, ResourceTemplate, Scope};
use acpi_tables::{Aml, AmlSink};
use drystone_memory::Mem;

/// An LNRO0005 device below `\_SB`, which is how Linux finds virtio-mmio through ACPI, with its registers and its
/// interrupt (edge-triggered, active high, exclusive). `_CCA` says that DMA is coherent.
impl<M: Mem> Aml for Mmio<M> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let config = self.config();
        let registers = Memory32Fixed::new(true, config.base, Self::LEN as u32);
        let interrupt = Interrupt::new(true, true, false, false, config.gsi);
        // Names are of four characters, of which the first is no digit.
        let name = format!("V{:03X}", config.index & 0xfff);
        let hid = Name::new("_HID".into(), &"LNRO0005");
        let uid = Name::new("_UID".into(), &config.index);
        let coherent = Name::new("_CCA".into(), &1u8);
        let resources = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&registers, &interrupt]));
        let device = Device::new(name.as_str().into(), vec![&hid, &uid, &coherent, &resources]);
        Scope::new("\\_SB_".into(), vec![&device]).to_aml_bytes(sink);
    }
}
