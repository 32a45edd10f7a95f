use super::End;
use crate::filter::LOOK;
use crate::{FRAME_HEADER, MAX_FRAME};
use drystone_limit::{Cost, Gate, Passage};
use drystone_memory::{MAX_PIECES, Mem, Scatter};
use drystone_virtio::{Chain, Cx, Fault, RingRef};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};

/// Frames that the driver hears of together.
const BURST: usize = 64;
/// Frames of one call, so that a flood of what is for nobody does not hold the lane for ever.
const MOST: usize = 256;
/// A frame with its header, the longest that there is.
const LONGEST: usize = FRAME_HEADER + MAX_FRAME;
/// A frame without segments left to cut, with header and VLAN tag, beside its packet.
const AROUND: usize = FRAME_HEADER + 14 + 4;
/// Where in a header it says how many buffers a frame has (5.1.6).
const NUM_BUFFERS: u64 = 10;

/// The queue of what the guest receives.
pub(super) struct Rx {
    pub queue: u16,
    /// A frame may have several buffers.
    merges: bool,
    /// Entries of the ring.
    size: usize,
    /// Buffers that were taken from the ring, in order: none between calls, but for those of a frame at the gate.
    held: VecDeque<Held>,
    /// A frame that the first of those hold, which waits for a rate limit: its length.
    gate: Gate<usize>,
    /// One that found too few buffers. It goes first.
    stash: Option<Vec<u8>>,
    /// For what finds no room in the guest.
    spill: Vec<u8>,
    spare: Scatter<'static>,
}

struct Held {
    chain: Chain,
    /// In how many pieces of memory.
    pieces: usize,
}

/// Why receiving ends.
#[derive(PartialEq, Eq)]
enum Stop {
    /// There is nothing, or a kick, a timer or the port continues.
    Idle,
    /// There may be more.
    More,
}

impl Rx {
    pub fn new(queue: u16) -> Self {
        Self {
            queue,
            merges: false,
            size: 0,
            held: VecDeque::new(),
            gate: Gate::default(),
            stash: None,
            spill: Vec::new(),
            spare: Scatter::default(),
        }
    }

    /// A driver is ready, or the machine goes on.
    pub fn begin<M: Mem>(&mut self, merges: bool, cx: &Cx<'_, M>) {
        self.merges = merges;
        self.size = cx.ring_state(self.queue).map_or(0, |state| state.size.into());
        if self.spill.is_empty() {
            // Of the host's zeros, which take no memory before something is spilled.
            self.spill = vec![0; LONGEST];
        }
    }

    /// Gives the guest what has come, until there is no more, it has no buffers, or a frame must wait.
    pub fn serve<M: Mem>(&mut self, end: &mut End, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        if !cx.is_ready(self.queue) || end.index >= end.shared.pairs() {
            return Ok(());
        }
        for _ in 0..MOST / BURST {
            let mut spill = std::mem::take(&mut self.spill);
            let burst = self.burst(end, cx, &mut spill);
            self.spill = spill;
            let (stop, failure) = burst?;
            if let Some(error) = failure.and_then(|error| end.check(error)) {
                end.count().rx_errors.increment();
                cx.report("receiving a frame", &error);
            }
            if stop == Stop::Idle {
                return Ok(());
            }
        }
        end.again();
        Ok(())
    }

    fn burst<M: Mem>(
        &mut self,
        end: &mut End,
        cx: &mut Cx<'_, M>,
        spill: &mut [u8],
    ) -> Result<(Stop, Option<io::Error>), Fault> {
        let mut ring = cx.ring(self.queue)?;
        match self.gate.retry(&end.shared.rx_limiter) {
            Some(Passage::Now(len)) => self.deliver(len, end, &mut ring)?,
            Some(Passage::After(wait)) => {
                end.timer.set(wait);
                return Ok((Stop::Idle, None));
            }
            None => {}
        }
        let mut room = std::mem::take(&mut self.spare).recycle();
        room.set_spill(spill);
        let done = self.fill(end, &mut ring, &mut room);
        self.spare = room.recycle();
        // What is not used goes back, last first; a frame that waits keeps its own.
        let (keep, stop, failure) = match done? {
            Filled::Waits(buffers) => (buffers, Stop::Idle, None),
            Filled::Ended(stop, failure) => (0, stop, failure),
        };
        while self.held.len() > keep {
            if let Some(held) = self.held.pop_back() {
                ring.put_back(held.chain)?;
            }
        }
        Ok((stop, failure))
    }

