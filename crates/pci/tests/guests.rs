//! A segment as guests see it: the testkit's driver, and `virtio-drivers`, which knows nothing of this workspace.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use drystone_bus::{Bus, Effect};
use drystone_pci::{
    Attachment, BarKind, Class, Config, ConfigSpace, Function, HostBridge, Identity, Latch, Msix, MsixPlace,
    Segment, Vector, Windows,
};
use drystone_testkit::pci::{Found, FoundBar, PciDriver};
use drystone_testkit::virtio::{ECAM, ForeignEcam};
use std::sync::Arc;
use virtio_drivers::transport::pci::bus::{BarInfo, Command, DeviceFunction, MemoryBarType, PciRoot};

struct Device(Config);
impl Function for Device {
    fn config(&self) -> &Config {
        &self.0
    }
    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(16 * bar as u8 + offset as u8);
    }
    fn bar_write(&self, _: usize, _: u64, _: &[u8]) -> Effect {
        Effect::None
    }
    fn bar_moved(&self, _: usize, _: Option<u64>) {}
}

/// In slot 4, a device with a BAR of each kind, MSI-X, and two extended capabilities.
fn machine() -> (Arc<Bus>, Attachment) {
    let windows =
        Windows { memory_32: 0xc000_0000..0xd000_0000, memory_64: 1 << 40..1 << 41, io: 0x1000..0x2000 };
    let segment = Arc::new(Segment::new(0, windows, Arc::new(HostBridge::new())).unwrap());
    let mut space = ConfigSpace::new(&Identity {
        vendor: 0x1af4,
        device: 0x1041,
        revision: 1,
        class: Class { base: 2, sub: 0, interface: 0 },
        subsystem_vendor: 0x1af4,
        subsystem: 1,
    });
    space.add_bar(0, BarKind::Io, 0x20).unwrap();
    space.add_bar(1, BarKind::Memory32, 0x1_0000).unwrap();
    space.add_bar(2, BarKind::Memory64, 1 << 33).unwrap();
    let vectors = (0..3).map(|_| Arc::new(Latch::new(|_| ())) as Arc<dyn Vector>).collect();
    let place = MsixPlace { bar: 1, table: 0, pending: 0x800 };
    let msix = Msix::new(&mut space, place, vectors).unwrap();
    space.add_capability(0x09, &[14, 1, 2, 3], &[]).unwrap();
    space.add_extended_capability(3, 1, &[0; 8], &[]).unwrap();
    space.add_extended_capability(0xb, 2, &[0; 12], &[]).unwrap();
    segment.add(Some(4), Arc::new(Device(Config::with_msix(space, msix)))).unwrap();
    let bus = Arc::new(Bus::default());
    let attachment = Attachment::new(segment, bus.clone(), ECAM).unwrap();
    (bus, attachment)
}

fn byte(bus: &Bus, at: u64) -> u8 {
    let mut data = [0];
    bus.mmio.read(at, &mut data);
    data[0]
}

#[test]
fn a_driver_finds_what_was_built() {
    let (bus, _pci) = machine();
    let driver = PciDriver::new(&bus, ECAM);
    let bridge = Found { slot: 0, vendor: 0x1b36, device: 8, class: 0x06_0000 };
    let device = Found { slot: 4, vendor: 0x1af4, device: 0x1041, class: 0x02_0000 };
    assert_eq!(driver.functions(), [bridge, device]);
    assert_eq!((driver.bars(0), driver.capabilities(0), driver.bars(9)), (vec![], vec![], vec![]));
    driver.enable(4);
    let expected = [
        FoundBar { index: 0, io: true, is_64: false, prefetchable: false, address: 0x1000, size: 0x20 },
        FoundBar {
            index: 1,
            io: false,
            is_64: false,
            prefetchable: false,
            address: 0xc000_0000,
            size: 0x1_0000,
        },
        FoundBar { index: 2, io: false, is_64: true, prefetchable: true, address: 1 << 40, size: 1 << 33 },
    ];
    assert_eq!(driver.bars(4), expected);
    assert_eq!(driver.capabilities(4), [(0x11, 0x40), (0x09, 0x4c)]);
    assert_eq!(driver.extended_capabilities(4), [(3, 1, 0x100), (0xb, 2, 0x10c)]);
    // It is on again after sizing, and MSI-X is in front of the device.
    assert_eq!((byte(&bus, (1 << 40) + 7), byte(&bus, 0xc000_1001), byte(&bus, 0xc000_000c)), (39, 17, 1));
}

#[test]
fn an_independent_guest_finds_places_and_uses_the_same() {
    let (bus, _pci) = machine();
    let mut root = PciRoot::new(ForeignEcam::new(bus.clone()));
    let found: Vec<_> =
        root.enumerate_bus(0).map(|(at, info)| (at.device, info.vendor_id, info.device_id)).collect();
    assert_eq!(found, [(0, 0x1b36, 8), (4, 0x1af4, 0x1041)]);
    let device = DeviceFunction { bus: 0, device: 4, function: 0 };
    let bars = root.bars(device).unwrap();
    assert!(matches!(bars[0], Some(BarInfo::IO { address: 0x1000, size: 0x20 })), "{bars:?}");
    let low = BarInfo::Memory {
        address_type: MemoryBarType::Width32,
        prefetchable: false,
        address: 0xc000_0000,
        size: 0x1_0000,
    };
    let high = BarInfo::Memory {
        address_type: MemoryBarType::Width64,
        prefetchable: true,
        address: 1 << 40,
        size: 1 << 33,
    };
    assert_eq!((bars[1].as_ref(), bars[2].as_ref()), (Some(&low), Some(&high)));
    let capabilities: Vec<_> =
        root.capabilities(device).map(|c| (c.id, c.offset, c.private_header)).collect();
    assert_eq!(capabilities, [(0x11, 0x40, 2), (0x09, 0x4c, 0x010e)]);

    root.set_bar_32(device, 1, 0xc800_0000);
    root.set_bar_64(device, 2, (1 << 40) + (1 << 34));
    root.set_command(device, Command::MEMORY_SPACE | Command::BUS_MASTER);
    let at_high = (1_u64 << 40) + (1 << 34) + 5;
    assert_eq!((byte(&bus, 0xc800_2002), byte(&bus, at_high), byte(&bus, 0xc000_2002)), (18, 37, 0xff));
}
