use crate::request::{Request, Status, answer};
use crate::shared::Shared;
use crate::space::{F_CONFIG_WCE, F_FLUSH};
use crate::{BlockCounters, Cache, Done, Engine, EngineError, IoFailure, Job, OnIoError, Operation};
use drystone_limit::{Cost, Gate, Limiter, Passage};
use drystone_memory::Mem;
use drystone_virtio::{Chain, Cx, Fault, RingRef, Source, Timer, Worker};
use std::io;
use std::sync::Arc;
use std::time::Duration;

const TIMER: u32 = 0;
const ENGINE: u32 = 1;
/// When a host that could not take what it was given is asked again.
const RETRY: Duration = Duration::from_millis(2);

/// Serves one queue.
pub(crate) struct Queue<M: Mem> {
    index: u16,
    engine: Box<dyn Engine<M>>,
    shared: Arc<Shared>,
    timer: Timer,
    /// Where one waits for a rate limit. Nothing is taken from the ring meanwhile, so it is the one that was popped last.
    gate: Gate<Admitted>,
    /// Failed by the host, and the guest is not to know. Nothing is taken from the ring until the machine was paused.
    failed: Vec<Job<M>>,
    /// How many requests the engine has.
    in_flight: u32,
    /// How many requests were taken from the ring.
    popped: u64,
}

/// A request that makes sense.
type Admitted = (Chain, Request);

