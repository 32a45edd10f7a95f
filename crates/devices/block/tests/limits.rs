//! Requests that wait for a rate limit, beyond what a driver sees.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_block::{Block, BlockConfig, Host};
use drystone_bus::{ManualClock, SystemClock};
use drystone_limit::{LimitConfig, LimitGroup, Rate};
use drystone_runner::{Doorbells, Runner};
use drystone_state::{Component, Persist};
use drystone_testkit::block::{DiskMachine, FEATURES, FLUSH, IN};
use drystone_testkit::virtio::{DriverRing, Edges, MmioPort, Ram, Transport, WRITE, bring_up, ram, within};
use drystone_virtio::{Mmio, MmioConfig};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress};

const CONTENT: [u8; 4096] = [7; 4096];

fn slow(bandwidth: u64) -> DiskMachine {
    DiskMachine::new(&CONTENT, |c| {
        c.limit = LimitConfig { bandwidth: Rate::new(bandwidth), operations: None };
    })
}

fn host() -> Host {
    Host { clock: Arc::new(SystemClock::new()), on_failure: Arc::new(|_| ()), group: None }
}

fn read(sector: u64) -> Vec<u8> {
    DiskMachine::head(IN, sector, &[])
}

#[test]
fn time_stands_still_while_the_machine_is_paused() {
    let mut disk = slow(10_240);
    assert!(disk.read(0, 512).is_ok(), "the burst");
    let asked = disk.ask(&read(1), 512, 16, false).unwrap();
    disk.kick();
    disk.clock.advance(Duration::from_millis(49));
    disk.port.0.pause().unwrap();
    disk.clock.advance(Duration::from_secs(3600));
    disk.port.0.resume().unwrap();
    disk.wake();
    assert_eq!(disk.ring.take(), None, "an hour's pause is no rest");
    disk.clock.advance(Duration::from_millis(1));
    disk.wake();
    assert_eq!(disk.ring.take(), Some((asked.head, 513)));
}

#[test]
fn a_disk_that_shrinks_meanwhile_refuses_what_waited() {
    let mut disk = slow(10_240);
    assert!(disk.read(0, 512).is_ok());
    let asked = disk.ask(&read(7), 512, 16, false).unwrap();
    disk.kick();
    disk.image.as_file().set_len(512).unwrap();
    disk.handle.reread_size().unwrap();
    disk.wake();
    disk.clock.advance(Duration::from_secs(1));
    disk.wake();
    let (_, written) = disk.ring.take().unwrap();
    assert_eq!((disk.answer(asked, written).status, disk.log.take().len()), (1, 0), "refused, not tried");
}

#[test]
fn a_reset_takes_nothing_from_the_limit_for_what_it_drops() {
    let mut disk = slow(10_240);
    assert!(disk.read(0, 512).is_ok());
    disk.ask(&read(0), 4096, 16, false).unwrap();
    disk.kick();
    disk.start(FEATURES);
    assert_eq!(disk.request(&read(0), 512), None);
    disk.clock.advance(Duration::from_millis(50));
    disk.wake();
    assert!(disk.ring.take().is_some(), "its own time, not that of the one before");
}

/// On real threads and in real time: whoever waits is woken, without anybody's help, also when the limit is lifted.
#[test]
fn timers_wake_those_that_wait() {
    within(Duration::from_secs(120), || {
        let image = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(image.path(), CONTENT).unwrap();
        let mut config = BlockConfig::new("root", image.path());
        config.limit = LimitConfig { bandwidth: Rate::new(102_400), operations: None };
        let (device, handle) = Block::<Ram>::open(&config, host()).unwrap();
        let (memory, doorbells) = (ram(0x4_0000), Arc::new(Doorbells::new(1).unwrap()));
        let place = MmioConfig { base: 0xd000_0000, gsi: 5, index: 0, shared_memory: vec![] };
        let host = drystone_virtio::Host::new(doorbells.clone());
        let mmio =
            Mmio::new(place, Box::new(device), memory.clone(), Arc::new(Edges::default()), host).unwrap();
        let port = MmioPort(Arc::new(mmio));
        let runner = Runner::new("disk", NonZeroUsize::MIN).unwrap();
        let _attached = runner.attach(port.0.core(), &doorbells).unwrap();
        let mut ring = DriverRing::new(&memory, 0x1_0000, 64, true);
        bring_up(&port, &[&ring], FEATURES);

        memory.write_slice(&read(0), GuestAddress(0x1000)).unwrap();
        let mut ask = |count: usize| {
            for _ in 0..count {
                ring.add(&[(0x1000, 16, 0), (0x2000, 4096, WRITE), (0x3000, 1, WRITE)], false).unwrap();
            }
            doorbells.event(0).unwrap().write(1).unwrap();
            while ring.outstanding() > 0 {
                if ring.take().is_none() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        };
        ask(6);
        assert!(handle.counters()[0].throttled.get() > 0);
        std::thread::scope(|scope| {
            // An hour for each.
            handle.set_limit(LimitConfig { bandwidth: Rate::new(1), operations: None });
            let handle = &handle;
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(50));
                handle.set_limit(LimitConfig::default());
            });
            ask(6);
        });
        assert_eq!(handle.counters()[0].reads.get(), 12);
    });
}

