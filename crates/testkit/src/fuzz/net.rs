//! Frames of any shape both ways, commands, and whatever else a driver and an operator do to a network device.
use super::input::Input;
use crate::net::{CTRL_VQ, MQ, MRG_RXBUF, NetMachine, RINGS, STATUS};
use crate::virtio::{Edges, MmioPort, Ram, Transport, World, ops};
use drystone_bus::ManualClock;
use drystone_limit::{LimitConfig, Rate};
use drystone_memory::{Gather, Scatter};
use drystone_net::{Backend, FRAME_HEADER, MAX_FRAME, Mac, Net, NetConfig, Offloads, Port};
use drystone_state::Component;
use drystone_virtio::{F_INDIRECT_DESC, Host, Mmio, MmioConfig, NEEDS_RESET};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

const STEPS: usize = 256;
const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const OTHER: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
const GROUP: Mac = Mac([1, 0, 0x5e, 0, 0, 1]);
/// The smallest buffer that a driver offers here which can hold a header.
const SMALLEST: usize = 64;
/// Where in a header the number of buffers is.
const NUM_BUFFERS: std::ops::Range<usize> = 10..12;

/// Runs `data` as a list of steps. The first byte chooses between a driver whose frames are all accounted for, and any driver.
///
/// # Panics
/// If a frame comes that was not sent, twice, changed, or out of order; if one is lost without a reason; if the device needs a reset
/// although no ring is wrong; if a pause or a move changes anything; if the device writes where no driver pointed.
pub fn net(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    if kind & 1 == 0 {
        let mut guest = NetGuest::new(*kind);
        let mut input = Input::new(data);
        for _ in 0..STEPS {
            if input.is_empty() {
                break;
            }
            guest.step(&mut input);
        }
        guest.settle();
    } else {
        let features = RINGS | if kind & 2 == 0 { MRG_RXBUF | STATUS | CTRL_VQ } else { 0 };
        World::<MmioPort<Ram>>::new(flooded, features, 16).survive(&ops(data));
    }
}

/// A frame on its way.
struct Frame {
    bytes: Vec<u8>,
    /// There is a reason why it might not arrive.
    may_be_lost: bool,
}

/// Frames on their way in one direction of one pair.
#[derive(Default)]
struct Way(VecDeque<Frame>);

impl Way {
    fn sent(&mut self, bytes: Vec<u8>, may_be_lost: bool) {
        self.0.push_back(Frame { bytes, may_be_lost });
    }

    fn lose(&mut self) {
        self.0.iter_mut().for_each(|frame| frame.may_be_lost = true);
    }

    fn arrived(&mut self, bytes: &[u8], what: &str) {
        loop {
            let first = self.0.pop_front();
            let Some(frame) = first else {
                panic!("{what}: a frame that nobody sent, or twice: {bytes:02x?}")
            };
            if frame.bytes == bytes {
                return;
            }
            assert!(
                frame.may_be_lost,
                "{what}: lost, or out of order: {:02x?} before {bytes:02x?}",
                frame.bytes
            );
        }
    }

    /// The first that must arrive and has not.
    fn lost(&self) -> Option<&Frame> {
        self.0.iter().find(|frame| !frame.may_be_lost)
    }
}

/// A driver, and the other end of its cable, that know what must arrive.
struct NetGuest {
    machine: NetMachine,
    config: NetConfig,
    features: u64,
    /// By pair.
    out: Vec<Way>,
    into: Vec<Way>,
    /// The driver may have chosen what it wants to hear.
    filtered: bool,
    seed: u8,
}

impl NetGuest {
    fn new(kind: u8) -> Self {
        let config = NetConfig {
            pairs: if kind & 2 == 0 { 1 } else { 3 },
            queue_size: if kind & 4 == 0 { 16 } else { 256 },
            enforce_mac: kind & 8 != 0,
            mtu: (kind & 16 != 0).then_some(9000),
            ..NetConfig::new("net0", MAC)
        };
        let offloads = if kind & 32 == 0 { Offloads::NONE } else { Offloads::CHECKSUM | Offloads::TSO4 };
        let features = RINGS | MRG_RXBUF | STATUS | CTRL_VQ | MQ;
        let machine = NetMachine::new(config.clone(), offloads, features);
        let ways = || (0..config.pairs).map(|_| Way::default()).collect();
        Self { machine, features, out: ways(), into: ways(), config, filtered: false, seed: 0 }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 16 {
            0..=3 => self.send(input),
            4..=6 => self.give(input),
            7 | 8 => self.offer(input),
            9 => self.malformed(input),
            10 => self.command(input),
            11 => self.link(input.u8().is_multiple_of(2)),
            12 => self.limit(input),
            13 => match input.u8() % 4 {
                0 => self.relocate(),
                1 => self.pause(),
                2 => drop(self.machine.handle.announce()),
                _ => self.machine.clock.advance(Duration::from_millis(u64::from(input.u16()))),
            },
            14 if input.u8().is_multiple_of(4) => self.lie(input),
            14 => {}
            _ => self.restart(input.u8()),
        }
        // Some things are done together.
        if input.u8() & 3 != 0 {
            self.run();
        }
    }

