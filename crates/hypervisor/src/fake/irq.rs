use super::lock;
use crate::{Error, Msi};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

/// Interrupt inputs, as many as an I/O APIC has.
const LINES: u32 = 24;
/// The epoll token that ends the watcher.
const STOP: u64 = u64::MAX;

/// The lowest vector that a local APIC takes (Intel SDM volume 3, 11.5.2).
const FIRST_VECTOR: u8 = 16;

/// A message's trigger mode (Intel SDM volume 3, 11.11.2).
const LEVEL: u32 = 1 << 15;

/// What of the interrupt controllers is saved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lines {
    /// Inputs that are high.
    high: BTreeSet<u32>,
    /// Rising edges that no vCPU has taken.
    pending: BTreeSet<u32>,
    /// What each vCPU's local APIC holds.
    local: BTreeMap<u32, Local>,
}

/// What a vCPU has not taken from its local APIC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Local {
    vectors: BTreeSet<u8>,
    nmi: bool,
}

impl Lines {
    fn valid(&self) -> bool {
        self.high.iter().chain(&self.pending).all(|&gsi| gsi < LINES)
            && self.local.values().flat_map(|l| &l.vectors).all(|&v| v >= FIRST_VECTOR)
    }

    /// Delivers a message to the local APICs that it is for (Intel SDM volume 3, 11.11.1 and 11.11.2).
    fn send(&mut self, message: Msi) {
        let [vector, mode, ..] = message.data.to_le_bytes();
        let destination = (message.address >> 12) as u8;
        for (&id, local) in &mut self.local {
            if destination != 0xff && u32::from(destination) != id {
                continue;
            }
            match mode & 7 {
                0 | 1 if vector >= FIRST_VECTOR => drop(local.vectors.insert(vector)),
                4 => local.nmi = true,
                _ => {}
            }
        }
    }
}

/// What an event does.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Line(u32),
    Message(Msi),
}

struct Input {
    event: EventFd,
    target: Target,
    token: u64,
}

/// Edge-triggered interrupt inputs that lines, messages and eventfds drive.
pub(super) struct Irqs {
    /// PIC and I/O APIC are there, and not only local APICs.
    has_lines: bool,
    lines: Mutex<Lines>,
    inputs: Mutex<Vec<Input>>,
    /// Inputs of the VMM's I/O APIC, with the last message of each.
    pins: Mutex<BTreeMap<u32, Option<Msi>>>,
    epoll: Arc<Epoll>,
    /// The watcher holds it too: closed before the watcher has seen it, it would be taken out of `epoll` unseen.
    stop: Arc<EventFd>,
}

impl Irqs {
    pub(super) fn new(has_lines: bool) -> io::Result<Self> {
        let irqs = Self {
            has_lines,
            lines: Mutex::default(),
            inputs: Mutex::default(),
            pins: Mutex::default(),
            epoll: Arc::new(Epoll::new()?),
            stop: Arc::new(EventFd::new(0)?),
        };
        let stop = EpollEvent::new(EventSet::IN, STOP);
        irqs.epoll.ctl(ControlOperation::Add, irqs.stop.as_raw_fd(), stop)?;
        Ok(irqs)
    }

    /// A vCPU's local APIC is there from now on.
    pub(super) fn add_vcpu(&self, id: u32) {
        lock(&self.lines).local.entry(id).or_default();
    }

    pub(super) fn send(&self, message: Msi) {
        lock(&self.lines).send(message);
    }

    /// Gives an input of the VMM's I/O APIC away.
    pub(super) fn take_pin(&self, pin: u32) -> Result<(), Error> {
        let attempt = || format!("use the pin {pin} of an I/O APIC");
        if self.has_lines {
            let cause = io::Error::other("the VM has an I/O APIC of its own");
            return Err(Error::Call { attempt: attempt(), cause });
        }
        let mut pins = lock(&self.pins);
        let why = match pin {
            LINES.. => "there are 24",
            _ if pins.contains_key(&pin) => "it is in use",
            _ => {
                pins.insert(pin, None);
                return Ok(());
            }
        };
        Err(Error::Invalid { attempt: attempt(), why: why.into() })
    }

    pub(super) fn set_pin(&self, pin: u32, message: Msi) {
        lock(&self.pins).insert(pin, Some(message));
    }

    pub(super) fn free_pin(&self, pin: u32) {
        lock(&self.pins).remove(&pin);
    }

    /// Whether a level-triggered message of this vector belongs to one of the VMM's pins.
    pub(super) fn is_level(&self, vector: u8) -> bool {
        let level = |m: &Msi| m.data & LEVEL != 0 && m.data.to_le_bytes()[0] == vector;
        lock(&self.pins).values().flatten().any(level)
    }

    /// Returns whether there is a new edge.
    pub(super) fn set_line(&self, gsi: u32, high: bool) -> Result<bool, Error> {
        self.check(gsi)?;
        let mut lines = lock(&self.lines);
        if !high {
            lines.high.remove(&gsi);
            return Ok(false);
        }
        let edge = lines.high.insert(gsi);
        Ok(edge && lines.pending.insert(gsi))
    }

