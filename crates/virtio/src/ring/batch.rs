use super::Ring;
use super::arm::{self, Batch, Shared as _};
use super::span::Areas;
use super::walk::{Wrong, walk};
use crate::core::Shared;
use crate::{Chain, Fault, View, part};
use drystone_memory::{Gather, Mem, Scatter};
use std::sync::atomic::{Ordering, fence};
use virtio_queue::QueueT;

/// A ring open for one batch.
///
/// When it is dropped it publishes what was completed, asks for kicks if the ring was emptied, and decides on one
/// interrupt for all, behind one fence.
pub struct RingRef<'a, M: Mem> {
    guard: &'a M::T,
    ring: &'a mut Ring,
    shared: &'a Shared,
    /// `None` for a queue that the driver has not enabled.
    areas: Option<Areas<'a, M>>,
    view: View<'a, M>,
    /// The driver's index, when last looked at.
    available: u16,
    hushed: bool,
    emptied: bool,
}

impl<'a, M: Mem> RingRef<'a, M> {
    pub(crate) fn open(guard: &'a M::T, ring: &'a mut Ring, shared: &'a Shared) -> Result<Self, Fault> {
        let areas = if ring.ready() { Some(Areas::resolve(&**guard, &ring.queue)?) } else { None };
        let available = ring.queue.next_avail();
        let view = View::new(&**guard);
        Ok(Self { guard, ring, shared, areas, view, available, hushed: false, emptied: false })
    }

