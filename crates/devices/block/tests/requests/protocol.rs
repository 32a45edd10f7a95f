// What a driver may rely on, request by request (virtio 1.3, 5.2.6).
use drystone_block::{Block, BlockConfig, Cache, Host, MAX_REQUEST, OnIoError};
use drystone_bus::ManualClock;
use drystone_limit::{LimitConfig, Rate};
use drystone_state::{Component, Persist};
use drystone_testkit::block::{
    Answer, DiskMachine, FEATURES, FLUSH, GET_ID, IN, MEMORY, OUT, WRITE_ZEROES, engine_or_threads,
};
use drystone_testkit::virtio::{Buf, Ram, Transport, WRITE, ram};
use drystone_virtio::NEEDS_RESET;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

fn new(content: &[u8], change: impl FnOnce(&mut BlockConfig)) -> DiskMachine {
    DiskMachine::new(content, |config| {
        config.engine = engine_or_threads(ENGINE);
        change(config);
    })
}

fn disk() -> DiskMachine {
    new(&content(), |_| ())
}

fn content() -> Vec<u8> {
    (0..8 * 512u32).map(|i| (i / 3) as u8).collect()
}

fn head(kind: u32, sector: u64) -> Vec<u8> {
    DiskMachine::head(kind, sector, &[])
}

fn failed(status: u8) -> Option<Answer> {
    Some(Answer { status, data: Vec::new(), written: 1 })
}

#[test]
fn reads_and_writes_are_where_they_belong() {
    let mut disk = disk();
    assert_eq!(disk.read(2, 1024).unwrap(), content()[1024..2048]);
    assert_eq!(disk.write(7, &[0xab; 512]), 0);
    assert_eq!(disk.read(6, 1024).unwrap(), [&content()[6 * 512..7 * 512], &[0xab; 512]].concat());
    assert_eq!(disk.request(&head(FLUSH, 0), 0), failed(0));
    assert_eq!(disk.content()[7 * 512..], [0xab; 512]);
    assert!(disk.read(0, 0).unwrap().is_empty());
}

#[test]
fn a_driver_that_cannot_flush_writes_too() {
    let mut disk = disk();
    disk.start(0);
    assert_eq!(disk.write(7, &[0xab; 512]), 0);
    let zeros = DiskMachine::head(WRITE_ZEROES, 0, &DiskMachine::range(6, 1, 0));
    assert_eq!(disk.request(&zeros, 0), failed(0));
    assert_eq!(disk.read(6, 1024).unwrap(), [[0; 512], [0xab; 512]].concat());
}

#[test]
fn a_disk_whose_cache_is_off_says_so_until_the_driver_switches_it_on() {
    let mut disk = new(&content(), |c| c.cache = Cache::Writethrough);
    let writeback = |disk: &DiskMachine| {
        let mut byte = [9];
        disk.port.config_read(32, &mut byte);
        byte[0]
    };
    assert_eq!((writeback(&disk), disk.write(0, &[1; 512])), (0, 0));
    disk.port.config_write(32, &[1]);
    assert_eq!(writeback(&disk), 1);
    disk.relocate();
    assert_eq!(writeback(&disk), 1, "it is the driver's word that was saved");
    disk.start(FEATURES);
    assert_eq!(writeback(&disk), 0);
}

#[test]
fn what_is_read_from_a_disk_is_dirty_memory() {
    let mut disk = disk();
    let written = GuestAddress(0x18_0000);
    disk.memory.write_slice(&head(IN, 0), GuestAddress(0x1000)).unwrap();
    let memory = disk.memory.clone();
    let region = memory.find_region(written).unwrap();
    let is_dirty = |at: u64| GuestMemoryRegion::bitmap(region).dirty_at(at as usize);
    let (read, status) = (written.0 + 0xe00, 0x2000);
    assert!(!is_dirty(read) && !is_dirty(read + 0x1000));
    disk.raw(&[(0x1000, 16, 0), (read, 1024, WRITE), (status, 1, WRITE)]);
    assert!(is_dirty(read) && is_dirty(read + 0x200), "over the border of two pages");
    assert!(!is_dirty(read - 0x1000) && !is_dirty(read + 0x1200));
}

#[test]
fn what_is_not_on_the_disk_is_an_error_and_changes_nothing() {
    let mut disk = disk();
    for (sector, len) in [(8, 512), (7, 1024), (0, 511), (0, 1), (u64::MAX, 512), (u64::MAX / 512 + 1, 512)] {
        assert_eq!(disk.read(sector, len), Err(1), "read {sector} {len}");
        assert_eq!(disk.write(sector, &vec![1; len as usize]), 1, "write {sector} {len}");
    }
    assert_eq!(disk.content(), content());
    assert_eq!(disk.handle.counters()[0].refused.get(), 12);
}