    fn run(&mut self) {
        self.machine.run();
        self.look();
        let log = self.machine.log.take();
        assert_eq!(self.machine.port.status() & NEEDS_RESET, 0, "{log:?}");
    }

    fn pairs(&self) -> u16 {
        (self.machine.rings.len() / 2) as u16
    }

    fn frame(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        self.seed = self.seed.wrapping_add(41);
        let (shape, seed) = (input.u8(), self.seed);
        let len = match shape % 8 {
            0 => usize::from(input.u16()).clamp(14, 4000),
            1 if input.u8().is_multiple_of(4) => MAX_FRAME - usize::from(input.u8() % 3),
            _ => 14 + usize::from(input.u8() % 80),
        };
        let mut frame: Vec<u8> = (0..len).map(|n| (n as u8).wrapping_mul(7) ^ seed).collect();
        let group = [MAC, OTHER, GROUP, Mac::BROADCAST][usize::from(shape >> 3 & 3)];
        frame[..6].copy_from_slice(&group.0);
        frame[6..12].copy_from_slice(&if shape & 0x60 == 0 { OTHER } else { MAC }.0);
        frame[12..14].copy_from_slice(if shape & 0x80 == 0 { &[8, 0] } else { &[0x81, 0] });
        let header = (0..FRAME_HEADER as u8).map(|n| n ^ seed);
        header.chain(frame).collect()
    }

    fn pair(&self, input: &mut Input<'_>) -> u16 {
        u16::from(input.u8()) % self.config.pairs
    }

    /// The driver sends a frame, in up to 8 pieces.
    fn send(&mut self, input: &mut Input<'_>) {
        let pair = self.pair(input) % self.pairs();
        let frame = self.frame(input);
        let piece = (1 + usize::from(input.u8())).max(frame.len() / 7 + 1);
        let first = 1 + usize::from(input.u8()) % 20;
        let (head, rest) = frame.split_at(first.min(frame.len()));
        let pieces: Vec<&[u8]> = [head].into_iter().chain(rest.chunks(piece)).collect();
        if !self.machine.add(2 * pair + 1, &pieces, &[]) {
            return;
        }
        let spoofed = self.config.enforce_mac && frame[FRAME_HEADER + 6..FRAME_HEADER + 12] != MAC.0;
        if !spoofed {
            let down = !self.machine.handle.link();
            self.out[usize::from(pair)].sent(frame, down);
        }
    }

    /// The network has a frame for the guest.
    fn give(&mut self, input: &mut Input<'_>) {
        let pair = self.pair(input);
        let mut frame = self.frame(input);
        let size = usize::from(self.config.queue_size);
        if self.features & F_INDIRECT_DESC == 0 {
            frame.truncate(self.longest_of_long_chains());
        }
        // As many of the smallest buffers as the ring and one call have room for.
        let sure = if self.merges() { SMALLEST * size.min(60) } else { SMALLEST };
        let may_be_lost = frame.len() > sure || self.filtered || !self.machine.handle.link();
        self.machine.dropped |= may_be_lost;
        if self.machine.wire.send(pair, &frame) {
            self.into[usize::from(pair)].sent(frame, may_be_lost);
        }
    }

    /// A ring may be full of chains of three descriptors. A longer frame than they have room for waits for more, as the device does not see
    /// that no more can come.
    fn longest_of_long_chains(&self) -> usize {
        SMALLEST * (usize::from(self.config.queue_size) / 3)
    }

    fn merges(&self) -> bool {
        self.features & MRG_RXBUF != 0
    }

