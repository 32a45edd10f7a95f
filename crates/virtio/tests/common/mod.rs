//! What these tests share.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use drystone_state::{NoState, Persist, RestoreError, SaveError};
use drystone_testkit::virtio::{CorePort, DriverRing, Edges, Log, Pump, Ram, WRITE, bring_up};
use drystone_virtio::{Cx, Description, Fault, Host, VirtioCore, VirtioDevice, Worker};
use std::sync::Arc;
use std::time::Duration;

/// A core with everything that a VMM hands in.
pub struct Rig {
    pub core: Arc<VirtioCore<Ram>>,
    pub edges: Arc<Edges>,
    pub pump: Arc<Pump>,
    pub log: Arc<Log>,
}

pub fn rig(device: Box<dyn VirtioDevice<Ram>>, memory: &Ram) -> Rig {
    patient_rig(device, memory, Duration::from_secs(60))
}

/// A patience that the tests of stuck back ends wait out.
pub const SHORT: Duration = Duration::from_millis(100);

pub fn patient_rig(device: Box<dyn VirtioDevice<Ram>>, memory: &Ram, patience: Duration) -> Rig {
    let (edges, pump, log) =
        (Arc::new(Edges::default()), Arc::new(Pump::default()), Arc::new(Log::default()));
    let host = Host { observer: log.clone(), patience, ..Host::new(pump.clone()) };
    let core = Arc::new(VirtioCore::new(device, memory.clone(), edges.clone(), host).unwrap());
    Rig { core, edges, pump, log }
}

impl Rig {
    pub fn bring_up(&self, rings: &[&DriverRing], features: u64) {
        bring_up(&CorePort(self.core.clone()), rings, features);
        self.serve();
    }
    /// Until nothing is rung.
    pub fn serve(&self) {
        self.pump.run(&self.core, 4096);
    }
    pub fn kick(&self, queue: u16) {
        self.core.notify(queue);
        self.serve();
    }
}

/// Eight bytes to be written, at the place for tests.
pub const BUFFER: (u64, u32, u16) = (0x40000, 8, WRITE);

/// A device of one queue whose worker is a closure.
pub struct Custom<F>(pub F);

impl<F: FnMut(u16, &mut Cx<'_, Ram>) -> Result<(), Fault> + Send> Worker<Ram> for Custom<F> {
    fn on_kick(&mut self, queue: u16, cx: &mut Cx<'_, Ram>) -> Result<(), Fault> {
        (self.0)(queue, cx)
    }
}

impl<F: FnMut(u16, &mut Cx<'_, Ram>) -> Result<(), Fault> + Send> VirtioDevice<Ram> for Custom<F> {
    fn describe(&self) -> Description {
        Description { device_type: 9, queue_sizes: vec![16], ..Default::default() }
    }
    fn reset(&mut self) {}
    fn persist(&self) -> Option<&dyn drystone_state::PersistDyn> {
        Some(self)
    }
}

impl<F> Persist for Custom<F> {
    type State = NoState;
    fn save(&self) -> Result<NoState, SaveError> {
        Ok(NoState {})
    }
    fn restore(&self, _: NoState) -> Result<(), RestoreError> {
        Ok(())
    }
}