/// A driver waits for every answer before it gives a disk up.
#[test]
fn a_disk_that_is_pulled_answers_everything_and_lets_its_file_go() {
    let mut disk = slow(10_240);
    assert!(disk.read(0, 512).is_ok(), "the burst");
    let asked = disk.ask(&read(1), 512, 16, false).unwrap();
    disk.kick();
    disk.wake();
    assert_eq!(disk.ring.take(), None, "it waits");
    disk.handle.pull();
    disk.wake();
    let (_, written) = disk.ring.take().unwrap();
    assert_eq!(disk.answer(asked, written).status, 1);
    assert_eq!((disk.read(0, 512), disk.write(0, &[1; 512])), (Err(1), 1));
    assert_eq!(disk.request(&DiskMachine::head(FLUSH, 0, &[]), 0).unwrap().status, 1);
    assert_eq!(disk.content(), CONTENT);
    assert_eq!((disk.log.take().len(), disk.handle.is_pulled()), (0, true));
    let config = BlockConfig::new("root", disk.image.path());
    assert!(drystone_block::RawDisk::open(&config).is_ok(), "others can have it");
    // Elsewhere it is the same, and needs no file.
    let state = Block::<Ram>::open(&config, host()).unwrap().0.save().unwrap();
    drop(std::fs::remove_file(&config.path));
    let (elsewhere, handle) = Block::<Ram>::pulled(&config, host()).unwrap();
    elsewhere.restore(state.clone()).unwrap();
    assert_eq!((elsewhere.save().unwrap(), handle.size(), handle.is_pulled()), (state, 4096, true));
    // The driver may start it again, or give it up.
    disk.start(FEATURES);
    assert_eq!((disk.read(0, 512), disk.port.status()), (Err(1), 0x0f));
}

/// Two disks of one group, of 10,240 bytes a second.
fn pair() -> (LimitGroup, Arc<ManualClock>, DiskMachine, DiskMachine) {
    let clock = Arc::new(ManualClock::default());
    let group =
        LimitGroup::new(LimitConfig { bandwidth: Rate::new(10_240), operations: None }, clock.clone());
    let disk = || DiskMachine::in_group(&group, &clock, &CONTENT, |_| ());
    let (one, other) = (disk(), disk());
    (group, clock, one, other)
}

#[test]
fn disks_of_a_group_share_its_limit_by_turns() {
    let (_, clock, mut one, mut other) = pair();
    assert!(one.read(0, 512).is_ok(), "the burst");
    // The first has had something, and wants more; the second comes later, and is due.
    let (more, first) =
        (one.ask(&read(0), 512, 16, false).unwrap(), other.ask(&read(0), 512, 16, false).unwrap());
    one.kick();
    other.kick();
    let look = |disk: &mut DiskMachine| {
        disk.wake();
        disk.ring.take().map(|(head, _)| head)
    };
    clock.advance(Duration::from_millis(50));
    assert_eq!((look(&mut one), look(&mut other)), (None, Some(first.head)));
    clock.advance(Duration::from_millis(50));
    assert_eq!(look(&mut one), Some(more.head));
    assert_eq!(
        (one.handle.counters()[0].throttled.get(), other.handle.counters()[0].throttled.get()),
        (1, 1)
    );
}

#[test]
fn a_disk_that_is_paused_reset_pulled_or_gone_holds_up_none_of_its_group() {
    let (group, clock, mut one, mut other) = pair();
    assert!(one.read(0, 512).is_ok(), "the burst");
    let wait = |disk: &mut DiskMachine| {
        let asked = disk.ask(&read(0), 512, 16, false).unwrap();
        disk.kick();
        disk.wake();
        assert_eq!(disk.ring.take(), None);
        asked
    };
    // One that is paused asks for nothing, and its pause does not stop the others' time.
    wait(&mut one);
    one.port.0.pause().unwrap();
    let asked = wait(&mut other);
    clock.advance(Duration::from_millis(50));
    other.wake();
    assert_eq!(other.ring.take().map(|(head, _)| head), Some(asked.head));
    one.port.0.resume().unwrap();
    one.start(FEATURES);
    // A reset and a pull give up what waited.
    let asked = wait(&mut one);
    one.handle.pull();
    one.wake();
    let (_, written) = one.ring.take().unwrap();
    assert_eq!(one.answer(asked, written).status, 1);
    wait(&mut other);
    other.start(FEATURES);
    drop(one);
    clock.advance(Duration::from_millis(50));
    assert!(other.read(0, 512).is_ok(), "nobody is before it");
    // Other limits hold at once for those that wait.
    let asked = wait(&mut other);
    group.configure(LimitConfig::default());
    other.handle.look_again();
    other.wake();
    assert_eq!(other.ring.take().map(|(head, _)| head), Some(asked.head));
}