    /// Guest memory, as it was mapped when the call began.
    pub fn memory(&self) -> &'a M::M {
        self.guard
    }

    /// Guest memory for many small accesses.
    pub fn view(&self) -> View<'a, M> {
        View::new(self.memory())
    }

    /// The map of guest memory, to be held beyond the batch: what does I/O into guest memory holds it together with the
    /// chain.
    pub fn snapshot(&self) -> M::T {
        self.guard.clone()
    }

    fn bad(&self, what: &'static str) -> Fault {
        Fault::Ring { queue: self.ring.index, what }
    }

    /// The next request; `None` if the ring is empty, or if this call has had its share, in which case another follows.
    ///
    /// # Errors
    /// [`Fault::Ring`] or [`Fault::Memory`] for whatever is wrong with the ring or the chain.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Chain>, Fault> {
        let Some(areas) = &self.areas else { return Ok(None) };
        let next = self.ring.queue.next_avail();
        let returned = self.ring.returned.front().copied();
        if returned.is_none() && next == self.available {
            if !self.hushed {
                self.hushed = true;
                arm::hush(areas)?;
            }
            self.available = areas.available(Ordering::Acquire)?;
            if self.available.wrapping_sub(next) > areas.size {
                return Err(self.bad("available index runs ahead"));
            }
            if next == self.available {
                self.emptied = true;
                return Ok(None);
            }
        }
        if self.ring.budget == 0 {
            self.ring.more = true;
            return Ok(None);
        }
        if self.ring.in_flight >= areas.size {
            return Err(self.bad("more requests in flight than the ring has entries"));
        }
        let head = returned.map_or_else(|| areas.head(next), Ok)?;
        let mut chain = self.ring.blank();
        let body = &mut *chain.0;
        walk(areas, head, self.ring.indirect, body).map_err(|wrong| match wrong {
            Wrong::Ring(what) => self.bad(what),
            Wrong::Memory(fault) => fault,
        })?;
        (body.head, body.live) = (head, true);
        if returned.is_some() {
            body.position = None;
            self.ring.returned.pop_front();
        } else {
            body.position = Some(next);
            self.ring.queue.set_next_avail(next.wrapping_add(1));
        }
        self.ring.budget = self.ring.budget.saturating_sub(1);
        self.ring.in_flight = self.ring.in_flight.saturating_add(1);
        Ok(Some(chain))
    }

    /// Hands a request back to the driver, with the number of bytes written to it from its first writable one on (2.7.8.2).
    ///
    /// # Errors
    /// [`Fault::Bug`] for a request of another ring or from before a reset, or for more bytes than it has room for;
    /// [`Fault::Memory`] if the ring is gone.
    #[inline]
    pub fn complete(&mut self, chain: Chain, written: u32) -> Result<(), Fault> {
        let Some(areas) = self.areas.as_ref().filter(|_| self.ring.owns(&chain)) else {
            return Err(Fault::Bug("request of another ring, or from before a reset"));
        };
        if written > chain.writable_len() {
            return Err(Fault::Bug("more was written than there is room for"));
        }
        let next = self.ring.queue.next_used();
        areas.put_used(next, chain.head(), written)?;
        self.ring.queue.set_next_used(next.wrapping_add(1));
        self.ring.added = self.ring.added.saturating_add(1);
        self.ring.retire(chain);
        Ok(())
    }

    /// Puts the request that was popped last back, as if it had never been seen: there is nothing to fill it with, or no
    /// room for it elsewhere. Several go back last first.
    ///
    /// # Errors
    /// [`Fault::Bug`] for any other request.
    pub fn unpop(&mut self, chain: Chain) -> Result<(), Fault> {
        let last = self.ring.queue.next_avail().wrapping_sub(1);
        if !self.ring.owns(&chain) || chain.0.position != Some(last) {
            return Err(Fault::Bug("only the request that was popped last can go back"));
        }
        self.ring.queue.set_next_avail(last);
        self.emptied = false;
        self.ring.retire(chain);
        Ok(())
    }

    /// Puts any request back, before all that were put back earlier: several go back last first. One that later ones have overtaken is
    /// kept in mind, and saved with the queue: [`pop`](Self::pop) gives it before those that the driver has made available since.
    ///
    /// # Errors
    /// [`Fault::Bug`] for a request of another ring, or from before a reset.
    pub fn put_back(&mut self, chain: Chain) -> Result<(), Fault> {
        let last = self.ring.queue.next_avail().wrapping_sub(1);
        if chain.0.position == Some(last) && self.ring.returned.is_empty() {
            return self.unpop(chain);
        }
        if !self.ring.owns(&chain) {
            return Err(Fault::Bug("request of another ring, or from before a reset"));
        }
        self.ring.returned.push_front(chain.head());
        self.ring.retire(chain);
        Ok(())
    }

    /// Copies from the readable bytes of a request, from byte `skip` on. Returns how many there were.
    ///
    /// # Errors
    /// [`Fault::Memory`] if a segment is not in guest memory.
    pub fn read(&mut self, chain: &Chain, skip: u64, out: &mut [u8]) -> Result<usize, Fault> {
        let (mut done, all) = (0, out.len() as u64);
        for seg in part(chain.readable(), skip, all) {
            let len = seg.len as usize;
            let Some(piece) = out.get_mut(done..).and_then(|o| o.get_mut(..len)) else { break };
            self.view.read_slice(piece, seg.addr)?;
            done += len;
        }
        Ok(done)
    }

    /// Copies to the writable bytes of a request, from byte `skip` on. Returns how many there was room for.
    ///
    /// # Errors
    /// [`Fault::Memory`] if a segment is not in guest memory.
    pub fn write(&mut self, chain: &Chain, skip: u64, data: &[u8]) -> Result<usize, Fault> {
        let mut rest = data;
        for seg in part(chain.writable(), skip, data.len() as u64) {
            let Some((now, later)) = rest.split_at_checked(seg.len as usize) else { break };
            self.view.write_slice(now, seg.addr)?;
            rest = later;
        }
        Ok(data.len() - rest.len())
    }

    /// Adds the readable bytes of a request, from byte `skip` on, to what goes to the host.
    ///
    /// # Errors
    /// [`Fault::Memory`] if a segment is not in guest memory.
    #[inline]
    pub fn gather<'g>(&mut self, chain: &Chain, skip: u64, to: &mut Gather<'g>) -> Result<(), Fault>
    where
        'a: 'g,
    {
        part(chain.readable(), skip, u64::MAX).try_for_each(|seg| self.view.gather(seg, to))
    }

    /// Adds the writable bytes of a request to what the host fills. Those that it has filled are to be [marked](Self::wrote).
    ///
    /// # Errors
    /// [`Fault::Memory`] if a segment is not in guest memory.
    #[inline]
    pub fn scatter<'s>(&mut self, chain: &Chain, to: &mut Scatter<'s>) -> Result<(), Fault>
    where
        'a: 's,
    {
        chain.writable().iter().try_for_each(|seg| self.view.scatter(*seg, to))
    }

    /// The host has written the first `len` writable bytes of a request: marks them dirty.
    ///
    /// # Errors
    /// [`Fault::Memory`] if a segment is not in guest memory.
    #[inline]
    pub fn wrote(&mut self, chain: &Chain, len: u64) -> Result<(), Fault> {
        part(chain.writable(), 0, len).try_for_each(|seg| self.view.wrote(seg))
    }

    fn settle(&mut self) -> Result<(), Fault> {
        let Some(areas) = &self.areas else { return Ok(()) };
        let batch = Batch {
            next_avail: self.ring.queue.next_avail(),
            next_used: self.ring.queue.next_used(),
            added: self.ring.added,
            emptied: self.emptied,
        };
        let outcome = arm::settle(areas, &batch, || fence(Ordering::SeqCst));
        if self.hushed || self.ring.added != 0 {
            areas.used.mark();
        }
        let outcome = outcome?;
        self.ring.added = 0;
        self.ring.more |= outcome.more;
        if outcome.interrupt {
            self.shared.interrupts.queue(self.ring.index);
        }
        Ok(())
    }
}

impl<M: Mem> Drop for RingRef<'_, M> {
    fn drop(&mut self) {
        if let Err(fault) = self.settle() {
            self.ring.fault.get_or_insert(fault);
        }
    }
}

impl<M: Mem> arm::Shared for Areas<'_, M> {
    type Error = Fault;

    fn event_idx(&self) -> bool {
        self.event_idx
    }
    fn available(&self, order: Ordering) -> Result<u16, Fault> {
        self.available.load(2, order)
    }
    fn driver_flags(&self) -> Result<u16, Fault> {
        self.available.load(0, Ordering::Relaxed)
    }
    fn used_event(&self) -> Result<u16, Fault> {
        self.available.load(4 + 2 * usize::from(self.size), Ordering::Relaxed)
    }
    fn set_used(&self, index: u16) -> Result<(), Fault> {
        self.used.store(index, 2, Ordering::Release)
    }
    fn set_device_flags(&self, flags: u16) -> Result<(), Fault> {
        self.used.store(flags, 0, Ordering::Relaxed)
    }
    fn set_avail_event(&self, index: u16) -> Result<(), Fault> {
        self.used.store(index, 4 + 8 * usize::from(self.size), Ordering::Relaxed)
    }
}