    pub(super) fn register(&self, event: &EventFd, target: Target) -> Result<u64, Error> {
        if let Target::Line(gsi) = target {
            self.check(gsi)?;
        }
        let failed = |cause| Error::Call { attempt: "wire an event to an interrupt".into(), cause };
        let event = event.try_clone().map_err(failed)?;
        let mut inputs = lock(&self.inputs);
        let token = inputs.iter().map(|i| i.token + 1).max().unwrap_or(0);
        let watched = EpollEvent::new(EventSet::IN, token);
        self.epoll.ctl(ControlOperation::Add, event.as_raw_fd(), watched).map_err(failed)?;
        inputs.push(Input { event, target, token });
        Ok(token)
    }

    /// What the event of `token` does from now on.
    pub(super) fn change(&self, token: u64, target: Target) {
        let mut inputs = lock(&self.inputs);
        inputs.iter_mut().filter(|i| i.token == token).for_each(|i| i.target = target);
    }

    pub(super) fn unregister(&self, token: u64) {
        let mut inputs = lock(&self.inputs);
        if let Some(at) = inputs.iter().position(|i| i.token == token) {
            let input = inputs.swap_remove(at);
            let _ = self.epoll.ctl(ControlOperation::Delete, input.event.as_raw_fd(), EpollEvent::default());
        }
    }

    /// Turns the eventfds that were written into edges.
    pub(super) fn collect(&self) {
        let inputs = lock(&self.inputs);
        let mut ready = [EpollEvent::default(); 32];
        // A signal only delays it: the watcher's next round finds what is left.
        let count = self.epoll.wait(0, &mut ready).unwrap_or(0);
        for event in ready.iter().take(count) {
            if let Some(input) = inputs.iter().find(|i| i.token == event.data()) {
                // Readable, and nobody else reads it: this does not block.
                if input.event.read().is_ok() {
                    let mut lines = lock(&self.lines);
                    match input.target {
                        Target::Line(gsi) => drop(lines.pending.insert(gsi)),
                        Target::Message(message) => lines.send(message),
                    }
                }
            }
        }
    }

    /// Whether something waits for vCPU `id` to take it. Sees every eventfd write that happened before the call.
    pub(super) fn is_pending(&self, id: u32) -> bool {
        self.collect();
        let lines = lock(&self.lines);
        let waits = |local: &Local| local.nmi || !local.vectors.is_empty();
        !lines.pending.is_empty() || lines.local.get(&id).is_some_and(waits)
    }

    /// Takes the lowest-numbered edge.
    pub(super) fn take(&self) -> Option<u32> {
        self.collect();
        lock(&self.lines).pending.pop_first()
    }

    /// Takes the highest vector from the local APIC of vCPU `id`.
    pub(super) fn take_vector(&self, id: u32) -> Option<u8> {
        self.collect();
        lock(&self.lines).local.get_mut(&id)?.vectors.pop_last()
    }

    /// Takes a non-maskable interrupt from the local APIC of vCPU `id`, if there is one.
    pub(super) fn take_nmi(&self, id: u32) -> bool {
        self.collect();
        lock(&self.lines).local.get_mut(&id).is_some_and(|local| std::mem::take(&mut local.nmi))
    }

    pub(super) fn save(&self) -> Lines {
        self.collect();
        lock(&self.lines).clone()
    }

    /// False, with nothing changed, for what no save can have given.
    pub(super) fn restore(&self, saved: &Lines) -> bool {
        let mut lines = lock(&self.lines);
        let known = saved.local.keys().all(|id| lines.local.contains_key(id));
        if !saved.valid() || !known || (!self.has_lines && !saved.high.is_empty()) {
            return false;
        }
        let vcpus: Vec<u32> = lines.local.keys().copied().collect();
        *lines = saved.clone();
        for id in vcpus {
            lines.local.entry(id).or_default();
        }
        true
    }

    fn check(&self, gsi: u32) -> Result<(), Error> {
        let attempt = || format!("use interrupt {gsi}");
        if !self.has_lines {
            let cause = io::Error::other("the VM has no interrupt controller with lines");
            return Err(Error::Call { attempt: attempt(), cause });
        }
        if gsi < LINES {
            return Ok(());
        }
        let why = format!("the interrupt controller has inputs 0 to {}", LINES - 1);
        Err(Error::Invalid { attempt: attempt(), why })
    }

    /// Calls `notify` whenever an eventfd was written, on a thread, until it answers false or the controller is gone.
    pub(super) fn watch(&self, notify: impl Fn() -> bool + Send + 'static) -> io::Result<()> {
        let (epoll, stop) = (self.epoll.clone(), self.stop.clone());
        let watcher = move || {
            let _stop = stop;
            let mut ready = [EpollEvent::default(); 8];
            loop {
                match epoll.wait(-1, &mut ready) {
                    Ok(count) if ready.iter().take(count).any(|e| e.data() == STOP) => return,
                    Ok(_) if !notify() => return,
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return,
                }
            }
        };
        std::thread::Builder::new().name("fake-irqfd".into()).spawn(watcher).map(drop)
    }
}

impl Drop for Irqs {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
    }
}

/// Whether somebody wrote `event` and nobody has read it. Says no if the host cannot tell.
pub(super) fn is_written(event: &EventFd) -> bool {
    let look = || {
        let epoll = Epoll::new()?;
        epoll.ctl(ControlOperation::Add, event.as_raw_fd(), EpollEvent::new(EventSet::IN, 0))?;
        epoll.wait(0, &mut [EpollEvent::default()])
    };
    look().is_ok_and(|count: usize| count > 0)
}
