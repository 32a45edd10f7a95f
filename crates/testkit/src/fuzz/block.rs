//! Any requests of a disk, well-formed or not, mixed with pauses, moves, resets, limits and other sizes.

use super::input::Input;
use crate::block::{
    Asked, DISCARD, DiskMachine, FEATURES, FLUSH, GET_ID, IN, LEAST_MEMORY, OUT, UNMAP, WRITE_ZEROES,
};
use crate::virtio::{Transport, used_ram_of};
use drystone_block::EngineKind;
use drystone_limit::{LimitConfig, Rate};
use drystone_virtio::NEEDS_RESET;
use std::collections::VecDeque;
use std::time::Duration;

const STEPS: usize = 256;
const SECTOR: u64 = 512;
const SECTORS: u64 = 24;
/// Data of a request at most, in sectors.
const MOST: u64 = 8;

/// What the driver expects of a request.
enum Expected {
    Read {
        at: u64,
    },
    Write {
        at: u64,
        data: Vec<u8>,
    },
    /// A range becomes zeros: also where it is discarded, as the host has holes.
    Zeros {
        at: u64,
        len: u64,
    },
    Flush,
    Serial,
    Status(u8),
}

/// A guest that asks a disk for anything, and knows what every answer must be.
pub struct DiskGuest {
    machine: DiskMachine,
    /// What the disk should hold.
    oracle: Vec<u8>,
    /// One queue and one engine that does one thing at a time: answers come in order.
    waiting: VecDeque<(Asked, Expected)>,
    /// The size that the guest was told, in sectors.
    sectors: u64,
    /// Rings that lie have broken the device.
    broken: bool,
    /// It may have to wait for its limits.
    limited: bool,
    read_only: bool,
    /// Nothing is asked for before all else is answered.
    one_by_one: bool,
}

/// Runs `data` as a list of steps.
///
/// # Panics
/// If a request is answered twice, out of order, not at all, with the wrong status or the wrong data; if a byte of the disk is
/// not what the guest has written; if anything is lost by a pause or a move.
pub fn block(data: &[u8]) {
    let mut input = Input::new(data);
    let mut guest = DiskGuest::new(input.u8().is_multiple_of(8), EngineKind::Sync);
    guest.steps(&mut input);
    guest.settle();
}

/// As [`block`], with an engine that does several things at once. What is on its way together may end in any order, so requests are made
/// one by one, and no limit has them wait for each other.
///
/// # Panics
/// As [`block`].
pub fn block_on(engine: EngineKind, data: &[u8]) {
    let mut input = Input::new(data);
    let mut guest = DiskGuest::new(input.u8().is_multiple_of(8), engine);
    guest.steps(&mut input);
    guest.settle();
}

impl DiskGuest {
    /// A guest and its disk.
    pub fn new(read_only: bool, engine: EngineKind) -> Self {
        let oracle: Vec<u8> = (0..SECTORS * SECTOR).map(|i| (i * 31 + i / SECTOR) as u8).collect();
        let memory = used_ram_of(&[(0, LEAST_MEMORY as usize)]);
        let machine = DiskMachine::in_memory(memory, &oracle, |config| {
            (config.read_only, config.engine) = (read_only, engine);
        });
        Self {
            machine,
            oracle,
            waiting: VecDeque::new(),
            sectors: SECTORS,
            broken: false,
            limited: false,
            read_only,
            one_by_one: engine != EngineKind::Sync,
        }
    }

    /// Does what some bytes mean, and has everything answered in the end.
    ///
    /// # Panics
    /// As [`block`].
    pub fn stream(&mut self, data: &[u8]) {
        self.machine.log.take();
        self.steps(&mut Input::new(data));
        self.settle();
    }

    fn steps(&mut self, input: &mut Input<'_>) {
        for _ in 0..STEPS {
            if input.is_empty() {
                break;
            }
            self.step(input, self.read_only);
        }
    }