#[test]
fn a_failed_read_claims_to_have_written_nothing_before_the_status() {
    let answer = disk().request(&head(IN, 8), 512).unwrap();
    assert_eq!((answer.status, answer.written), (1, 0));
}

#[test]
fn malformed_and_unknown_requests_are_answered() {
    let mut disk = disk();
    assert_eq!(disk.request(&[0; 15], 0), failed(1), "a short header");
    assert_eq!(disk.request(&[], 0), failed(1), "none");
    for kind in [2, 3, 5, 7, 12, 14, 15, u32::MAX] {
        assert_eq!(disk.request(&head(kind, 0), 0), failed(2), "kind {kind}");
    }
    assert_eq!(disk.port.status(), 0x0f, "none of this is a fault of the device");
    assert!(disk.read(0, 512).is_ok());
}

#[test]
fn memory_that_is_not_there_is_an_io_error_if_the_status_can_be_written() {
    let mut disk = disk();
    let nowhere = 1 << 40;
    disk.memory.write_slice(&head(IN, 0), GuestAddress(0x1000)).unwrap();
    for bufs in [
        &[(0x1000, 16, 0), (nowhere, 512, WRITE), (0x2000, 1, WRITE)][..],
        &[(nowhere, 16, 0), (0x2000, 1, WRITE)],
        &[(0x1000, 16, 0), (MEMORY - 256, 512, WRITE), (0x2000, 1, WRITE)],
    ] {
        disk.memory.write_slice(&[0xee], GuestAddress(0x2000)).unwrap();
        assert!(disk.raw(bufs) <= 1);
        assert_eq!(disk.memory.read_obj::<u8>(GuestAddress(0x2000)).unwrap(), 1, "{bufs:x?}");
    }
    assert_eq!(disk.port.status(), 0x0f);

    // Nowhere to write the status to: there is no answer to give.
    let mut broken = |bufs: &[Buf]| {
        disk.start(FEATURES);
        disk.memory.write_slice(&head(IN, 0), GuestAddress(0x1000)).unwrap();
        disk.ring.add(bufs, false).unwrap();
        disk.kick();
        assert_eq!((disk.ring.take(), disk.port.status()), (None, 0x0f | NEEDS_RESET), "{bufs:x?}");
        assert_eq!(disk.log.take().len(), 1);
    };
    broken(&[(0x1000, 16, 0)]);
    broken(&[(0x1000, 16, 0), (nowhere, 1, WRITE)]);
    disk.start(FEATURES);
    assert!(disk.read(0, 512).is_ok(), "a reset helps");
}