    /// Receives a burst of frames into the guest's buffers.
    fn fill<'a: 's, 's, M: Mem>(
        &mut self,
        end: &mut End,
        ring: &mut RingRef<'a, M>,
        room: &mut Scatter<'s>,
    ) -> Result<Filled, Fault> {
        for _ in 0..BURST {
            let connected = end.is_connected();
            if connected && !self.take_buffers(end, ring, room)? {
                return Ok(Filled::Ended(Stop::Idle, None));
            }
            let len = match self.next(end, room) {
                Ok(len) => len,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    return Ok(Filled::Ended(Stop::Idle, None));
                }
                Err(e) => return Ok(Filled::Ended(Stop::Idle, Some(e))),
            };
            if !connected || len <= FRAME_HEADER {
                end.count().rx_dropped.increment();
                continue;
            }
            if len > room.bytes() {
                if self.set_aside(len, end, room) {
                    return Ok(Filled::Ended(Stop::More, None));
                }
                continue;
            }
            if !self.is_wanted(len, end, room) {
                end.count().rx_filtered.increment();
                continue;
            }
            let (buffers, pieces) = self.buffers_of(len);
            let cost = Cost { bytes: (len - FRAME_HEADER) as u64 };
            match self.gate.enter(&end.shared.rx_limiter, len, cost) {
                Passage::Now(len) => {
                    self.deliver(len, end, ring)?;
                    room.remove_front(pieces);
                }
                Passage::After(wait) => {
                    end.count().rx_throttled.increment();
                    end.timer.set(wait);
                    return Ok(Filled::Waits(buffers));
                }
            }
        }
        Ok(Filled::Ended(Stop::More, None))
    }

    /// Takes as many buffers from the ring as the next frame may need. False: there is no place for any.
    fn take_buffers<'a: 's, 's, M: Mem>(
        &mut self,
        end: &End,
        ring: &mut RingRef<'a, M>,
        room: &mut Scatter<'s>,
    ) -> Result<bool, Fault> {
        let wanted = match &self.stash {
            Some(frame) => frame.len(),
            None if end.shared.receives_large() => LONGEST,
            None => AROUND + usize::from(end.shared.mtu.unwrap_or(1500)),
        };
        let enough = |rx: &Self, room: &Scatter<'_>| {
            !rx.held.is_empty() && (!rx.merges || room.bytes() >= wanted) || room.pieces() + 64 >= MAX_PIECES
        };
        while !enough(self, room) {
            let Some(chain) = ring.pop()? else { break };
            let before = room.pieces();
            if (chain.writable_len() as usize) < FRAME_HEADER
                || chain.writable().len() + before + 1 >= MAX_PIECES
            {
                end.count().rx_malformed.increment();
                ring.complete(chain, 0)?;
                continue;
            }
            ring.scatter(&chain, room)?;
            let pieces = room.pieces() - before;
            self.held.push_back(Held { chain, pieces });
        }
        let waits = self.stash.as_ref().is_some_and(|frame| frame.len() > room.bytes());
        if waits && (!self.merges || self.held.len() >= self.size || room.pieces() + 64 >= MAX_PIECES) {
            // It never will fit.
            end.count().rx_dropped.increment();
            self.stash = None;
            return Ok(!self.held.is_empty());
        }
        Ok(!self.held.is_empty() && !waits)
    }

    /// Puts the next frame into `room`, and gives its length, with its header.
    fn next(&mut self, end: &mut End, room: &mut Scatter<'_>) -> io::Result<usize> {
        if let Some(frame) = self.stash.take() {
            return Ok(room.copy_from(0, &frame));
        }
        if let Some(len) = self.reply(end, room) {
            return Ok(len);
        }
        if end.gone {
            return Err(ErrorKind::WouldBlock.into());
        }
        end.port.receive(room)
    }

    /// A frame of the hook's.
    fn reply(&self, end: &End, room: &mut Scatter<'_>) -> Option<usize> {
        let mut hook = end.shared.hook()?;
        let mut frame = [0; FRAME_HEADER + 2048];
        let len = hook.reply(frame.get_mut(FRAME_HEADER..)?)?;
        Some(room.copy_from(0, frame.get(..FRAME_HEADER + len)?))
    }

    /// Keeps a frame that found too few buffers until there are more. False: there never will be.
    fn set_aside(&mut self, len: usize, end: &End, room: &Scatter<'_>) -> bool {
        let hope = self.merges && self.held.len() < self.size && len <= LONGEST;
        if hope {
            let mut frame = vec![0; len];
            room.copy_to(0, &mut frame);
            self.stash = Some(frame);
        } else {
            end.count().rx_dropped.increment();
        }
        hope
    }

    fn is_wanted(&self, len: usize, end: &End, room: &Scatter<'_>) -> bool {
        let filter = end.shared.filter.load();
        if filter.is_open() {
            return true;
        }
        let mut head = [0; LOOK];
        let known = head.get_mut(..LOOK.min(len - FRAME_HEADER)).unwrap_or_default();
        room.copy_to(FRAME_HEADER, known);
        filter.passes(end.shared.mac(), &head)
    }

    /// How many of the buffers that are held a frame has, and in how many pieces.
    fn buffers_of(&self, len: usize) -> (usize, usize) {
        let (mut left, mut buffers, mut pieces) = (len, 0, 0);
        for held in &self.held {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(held.chain.writable_len() as usize);
            buffers += 1;
            pieces += held.pieces;
        }
        (buffers, pieces)
    }

    /// Hands a frame to the driver, which is in the first buffers.
    fn deliver<M: Mem>(&mut self, len: usize, end: &End, ring: &mut RingRef<'_, M>) -> Result<(), Fault> {
        let (buffers, _) = self.buffers_of(len);
        if let Some(first) = self.held.front() {
            ring.write(&first.chain, NUM_BUFFERS, &(buffers as u16).to_le_bytes())?;
        }
        let mut left = len;
        for Held { chain, .. } in self.held.drain(..buffers) {
            let here = left.min(chain.writable_len() as usize);
            left -= here;
            ring.wrote(&chain, here as u64)?;
            ring.complete(chain, here as u32)?;
        }
        let count = end.count();
        count.rx_frames.increment();
        count.rx_bytes.add((len - FRAME_HEADER) as u64);
        Ok(())
    }

    /// A pause: a frame that waits for a rate limit is there already, so it goes first.
    pub fn drain<M: Mem>(&mut self, end: &End, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        if let Some(len) = self.gate.give_up(&end.shared.rx_limiter) {
            self.deliver(len, end, &mut cx.ring(self.queue)?)?;
        }
        Ok(())
    }

    pub fn cancel(&mut self, end: &End) {
        let _ = self.gate.give_up(&end.shared.rx_limiter);
        self.held.clear();
        self.stash = None;
    }
}

/// How a burst ended.
enum Filled {
    /// A frame that has so many of the first buffers waits for a rate limit.
    Waits(usize),
    Ended(Stop, Option<io::Error>),
}
