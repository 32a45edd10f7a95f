use super::lock;
use crate::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

/// Interrupt inputs, as many as an I/O APIC has.
const LINES: u32 = 24;
/// The epoll token that ends the watcher.
const STOP: u64 = u64::MAX;

/// What of the interrupt controller is saved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lines {
    /// Inputs that are high.
    high: BTreeSet<u32>,
    /// Rising edges that no vCPU has taken.
    pending: BTreeSet<u32>,
}

impl Lines {
    pub(super) fn valid(&self) -> bool {
        self.high.iter().chain(&self.pending).all(|&gsi| gsi < LINES)
    }
}

struct Input {
    event: EventFd,
    gsi: u32,
    token: u64,
}

/// Edge-triggered interrupt inputs that lines and eventfds drive.
pub(super) struct Irqs {
    lines: Mutex<Lines>,
    inputs: Mutex<Vec<Input>>,
    epoll: Arc<Epoll>,
    stop: EventFd,
}

impl Irqs {
    pub(super) fn new() -> io::Result<Self> {
        let irqs = Self {
            lines: Mutex::default(),
            inputs: Mutex::default(),
            epoll: Arc::new(Epoll::new()?),
            stop: EventFd::new(0)?,
        };
        let stop = EpollEvent::new(EventSet::IN, STOP);
        irqs.epoll.ctl(ControlOperation::Add, irqs.stop.as_raw_fd(), stop)?;
        Ok(irqs)
    }

    /// Returns whether there is a new edge.
    pub(super) fn set_line(&self, gsi: u32, high: bool) -> Result<bool, Error> {
        check(gsi)?;
        let mut lines = lock(&self.lines);
        if !high {
            lines.high.remove(&gsi);
            return Ok(false);
        }
        let edge = lines.high.insert(gsi);
        Ok(edge && lines.pending.insert(gsi))
    }

    pub(super) fn register(&self, event: &EventFd, gsi: u32) -> Result<u64, Error> {
        check(gsi)?;
        let failed = |cause| Error::Call { attempt: format!("wire an event to interrupt {gsi}"), cause };
        let event = event.try_clone().map_err(failed)?;
        let mut inputs = lock(&self.inputs);
        let token = inputs.iter().map(|i| i.token + 1).max().unwrap_or(0);
        let watched = EpollEvent::new(EventSet::IN, token);
        self.epoll.ctl(ControlOperation::Add, event.as_raw_fd(), watched).map_err(failed)?;
        inputs.push(Input { event, gsi, token });
        Ok(token)
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
                    lock(&self.lines).pending.insert(input.gsi);
                }
            }
        }
    }

    /// Whether an edge waits to be taken. Sees every eventfd write that happened before the call.
    pub(super) fn is_pending(&self) -> bool {
        self.collect();
        !lock(&self.lines).pending.is_empty()
    }

    /// Takes the lowest-numbered edge.
    pub(super) fn take(&self) -> Option<u32> {
        self.collect();
        lock(&self.lines).pending.pop_first()
    }

    pub(super) fn save(&self) -> Lines {
        self.collect();
        lock(&self.lines).clone()
    }

    pub(super) fn restore(&self, lines: Lines) {
        *lock(&self.lines) = lines;
    }

    /// Calls `notify` whenever an eventfd was written, on a thread, until it answers false or the controller is gone.
    pub(super) fn watch(&self, notify: impl Fn() -> bool + Send + 'static) -> io::Result<()> {
        let epoll = self.epoll.clone();
        let watcher = move || {
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

fn check(gsi: u32) -> Result<(), Error> {
    if gsi < LINES {
        return Ok(());
    }
    Err(Error::Invalid {
        attempt: format!("use interrupt {gsi}"),
        why: format!("the interrupt controller has inputs 0 to {}", LINES - 1),
    })
}
