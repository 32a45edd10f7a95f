//! One vCPU's gate by itself.

use super::barrier::{self, Gated};
use super::check;
use super::vcpu::Vcpu;
use loom::sync::Arc;
use loom::thread::{self, JoinHandle};

fn pause(vcpu: &Arc<Vcpu>) {
    barrier::pause([vcpu.as_ref()].into_iter());
    vcpu.look();
}

fn quit(vcpu: &Arc<Vcpu>, thread: JoinHandle<()>) {
    barrier::quit([vcpu.as_ref()].into_iter());
    thread.join().unwrap();
}

#[test]
fn pauses_and_resumes_are_never_lost() {
    check(3, || {
        let (vcpu, thread) = Vcpu::start(0);
        vcpu.gate.run();
        pause(&vcpu);
        vcpu.gate.run();
        pause(&vcpu);
        quit(&vcpu, thread);
    });
}

#[test]
fn a_running_vcpu_can_be_ended() {
    check(3, || {
        let (vcpu, thread) = Vcpu::start(0);
        vcpu.gate.run();
        quit(&vcpu, thread);
    });
}

#[test]
fn a_kick_of_somebody_else_neither_parks_nor_unparks() {
    check(3, || {
        let (vcpu, thread) = Vcpu::start(0);
        let other = vcpu.clone();
        let stranger = thread::spawn(move || other.kick());
        vcpu.gate.run();
        pause(&vcpu);
        stranger.join().unwrap();
        quit(&vcpu, thread);
    });
}

#[test]
fn a_vcpu_that_holds_itself_is_paused_stays_held_and_is_released() {
    check(3, || {
        let (vcpu, thread) = Vcpu::start(1);
        vcpu.gate.run();
        pause(&vcpu);
        vcpu.gate.run();
        vcpu.wait_turns(1);
        pause(&vcpu);
        // Held by now. Told to run it stays where it is, until it is released.
        vcpu.gate.run();
        vcpu.look();
        vcpu.gate.release();
        vcpu.wait_turns(2);
        quit(&vcpu, thread);
    });
}

#[test]
fn a_restored_hold_keeps_a_vcpu_out_of_the_guest() {
    check(3, || {
        let (vcpu, thread) = Vcpu::start(0);
        vcpu.gate.hold();
        vcpu.gate.run();
        vcpu.look();
        quit(&vcpu, thread);
    });
}

#[test]
fn a_quit_is_not_undone_by_a_later_order() {
    check(3, || {
        let (vcpu, thread) = Vcpu::start(0);
        vcpu.gate.ask_to_quit();
        vcpu.kick();
        vcpu.gate.run();
        thread.join().unwrap();
        pause(&vcpu);
    });
}

#[test]
fn a_hold_that_comes_while_it_runs_counts_from_the_next_pause_on() {
    check(3, || {
        let (vcpu, thread) = Vcpu::start(0);
        vcpu.gate.run();
        vcpu.gate.hold();
        pause(&vcpu);
        vcpu.gate.run();
        vcpu.look();
        quit(&vcpu, thread);
    });
}
