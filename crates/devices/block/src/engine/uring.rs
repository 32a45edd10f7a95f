mod slot;

use super::{Done, Engine, Job};
use crate::RawDisk;
use crate::fd::Ring;
use drystone_memory::Mem;
use drystone_virtio::Source;
use io_uring::opcode;
use slot::Slot;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The number of an operation that asks for another to be given up.
const CANCEL: u64 = u64::MAX;
/// The most that are with the host at once.
const MAX_SLOTS: u16 = 1024;
/// How long an engine that is dropped waits for the host.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gives jobs to the host's io_uring, all of a batch in one system call, and waits for none. The host reads and writes guest memory
/// itself.
pub struct UringEngine<M: Mem> {
    disk: Arc<RawDisk>,
    ring: Ring,
    /// With the host, by their number there.
    slots: Vec<Option<Slot<M>>>,
    free: Vec<u16>,
    done: VecDeque<Done<M>>,
}

impl<M: Mem> UringEngine<M> {
    /// An engine with up to `depth` jobs with the host at once.
    ///
    /// # Errors
    /// What the host said: it has no io_uring, an old one, or does not permit it.
    pub fn new(disk: Arc<RawDisk>, depth: u16) -> io::Result<Self> {
        let depth = depth.clamp(1, MAX_SLOTS);
        let ring = Ring::new(depth.into())?;
        disk.register(&ring.descriptor())?;
        let slots = (0..depth).map(|_| None).collect();
        Ok(Self { disk, ring, slots, free: (0..depth).rev().collect(), done: VecDeque::new() })
    }

    /// Puts what a slot is to do next into the ring.
    fn push(&mut self, number: u16) {
        let Some(Some(slot)) = self.slots.get(usize::from(number)) else { return };
        let entry = slot.entry(&self.disk).user_data(number.into());
        #[allow(unsafe_code)]
        // SAFETY: the slot keeps the job, and so the memory mapped that the entry refers to, and is neither changed nor dropped before
        // the host has said how it ended: `drop` leaks what the host does not give back.
        let pushed = unsafe { self.ring.push(&entry) };
        debug_assert!(pushed, "the ring has room for every slot");
    }

    /// Takes what the host has ended: what is done is in `done` then, and what is to go on in the ring. If all was cancelled, nothing
    /// goes on.
    fn collect(&mut self, cancelled: bool) {
        while let Some((number, result)) = self.ring.next() {
            let Ok(number) = u16::try_from(number) else { continue };
            let Some(place) = self.slots.get_mut(usize::from(number)) else { continue };
            let Some(mut slot) = place.take() else { continue };
            let next = if cancelled { Some(Ok(())) } else { slot.step(&self.disk, result) };
            match next {
                None => {
                    *place = Some(slot);
                    self.push(number);
                }
                Some(result) => {
                    self.free.push(number);
                    let job = slot.into_job();
                    job.mark_filled();
                    self.done.push_back(Done { job, result: result.map_err(Into::into) });
                }
            }
        }
    }

    fn in_flight(&self) -> bool {
        self.free.len() < self.slots.len()
    }

    /// Those that cannot be given up come to their end.
    fn ask_to_give_up(&mut self) {
        for (number, slot) in (0..).zip(&mut self.slots) {
            let Some(slot) = slot.as_mut().filter(|slot| !slot.given_up) else { continue };
            let entry = opcode::AsyncCancel::new(number).build().user_data(CANCEL);
            #[allow(unsafe_code)]
            // SAFETY: it refers to nothing.
            let pushed = unsafe { self.ring.push(&entry) };
            slot.given_up = pushed;
        }
    }
}

impl<M: Mem> Engine<M> for UringEngine<M> {
    fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    fn submit(&mut self, job: Job<M>) {
        let Some(number) = self.free.pop() else {
            let result = Err(io::Error::from(io::ErrorKind::WouldBlock).into());
            return self.done.push_back(Done { job, result });
        };
        match Slot::new(job, &self.disk) {
            Ok(slot) => {
                if let Some(place) = self.slots.get_mut(usize::from(number)) {
                    *place = Some(slot);
                }
                self.push(number);
            }
            Err(done) => {
                self.free.push(number);
                self.done.push_back(done);
            }
        }
    }

    fn commit(&mut self) -> bool {
        self.ring.submit().is_ok()
    }

    fn reap(&mut self) -> Option<Done<M>> {
        if self.done.is_empty() {
            self.collect(false);
        }
        self.done.pop_front()
    }

    fn cancel(&mut self) {
        self.commit();
        self.collect(true);
        self.ask_to_give_up();
        self.commit();
        self.collect(true);
        self.done.clear();
    }

    fn source(&self, token: u32) -> Option<Source> {
        Some(Source { fd: self.ring.descriptor(), token, readable: true, writable: false })
    }
}

impl<M: Mem> Drop for UringEngine<M> {
    fn drop(&mut self) {
        let start = Instant::now();
        self.cancel();
        while self.in_flight() && start.elapsed() < PATIENCE {
            self.ring.wait(100);
            self.cancel();
        }
        // The host still has these, for whatever reason: their memory must stay mapped for as long as this process lives.
        self.slots.drain(..).flatten().for_each(std::mem::forget);
    }
}
