//! A driver that we did not write finds two disks on PCI, reads and writes them.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use drystone_block::{Block, BlockConfig, EngineKind, Host};
use drystone_bus::ManualClock;
use drystone_testkit::virtio::{Arena, ForeignHal, PciMachine, Ram, ram, within};
use std::sync::Arc;
use std::time::Duration;
use tempfile::NamedTempFile;
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::Command;
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};

fn disk(name: &str, sectors: u64) -> (Block<Ram>, NamedTempFile) {
    let image = NamedTempFile::new().unwrap();
    image.as_file().set_len(sectors * 512).unwrap();
    let host = Host { clock: Arc::new(ManualClock::default()), on_failure: Arc::new(|_| ()), group: None };
    let config = BlockConfig { queues: 3, engine: EngineKind::Sync, ..BlockConfig::new(name, image.path()) };
    (Block::open(&config, host).unwrap().0, image)
}

#[test]
fn virtio_drivers_finds_and_drives_both() {
    within(Duration::from_secs(120), || {
        let memory = ram(8 << 20);
        let _arena = Arena::new(&memory, 0x10_0000, 8 << 20);
        let mut machine = PciMachine::new(&memory);
        let ((a, image_a), (b, image_b)) = (disk("a", 64), disk("b", 128));
        assert_eq!((machine.plug(Box::new(a)), machine.plug(Box::new(b))), (1, 2));
        let (_bus, mut root) = machine.foreign();
        let found: Vec<_> = root.enumerate_bus(0).collect();
        let disks: Vec<_> =
            found.iter().filter(|(_, info)| virtio_device_type(info) == Some(DeviceType::Block)).collect();
        assert_eq!(disks.iter().map(|(at, _)| at.device).collect::<Vec<_>>(), [1, 2]);
        let mut drive = |n: usize| {
            let function = disks[n].0;
            root.set_command(function, Command::MEMORY_SPACE | Command::BUS_MASTER);
            let transport = PciTransport::new::<ForeignHal, _>(&mut root, function).unwrap();
            VirtIOBlk::<ForeignHal, _>::new(transport).unwrap()
        };
        let (mut a, mut b) = (drive(0), drive(1));
        assert_eq!((a.capacity(), b.capacity()), (64, 128));
        for n in 0..20 {
            a.write_blocks(n, &[n as u8; 512]).unwrap();
            b.write_blocks(100 - n, &[0x80 | n as u8; 512]).unwrap();
        }
        a.flush().unwrap();
        let mut sector = [0; 512];
        b.read_blocks(93, &mut sector).unwrap();
        assert_eq!(sector, [0x87; 512]);
        assert!(a.read_blocks(64, &mut sector).is_err());
        let (a, b) = (std::fs::read(image_a.path()).unwrap(), std::fs::read(image_b.path()).unwrap());
        assert_eq!((&a[19 * 512..20 * 512], &b[81 * 512..82 * 512]), (&[19; 512][..], &[0x93; 512][..]));
    });
}
