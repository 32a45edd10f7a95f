use super::{Shared, lock};
use crate::clock::{Moment, Passage, boot_id};
use crate::error::{call, invalid};
use drystone_hypervisor::{Clocks, Error, InterruptControllers, VmConfig};
use drystone_state::{Blob, Schema};
use kvm_bindings::{KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME, kvm_clock_data, kvm_irqchip, kvm_pit_state2};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

/// KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC.
const CHIPS: [u32; 3] = [0, 1, 2];

/// What vCPUs share, in KVM's own layouts, which the kernel keeps stable.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KvmVmState {
    /// In the order of [`CHIPS`], or none at all.
    irqchips: Vec<kvm_irqchip>,
    pit: Option<kvm_pit_state2>,
    /// The guest's paravirtual clock in nanoseconds at `moment`.
    clock: u64,
    moment: Moment,
    /// The boot of the host within which `moment` is.
    boot: String,
}

impl Schema for KvmVmState {
    const KIND: &'static str = "kvm-vm";
    const VERSION: u32 = 1;
}

/// Local APICs are saved with their vCPUs.
fn chips(config: &VmConfig) -> &'static [u32] {
    if config.interrupts == InterruptControllers::Full { &CHIPS } else { &[] }
}

pub(super) fn save(vm: &Shared) -> Result<Blob, Error> {
    let (fd, config) = (&vm.fd, &vm.config);
    let mut irqchips = Vec::new();
    for &chip_id in chips(config) {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        fd.get_irqchip(&mut chip).map_err(call(|| format!("read interrupt controller {chip_id}")))?;
        irqchips.push(chip);
    }
    let pit = config.pit.then(|| fd.get_pit2().map_err(call(|| "read the timer"))).transpose()?;
    let (clock, moment) = read_clock(fd)?;
    let state = KvmVmState { irqchips, pit, clock, moment, boot: boot_id() };
    Blob::encode(&state).map_err(|e| invalid("save the VM", e.to_string()))
}

/// The guest's clock and the host's time at one moment. KVM gives them together if all time stamp counters agree;
/// otherwise the readings are microseconds apart.
fn read_clock(fd: &VmFd) -> Result<(u64, Moment), Error> {
    let read = fd.get_clock().map_err(call(|| "read the guest's clock"))?;
    let together = KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
    if read.flags & together == together {
        return Ok((read.clock, Moment { realtime: read.realtime, host_tsc: read.host_tsc }));
    }
    Ok((read.clock, Moment::now()))
}

pub(super) fn restore(vm: &Shared, blob: &Blob, clocks: Clocks) -> Result<(), Error> {
    let (fd, config) = (&vm.fd, &vm.config);
    let refuse = |why: String| invalid("restore the VM", why);
    let state: KvmVmState = blob.decode().map_err(|e| refuse(e.to_string()))?;
    let saved: Vec<u32> = state.irqchips.iter().map(|c| c.chip_id).collect();
    if saved != chips(config) || state.pit.is_some() != config.pit {
        return Err(refuse("it is of a VM with other interrupt controllers or timers".into()));
    }
    for chip in &state.irqchips {
        fd.set_irqchip(chip).map_err(call(|| format!("set interrupt controller {}", chip.chip_id)))?;
    }
    if let Some(pit) = &state.pit {
        fd.set_pit2(pit).map_err(call(|| "set the timer"))?;
    }
    let boot = boot_id();
    let same_boot = !boot.is_empty() && boot == state.boot;
    let passage = match clocks {
        Clocks::GoOn => Passage { from: state.moment, to: Moment::now(), same_boot },
        Clocks::StandStill => Passage::unseen(state.moment, Moment::now()),
    };
    // The time that went by is added here and not by KVM, which does it only since 5.16.
    let clock = kvm_clock_data { clock: state.clock.saturating_add(passage.elapsed()), ..Default::default() };
    fd.set_clock(&clock).map_err(call(|| "set the guest's clock"))?;
    *lock(&vm.passage) = Some(passage);
    Ok(())
}

#[cfg(test)]
mod tests;
