//! A driver that we did not write finds the entropy device on PCI, and takes its bytes.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use drystone_bus::ManualClock;
use drystone_limit::LimitConfig;
use drystone_rng::Rng;
use drystone_testkit::virtio::{Arena, ForeignHal, PciMachine, ram, within};
use std::sync::Arc;
use std::time::Duration;
use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::Command;
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};

#[test]
fn virtio_drivers_finds_and_drives_it() {
    within(Duration::from_secs(120), || {
        let memory = ram(4 << 20);
        let _arena = Arena::new(&memory, 0x10_0000, 4 << 20);
        let mut machine = PciMachine::new(&memory);
        machine.plug(Box::new(
            Rng::new(
                Box::new(std::io::repeat(0x5a)),
                LimitConfig::default(),
                Arc::new(ManualClock::default()),
            )
            .unwrap()
            .0,
        ));
        let (_bus, mut root) = machine.foreign();
        let found: Vec<_> = root.enumerate_bus(0).collect();
        let is_rng = |info| virtio_device_type(info) == Some(DeviceType::EntropySource);
        let (function, info) = found.iter().find(|(_, info)| is_rng(info)).unwrap();
        assert_eq!((info.device_id, info.revision, info.class), (0x1044, 1, 0xff));
        root.set_command(*function, Command::MEMORY_SPACE | Command::BUS_MASTER);
        let transport = PciTransport::new::<ForeignHal, _>(&mut root, *function).unwrap();
        let mut rng = VirtIORng::<ForeignHal, _>::new(transport).unwrap();
        for len in [1, 300, 4096] {
            let mut got = vec![0; len];
            let taken = rng.request_entropy(&mut got).unwrap();
            assert!(taken > 0 && got[..taken].iter().all(|b| *b == 0x5a), "{taken} of {len}");
        }
        // MSI-X is off: the driver reads why it would have been interrupted.
        assert_eq!(rng.ack_interrupt().bits(), 1);
        assert_eq!((rng.ack_interrupt().bits(), machine.edges.line()), (0, 0));
    });
}
