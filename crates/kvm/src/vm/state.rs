use crate::error::{call, invalid};
use drystone_hypervisor::{Error, InterruptControllers, VmConfig};
use drystone_state::{Blob, Schema};
use kvm_bindings::{kvm_clock_data, kvm_irqchip, kvm_pit_state2};
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
    /// The guest's paravirtual clock in nanoseconds. It stands still while the VM is saved.
    clock: u64,
}

impl Schema for KvmVmState {
    const KIND: &'static str = "kvm-vm";
    const VERSION: u32 = 1;
}

/// Local APICs are saved with their vCPUs.
fn chips(config: &VmConfig) -> &'static [u32] {
    if config.interrupts == InterruptControllers::Full { &CHIPS } else { &[] }
}

pub(super) fn save(fd: &VmFd, config: &VmConfig) -> Result<Blob, Error> {
    let mut irqchips = Vec::new();
    for &chip_id in chips(config) {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        fd.get_irqchip(&mut chip).map_err(call(|| format!("read interrupt controller {chip_id}")))?;
        irqchips.push(chip);
    }
    let pit = config.pit.then(|| fd.get_pit2().map_err(call(|| "read the timer"))).transpose()?;
    let clock = fd.get_clock().map_err(call(|| "read the guest's clock"))?.clock;
    Blob::encode(&KvmVmState { irqchips, pit, clock }).map_err(|e| invalid("save the VM", e.to_string()))
}

pub(super) fn restore(fd: &VmFd, config: &VmConfig, blob: &Blob) -> Result<(), Error> {
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
    // Flags describe what was read; none is accepted here, and the host's own time is not in it.
    let clock = kvm_clock_data { clock: state.clock, ..Default::default() };
    fd.set_clock(&clock).map_err(call(|| "set the guest's clock"))
}
