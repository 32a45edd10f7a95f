use crate::guest::{self, Progress, STOP};
use crate::{Backend, IoLog, RAM, TinyVm};
use drystone_hypervisor::{Clocks, Exit, Vcpu, VmConfig};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often a running guest is moved to a fresh VM.
const MOVES: u64 = 25;

/// Runs every vCPU on a thread of its own until `pause` is over, and stops them all.
fn run_for(tiny: &mut TinyVm, pause: impl FnOnce(&TinyVm)) {
    let kickers: Vec<_> = tiny.vcpus.iter().map(|v| v.kicker()).collect();
    let run = |mut vcpu: Box<dyn Vcpu>| {
        thread::spawn(move || {
            while vcpu.run(&mut IoLog::new()).unwrap() != Exit::Interrupted {}
            vcpu
        })
    };
    let threads: Vec<JoinHandle<Box<dyn Vcpu>>> = tiny.vcpus.drain(..).map(run).collect();
    pause(tiny);
    kickers.iter().for_each(|k| k.kick());
    tiny.vcpus = threads.into_iter().map(|t| t.join().unwrap()).collect();
}

/// Everything of `old` in a fresh VM.
fn moved(backend: &Backend, config: &VmConfig, old: TinyVm, guests: &[crate::Guest]) -> TinyVm {
    let vm = old.vm.save().unwrap();
    let vcpus: Vec<_> = old.vcpus.iter().map(|v| v.save().unwrap()).collect();
    let memory = old.read(0, RAM as usize);
    drop(old);
    let mut new = TinyVm::with_guests(backend, config.clone(), guests);
    new.write(0, &memory);
    new.vm.restore(&vm, Clocks::GoOn).unwrap();
    for (vcpu, state) in new.vcpus.iter_mut().zip(&vcpus) {
        vcpu.restore(state).unwrap();
    }
    new
}

/// vCPUs that compute, halt, and interrupt each other are stopped at random points, saved, and go on in a fresh VM, many
/// times: in the end no interrupt was lost or came twice, and every result is right.
pub fn running_smp_guests_move_between_vms(backend: &Backend) {
    for (config, count) in [(VmConfig::default(), 2), (VmConfig::default(), 3), (VmConfig::split(), 2)] {
        let guests: Vec<_> = (0..count).map(|id| guest::passes_messages(id, count)).collect();
        let mut tiny = TinyVm::with_guests(backend, config.clone(), &guests);
        for vcpu in &mut tiny.vcpus {
            vcpu.start().unwrap();
            assert_eq!(vcpu.run(&mut IoLog::new()).unwrap(), Exit::Io, "its local APIC is on");
        }
        for n in 0..MOVES {
            // From hardly begun to far in the middle; nothing depends on how far.
            run_for(&mut tiny, |_| thread::sleep(Duration::from_micros(n * n * 7919 % 3000)));
            tiny = moved(backend, &config, tiny, &guests);
        }
        let progress =
            |tiny: &TinyVm, id| Progress::from_bytes(&tiny.read(Progress::address(id), Progress::LEN));
        run_for(&mut tiny, |tiny| {
            tiny.write(STOP, &[1]);
            while (0..count).any(|id| progress(tiny, id).done == 0) {
                thread::sleep(Duration::from_millis(1));
            }
        });
        for id in 0..count {
            let (own, before) = (progress(&tiny, id), progress(&tiny, (id + count - 1) % count));
            assert!(own.rounds > 0, "it did nothing: {own:?}");
            assert_eq!((own.replies, own.requests), (own.rounds, before.rounds), "vCPU {id} of {count}");
            assert_eq!(own.result, guest::result_of(own.rounds), "vCPU {id} of {count}");
        }
    }
}