/// The host's failure, to be reported when the ring is closed.
type Failure = Option<(&'static str, io::Error)>;

impl<M: Mem> Queue<M> {
    pub fn new(index: u16, engine: Box<dyn Engine<M>>, shared: Arc<Shared>, timer: Timer) -> Self {
        Self {
            index,
            engine,
            shared,
            timer,
            gate: Gate::default(),
            failed: Vec::new(),
            in_flight: 0,
            popped: 0,
        }
    }

    pub fn index(&self) -> u16 {
        self.index
    }

    fn count(&self) -> &BlockCounters {
        self.shared.count(self.index)
    }

    /// Completes what has ended, and begins requests while the engine has room.
    fn serve(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        let through = self.writes_through(cx.features());
        let (mut failure, mut ring) = (None, cx.ring(self.index)?);
        let all_begun = loop {
            self.reap(&mut ring, &mut failure)?;
            let begun = self.begin_all(&mut ring, through)?;
            let all_begun = self.engine.commit();
            // Some may have ended while they were begun.
            if !begun {
                break all_begun;
            }
        };
        drop(ring);
        if !all_begun {
            self.timer.set(RETRY);
        }
        self.count().set_in_flight(self.in_flight);
        report(cx, failure);
        Ok(())
    }

    /// Begins requests while the engine has room, and says whether there was one.
    fn begin_all(&mut self, ring: &mut RingRef<'_, M>, through: bool) -> Result<bool, Fault> {
        let mut begun = false;
        while self.engine.has_room() && self.failed.is_empty() {
            let Some((chain, request)) = self.next(ring)? else { break };
            self.begin(ring, chain, request, through)?;
            begun = true;
        }
        Ok(begun)
    }

    /// A driver that cannot flush, or has switched the cache off, takes a completed write for a safe one (5.2.6.2).
    fn writes_through(&self, features: u64) -> bool {
        let cache = match features & (F_FLUSH | F_CONFIG_WCE) {
            0 => false,
            F_FLUSH => self.shared.cache == Cache::Writeback,
            _ => self.shared.writeback(),
        };
        !cache
    }

    /// The next request that may begin now.
    fn next(&mut self, ring: &mut RingRef<'_, M>) -> Result<Option<Admitted>, Fault> {
        let passage = match self.gate.retry(self.shared.limits()) {
            Some(passage) => passage,
            None => {
                let Some((chain, request)) = self.pop(ring)? else { return Ok(None) };
                let cost = Cost { bytes: request.bytes() };
                let passage = self.gate.enter(self.shared.limits(), (chain, request), cost);
                if self.gate.is_taken() {
                    self.count().throttled.increment();
                }
                passage
            }
        };
        match passage {
            Passage::Now(admitted) => Ok(Some(admitted)),
            Passage::After(wait) => {
                self.timer.set(wait);
                Ok(None)
            }
        }
    }

    /// The next request that makes sense; others are answered.
    fn pop(&mut self, ring: &mut RingRef<'_, M>) -> Result<Option<Admitted>, Fault> {
        while let Some(chain) = ring.pop()? {
            self.popped = self.popped.wrapping_add(1);
            match Request::parse(ring, &chain, &self.shared) {
                Ok(request) => return Ok(Some((chain, request))),
                Err(status) => self.refuse(ring, chain, status)?,
            }
        }
        Ok(None)
    }

    fn refuse(&self, ring: &mut RingRef<'_, M>, chain: Chain, status: Status) -> Result<(), Fault> {
        self.count().refused.increment();
        answer(ring, self.index, chain, status, 0)
    }

    fn begin(
        &mut self,
        ring: &mut RingRef<'_, M>,
        chain: Chain,
        request: Request,
        through: bool,
    ) -> Result<(), Fault> {
        // Memory for the status is asked for before anything is done: a request without has no answer.
        if chain.writable_len() == 0 || !self.shared.fits(&request) {
            return self.refuse(ring, chain, Status::IoError);
        }
        let operation = match request {
            Request::Read { offset, len } => Operation::Read { offset, len },
            Request::Write { offset, len } => Operation::Write { offset, len, through },
            Request::Flush => Operation::Flush,
            Request::Discard { len: 0, .. } | Request::WriteZeroes { len: 0, .. } => {
                return answer(ring, self.index, chain, Status::Ok, 0);
            }
            Request::Discard { offset, len } => Operation::Discard { offset, len },
            Request::WriteZeroes { offset, len, unmap } => {
                Operation::WriteZeroes { offset, len, unmap, through }
            }
            Request::GetId => return self.tell_serial(ring, chain),
        };
        self.in_flight += 1;
        self.engine.submit(Job { chain, operation, memory: ring.snapshot(), order: self.popped });
        Ok(())
    }

    fn tell_serial(&self, ring: &mut RingRef<'_, M>, chain: Chain) -> Result<(), Fault> {
        let room = usize::try_from(chain.writable_len().saturating_sub(1)).unwrap_or(0);
        let serial = self.shared.serial.get(..room).unwrap_or(&self.shared.serial);
        match ring.write(&chain, 0, serial) {
            Ok(written) => answer(ring, self.index, chain, Status::Ok, written as u64),
            Err(_) => self.refuse(ring, chain, Status::IoError),
        }
    }

    fn reap(&mut self, ring: &mut RingRef<'_, M>, failure: &mut Failure) -> Result<(), Fault> {
        while let Some(Done { job, result }) = self.engine.reap() {
            self.in_flight = self.in_flight.saturating_sub(1);
            match result {
                Ok(()) => self.complete(ring, job)?,
                Err(EngineError::Memory) => self.refuse(ring, job.chain, Status::IoError)?,
                Err(EngineError::Host(cause)) => self.fail(ring, job, cause, failure)?,
            }
        }
        Ok(())
    }

    fn complete(&self, ring: &mut RingRef<'_, M>, job: Job<M>) -> Result<(), Fault> {
        let counters = self.count();
        let data = match job.operation {
            Operation::Read { len, .. } => {
                counters.reads.increment();
                counters.read_bytes.add(len);
                len
            }
            Operation::Write { len, .. } => {
                counters.writes.increment();
                counters.written_bytes.add(len);
                0
            }
            Operation::Flush => {
                counters.flushes.increment();
                0
            }
            Operation::Discard { .. } => {
                counters.discards.increment();
                0
            }
            Operation::WriteZeroes { .. } => {
                counters.zeroes.increment();
                0
            }
        };
        answer(ring, self.index, job.chain, Status::Ok, data)
    }

    fn fail(
        &mut self,
        ring: &mut RingRef<'_, M>,
        job: Job<M>,
        cause: io::Error,
        failure: &mut Failure,
    ) -> Result<(), Fault> {
        self.count().errors.increment();
        let what = match job.operation {
            Operation::Read { .. } => "read",
            Operation::Write { .. } => "write",
            Operation::Flush => "flush",
            Operation::Discard { .. } => "discard",
            Operation::WriteZeroes { .. } => "write zeros",
        };
        // The operator knows why, and wants nothing but that it ends.
        let policy = if self.shared.is_pulled() { OnIoError::Report } else { self.shared.on_io_error };
        match policy {
            OnIoError::Ignore if !matches!(job.operation, Operation::Read { .. }) => {
                failure.get_or_insert((what, cause));
                answer(ring, self.index, job.chain, Status::Ok, 0)
            }
            OnIoError::Report | OnIoError::Ignore => {
                failure.get_or_insert((what, cause));
                answer(ring, self.index, job.chain, Status::IoError, 0)
            }
            policy @ (OnIoError::Pause | OnIoError::Stop) => {
                self.failed.push(job);
                let id = self.shared.id.clone();
                (self.shared.on_failure)(&IoFailure { id, what, cause, policy });
                Ok(())
            }
        }
    }

    /// Puts requests back that were not done, the last one first.
    fn put_back(&mut self, ring: &mut RingRef<'_, M>) -> Result<(), Fault> {
        if let Some((chain, _)) = self.gate.give_up(self.shared.limits()) {
            ring.put_back(chain)?;
        }
        self.failed.sort_by_key(|job| job.order);
        while let Some(job) = self.failed.pop() {
            ring.put_back(job.chain)?;
        }
        Ok(())
    }
}

fn report<M: Mem>(cx: &Cx<'_, M>, failure: Failure) {
    if let Some((what, cause)) = failure {
        cx.report(what, &cause);
    }
}

impl<M: Mem> Worker<M> for Queue<M> {
    fn start(&mut self, _: &mut Cx<'_, M>) -> Result<(), Fault> {
        // What waited is in the ring again, and the core rings it.
        self.shared.limits().for_each(Limiter::resume);
        Ok(())
    }
    fn on_kick(&mut self, _: u16, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.serve(cx)
    }
    fn on_ready(&mut self, _: u32, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.serve(cx)
    }
    fn drain(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        let mut failure = None;
        let mut ring = cx.ring(self.index)?;
        self.reap(&mut ring, &mut failure)?;
        // What cannot be begun now is by the next call.
        self.engine.commit();
        // What is still in flight may fail too.
        if self.in_flight == 0 {
            self.put_back(&mut ring)?;
        }
        drop(ring);
        self.count().set_in_flight(self.in_flight);
        self.shared.limits().for_each(Limiter::pause);
        report(cx, failure);
        Ok(())
    }
    fn cancel(&mut self) {
        drop(self.gate.give_up(self.shared.limits()));
        self.failed.clear();
        self.engine.cancel();
        self.in_flight = 0;
        self.count().set_in_flight(0);
        self.timer.clear();
    }
    fn sources(&self) -> Vec<Source> {
        let engine = self.engine.source(ENGINE);
        [self.timer.source(TIMER)].into_iter().chain(engine).collect()
    }
}
