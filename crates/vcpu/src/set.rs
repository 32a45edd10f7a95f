use crate::barrier::{self, Gated};
use crate::counters::ExitCounters;
use crate::event::Held;
use crate::gate::Gate;
use crate::{BusIo, EventSink, ExitCounts, MsrHandler, VcpuError, VcpuEvent};
use drystone_bus::Bus;
use drystone_hypervisor::{Error, Kicker, Vcpu};
use drystone_state::{Blob, Component, ComponentError, PersistDyn};
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle, ThreadId};

mod persist;
mod worker;

pub use persist::{SavedVcpu, VcpusState};

/// What a vCPU's registers hold when the machine starts.
///
/// Implemented for closures, and by [`LinuxBoot`](crate::boot::LinuxBoot).
pub trait BootState: Send + Sync {
    /// Sets `vcpu`, which is as it was made, to where it begins. Called once for each vCPU before it first runs, and
    /// after each reset.
    ///
    /// # Errors
    /// What the hypervisor said; the machine does not start.
    fn apply(&self, vcpu: &mut dyn Vcpu) -> Result<(), Error>;
}

impl<F: Fn(&mut dyn Vcpu) -> Result<(), Error> + Send + Sync> BootState for F {
    fn apply(&self, vcpu: &mut dyn Vcpu) -> Result<(), Error> {
        self(vcpu)
    }
}

/// What a [`VcpuSet`] can do without. Begin with the default, and change fields.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct VcpuOptions {
    /// Answers what the guest asks of model-specific registers that the VM hands over. Without it each access faults.
    pub msrs: Option<Arc<dyn MsrHandler>>,
    /// Makes each thread ready: its processors, its priority, its sandbox.
    pub on_thread: Option<ThreadSetup>,
}

/// Called on each vCPU's own thread before that runs anything, with the vCPU's place in the set, counted from 0.
pub type ThreadSetup = Arc<dyn Fn(usize) -> io::Result<()> + Send + Sync>;

/// All vCPUs of a machine, each on a thread of its own (`vcpu0`, `vcpu1`, … by their place in the set), as one [`Component`].
///
/// - **resume** lets them run. The first one applies the [`BootState`] before; each later one tells the guest that it was
///   stopped, so that its watchdogs do not take the pause for a lock-up. The guest's time goes on during a pause, as it
///   does while a laptop sleeps.
/// - **pause** is the stop barrier: when it returns, every vCPU is out of the guest with its last instruction
///   complete, no device is being called, and every event has been handed to the sink. It gets a vCPU out of a halt in
///   the hypervisor; a vCPU inside a device finishes that call first.
/// - **reset** gives every vCPU the state that it had when the set was made, and applies the [`BootState`] again.
/// - An event (see [`VcpuEventKind`](crate::VcpuEventKind)) parks its vCPU, and only that one, until **reset** or
///   [`release`](Self::release): running on would take the guest past a power-off, into the same fault again, or
///   nowhere. A `resume` leaves it parked. So a guest cannot make more than one event for each vCPU and decision.
///
/// The set is stopped, and all threads have ended, when [`stop`](Self::stop) or drop returns.
pub struct VcpuSet {
    slots: Vec<Arc<Slot>>,
    thread_ids: Vec<ThreadId>,
    boot: Arc<dyn BootState>,
    shared: Arc<Shared>,
    stopped: AtomicBool,
    control: Mutex<Control>,
}

/// One vCPU.
struct Slot {
    id: u32,
    vcpu: Mutex<Box<dyn Vcpu>>,
    kicker: Arc<dyn Kicker>,
    gate: Gate,
    held: Mutex<Option<Held>>,
    counters: Arc<ExitCounters>,
    /// As it was made.
    initial: Blob,
}

struct Shared {
    sink: EventSink,
    epoch: AtomicU64,
}

/// Held for a whole life-cycle call.
struct Control {
    running: bool,
    booted: bool,
    /// Some vCPUs are held by events that were restored and that nobody has heard of in this process.
    unreported: bool,
    threads: Vec<JoinHandle<Option<()>>>,
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Everything behind these locks is valid between any two statements, so a panic elsewhere changes nothing here.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

fn because(id: u32, attempt: &'static str) -> impl FnOnce(Error) -> VcpuError {
    move |cause| VcpuError::Vcpu { id, attempt, cause }
}

impl VcpuSet {
    /// Takes `vcpus`, whose CPUID is set and which have not run, and starts their threads, parked. Accesses go to
    /// `bus`, events to `sink`; `boot` says where the vCPUs begin.
    ///
    /// # Errors
    /// [`VcpuError::Empty`], [`VcpuError::Duplicate`], [`VcpuError::Vcpu`] if a vCPU's state cannot be read,
    /// [`VcpuError::Thread`] if the host gives no thread. Nothing is left behind.
    pub fn new(
        vcpus: Vec<Box<dyn Vcpu>>,
        bus: Arc<Bus>,
        sink: EventSink,
        boot: Arc<dyn BootState>,
    ) -> Result<Self, VcpuError> {
        Self::with_options(vcpus, bus, sink, boot, &VcpuOptions::default())
    }

