//! What every hypervisor behind the traits does alike. Each suite is a function that asserts; the macro
//! [`conformance_tests`](crate::conformance_tests) makes a test of each.
//!
//! No suite asserts how long anything takes. But a kick that is lost shows as a vCPU that never comes back: a test that
//! has not ended after [`PATIENCE`], which is far more than any host needs, fails, and leaves the vCPU behind.

mod deferred;
mod dirty;
mod events;
mod exits;
mod kicks;
mod memory;
mod messages;
mod moves;
mod msrs;
mod smp;
mod state;

pub use deferred::*;
pub use dirty::*;
pub use events::*;
pub use exits::*;
pub use kicks::*;
pub use memory::*;
pub use messages::*;
pub use moves::*;
pub use msrs::*;
pub use smp::*;
pub use state::*;

use drystone_hypervisor::VmConfig;
use std::sync::mpsc;
use std::time::Duration;

/// After this long without a sign of life something hangs.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Runs a test that may hang if what it tests is broken.
///
/// # Panics
/// If the test does, or after [`PATIENCE`].
pub fn with_patience(test: impl FnOnce() + Send + 'static) {
    let (ended, end) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let _ended = ended; // closed however the test ends
        test();
    });
    if end.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("it hangs");
    }
    if let Err(cause) = thread.join() {
        std::panic::resume_unwind(cause);
    }
}

/// Both configurations that matter to vCPUs: without and with interrupt controllers.
fn configs() -> [VmConfig; 2] {
    [VmConfig::bare(), VmConfig::default()]
}

/// Makes one `#[test]` of every conformance suite. `$backend` is a function that returns `Option<Backend>`; where it
/// returns none, the test passes: the function says why.
#[macro_export]
macro_rules! conformance_tests {
    ($backend:path) => {
        $crate::conformance_tests! { $backend:
            port_accesses_of_each_width string_accesses_are_many_accesses device_memory_of_each_width
            halt_without_an_interrupt_controller_exits halt_with_one_waits a_triple_fault_is_a_shutdown
            a_kick_before_the_first_run_comes_before_anything_else a_kick_stops_a_guest_that_spins
            a_kick_during_io_comes_next kicks_merge an_input_is_complete_once_interrupted
            a_kick_after_the_vcpu_is_gone_is_harmless no_kick_is_lost_in_a_race
            a_vcpu_moves_between_threads
            a_save_in_the_middle_goes_on_in_a_fresh_vm restoring_the_first_state_is_a_reset
            foreign_and_broken_states_are_refused registers_read_back_as_set
            memory_comes_and_goes ranges_that_make_no_sense_are_refused a_slot_is_free_again
            read_only_memory_is_read_and_not_written the_dirty_log_has_what_the_guest_wrote
            more_pages_than_a_ring_holds_are_all_logged the_log_of_memory_goes_with_it
            copying_what_is_logged_copies_all rings_have_sensible_sizes
            a_guard_outlives_its_vm
            events_and_lines_reach_a_halted_guest interrupts_survive_a_save
            interrupts_need_a_controller doorbells_ring_for_what_they_match doorbells_do_not_collide
            messages_reach_their_vcpu a_message_can_be_an_nmi messages_survive_a_save
            an_event_sends_its_message a_masked_event_waits
            lines_and_messages_live_together messages_need_a_local_apic
            an_acknowledged_pin_exits split_controllers_leave_the_others_registers
            msrs_are_the_hypervisors msrs_that_are_handed_over_are_the_vmms msrs_that_are_refused_fault
            unknown_msrs_can_be_handed_over
            deferred_writes_keep_their_order_and_do_not_exit deferred_writes_that_find_no_room_exit
            deferred_writes_are_there_when_a_vcpu_is_interrupted
            deferred_writes_of_two_vcpus_come_before_their_next_access only_ports_that_exist_can_be_deferred
            running_smp_guests_move_between_vms two_vcpus_run_at_once a_number_is_used_once
        }
    };
    ($backend:path: $($suite:ident)*) => {
        $(
            #[test]
            fn $suite() {
                if let Some(backend) = $backend() {
                    $crate::conformance::with_patience(move || $crate::conformance::$suite(&backend));
                }
            }
        )*
    };
}
