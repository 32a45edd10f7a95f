//! A machine on a hypervisor of the test's own, in the test's own process.

use drystone::events::Journal;
use drystone::log::Log;
use drystone::machine::Machine;
use drystone::monitor::{Handle, Request, mailbox};
use drystone::snapshot::{SnapshotRequest, Then};
use drystone_lifecycle::Cause;
use std::path::Path;

/// Ends a machine also when a test fails over it.
struct End(Handle);
impl Drop for End {
    fn drop(&mut self) {
        self.0.end(Cause::Operator);
    }
}

/// Serves a machine on a thread of its own while `f` asks for things.
pub fn serving(make: impl FnOnce(&Handle, &Journal) -> Machine, f: impl FnOnce(&Handle)) {
    let (handle, mailbox) = mailbox();
    let machine = make(&handle, &Journal::new(Log::none()));
    std::thread::scope(|scope| {
        let monitor = mailbox.begin(machine).unwrap();
        let served = scope.spawn(move || monitor.serve());
        let end = End(handle);
        f(&end.0);
        drop(end);
        served.join().unwrap().unwrap();
    });
}

/// Writes it down.
pub fn save(handle: &Handle, dir: &Path) {
    let request = SnapshotRequest { dir: dir.into(), memory_dir: None, then: Then::GoOn };
    handle.request(Request::Snapshot(request)).unwrap();
}