    /// As [`new`](Self::new), with more said.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`VcpuError::Setup`] if a thread cannot be made ready.
    pub fn with_options(
        vcpus: Vec<Box<dyn Vcpu>>,
        bus: Arc<Bus>,
        sink: EventSink,
        boot: Arc<dyn BootState>,
        options: &VcpuOptions,
    ) -> Result<Self, VcpuError> {
        if vcpus.is_empty() {
            return Err(VcpuError::Empty);
        }
        let mut slots: Vec<Arc<Slot>> = Vec::new();
        for vcpu in vcpus {
            if slots.iter().any(|s| s.id == vcpu.id()) {
                return Err(VcpuError::Duplicate(vcpu.id()));
            }
            slots.push(Arc::new(Slot::new(vcpu)?));
        }
        let shared = Arc::new(Shared { sink, epoch: AtomicU64::new(0) });
        let control = Control { running: false, booted: false, unreported: false, threads: Vec::new() };
        let mut set = Self {
            slots,
            thread_ids: Vec::new(),
            boot,
            shared,
            stopped: AtomicBool::new(false),
            control: Mutex::new(control),
        };
        // If one fails, dropping the set ends those before it.
        let mut ready = Vec::new();
        for (place, slot) in set.slots.iter().enumerate() {
            let mut io = BusIo::counting(bus.clone(), slot.counters.clone());
            if let Some(handler) = &options.msrs {
                io = io.with_msrs(slot.id, handler.clone());
            }
            let worker = worker::Worker::new(slot.clone(), set.shared.clone(), io);
            let (setup, answer) = worker::setup(options.on_thread.clone(), place);
            let handle = thread::Builder::new()
                .name(format!("vcpu{place}"))
                .spawn(move || setup().then(|| worker.serve()))
                .map_err(|cause| VcpuError::Thread { id: slot.id, cause })?;
            set.thread_ids.push(handle.thread().id());
            lock(&set.control).threads.push(handle);
            ready.extend(answer.map(|answer| (slot.id, answer)));
        }
        for (id, answer) in ready {
            answer.recv().unwrap_or(Ok(())).map_err(|cause| VcpuError::Setup { id, cause })?;
        }
        Ok(set)
    }

    /// The vCPUs' numbers, in the order in which they were given.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().map(|s| s.id)
    }

    /// How often vCPU `id` left the guest, and why; `None` if there is no such vCPU. Also while it runs.
    pub fn counts(&self, id: u32) -> Option<ExitCounts> {
        self.slot(id).ok().map(|s| s.counters.snapshot())
    }

    /// Calls `f` with vCPU `id`, for example to read its registers. The set must be paused or stopped, and stays so
    /// meanwhile; `f` must not call the set.
    ///
    /// # Errors
    /// [`VcpuError::Unknown`], [`VcpuError::NotPaused`], [`VcpuError::OwnThread`].
    pub fn with_vcpu<R>(&self, id: u32, f: impl FnOnce(&mut dyn Vcpu) -> R) -> Result<R, VcpuError> {
        const ATTEMPT: &str = "look at a vCPU";
        let control = self.control(ATTEMPT)?;
        let slot = self.slot(id)?;
        if control.running {
            return Err(VcpuError::NotPaused(ATTEMPT));
        }
        let mut vcpu = lock(&slot.vcpu);
        Ok(f(vcpu.as_mut()))
    }

    /// What the vCPUs' state lacks that was last saved or restored, each once, as [`Vcpu::unsaved`] names it. The set must be paused or
    /// stopped.
    ///
    /// # Errors
    /// [`VcpuError::NotPaused`], [`VcpuError::OwnThread`].
    pub fn unsaved(&self) -> Result<Vec<String>, VcpuError> {
        let mut names = BTreeSet::new();
        for id in self.ids() {
            names.extend(self.with_vcpu(id, |vcpu| vcpu.unsaved())?);
        }
        Ok(names.into_iter().collect())
    }

    /// Whether `event` is from after the last reset. Whoever takes events from a queue drops those that are not:
    /// the reset has dealt with them.
    pub fn is_current(&self, event: &VcpuEvent) -> bool {
        event.epoch == self.shared.epoch.load(Ordering::SeqCst)
    }

    /// Lets the vCPU that `event` parked go on, once it has been decided that it may; on a paused machine from the next
    /// resume on. An event from before the last reset is ignored: the reset has dealt with it.
    ///
    /// # Errors
    /// [`VcpuError::Unknown`], [`VcpuError::OwnThread`].
    pub fn release(&self, event: &VcpuEvent) -> Result<(), VcpuError> {
        // Held, so that no reset comes between the look and the release.
        let _control = self.control("release a vCPU")?;
        let slot = self.slot(event.id)?;
        // The event is handed over a moment before its thread parks, and a release in between would be lost.
        if self.is_current(event) && lock(&slot.held).take().is_some() {
            slot.gate.wait_parked();
            slot.gate.release();
        }
        Ok(())
    }