    /// The driver has room for frames.
    fn offer(&mut self, input: &mut Input<'_>) {
        let pair = self.pair(input) % self.pairs();
        for _ in 0..=input.u8() % 16 {
            let shape = input.u8();
            let len = [SMALLEST as u32, 100, 1526, 4096][usize::from(shape & 3)];
            let cut = 1 + u32::from(shape >> 2) % (len - 1);
            let one: &[u32] = &[len];
            let (two, three) = ([cut, len - cut], [1, cut, len - cut]);
            let bufs: &[u32] = match shape >> 6 {
                0 | 1 => one,
                2 => &two,
                _ => &three,
            };
            if !self.machine.add(2 * pair, &[], bufs) {
                break;
            }
        }
    }

    /// What is no frame, and no room for one.
    fn malformed(&mut self, input: &mut Input<'_>) {
        let pair = self.pair(input) % self.pairs();
        let bytes = vec![0x55; usize::from(input.u8()) % (FRAME_HEADER + 14)];
        let room = [u32::from(input.u8()) % 12];
        let room = if room[0] == 0 { &[][..] } else { &room[..] };
        match input.u8() % 4 {
            0 => drop(self.machine.add(2 * pair, &[&bytes], room)),
            1 if input.u8().is_multiple_of(8) => {
                let long = vec![0x55; FRAME_HEADER + MAX_FRAME + 1];
                self.machine.add(2 * pair + 1, &[&long], &[]);
            }
            _ => drop(self.machine.add(2 * pair + 1, &[&bytes], room)),
        }
    }

    /// Any command. Most change what the guest hears.
    fn command(&mut self, input: &mut Input<'_>) {
        if self.features & CTRL_VQ == 0 {
            return;
        }
        let (class, command) = (input.u8() % 7, input.u8() % 7);
        let len = usize::from(input.u8() % 24);
        let data = input.take(len);
        self.run();
        let before = self.machine.handle.pairs();
        let answer = self.machine.command(class, command, data);
        assert!(answer <= 1, "{answer}");
        if answer == 0 && (0..=2).contains(&class) {
            self.filtered = true;
            self.machine.dropped = true;
            self.into.iter_mut().for_each(Way::lose);
        }
        let pairs = self.machine.handle.pairs();
        assert!(pairs == before || (answer == 0 && class == 4 && pairs <= self.pairs()));
        assert_eq!(self.machine.wire.pairs(), pairs);
        self.look();
    }

    fn link(&mut self, up: bool) {
        self.run();
        self.machine.handle.set_link(up).unwrap();
        if !up {
            self.lose_all();
        }
        self.run();
        assert_eq!(self.machine.handle.link(), up);
        if self.features & STATUS != 0 {
            assert_eq!(self.machine.status() & 1, u16::from(up));
        }
    }

    fn lose_all(&mut self) {
        self.machine.dropped = true;
        self.out.iter_mut().chain(&mut self.into).for_each(Way::lose);
    }

    fn limit(&mut self, input: &mut Input<'_>) {
        let mut rate = |shift: u8| Rate::new(u64::from(input.u8()) << shift);
        let mut limit = || LimitConfig { bandwidth: rate(10), operations: rate(2) };
        let (rx, tx) = (limit(), limit());
        self.machine.handle.set_limits(rx, tx);
    }

    fn pause(&mut self) {
        self.machine.port.0.pause().unwrap();
        self.machine.run();
        self.machine.port.0.resume().unwrap();
    }

    /// The device goes on elsewhere, on another cable: what was on the old one is lost.
    fn relocate(&mut self) {
        self.run();
        self.into.iter_mut().for_each(Way::lose);
        self.machine.dropped = true;
        self.machine.move_away();
    }

    /// A new driver, which knows nothing of the old one's rings.
    fn restart(&mut self, choice: u8) {
        self.run();
        self.begin(choice);
    }

    fn begin(&mut self, choice: u8) {
        let bit = |n: u8, features: u64| if choice >> n & 1 == 0 { features } else { 0 };
        self.features = bit(0, MRG_RXBUF) | bit(1, STATUS) | bit(3, RINGS);
        self.features |= bit(2, CTRL_VQ | bit(4, MQ));
        let longest = self.longest_of_long_chains();
        if self.into.iter().flat_map(|way| &way.0).any(|frame| frame.bytes.len() > longest) {
            self.features |= RINGS;
        }
        self.machine.dropped = true;
        self.out.iter_mut().for_each(|way| way.0.clear());
        self.into.iter_mut().for_each(Way::lose);
        self.machine.bring_up(self.features);
        self.filtered = false;
        assert_eq!(self.machine.handle.pairs(), 1);
        self.look();
    }

