//! The AML that is the same in every machine: what stands below a host bridge for each of its slots.
//!
//! The build script encodes it, for it would be a third of all that a machine's start computes.

use acpi_tables::aml::{And, Device, If, Local, Method, Name, Notify, Path, Store, ZERO};
use acpi_tables::{Aml, AmlSink};
use std::ops::Range;

// Notifications (ACPI 6.5, 5.6.6).
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;

/// A device for each slot, with `_EJ0`, and `PHPN`, which passes on to them what the registers say. There is no `_STA`: whether something is
/// in a slot is what its configuration space says, as on any PCI bus, and a method that reads a register would be an exit from
/// the guest each time that an operating system asks, which is 120 times while Linux boots.
pub fn aml(slots: Range<u8>) -> Vec<u8> {
    let mut aml = Vec::new();
    slots.clone().for_each(|slot| device(slot, &mut aml));
    let told = Told { register: "CHNG", notification: DEVICE_CHECK, slots: slots.clone() };
    let asked = Told { register: "EJRQ", notification: EJECT_REQUEST, slots };
    Method::new("PHPN".into(), 0, true, vec![&told, &asked]).to_aml_bytes(&mut aml);
    aml
}

fn name(slot: u8) -> String {
    format!("SL{slot:02X}")
}

fn device(slot: u8, sink: &mut dyn AmlSink) {
    let (address, bit) = (u32::from(slot) << 16, 1_u32 << slot);
    let eject = Path::new("EJCT");
    Device::new(
        name(slot).as_str().into(),
        vec![
            &Name::new("_ADR".into(), &address),
            &Name::new("_SUN".into(), &slot),
            &Method::new("_EJ0".into(), 1, true, vec![&Store::new(&eject, &bit)]),
        ],
    )
    .to_aml_bytes(sink);
}

/// Reads what is to be told, acknowledges exactly that, and only then notifies, so that what happens meanwhile is either seen
/// by whoever was notified, or is told the next time.
struct Told {
    register: &'static str,
    notification: u8,
    slots: Range<u8>,
}

impl Aml for Told {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let (register, told) = (Path::new(self.register), Local(0));
        Store::new(&told, &register).to_aml_bytes(sink);
        Store::new(&register, &told).to_aml_bytes(sink);
        for slot in self.slots.clone() {
            let (bit, device) = (1_u32 << slot, Path::new(&name(slot)));
            let is_told = And::new(&ZERO, &told, &bit);
            If::new(&is_told, vec![&Notify::new(&device, &self.notification)]).to_aml_bytes(sink);
        }
    }
}
