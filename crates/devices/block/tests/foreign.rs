//! A driver that we did not write reads and writes a disk.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use drystone_testkit::block::{DiskMachine, MEMORY};
use drystone_testkit::virtio::{Arena, Foreign, ForeignHal, within};
use std::time::Duration;
use virtio_drivers::device::blk::VirtIOBlk;

#[test]
fn virtio_drivers_uses_the_disk() {
    within(Duration::from_secs(60), || {
        let content: Vec<u8> = (0..64 * 512u32).map(|i| (i % 251) as u8).collect();
        let machine = DiskMachine::new(&content, |config| config.serial = Some("S-1".into()));
        let _arena = Arena::new(&machine.memory, MEMORY / 2, MEMORY);
        let (port, pump) = (machine.port.clone(), machine.pump.clone());
        let core = machine.port.0.core().clone();
        let transport = Foreign::new(port, move || pump.run(&core, 1000));
        let mut disk = VirtIOBlk::<ForeignHal, _>::new(transport).unwrap();
        assert_eq!((disk.capacity(), disk.readonly()), (64, false));

        let mut sector = [0; 512];
        disk.read_blocks(63, &mut sector).unwrap();
        assert_eq!(sector, content[63 * 512..]);
        for n in 0..40 {
            disk.write_blocks(n, &[n as u8; 1024]).unwrap();
        }
        disk.flush().unwrap();
        let mut two = [0; 1024];
        disk.read_blocks(7, &mut two).unwrap();
        assert_eq!((two[..512].to_vec(), two[512..].to_vec()), (vec![7; 512], vec![8; 512]));
        assert!(disk.read_blocks(64, &mut sector).is_err());
        let mut serial = [0xff; 20];
        let len = disk.device_id(&mut serial).unwrap();
        assert_eq!((&serial[..3], len), (&b"S-1"[..], 3));
        assert_eq!(machine.content()[41 * 512..], content[41 * 512..]);
        assert_eq!(machine.content()[39 * 512..41 * 512], [39; 1024]);
    });
}
