use super::perform::perform;
use super::{Done, Engine, EngineError, Job};
use crate::Image;
use drystone_memory::Mem;
use drystone_virtio::Source;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Threads that wait for the host in the place of workers, for all engines of a disk. They are started when there is work for them, and
/// end when the last engine and this are gone; one that the host does not let go is not waited for.
pub struct ThreadPool<M: Mem>(Arc<Pool<M>>);

struct Pool<M: Mem> {
    name: String,
    most: usize,
    work: Mutex<Work<M>>,
    came: Condvar,
}

struct Work<M: Mem> {
    jobs: VecDeque<(Job<M>, Arc<Ended<M>>)>,
    threads: usize,
    /// How many of them wait for work.
    idle: usize,
    /// `None` when no more work comes: then nothing but work that was begun keeps it, as its file must be free for others.
    image: Option<Arc<dyn Image>>,
}

/// What has ended of one engine's.
struct Ended<M: Mem> {
    done: Mutex<VecDeque<Done<M>>>,
    event: Arc<OwnedFd>,
}

/// Has threads do the I/O: for hosts without io_uring, and for images that only know calls that block.
pub struct ThreadEngine<M: Mem> {
    pool: Arc<ThreadPool<M>>,
    /// Not begun yet.
    batch: Vec<Job<M>>,
    ended: Arc<Ended<M>>,
    /// What was taken from there.
    taken: VecDeque<Done<M>>,
}

impl<M: Mem> ThreadPool<M> {
    /// At most `most` threads (at least one) for an image, called `name` on the host, which shows 15 bytes of it.
    pub fn new(name: impl Into<String>, image: Arc<dyn Image>, most: usize) -> Self {
        let work = Work { jobs: VecDeque::new(), threads: 0, idle: 0, image: Some(image) };
        let (name, most, work, came) = (name.into(), most.max(1), Mutex::new(work), Condvar::new());
        Self(Arc::new(Pool { name, most, work, came }))
    }

    fn begin(&self, batch: &mut Vec<Job<M>>, ended: &Arc<Ended<M>>) {
        let mut work = self.0.lock();
        work.jobs.extend(batch.drain(..).map(|job| (job, ended.clone())));
        let (waiting, idle) = (work.jobs.len(), work.idle);
        let more = waiting.saturating_sub(idle).min(self.0.most - work.threads);
        work.threads += more;
        drop(work);
        for _ in 0..waiting.min(idle) {
            self.0.came.notify_one();
        }
        for _ in 0..more {
            self.start_thread();
        }
    }

    fn start_thread(&self) {
        let pool = self.0.clone();
        let started = std::thread::Builder::new().name(self.0.name.clone()).spawn(move || pool.run());
        if started.is_err() {
            let mut work = self.0.lock();
            work.threads -= 1;
            if work.threads == 0 {
                // A disk that is slow is better than one that never answers.
                drop(self.0.clear(work));
            }
        }
    }
}

impl<M: Mem> Drop for ThreadPool<M> {
    fn drop(&mut self) {
        let image = self.0.lock().image.take();
        drop(image);
        self.0.came.notify_all();
    }
}

impl<M: Mem> Pool<M> {
    fn lock(&self) -> MutexGuard<'_, Work<M>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread.
    fn run(&self) {
        let mut work = self.lock();
        loop {
            work = self.clear(work);
            if work.image.is_none() {
                return;
            }
            work.idle += 1;
            work = self.came.wait(work).unwrap_or_else(PoisonError::into_inner);
            work.idle -= 1;
        }
    }

    /// Does what there is to do.
    fn clear<'a>(&'a self, mut work: MutexGuard<'a, Work<M>>) -> MutexGuard<'a, Work<M>> {
        while let Some((image, (job, ended))) = work.image.clone().zip(work.jobs.pop_front()) {
            drop(work);
            let result = catch_unwind(AssertUnwindSafe(|| perform(&*image, &job)));
            drop(image);
            let panicked = |_| Err(EngineError::Host(io::Error::other("the image panicked")));
            ended.add(Done { job, result: result.unwrap_or_else(panicked) });
            work = self.lock();
        }
        work
    }
}

impl<M: Mem> Ended<M> {
    fn add(&self, done: Done<M>) {
        let mut list = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        list.push_back(done);
        let first = list.len() == 1;
        drop(list);
        // Whoever takes one takes all.
        if first {
            // A full counter (only a non-blocking one refuses) already says what this would.
            let _ = rustix::io::write(&*self.event, &1u64.to_ne_bytes());
        }
    }

    fn take(&self) -> VecDeque<Done<M>> {
        std::mem::take(&mut self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<M: Mem> ThreadEngine<M> {
    /// An engine whose work the threads of `pool` do.
    ///
    /// # Errors
    /// What the host said when it gave no eventfd.
    pub fn new(pool: Arc<ThreadPool<M>>) -> io::Result<Self> {
        let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let ended = Arc::new(Ended { done: Mutex::default(), event });
        Ok(Self { pool, batch: Vec::new(), ended, taken: VecDeque::new() })
    }
}

impl<M: Mem> Engine<M> for ThreadEngine<M> {
    /// As many as the ring has.
    fn has_room(&self) -> bool {
        true
    }
    fn submit(&mut self, job: Job<M>) {
        self.batch.push(job);
    }
    fn commit(&mut self) -> bool {
        if !self.batch.is_empty() {
            self.pool.begin(&mut self.batch, &self.ended);
        }
        true
    }
    fn reap(&mut self) -> Option<Done<M>> {
        if self.taken.is_empty() {
            self.taken = self.ended.take();
        }
        self.taken.pop_front()
    }
    fn cancel(&mut self) {
        self.batch.clear();
        self.taken.clear();
        // What has begun comes to its end, and is dropped then.
        self.pool.0.lock().jobs.retain(|(_, ended)| !Arc::ptr_eq(ended, &self.ended));
        self.ended.take();
    }
    fn source(&self, token: u32) -> Option<Source> {
        Some(Source { fd: self.ended.event.clone(), token, readable: true, writable: false })
    }
}

impl<M: Mem> Drop for ThreadEngine<M> {
    fn drop(&mut self) {
        self.cancel();
    }
}
