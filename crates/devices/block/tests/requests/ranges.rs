// Discarding and writing zeros, and everything that can be wrong with such a request (virtio 1.3, 5.2.6).
use drystone_block::{BlockConfig, MAX_DISCARD, MAX_ZEROES};
use drystone_limit::{LimitConfig, Rate};
use drystone_testkit::block::{DISCARD, DiskMachine, UNMAP, WRITE_ZEROES, engine_or_threads};
use drystone_testkit::virtio::Transport;

const SECTORS: u64 = 64;

fn new(content: &[u8], change: impl FnOnce(&mut BlockConfig)) -> DiskMachine {
    DiskMachine::new(content, |config| {
        config.engine = engine_or_threads(ENGINE);
        change(config);
    })
}

fn disk() -> DiskMachine {
    new(&[7; SECTORS as usize * 512], |_| ())
}

fn ask(disk: &mut DiskMachine, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
    let range = DiskMachine::range(sector, sectors, flags);
    disk.request(&DiskMachine::head(kind, 0, &range), 0).expect("an answer").status
}

fn with_zeros(from: u64, to: u64) -> Vec<u8> {
    let sector = |n| if (from..to).contains(&n) { [0; 512] } else { [7; 512] };
    (0..SECTORS).flat_map(sector).collect()
}

#[test]
fn zeros_are_where_they_belong() {
    for (kind, flags) in [(WRITE_ZEROES, 0), (WRITE_ZEROES, UNMAP), (DISCARD, 0)] {
        for (sector, sectors) in
            [(0, 1), (3, 18), (8, 16), (0, SECTORS), (SECTORS - 1, 1), (SECTORS, 0), (5, 0)]
        {
            let mut disk = disk();
            assert_eq!(
                ask(&mut disk, kind, sector, sectors as u32, flags),
                0,
                "{kind} {flags} {sector} {sectors}"
            );
            assert_eq!(
                disk.content(),
                with_zeros(sector, sector + sectors),
                "{kind} {flags} {sector} {sectors}"
            );
        }
    }
}

#[test]
fn what_is_malformed_is_answered_as_the_specification_says_and_changes_nothing() {
    let mut disk = disk();
    for kind in [DISCARD, WRITE_ZEROES] {
        let known = if kind == WRITE_ZEROES { UNMAP } else { 0 };
        // Not on the disk.
        for (sector, sectors) in [(SECTORS, 1), (0, 65), (63, 2), (u64::MAX, 1), (u64::MAX, 0), (0, u32::MAX)]
        {
            assert_eq!(ask(&mut disk, kind, sector, sectors, known), 1, "{kind} {sector} {sectors}");
        }
        // Flags that there are not, or not here; also where the rest is wrong as well.
        for flags in [2, 1 << 31, u32::MAX, UNMAP & !known].into_iter().filter(|flags| *flags != 0) {
            assert_eq!(ask(&mut disk, kind, 0, 1, flags), 2, "{kind} {flags:#x}");
            assert_eq!(ask(&mut disk, kind, SECTORS, 1, flags), 2, "{kind} {flags:#x}");
        }
        // No range, half of one, more than the one that the driver was told.
        let range = DiskMachine::range(0, 1, 0);
        let two = [&range[..], &range].concat();
        for data in [&[][..], &range[..1], &range[..15], &two[..17], &two] {
            let answer = disk.request(&DiskMachine::head(kind, 0, data), 0).unwrap();
            assert_eq!((answer.status, answer.written), (1, 1), "{kind}, {} bytes", data.len());
        }
    }
    assert_eq!(disk.content(), [7; SECTORS as usize * 512]);
    assert_eq!(disk.port.status(), 0x0f);
    let counters = &disk.handle.counters()[0];
    assert_eq!((counters.discards.get(), counters.zeroes.get()), (0, 0));
}

#[test]
fn no_more_is_done_at_once_than_the_driver_was_told() {
    let mut disk = disk();
    disk.image.as_file().set_len(MAX_DISCARD + 512).unwrap();
    disk.handle.reread_size().unwrap();
    disk.wake();
    for (kind, most) in [(DISCARD, MAX_DISCARD), (WRITE_ZEROES, MAX_ZEROES)] {
        let sectors = (most / 512) as u32;
        assert_eq!(ask(&mut disk, kind, 0, sectors + 1, 0), 1);
        assert_eq!(ask(&mut disk, kind, 1, sectors, 0), 0);
    }
    let counters = &disk.handle.counters()[0];
    assert_eq!((counters.discards.get(), counters.zeroes.get()), (1, 1));
}

#[test]
fn a_disk_that_cannot_be_written_offers_neither_and_has_neither() {
    let mut disk = new(&[7; SECTORS as usize * 512], |c| c.read_only = true);
    assert_eq!(disk.port.offered() & (3 << 13), 0);
    let mut space = [0xff; 24];
    disk.port.config_read(36, &mut space);
    assert_eq!(space, [0; 24]);
    assert_eq!(ask(&mut disk, DISCARD, 0, 1, 0), 2);
    assert_eq!(ask(&mut disk, WRITE_ZEROES, 0, 1, UNMAP), 2);
    assert_eq!(disk.content(), [7; SECTORS as usize * 512]);
}

/// The host may have to write them.
#[test]
fn zeros_count_for_the_bandwidth_and_holes_do_not() {
    let mut disk = new(&[7; SECTORS as usize * 512], |c| {
        c.limit = LimitConfig { bandwidth: Rate::new(10_240), operations: None };
    });
    for _ in 0..3 {
        assert_eq!(ask(&mut disk, DISCARD, 0, SECTORS as u32, 0), 0);
    }
    let range = DiskMachine::range(0, 2, 0);
    assert_eq!(disk.request(&DiskMachine::head(WRITE_ZEROES, 0, &range), 0), None, "it waits");
}