#[test]
fn the_serial_number_is_given_as_far_as_there_is_room() {
    let mut disk = new(&content(), |c| c.serial = Some("A1234567890123456789".into()));
    let ask = |disk: &mut DiskMachine, len| disk.request(&head(GET_ID, 0), len).unwrap();
    assert_eq!(ask(&mut disk, 20), Answer { status: 0, data: b"A1234567890123456789".into(), written: 21 });
    assert_eq!(ask(&mut disk, 3), Answer { status: 0, data: b"A12".into(), written: 4 });
    let long = ask(&mut disk, 30);
    assert_eq!((long.status, &long.data[..20], long.written), (0, &b"A1234567890123456789"[..], 20));
    let mut named = self::disk();
    assert_eq!(ask(&mut named, 20).data, b"root\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn a_read_only_disk_says_so_and_cannot_be_written() {
    let mut disk = new(&content(), |c| c.read_only = true);
    assert_ne!(disk.port.offered() & 1 << 5, 0, "VIRTIO_BLK_F_RO");
    assert_eq!((disk.write(0, &[1; 512]), disk.write(0, &[])), (1, 1));
    assert_eq!(disk.read(0, 512).unwrap(), content()[..512]);
    assert_eq!(disk.request(&head(FLUSH, 0), 0), failed(0));
    assert_eq!(disk.content(), content());
    assert_eq!(self::disk().port.offered() & 1 << 5, 0);
}

#[test]
fn the_configuration_space_is_that_of_the_specification() {
    let mut disk = new(&content(), |c| {
        c.queues = 3;
        c.queue_size = 64;
    });
    let mut space = [0xff; 60];
    disk.port.config_read(0, &mut space);
    let le = |at: usize, len: usize| (0..len).map(|i| u64::from(space[at + i]) << (8 * i)).sum::<u64>();
    let fields =
        [(0, 8), (8, 4), (12, 4), (16, 4), (20, 4), (24, 1), (25, 1), (26, 2), (28, 4), (32, 1), (34, 2)];
    assert_eq!(fields.map(|(at, len)| le(at, len)), [8, 65536, 62, 0, 512, 3, 0, 8, 0, 1, 3]);
    let ranges = [(36, 4), (40, 4), (44, 4), (48, 4), (52, 4), (56, 1), (57, 3)];
    assert_eq!(ranges.map(|(at, len)| le(at, len)), [1 << 21, 1, 8, 1 << 15, 1, 1, 0]);
    // WRITE_ZEROES, DISCARD, MQ, CONFIG_WCE, TOPOLOGY, FLUSH, BLK_SIZE, SEG_MAX, SIZE_MAX.
    let own =
        (1 << 14) | (1 << 13) | (1 << 12) | (1 << 11) | (1 << 10) | (1 << 9) | (1 << 6) | (1 << 2) | (1 << 1);
    assert_eq!(disk.port.offered() & 0xff_ffff, own);
    // Only `writeback` can be written, and a reset of the device switches the cache on again.
    disk.port.config_write(0, &[0; 32]);
    disk.port.config_write(33, &[0; 27]);
    disk.port.config_write(u64::from(u32::MAX), &[0]);
    assert_eq!(disk.handle.size(), 4096);
    let writeback = |disk: &DiskMachine| {
        let mut byte = [9];
        disk.port.config_read(32, &mut byte);
        byte[0]
    };
    assert_eq!(writeback(&disk), 1);
    disk.relocate();
    assert_eq!(writeback(&disk), 1);
    disk.port.config_write(32, &[0]);
    assert_eq!(writeback(&disk), 0);
    disk.relocate();
    assert_eq!(writeback(&disk), 0);
    disk.port.set_status(0);
    assert_eq!(writeback(&disk), 1);
}

#[test]
fn another_size_interrupts_the_driver_which_then_sees_it() {
    let mut disk = disk();
    let generation = disk.port.generation();
    disk.image.as_file().set_len(16 * 512 + 100).unwrap();
    assert_eq!(disk.handle.reread_size().unwrap(), 16 * 512 + 100);
    assert_eq!(disk.read(8, 512), Err(1), "the driver has not been told");
    disk.port.take_interrupts();
    disk.wake();
    assert_eq!(disk.port.take_interrupts() & 2, 2, "a configuration change");
    assert_ne!(disk.port.generation(), generation);
    assert_eq!(disk.read(15, 512).unwrap(), [0; 512]);
    assert_eq!(disk.read(16, 512), Err(1), "half a sector is none");
    // The same once more changes nothing.
    disk.handle.reread_size().unwrap();
    disk.wake();
    assert_eq!(disk.port.take_interrupts() & 2, 0);
    // A paused machine hears of it when it runs, and a smaller disk refuses what is past its end.
    disk.port.0.pause().unwrap();
    disk.image.as_file().set_len(4 * 512).unwrap();
    disk.handle.reread_size().unwrap();
    disk.port.0.resume().unwrap();
    disk.serve();
    assert_eq!((disk.read(3, 512), disk.read(4, 512)), (Ok(content()[3 * 512..4 * 512].to_vec()), Err(1)));
}

#[test]
fn a_disk_that_has_grown_is_announced_after_a_restore() {
    let mut disk = disk();
    disk.image.as_file().set_len(16 * 512).unwrap();
    disk.port.take_interrupts();
    disk.relocate();
    assert_eq!(disk.port.take_interrupts() & 2, 2);
    assert_eq!((disk.handle.size(), disk.read(15, 512)), (16 * 512, Ok(vec![0; 512])));
}

#[test]
fn a_disk_that_has_shrunk_is_not_what_was_saved() {
    let disk = || {
        let image = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(image.path(), content()).unwrap();
        image
    };
    let open = |image: &tempfile::NamedTempFile| {
        let host = Host { clock: Arc::new(ManualClock::default()), on_failure: Arc::new(|_| ()), group: None };
        Block::<Ram>::open(&BlockConfig::new("root", image.path()), host).unwrap().0
    };
    let (large, small) = (disk(), disk());
    small.as_file().set_len(7 * 512).unwrap();
    let (state, small) = (open(&large).save().unwrap(), open(&small));
    let before = small.save().unwrap();
    let refused = small.restore(state).unwrap_err().to_string();
    assert!(refused.contains("disk `root` has 7 sectors, the saved one 8"), "{refused}");
    assert_eq!(small.save().unwrap(), before);
}

#[test]
fn a_request_is_never_longer_than_the_driver_was_told() {
    let mut disk =
        DiskMachine::in_memory(ram(32 << 20), &vec![7; 20 << 20], |c| c.engine = engine_or_threads(ENGINE));
    for (len, status) in [(MAX_REQUEST, 0), (MAX_REQUEST + 512, 1)] {
        disk.memory.write_slice(&head(IN, 0), GuestAddress(0x1000)).unwrap();
        disk.raw(&[(0x1000, 16, 0), (0x10_0000, len as u32, WRITE), (0x2000, 1, WRITE)]);
        assert_eq!(disk.memory.read_obj::<u8>(GuestAddress(0x2000)).unwrap(), status, "{len} bytes");
    }
}

#[test]
fn a_host_error_is_told_to_guest_and_operator() {
    let mut disk = disk();
    disk.image.as_file().set_len(512).unwrap();
    assert_eq!((disk.read(4, 512), disk.read(0, 512)), (Err(1), Ok(content()[..512].to_vec())));
    assert_eq!(disk.log.take(), ["read: unexpected end of file"]);
    assert_eq!((disk.handle.counters()[0].errors.get(), disk.failures.lock().unwrap().len()), (1, 0));
    assert_eq!(disk.port.status(), 0x0f);
}

#[test]
fn a_host_error_that_is_to_stop_the_machine_is_hidden_from_the_guest() {
    let mut disk = new(&content(), |c| c.on_io_error = OnIoError::Stop);
    disk.image.as_file().set_len(512).unwrap();
    assert_eq!(disk.request(&head(IN, 4), 512), None, "no answer");
    assert_eq!(*disk.failures.lock().unwrap(), ["disk `root`: cannot read: unexpected end of file"]);
    // Its queue stands still.
    let behind = disk.ask(&head(IN, 0), 512, 16, false).unwrap();
    disk.kick();
    assert_eq!(disk.ring.take(), None);
    // The operator mends it; paused and resumed, also elsewhere, the machine tries again.
    disk.image.as_file().set_len(8 * 512).unwrap();
    disk.relocate();
    let (_, written) = disk.ring.take().expect("the one that had failed");
    assert_eq!(written, 513);
    assert_eq!(disk.ring.take().map(|(head, _)| head), Some(behind.head));
    assert_eq!(disk.answer(behind, 513).data, content()[..512]);
    assert_eq!(disk.failures.lock().unwrap().len(), 1);
}

/// With an engine that does several at once, the second is done while the first waits.
#[test]
fn a_host_error_that_is_hidden_is_mended_elsewhere() {
    let mut disk = new(&content(), |c| c.on_io_error = OnIoError::Pause);
    disk.image.as_file().set_len(512).unwrap();
    let bad = disk.ask(&head(IN, 4), 512, 16, false).unwrap();
    let good = disk.ask(&head(IN, 0), 512, 16, true).unwrap();
    disk.kick();
    disk.image.as_file().write_all_at(&content(), 0).unwrap();
    disk.relocate();
    let answers = [(bad, 4), (good, 0)];
    for _ in 0..2 {
        let (head, written) = disk.ring.take().expect("an answer");
        let (asked, sector) = *answers.iter().find(|(asked, _)| asked.head == head).unwrap();
        assert_eq!(disk.answer(asked, written).data, content()[sector * 512..][..512]);
    }
    assert_eq!((disk.ring.take(), disk.ring.outstanding()), (None, 0));
    assert_eq!(disk.failures.lock().unwrap().len(), 1);
}

#[test]
fn requests_wait_for_their_limits_and_pauses_put_them_back() {
    let mut disk = new(&content(), |c| {
        c.limit = LimitConfig { bandwidth: Rate::new(10_240), operations: None };
    });
    // The burst is 512 bytes.
    assert!(disk.read(0, 512).is_ok());
    let asked: Vec<_> = (0..3).map(|n| disk.ask(&head(IN, n), 512, 16, false).unwrap()).collect();
    disk.kick();
    assert_eq!((disk.ring.take(), disk.handle.counters()[0].throttled.get()), (None, 1));
    disk.clock.advance(Duration::from_millis(49));
    disk.wake();
    assert_eq!(disk.ring.take(), None);
    disk.relocate();
    disk.clock.advance(Duration::from_millis(1));
    disk.wake();
    assert_eq!(disk.ring.take(), Some((asked[0].head, 513)), "its 50 ms, in two machines");
    assert_eq!(disk.ring.take(), None);
    disk.handle.set_limit(LimitConfig::default());
    disk.wake();
    assert_eq!(disk.ring.take(), Some((asked[1].head, 513)));
    assert_eq!(disk.ring.take(), Some((asked[2].head, 513)));
    assert_eq!(disk.answer(asked[2], 513).data, content()[1024..1536]);
}

#[test]
fn a_reset_drops_what_waits_and_gives_no_burst() {
    let mut disk = new(&content(), |c| {
        c.limit = LimitConfig { bandwidth: None, operations: Rate::new(1) };
    });
    assert!(disk.read(0, 512).is_ok());
    disk.ask(&head(OUT, 0), 0, 16, false).unwrap();
    disk.kick();
    disk.start(FEATURES);
    assert_eq!(disk.request(&head(IN, 0), 512), None, "it has to wait as well");
    disk.clock.advance(Duration::from_secs(1));
    disk.wake();
    assert!(disk.ring.take().is_some());
    assert_eq!(disk.content(), content());
}
