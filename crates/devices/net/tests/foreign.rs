//! A driver that we did not write.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
mod common;

use common::{MAC, OTHER, config, frame, offloads, with_header};
use drystone_net::FRAME_HEADER;
use drystone_testkit::net::NetMachine;
use drystone_testkit::virtio::{Arena, Foreign, ForeignHal, within};
use std::time::Duration;
use virtio_drivers::device::net::VirtIONetRaw;

#[test]
fn a_foreign_driver_sends_and_receives() {
    within(Duration::from_secs(120), || {
        let machine = NetMachine::new(config(), offloads(), 0);
        let _arena = Arena::new(&machine.memory, 0x40_0000, 16 << 20);
        let (core, pump, wire) = (machine.port.0.core().clone(), machine.pump.clone(), machine.wire.clone());
        let transport = Foreign::new(machine.port.clone(), move || pump.run(&core, 64));
        let mut driver = VirtIONetRaw::<ForeignHal, _, 16>::new(transport).unwrap();
        assert_eq!(driver.mac_address(), MAC.0);
        for n in 0..40 {
            let sent = frame(OTHER, MAC, 60 + usize::from(n) * 30, n);
            driver.send(&sent).unwrap();
            assert_eq!(wire.receive(0).unwrap()[FRAME_HEADER..], sent);
            let coming = frame(MAC, OTHER, 60 + usize::from(n) * 20, n);
            let mut buffer = vec![0; 2048];
            // SAFETY: the buffer lives until the frame is there.
            #[allow(unsafe_code)]
            let token = unsafe { driver.receive_begin(&mut buffer) }.unwrap();
            assert!(wire.send(0, &with_header(&coming)));
            let _ = machine.port.0.core().ready(1, 1);
            assert_eq!(driver.poll_receive(), Some(token));
            // SAFETY: the same buffer.
            #[allow(unsafe_code)]
            let (header, len) = unsafe { driver.receive_complete(token, &mut buffer) }.unwrap();
            assert_eq!(buffer[header..header + len], coming);
        }
    });
}
