use super::End;
use crate::hook::LOOK;
use crate::{FRAME_HEADER, MAX_FRAME, Mac, Verdict};
use drystone_limit::{Cost, Gate, Passage};
use drystone_memory::{Gather, MAX_PIECES, Mem};
use drystone_virtio::{Chain, Cx, Fault, RingRef};
use std::io::{self, ErrorKind};

/// Frames that a port is given at once.
const BATCH: usize = 64;
/// Bytes of an Ethernet header: no frame is shorter.
const MIN_FRAME: usize = 14;
/// Bytes of a frame that are looked at, with its header.
const HEAD: usize = FRAME_HEADER + LOOK;

/// The queue of what the guest sends.
pub(super) struct Tx {
    pub queue: u16,
    /// Where one waits for a rate limit. Nothing is taken from the ring meanwhile, so it is the one that was popped last.
    gate: Gate<Chain>,
    /// Taken from the ring, in order. Empty between calls.
    batch: Vec<Chain>,
    /// What the host looks at of each of those, if it does.
    heads: Vec<Head>,
    spare: Vec<Gather<'static>>,
}

/// The first bytes of a frame, out of the guest's reach: what was looked at is what is sent.
struct Head {
    bytes: [u8; HEAD],
    len: usize,
}

/// What became of a batch.
#[derive(Default)]
struct Given {
    /// How many of its first frames are done with.
    taken: usize,
    /// Which of those the host did not take.
    lost: Vec<usize>,
    /// The last reason that the guest is not the only cause of.
    failure: Option<io::Error>,
}

/// Why serving ends.
#[derive(PartialEq, Eq)]
enum Stop {
    /// Nothing is left, or a kick or a timer continues.
    Idle,
    /// There may be more.
    More,
}

fn cost(chain: &Chain) -> Cost {
    Cost { bytes: u64::from(chain.readable_len()).saturating_sub(FRAME_HEADER as u64) }
}

/// Whether it can be a frame at all.
fn is_frame(chain: &Chain) -> bool {
    let len = (chain.readable_len() as usize).checked_sub(FRAME_HEADER);
    len.is_some_and(|len| (MIN_FRAME..=MAX_FRAME).contains(&len)) && chain.readable().len() < MAX_PIECES
}

/// Whether the guest alone can be the cause: then the operator need not hear of it.
fn is_the_guests(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput) || error.raw_os_error() == Some(libc::EMSGSIZE)
}

impl Tx {
    pub fn new(queue: u16) -> Self {
        Self { queue, gate: Gate::default(), batch: Vec::new(), heads: Vec::new(), spare: Vec::new() }
    }

    /// Sends what there is, until the ring is empty, a frame must wait, or the port takes no more.
    pub fn serve<M: Mem>(&mut self, end: &mut End, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        loop {
            let mut failure = None;
            let stop = self.burst(end, cx, &mut failure)?;
            if let Some(error) = failure {
                cx.report("sending a frame", &error);
            }
            if stop == Stop::Idle {
                return Ok(());
            }
        }
    }

    fn burst<M: Mem>(
        &mut self,
        end: &mut End,
        cx: &mut Cx<'_, M>,
        failure: &mut Option<io::Error>,
    ) -> Result<Stop, Fault> {
        let mut ring = cx.ring(self.queue)?;
        let stop = self.collect(end, &mut ring)?;
        if self.batch.is_empty() {
            return Ok(stop);
        }
        let Given { taken, lost, failure: failed } = self.hand_over(end, &mut ring)?;
        *failure = failed;
        let rest = self.batch.split_off(taken.min(self.batch.len()));
        for (n, chain) in self.batch.drain(..).enumerate() {
            let count = end.count();
            if lost.contains(&n) {
                count.tx_errors.increment();
            } else {
                count.tx_frames.increment();
                count.tx_bytes.add(cost(&chain).bytes);
            }
            ring.complete(chain, 0)?;
        }
        if rest.is_empty() {
            return Ok(stop);
        }
        end.count().tx_stalls.increment();
        self.put_back(end, rest, &mut ring)?;
        Ok(Stop::Idle)
    }

    /// To the ring: what waits, and what the port did not take.
    fn put_back<M: Mem>(
        &mut self,
        end: &End,
        rest: Vec<Chain>,
        ring: &mut RingRef<'_, M>,
    ) -> Result<(), Fault> {
        if let Some(chain) = self.gate.give_up(&end.shared.tx_limiter) {
            ring.put_back(chain)?;
        }
        for chain in rest.into_iter().rev() {
            end.shared.tx_limiter.refund(cost(&chain));
            ring.put_back(chain)?;
        }
        Ok(())
    }