    /// Gets all vCPUs out of the guest for good and ends their threads. Their registers can still be read. Called
    /// from the event sink, it does not wait for the threads.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        barrier::quit(self.slots());
        // On a vCPU's thread the control lock is not ours to wait for: its holder may be waiting for this thread.
        let Ok(mut control) = self.control("stop") else { return };
        for thread in control.threads.drain(..) {
            // A worker catches panics, so there is nothing to learn from the result.
            let _ = thread.join();
        }
        control.running = false;
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> + Clone {
        self.slots.iter().map(AsRef::as_ref)
    }

    fn slot(&self, id: u32) -> Result<&Slot, VcpuError> {
        self.slots.iter().find(|s| s.id == id).map(AsRef::as_ref).ok_or(VcpuError::Unknown(id))
    }

    fn control(&self, attempt: &'static str) -> Result<MutexGuard<'_, Control>, VcpuError> {
        if self.thread_ids.contains(&thread::current().id()) {
            return Err(VcpuError::OwnThread(attempt));
        }
        Ok(lock(&self.control))
    }

    fn try_pause(&self) -> Result<(), VcpuError> {
        let mut control = self.control("pause")?;
        barrier::pause(self.slots());
        control.running = false;
        Ok(())
    }

    fn try_resume(&self) -> Result<(), VcpuError> {
        let mut control = self.control("resume")?;
        if self.stopped.load(Ordering::SeqCst) {
            return Err(VcpuError::Stopped("resume"));
        }
        if control.running {
            return Ok(());
        }
        if control.booted {
            for slot in &self.slots {
                let told = lock(&slot.vcpu).notify_stopped();
                told.map_err(because(slot.id, "tell the guest that it was stopped"))?;
            }
        } else {
            for slot in &self.slots {
                slot.boot(self.boot.as_ref())?;
            }
            control.booted = true;
        }
        if std::mem::take(&mut control.unreported) {
            self.slots.iter().for_each(|slot| slot.report_again(&self.shared));
        }
        control.running = true;
        barrier::resume(self.slots());
        Ok(())
    }

    fn try_reset(&self) -> Result<(), VcpuError> {
        let mut control = self.control("reset")?;
        if self.stopped.load(Ordering::SeqCst) {
            return Err(VcpuError::Stopped("reset"));
        }
        if control.running {
            return Err(VcpuError::NotPaused("reset"));
        }
        for slot in &self.slots {
            lock(&slot.vcpu).restore(&slot.initial).map_err(because(slot.id, "reset its state"))?;
            *lock(&slot.held) = None;
            slot.gate.release();
        }
        control.unreported = false;
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        // Before the first start there may be nothing to boot yet.
        if control.booted {
            control.booted = false;
            for slot in &self.slots {
                slot.boot(self.boot.as_ref())?;
            }
            control.booted = true;
        }
        Ok(())
    }
}

impl Slot {
    fn new(vcpu: Box<dyn Vcpu>) -> Result<Self, VcpuError> {
        let id = vcpu.id();
        Ok(Self {
            id,
            kicker: vcpu.kicker(),
            gate: Gate::new(),
            held: Mutex::default(),
            counters: Arc::default(),
            initial: vcpu.save().map_err(because(id, "read its state"))?,
            vcpu: Mutex::new(vcpu),
        })
    }

    fn boot(&self, boot: &dyn BootState) -> Result<(), VcpuError> {
        boot.apply(lock(&self.vcpu).as_mut()).map_err(because(self.id, "set its boot state"))
    }

    /// Hands on an event that came with a restored state.
    fn report_again(&self, shared: &Shared) {
        let kind = lock(&self.held).as_ref().and_then(Held::to_kind);
        if let Some(kind) = kind {
            shared.report(self.id, kind);
        }
    }
}

impl Gated for Slot {
    fn gate(&self) -> &Gate {
        &self.gate
    }
    fn kick(&self) {
        self.kicker.kick();
    }
}

impl Shared {
    fn report(&self, id: u32, kind: crate::VcpuEventKind) {
        let epoch = self.epoch.load(Ordering::SeqCst);
        (self.sink)(VcpuEvent { id, epoch, kind });
    }
}

impl Component for VcpuSet {
    fn pause(&self) -> Result<(), ComponentError> {
        self.try_pause().map_err(ComponentError::new)
    }
    fn resume(&self) -> Result<(), ComponentError> {
        self.try_resume().map_err(ComponentError::new)
    }
    fn reset(&self) -> Result<(), ComponentError> {
        self.try_reset().map_err(ComponentError::new)
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

impl Drop for VcpuSet {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
