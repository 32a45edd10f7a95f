use crate::{RngConfig, RngCounters, RngError};
use drystone_memory::Mem;
use drystone_state::{NoState, Persist, PersistDyn, RestoreError, SaveError};
use drystone_virtio::{Cx, Description, Fault, RingRef, Source, Timer, VirtioDevice, Worker};
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
    retry: Timer,
    counters: Arc<RngCounters>,
}

impl Rng {
    /// Reads random bytes from `source`, which must not make its reader wait. Beside the device come its counters.
    ///
    /// # Errors
    /// [`RngError::Timer`] if the host has no descriptor left.
    pub fn new(source: Box<dyn Read + Send>) -> Result<(Self, Arc<RngCounters>), RngError> {
        let retry = Timer::new().map_err(RngError::Timer)?;
        let counters = Arc::new(RngCounters::default());
        let buffer = Box::new([0; MOST]);
        Ok((Self { source, buffer, retry, counters: counters.clone() }, counters))
    }

    /// Reads random bytes from the file that `config` names.
    ///
    /// # Errors
    /// [`RngError::Open`] if it cannot be opened, and as [`Rng::new`].
    pub fn open(config: &RngConfig) -> Result<(Self, Arc<RngCounters>), RngError> {
        let path = &config.source;
        let file = File::open(path).map_err(|cause| RngError::Open { path: path.clone(), cause })?;
        Self::new(Box::new(file))
    }

    /// Answers requests until there are none left, or the source fails.
    fn serve<M: Mem>(&mut self, ring: &mut RingRef<'_, M>) -> Result<io::Result<()>, Fault> {
        while let Some(chain) = ring.pop()? {
            let room = usize::try_from(chain.writable_len()).unwrap_or(MOST).min(MOST);
            let (filled, outcome) = self.fill(room);
            if filled == 0 && outcome.is_err() {
                ring.unpop(chain)?;
                return Ok(outcome);
            }
            let bytes = self.buffer.get(..filled).unwrap_or_default();
            let written = ring.write(&chain, 0, bytes)?;
            self.counters.requests.increment();
            self.counters.bytes.add(written as u64);
            ring.complete(chain, written as u32)?;
            if outcome.is_err() {
                return Ok(outcome);
            }
        }
        Ok(Ok(()))
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
            self.counters.errors.increment();
            cx.report("reading random bytes from the host", &error);
            self.retry.set(RETRY);
        }
        Ok(())
    }
}

impl<M: Mem> Worker<M> for Rng {
    fn on_kick(&mut self, _: u16, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.serve_all(cx)
    }
    /// The time to ask again has come.
    fn on_ready(&mut self, _: u32, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.serve_all(cx)
    }
    fn sources(&self) -> Vec<Source> {
        vec![self.retry.source(0)]
    }
}

impl<M: Mem> VirtioDevice<M> for Rng {
    fn describe(&self) -> Description {
        Description { device_type: 4, queue_sizes: vec![256], ..Default::default() }
    }
    fn reset(&mut self) {
        // A driver sets nothing, requests live in the ring, and bytes that were not given away are as good as any.
        let Self { source: _, buffer: _, retry: _, counters: _ } = self;
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

/// All of it is in its ring.
impl Persist for Rng {
    type State = NoState;

    fn save(&self) -> Result<NoState, SaveError> {
        Ok(NoState {})
    }
    fn restore(&self, _: NoState) -> Result<(), RestoreError> {
        Ok(())
    }
}