    /// Takes frames from the ring that may be sent now.
    fn collect<M: Mem>(&mut self, end: &End, ring: &mut RingRef<'_, M>) -> Result<Stop, Fault> {
        let looks = end.shared.looks();
        self.heads.clear();
        while self.batch.len() < BATCH {
            let chain = match self.next(end, ring)? {
                Some(chain) => chain,
                None => return Ok(Stop::Idle),
            };
            if looks {
                let head = Head::of(&chain, ring)?;
                if !self.may_pass(end, &head, &chain, ring)? {
                    ring.complete(chain, 0)?;
                    continue;
                }
                self.heads.push(head);
            }
            self.batch.push(chain);
        }
        Ok(Stop::More)
    }

    /// The next frame that may be sent now. What is none is answered at once.
    fn next<M: Mem>(&mut self, end: &End, ring: &mut RingRef<'_, M>) -> Result<Option<Chain>, Fault> {
        let limiter = &end.shared.tx_limiter;
        let passage = loop {
            if let Some(passage) = self.gate.retry(limiter) {
                break passage;
            }
            let Some(chain) = ring.pop()? else { return Ok(None) };
            if !is_frame(&chain) || !end.is_connected() {
                end.count().tx_dropped.increment();
                ring.complete(chain, 0)?;
                continue;
            }
            let cost = cost(&chain);
            let passage = self.gate.enter(limiter, chain, cost);
            if self.gate.is_taken() {
                end.count().tx_throttled.increment();
            }
            break passage;
        };
        match passage {
            Passage::Now(chain) => Ok(Some(chain)),
            Passage::After(wait) => {
                end.timer.set(wait);
                Ok(None)
            }
        }
    }

    /// Whether a frame goes to the network. One that does not is done with.
    fn may_pass<M: Mem>(
        &self,
        end: &End,
        head: &Head,
        chain: &Chain,
        ring: &mut RingRef<'_, M>,
    ) -> Result<bool, Fault> {
        if end.shared.enforce_mac && head.source() != Some(end.shared.own_mac) {
            end.count().tx_spoofed.increment();
            return Ok(false);
        }
        let Some(mut hook) = end.shared.hook() else { return Ok(true) };
        let verdict = hook.outgoing(head.frame());
        match verdict {
            Verdict::Pass => return Ok(true),
            Verdict::Drop => end.count().tx_dropped.increment(),
            Verdict::Take => {
                let mut frame = vec![0; chain.readable_len() as usize - FRAME_HEADER];
                ring.read(chain, FRAME_HEADER as u64, &mut frame)?;
                // As it was when it was looked at.
                let looked = head.frame();
                frame.iter_mut().zip(looked).for_each(|(to, from)| *to = *from);
                hook.take(&frame);
                end.count().tx_hooked.increment();
            }
        }
        Ok(false)
    }

    /// Gives the batch to the port, as far as that takes it.
    fn hand_over<M: Mem>(&mut self, end: &mut End, ring: &mut RingRef<'_, M>) -> Result<Given, Fault> {
        let mut frames = Vec::with_capacity(self.batch.len());
        let mut heads = self.heads.iter();
        for chain in &self.batch {
            let mut frame = self.spare.pop().unwrap_or_default().recycle();
            let looked = heads.next().map_or(&[][..], Head::all);
            frame.push_host(looked);
            ring.gather(chain, looked.len() as u64, &mut frame)?;
            frames.push(frame);
        }
        let mut given = Given::default();
        while let Some(left) = frames.get(given.taken..).filter(|left| !left.is_empty()) {
            let (taken, outcome) = end.port.send(left);
            given.taken += taken;
            match outcome {
                Ok(()) => break,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // That frame is lost; those behind it may do better.
                Err(e) => {
                    given.lost.push(given.taken);
                    given.taken += 1;
                    given.failure = end.check(e).filter(|e| !is_the_guests(e)).or(given.failure);
                }
            }
        }
        self.spare.extend(frames.into_iter().map(Gather::recycle));
        Ok(given)
    }

    /// A pause: what waits goes back to the ring.
    pub fn drain<M: Mem>(&mut self, end: &End, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        if let Some(chain) = self.gate.give_up(&end.shared.tx_limiter) {
            cx.ring(self.queue)?.put_back(chain)?;
        }
        Ok(())
    }

    pub fn cancel(&mut self, end: &End) {
        drop(self.gate.give_up(&end.shared.tx_limiter));
        // A call that ended in a fault leaves them here.
        self.batch.clear();
    }
}

impl Head {
    fn of<M: Mem>(chain: &Chain, ring: &mut RingRef<'_, M>) -> Result<Self, Fault> {
        let mut bytes = [0; HEAD];
        let len = ring.read(chain, 0, &mut bytes)?;
        Ok(Self { bytes, len })
    }

    fn all(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn frame(&self) -> &[u8] {
        self.all().get(FRAME_HEADER..).unwrap_or_default()
    }

    fn source(&self) -> Option<Mac> {
        self.frame().get(6..12)?.try_into().ok().map(Mac)
    }
}