    fn step(&mut self, input: &mut Input<'_>, read_only: bool) {
        match input.u8() % 16 {
            0..=2 => self.ask(input, OUT, read_only),
            3..=5 => self.ask(input, IN, read_only),
            6 => match input.u8() % 4 {
                0 => self.ask(input, FLUSH, read_only),
                1 => self.ask(input, GET_ID, read_only),
                2 => self.range(input, DISCARD, read_only),
                _ => self.range(input, WRITE_ZEROES, read_only),
            },
            7 => self.nonsense(input),
            8 | 9 => self.kick(),
            10 => self.machine.pause(),
            11 => self.machine.relocate(),
            12 => self.restart(),
            13 if !self.one_by_one => self.limit(input),
            13 => {}
            14 => {
                self.machine.clock.advance(Duration::from_micros(u64::from(input.u16())));
                self.machine.wake();
            }
            _ => self.lie(input),
        }
        self.look();
    }

    fn ask(&mut self, input: &mut Input<'_>, kind: u32, read_only: bool) {
        let (shape, cut) = (input.u8(), u32::from(input.u16()));
        // Sometimes past the end, sometimes not whole sectors.
        let sector = u64::from(input.u8()) % (SECTORS + 4);
        let mut len = u64::from(input.u8()) % (MOST + 1) * SECTOR;
        if shape & 2 != 0 && input.u8().is_multiple_of(8) {
            len = (len + 1).min(MOST * SECTOR);
        }
        let fits = len.is_multiple_of(SECTOR) && sector + len / SECTOR <= self.sectors;
        let data: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(7).wrapping_add(shape)).collect();
        let at = sector * SECTOR;
        let (readable, room, expected) = match kind {
            IN => (DiskMachine::head(IN, sector, &[]), len as u32, Expected::Read { at }),
            OUT if read_only => (DiskMachine::head(OUT, sector, &data), 0, Expected::Status(1)),
            OUT => (DiskMachine::head(OUT, sector, &data), 0, Expected::Write { at, data }),
            FLUSH => (DiskMachine::head(FLUSH, sector, &[]), 0, Expected::Flush),
            _ => (DiskMachine::head(GET_ID, sector, &[]), 20, Expected::Serial),
        };
        let expected = if fits || matches!(kind, FLUSH | GET_ID) { expected } else { Expected::Status(1) };
        self.send(&readable, room, cut, shape & 1 != 0, expected);
    }

    /// Sometimes past the end, with flags that there are not, or of another length than one range has.
    fn range(&mut self, input: &mut Input<'_>, kind: u32, read_only: bool) {
        let (shape, cut) = (input.u8(), u32::from(input.u8()));
        let (sector, sectors) = (u64::from(input.u8()) % (SECTORS + 2), u32::from(input.u8()) % 12);
        let flags = if shape & 2 == 0 { 0 } else { u32::from(input.u8() % 4) };
        let len = if shape & 4 == 0 { 16 } else { usize::from(input.u8() % 33) };
        let range = DiskMachine::range(sector, sectors, flags);
        let data: Vec<u8> = range.into_iter().cycle().take(len).collect();
        let known = if kind == WRITE_ZEROES { UNMAP } else { 0 };
        let (at, bytes) = (sector * SECTOR, u64::from(sectors) * SECTOR);
        let expected = if read_only {
            Expected::Status(2)
        } else if len != 16 {
            Expected::Status(1)
        } else if flags & !known != 0 {
            Expected::Status(2)
        } else if sector + u64::from(sectors) > self.sectors {
            Expected::Status(1)
        } else {
            Expected::Zeros { at, len: bytes }
        };
        self.send(&DiskMachine::head(kind, 0, &data), 0, cut, shape & 1 != 0, expected);
    }

    /// A request that is malformed, or of a kind that there is not.
    fn nonsense(&mut self, input: &mut Input<'_>) {
        let (kind, len) = (input.u32(), u32::from(input.u8()));
        let readable = input.take(24);
        if readable.len() < 16 {
            return self.send(readable, len, 3, false, Expected::Status(1));
        }
        if !matches!(kind, IN | OUT | FLUSH | GET_ID | DISCARD | WRITE_ZEROES) {
            self.send(&DiskMachine::head(kind, 0, readable), len, 5, true, Expected::Status(2));
        }
    }

    fn send(&mut self, readable: &[u8], room: u32, cut: u32, indirect: bool, expected: Expected) {
        if self.broken {
            return;
        }
        if let Some(asked) = self.machine.ask(readable, room, cut, indirect) {
            self.waiting.push_back((asked, expected));
        }
        if self.one_by_one {
            self.kick();
            self.look();
        }
    }

    fn kick(&mut self) {
        self.machine.kick();
    }

    /// Takes the answers that are there.
    fn look(&mut self) {
        if self.broken {
            return;
        }
        while let Some((head, written)) = self.machine.ring.take() {
            let (asked, expected) = self.waiting.pop_front().expect("an answer that nobody waits for");
            assert_eq!(head, asked.head, "out of order");
            let answer = self.machine.answer(asked, written);
            self.check(expected, &answer.data, answer.status, written);
        }
    }

    fn check(&mut self, expected: Expected, data: &[u8], status: u8, written: u32) {
        let all = data.len() as u32 + 1;
        let range = |at: u64, len: usize| at as usize..at as usize + len;
        match expected {
            Expected::Status(wanted) => {
                assert_eq!(status, wanted);
                assert!(written == 0 || (written == 1 && all == 1));
                return;
            }
            Expected::Read { at } => assert_eq!(data, &self.oracle[range(at, data.len())], "read at {at}"),
            Expected::Write { at, data } => self.oracle[range(at, data.len())].copy_from_slice(&data),
            Expected::Zeros { at, len } => self.oracle[range(at, len as usize)].fill(0),
            Expected::Flush => assert!(data.is_empty()),
            Expected::Serial => assert_eq!(data, b"root\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        }
        assert_eq!((status, written), (0, all));
    }

    fn restart(&mut self) {
        self.machine.start(FEATURES);
        // What was not answered was dropped: it may have been done or not, but not answered later.
        for (_, expected) in std::mem::take(&mut self.waiting) {
            if let Expected::Write { .. } | Expected::Zeros { .. } = expected {
                self.oracle.copy_from_slice(&self.machine.content());
            }
        }
        self.broken = false;
        assert_eq!(self.machine.ring.take(), None);
    }

    fn limit(&mut self, input: &mut Input<'_>) {
        let mut rate = |shift: u8| Rate::new(u64::from(input.u8()) << shift);
        self.machine.handle.set_limit(LimitConfig { bandwidth: rate(12), operations: rate(4) });
        self.limited = true;
        self.machine.wake();
    }

    /// A chain of the guest's worst ideas. It may break the device, and nothing else.
    fn lie(&mut self, input: &mut Input<'_>) {
        let flags = u16::from(input.u8() % 8);
        let buf = (input.u64() % (2 * LEAST_MEMORY), input.u32(), flags);
        let next = input.u16();
        self.machine.ring.put(self.machine.ring.descriptors(), u16::from(input.u8() % 16), buf, next);
        self.machine.ring.offer(u16::from(input.u8()));
        self.kick();
        // Whatever it did, from here on the driver knows nothing until it resets the device.
        self.broken = true;
        let status = self.machine.port.status();
        assert!(status == 0x0f || status == 0x0f | NEEDS_RESET, "status {status:#x}");
        self.restart();
        self.oracle.copy_from_slice(&self.machine.content());
    }

    /// Without limits everything is answered in the end, and the disk holds what was written.
    fn settle(&mut self) {
        if std::mem::take(&mut self.limited) {
            self.machine.handle.set_limit(LimitConfig::default());
            self.machine.wake();
        }
        self.kick();
        self.look();
        assert!(self.waiting.is_empty(), "{} requests are lost", self.waiting.len());
        assert!(self.machine.content() == self.oracle, "the disk is not what was written");
    }
}
