use crate::handle::Shared;
use crate::{RngConfig, RngCounters, RngError, RngHandle};
use drystone_bus::Clock;
use drystone_limit::{Cost, Gate, LimitConfig, Limiter, Passage};
use drystone_memory::Mem;
use drystone_state::PersistDyn;
use drystone_virtio::{Chain, Cx, Description, Fault, RingRef, Source, Timer, VirtioDevice, Worker};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::time::Duration;

/// The only queue (5.4.2).
const REQUESTS: u16 = 0;
/// Most bytes for one request, whatever its length: a guest cannot have us read for long. Linux asks for 64.
const MOST: usize = 1024;
/// When a source that failed is asked again.
const RETRY: Duration = Duration::from_millis(100);
/// How often in a row a signal may interrupt a read.
const INTERRUPTIONS: u32 = 8;

/// An entropy device.
///
/// Every request gets at least one byte, as 5.4.6.1 demands, and at most 1024. When the source fails before the first
/// byte, the request goes back to the ring and the source is asked again every 100 ms: the guest waits, the operator gets
/// an event, and nobody gets bytes that are not random.
pub struct Rng {
    source: Box<dyn Read + Send>,
    buffer: Box<[u8; MOST]>,
    /// Fires when the source is to be asked again, or a request that waits may pass.
    timer: Timer,
    /// Where one waits for a rate limit. Nothing is taken from the ring meanwhile, so it is the one that was popped last.
    gate: Gate<Chain>,
    shared: Arc<Shared>,
}

impl Rng {
    /// Reads random bytes from `source`, which must not make its reader wait. `clock` is for the limits.
    ///
    /// # Errors
    /// [`RngError::Timer`] if the host has no descriptor left.
    pub fn new(
        source: Box<dyn Read + Send>,
        limit: LimitConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, RngHandle), RngError> {
        let timer = Timer::new().map_err(RngError::Timer)?;
        let limiter = Limiter::new(limit, clock);
        let shared = Arc::new(Shared { counters: RngCounters::default(), limiter });
        let handle = RngHandle { shared: shared.clone(), timer: timer.clone() };
        let buffer = Box::new([0; MOST]);
        Ok((Self { source, buffer, timer, gate: Gate::default(), shared }, handle))
    }

    /// Reads random bytes from the file that `config` names. `clock` is for its limits.
    ///
    /// # Errors
    /// [`RngError::Open`] if it cannot be opened, and as [`Rng::new`].
    pub fn open(config: &RngConfig, clock: Arc<dyn Clock>) -> Result<(Self, RngHandle), RngError> {
        let RngConfig { source: path, limit } = config;
        let file = File::open(path).map_err(|cause| RngError::Open { path: path.clone(), cause })?;
        Self::new(Box::new(file), *limit, clock)
    }

    pub(crate) fn limiter(&self) -> &Limiter {
        &self.shared.limiter
    }

    /// Answers requests until there are none left, one must wait, or the source fails.
    fn serve<M: Mem>(&mut self, ring: &mut RingRef<'_, M>) -> Result<io::Result<()>, Fault> {
        while let Some(chain) = self.next(ring)? {
            let (filled, outcome) = self.fill(room(&chain));
            if filled == 0 && outcome.is_err() {
                self.shared.limiter.refund(cost(&chain));
                ring.unpop(chain)?;
                return Ok(outcome);
            }
            let bytes = self.buffer.get(..filled).unwrap_or_default();
            let written = ring.write(&chain, 0, bytes)?;
            self.shared.counters.requests.increment();
            self.shared.counters.bytes.add(written as u64);
            ring.complete(chain, written as u32)?;
            if outcome.is_err() {
                return Ok(outcome);
            }
        }
        Ok(Ok(()))
    }

    /// The next request that may be answered now.
    fn next<M: Mem>(&mut self, ring: &mut RingRef<'_, M>) -> Result<Option<Chain>, Fault> {
        let Shared { limiter, counters } = &*self.shared;
        let passage = match self.gate.retry(limiter) {
            Some(passage) => passage,
            None => {
                let Some(chain) = ring.pop()? else { return Ok(None) };
                let cost = cost(&chain);
                let passage = self.gate.enter(limiter, chain, cost);
                if self.gate.is_taken() {
                    counters.throttled.increment();
                }
                passage
            }
        };
        match passage {
            Passage::Now(chain) => Ok(Some(chain)),
            Passage::After(wait) => {
                self.timer.set(wait);
                Ok(None)
            }
        }
    }

    /// Reads up to `len` bytes: how many there are, and what kept it from getting more.
    fn fill(&mut self, len: usize) -> (usize, io::Result<()>) {
        let (mut filled, mut interruptions) = (0, 0);
        while let Some(rest) = self.buffer.get_mut(filled..len).filter(|r| !r.is_empty()) {
            match self.source.read(rest) {
                Ok(0) => return (filled, Err(ErrorKind::UnexpectedEof.into())),
                // No more than was asked for: a source is not trusted with our arithmetic.
                Ok(n) => filled += n.min(rest.len()),
                Err(e) if e.kind() == ErrorKind::Interrupted && interruptions < INTERRUPTIONS => {
                    interruptions += 1
                }
                Err(e) => return (filled, Err(e)),
            }
        }
        (filled, Ok(()))
    }

    fn serve_all<M: Mem>(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        let outcome = self.serve(&mut cx.ring(REQUESTS)?)?;
        if let Err(error) = outcome {
            self.shared.counters.errors.increment();
            cx.report("reading random bytes from the host", &error);
            self.timer.set(RETRY);
        }
        Ok(())
    }
}

/// How many bytes a request gets.
fn room(chain: &Chain) -> usize {
    usize::try_from(chain.writable_len()).unwrap_or(MOST).min(MOST)
}

fn cost(chain: &Chain) -> Cost {
    Cost { bytes: room(chain) as u64 }
}

impl<M: Mem> Worker<M> for Rng {
    fn start(&mut self, _: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.shared.limiter.resume();
        Ok(())
    }
    fn on_kick(&mut self, _: u16, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.serve_all(cx)
    }
    /// The time to ask again has come.
    fn on_ready(&mut self, _: u32, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.serve_all(cx)
    }
    fn drain(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        if let Some(chain) = self.gate.give_up(&self.shared.limiter) {
            cx.ring(REQUESTS)?.unpop(chain)?;
        }
        self.shared.limiter.pause();
        Ok(())
    }
    fn cancel(&mut self) {
        drop(self.gate.give_up(&self.shared.limiter));
        self.timer.clear();
    }
    fn sources(&self) -> Vec<Source> {
        vec![self.timer.source(0)]
    }
}

impl<M: Mem> VirtioDevice<M> for Rng {
    fn describe(&self) -> Description {
        Description { device_type: 4, queue_sizes: vec![256], ..Default::default() }
    }
    fn reset(&mut self) {
        // A driver sets nothing, requests live in the ring, and bytes that were not given away are as good as any. What the
        // limits have saved up stays: a guest's own reset must not give it a burst.
        let Self { source: _, buffer: _, timer: _, gate: _, shared: _ } = self;
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}