    /// A chain of the driver's worst ideas. It may break a lane, and nothing else.
    fn lie(&mut self, input: &mut Input<'_>) {
        self.run();
        let queue = usize::from(input.u8()) % self.machine.rings.len();
        let ring = &mut self.machine.rings[queue];
        let buf = (input.u64() % (32 << 20), input.u32(), u16::from(input.u8() % 8));
        ring.put(ring.descriptors(), u16::from(input.u8() % 16), buf, input.u16());
        ring.offer(u16::from(input.u8()));
        self.machine.port.notify(queue as u16);
        self.machine.run();
        let status = self.machine.port.status();
        assert!(status == 0x0f || status == 0x0f | NEEDS_RESET, "status {status:#x}");
        // What came of it is nobody's.
        (0..self.config.pairs).for_each(|pair| while self.machine.wire.receive(pair).is_some() {});
        self.machine.log.take();
        self.begin(input.u8());
    }

    /// Looks at what has arrived on either side.
    fn look(&mut self) {
        for pair in 0..self.config.pairs {
            while let Some(frame) = self.machine.wire.receive(pair) {
                self.out[usize::from(pair)].arrived(&frame, "to the network");
            }
        }
        for pair in 0..self.pairs() {
            while self.machine.take(2 * pair + 1).is_some_and(|written| written.is_empty()) {}
            while let Some(first) = self.machine.take(2 * pair) {
                // Room that was none comes back empty.
                if !first.is_empty() {
                    self.take_frame(pair, first);
                }
            }
        }
    }

    fn take_frame(&mut self, pair: u16, mut frame: Vec<u8>) {
        let buffers = u16::from_le_bytes([frame[NUM_BUFFERS.start], frame[NUM_BUFFERS.start + 1]]);
        assert!(buffers == 1 || (buffers > 1 && self.merges()), "{buffers} buffers");
        for _ in 1..buffers {
            frame.extend(self.machine.take(2 * pair).expect("all buffers of a frame at once"));
        }
        let way = &mut self.into[usize::from(pair)];
        // Which number was in its header before nobody knows.
        frame[NUM_BUFFERS].fill(0);
        way.0.iter_mut().for_each(|frame| frame.bytes[NUM_BUFFERS].fill(0));
        way.arrived(&frame, "to the guest");
    }

    /// With a cable, without limits and with room for everything, all arrives in the end.
    fn settle(&mut self) {
        self.link(true);
        self.machine.handle.set_limits(LimitConfig::default(), LimitConfig::default());
        let hears = usize::from(self.machine.handle.pairs().min(self.pairs()));
        let all = usize::from(self.pairs());
        for _ in 0..STEPS {
            for pair in 0..self.pairs() {
                while self.machine.add(2 * pair, &[], &[4096]) {}
            }
            self.run();
            if self.out[..all].iter().chain(&self.into[..hears]).all(|way| way.lost().is_none()) {
                return;
            }
        }
        let lost = |ways: &[Way]| ways.iter().filter_map(Way::lost).next().map(|frame| frame.bytes.clone());
        panic!(
            "lost: {:02x?} to the network, {:02x?} to the guest",
            lost(&self.out[..all]),
            lost(&self.into[..hears])
        );
    }
}

/// A network that always has another frame, and takes all.
struct Flood(u32);

impl Backend for Flood {}

impl Port for Flood {
    fn send(&mut self, frames: &[Gather<'_>]) -> (usize, io::Result<()>) {
        (frames.len(), Ok(()))
    }

    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<usize> {
        self.0 = self.0.wrapping_add(1);
        // Bytes that are no address of what no driver names.
        let len = FRAME_HEADER + 1 + (self.0 as usize * 37) % 97;
        Ok(room.copy_from(0, &vec![0x0f; len]).max(len))
    }
}

fn flooded(memory: &Ram, edges: Arc<Edges>, host: Host) -> Mmio<Ram> {
    let config = NetConfig::new("net0", MAC);
    let ports: Vec<Box<dyn Port>> = vec![Box::new(Flood(0))];
    let clock = Arc::new(ManualClock::default());
    let (device, _) = Net::<Ram>::new(&config, Arc::new(Flood(0)), ports, clock).unwrap();
    let place = MmioConfig { base: 0xd000_0000, gsi: 5, index: 0, shared_memory: vec![] };
    Mmio::new(place, Box::new(device), memory.clone(), edges, host).unwrap()
}
