use super::configs;
use crate::guest;
use crate::{Access, Backend, IoLog, TinyVm};
use drystone_hypervisor::{Exit, IoHandler, Kicker, VmConfig};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

/// How many kicks race with a vCPU.
const RACES: u32 = 1000;

/// A kick that came before the vCPU ever ran ends its first run before the guest does anything.
pub fn a_kick_before_the_first_run_comes_before_anything_else(backend: &Backend) {
    for config in configs() {
        let mut tiny = TinyVm::new(backend, config.clone(), guest::counts());
        let start = tiny.vcpu().regs().unwrap();
        let mut io = IoLog::new();
        tiny.vcpu().kicker().kick();
        assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Interrupted);
        assert_eq!((io.take(), tiny.vcpu().regs().unwrap()), (vec![], start));
        assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Io);
    }
}

/// A kick from another thread gets the vCPU out of a guest that never exits.
pub fn a_kick_stops_a_guest_that_spins(backend: &Backend) {
    for config in configs() {
        let mut tiny = TinyVm::new(backend, config.clone(), guest::spins());
        for _ in 0..20 {
            let kicker = tiny.vcpu().kicker();
            let thread = thread::spawn(move || kicker.kick());
            assert_eq!(tiny.vcpu().run(&mut IoLog::new()).unwrap(), Exit::Interrupted);
            thread.join().unwrap();
        }
    }
}

/// A handler of I/O that kicks its own vCPU is asked no more before the kick is reported.
pub fn a_kick_during_io_comes_next(backend: &Backend) {
    struct KickingIo(IoLog, Arc<dyn Kicker>);
    impl IoHandler for KickingIo {
        fn pio_read(&mut self, port: u16, data: &mut [u8]) {
            self.0.pio_read(port, data);
        }
        fn pio_write(&mut self, port: u16, data: &[u8]) {
            self.0.pio_write(port, data);
            self.1.kick();
        }
        fn mmio_read(&mut self, addr: u64, data: &mut [u8]) {
            self.0.mmio_read(addr, data);
        }
        fn mmio_write(&mut self, addr: u64, data: &[u8]) {
            self.0.mmio_write(addr, data);
        }
    }
    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::counts());
    let mut io = KickingIo(IoLog::new(), tiny.vcpu().kicker());
    for n in 0..50 {
        assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Io);
        assert_eq!(io.0.take(), [Access::Out(0x10, vec![n])]);
        assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Interrupted);
        assert_eq!(io.0.take(), []);
    }
}

/// However many kicks nobody has consumed: one return of `Interrupted` consumes them all.
pub fn kicks_merge(backend: &Backend) {
    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::counts());
    let kicker = tiny.vcpu().kicker();
    let other = tiny.vcpu().kicker();
    let mut io = IoLog::new();
    for count in [1, 2, 100] {
        for _ in 0..count {
            kicker.kick();
            other.kick();
        }
        assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Interrupted);
        for _ in 0..3 {
            assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Io, "after {count} kicks");
        }
    }
}

/// At `Interrupted` the register holds what the input read, and the instruction is not done again.
pub fn an_input_is_complete_once_interrupted(backend: &Backend) {
    for config in configs() {
        let mut tiny = TinyVm::new(backend, config.clone(), guest::inputs_then_spins());
        let mut io = IoLog::new();
        assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Io);
        for _ in 0..2 {
            tiny.vcpu().kicker().kick();
            assert_eq!(tiny.vcpu().run(&mut io).unwrap(), Exit::Interrupted);
            assert_eq!(tiny.vcpu().regs().unwrap().rax & 0xff, 0xa0);
        }
        assert_eq!(io.take(), [Access::In(0x28, vec![0xa0])]);
    }
}

/// A kicker may outlive its vCPU, and the VM.
pub fn a_kick_after_the_vcpu_is_gone_is_harmless(backend: &Backend) {
    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::counts());
    let kicker = tiny.vcpu().kicker();
    tiny.vcpu().run(&mut IoLog::new()).unwrap();
    tiny.vcpus.clear();
    kicker.kick();
    drop(tiny);
    kicker.kick();
}

/// A thread stores a request and kicks; the vCPU's thread looks for it after each `Interrupted`. Not one request is missed,
/// neither by a guest that never exits nor by one that always does, and no kick counts twice.
pub fn no_kick_is_lost_in_a_race(backend: &Backend) {
    for guest in [guest::spins(), guest::counts()] {
        let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest);
        let mut vcpu = tiny.vcpus.remove(0);
        let kicker = vcpu.kicker();
        let requested = Arc::new(AtomicU32::new(0));
        let (seen, acknowledged) = mpsc::channel();
        let requests = requested.clone();
        thread::spawn(move || {
            let mut io = IoLog::new();
            let (mut last, mut interruptions) = (0, 0);
            while last < RACES {
                io.take();
                if vcpu.run(&mut io).unwrap() == Exit::Interrupted {
                    last = requests.load(Ordering::SeqCst);
                    interruptions += 1;
                    assert!(interruptions <= last, "a kick counted twice");
                    seen.send(last).unwrap();
                }
            }
        });
        for request in 1..=RACES {
            requested.store(request, Ordering::SeqCst);
            kicker.kick();
            // An `Interrupted` of an earlier kick may have seen this request already; then its own is still to come, and
            // is taken for the next one's.
            while acknowledged.recv().unwrap() < request {}
        }
    }
}

/// A vCPU may be run by one thread after the other; kicks find whichever it is.
pub fn a_vcpu_moves_between_threads(backend: &Backend) {
    let mut tiny = TinyVm::new(backend, VmConfig::bare(), guest::spins());
    let mut vcpu = tiny.vcpus.remove(0);
    for _ in 0..5 {
        let kicker = vcpu.kicker();
        let (about_to_run, ready) = mpsc::channel();
        let runner = thread::spawn(move || {
            about_to_run.send(()).unwrap();
            assert_eq!(vcpu.run(&mut IoLog::new()).unwrap(), Exit::Interrupted);
            vcpu
        });
        ready.recv().unwrap();
        // Most likely it is in the guest by then; the outcome is the same if not.
        thread::sleep(Duration::from_millis(20));
        kicker.kick();
        vcpu = runner.join().unwrap();
    }
}
