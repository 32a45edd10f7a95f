use super::MachineError;
use super::image::Describe;
use super::pci::Pci;
use crate::config::PciConfig;
use crate::monitor::Handle;
use acpi_tables::Aml;
use drystone_bus::{Bus, SystemClock};
use drystone_chipset::{
    AcpiPower, AcpiPowerConfig, Ged, GedConfig, I8042, Identity, KeyboardError, PowerButton, PvPanic, Rtc,
    RtcConfig, Serial, SerialConfig, SerialInput, SerialOutput, VmGenId,
};
use drystone_hypervisor::{Guard, Vm};
use drystone_lifecycle::{Orchestrator, Stage};
use drystone_loader::AcpiConfig;
use drystone_loader::acpi::{
    AmlPart, InterruptOverride, Polarity, Register, ResetRegister, SleepRegisters, Trigger,
};
use drystone_loader::map;
use drystone_memory::{Layout, RamView};
use rustix::rand::GetRandomFlags;
use std::ops::Range;
use std::sync::Arc;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// The host's ends of the guest's serial console.
pub struct Console {
    /// Where bytes for the guest go in.
    pub input: SerialInput,
    /// Where bytes from the guest come out; `Closed` once the machine is gone.
    pub output: SerialOutput,
}

/// The machine's devices, on their buses.
pub(super) struct Devices {
    pub(super) bus: Arc<Bus>,
    serial: Arc<Serial>,
    rtc: Arc<Rtc>,
    i8042: Arc<I8042>,
    power: Arc<AcpiPower>,
    ged: Arc<Ged>,
    button: Arc<PowerButton>,
    pvpanic: Arc<PvPanic>,
    generation: Arc<VmGenId<RamView>>,
    pub(super) pci: Arc<Pci>,
}

impl Devices {
    /// Makes them, and wires their interrupts to `vm` for as long as the guards live.
    pub(super) fn new(
        vm: &dyn Vm,
        layout: &Layout,
        memory: RamView,
        pci: &PciConfig,
        identity: Identity,
        handle: &Handle,
    ) -> Result<(Self, Vec<Guard>, Console), MachineError> {
        let (serial_config, ged_config) = (SerialConfig::default(), GedConfig::default());
        let (serial_event, serial_wire) = wire(vm, serial_config.irq)?;
        let (ged_event, ged_wire) = wire(vm, ged_config.gsi)?;
        let (keyboard_event, keyboard_wire) = wire(vm, I8042::IRQ)?;

        let serial = Serial::build(serial_config, Arc::new(serial_event))?;
        let console = Console { input: serial.input, output: serial.output };
        // Whatever tells the guest of something adds its event here, before the device is shared.
        let mut ged = Ged::new(ged_config, Arc::new(ged_event));
        let button = Arc::new(PowerButton::new(&mut ged)?);
        let generation =
            VmGenId::new(map::GENERATION_ID, memory, &mut ged, Box::new(random))?.with_identity(identity);
        let bus = Arc::<Bus>::default();
        let pci = Pci::new(vm, layout, pci, bus.clone(), &mut ged, handle)?;
        let devices = Self {
            pci: Arc::new(pci),
            bus,
            serial: Arc::new(serial.serial),
            rtc: Arc::new(Rtc::new(&RtcConfig::default(), Arc::new(SystemClock::new()))),
            i8042: Arc::new(I8042::new(Arc::new(keyboard_event))),
            power: Arc::new(AcpiPower::new(AcpiPowerConfig::default())),
            ged: Arc::new(ged),
            button,
            pvpanic: Arc::new(PvPanic::new()),
            generation: Arc::new(generation),
        };
        devices.put_on_bus()?;
        Ok((devices, vec![serial_wire, ged_wire, keyboard_wire], console))
    }

    fn put_on_bus(&self) -> Result<(), MachineError> {
        let pio = &self.bus.pio;
        pio.insert(self.serial.config().base.into(), Serial::LEN, self.serial.clone())?;
        pio.insert(Rtc::BASE.into(), Rtc::LEN, self.rtc.clone())?;
        pio.insert(I8042::DATA_PORT.into(), 1, Arc::new(self.i8042.data_port()))?;
        pio.insert(I8042::COMMAND_PORT.into(), 1, Arc::new(self.i8042.command_port()))?;
        pio.insert(self.power.config().base.into(), AcpiPower::LEN, self.power.clone())?;
        pio.insert(self.ged.config().base.into(), Ged::LEN, self.ged.clone())?;
        pio.insert(PvPanic::PORT.into(), PvPanic::LEN, self.pvpanic.clone())?;
        Ok(())
    }

    /// Hands them to the orchestrator, in the order of pausing.
    pub(super) fn register(&self, orchestrator: &mut Orchestrator) -> Result<(), MachineError> {
        orchestrator.add(Stage::Devices, "serial0", self.serial.clone())?;
        orchestrator.add(Stage::Devices, "rtc", self.rtc.clone())?;
        orchestrator.add(Stage::Devices, "i8042", self.i8042.clone())?;
        orchestrator.add(Stage::Devices, "acpi-power", self.power.clone())?;
        // It speaks through the event device, so it is restored after that, and paused before.
        orchestrator.add(Stage::Devices, "vmgenid", self.generation.clone())?;
        orchestrator.add(Stage::Devices, "ged", self.ged.clone())?;
        orchestrator.add(Stage::Devices, "pvpanic", self.pvpanic.clone())?;
        self.pci.register(orchestrator)
    }

    /// Addresses that the guest's memory map lists as reserved.
    pub(super) fn reserved(&self) -> Vec<Range<u64>> {
        vec![self.pci.reserved()]
    }

    /// How the guest is told of them, and of `cpus` processors.
    pub(super) fn describe(&self, others: Vec<Arc<dyn Aml + Send + Sync>>, apic_ids: Vec<u32>) -> Describe {
        let power = self.power.clone();
        // PCI stands before the event device, which calls a method of it.
        let [bridge, hot_plug] = self.pci.aml();
        let aml: Vec<Arc<dyn Aml + Send + Sync>> = vec![
            bridge,
            hot_plug,
            self.serial.clone(),
            self.rtc.clone(),
            self.i8042.clone(),
            self.power.clone(),
            self.button.clone(),
            self.ged.clone(),
            self.pvpanic.clone(),
            self.generation.clone(),
        ];
        let mcfg = self.pci.mcfg();
        Box::new(move |take| {
            let aml: Vec<_> = aml.iter().chain(&others).map(|part| AmlPart::Root(part.as_ref())).collect();
            let registers = power.registers();
            take(&AcpiConfig {
                apic_ids: &apic_ids,
                // The event device has the line that on a PC is level-triggered; ours is an edge, as its AML says.
                overrides: &[InterruptOverride {
                    isa_irq: 9,
                    gsi: 9,
                    polarity: Polarity::High,
                    trigger: Trigger::Edge,
                }],
                dual_8259: true,
                reset: Some(ResetRegister {
                    register: Register::Port(registers.reset),
                    value: registers.reset_value,
                }),
                sleep: Some(SleepRegisters {
                    control: Register::Port(registers.sleep_control),
                    status: Register::Port(registers.sleep_status),
                }),
                cmos_rtc: true,
                i8042: true,
                legacy_devices: true,
                aml: &aml,
                tables: &[&mcfg],
            });
        })
    }

    /// Puts into guest memory what a guest that boots finds there.
    pub(super) fn write_memory(&self) -> Result<(), MachineError> {
        Ok(self.generation.write()?)
    }

    pub(super) fn ctrl_alt_del(&self) -> Result<(), KeyboardError> {
        self.i8042.ctrl_alt_del()
    }

    pub(super) fn press_power_button(&self) {
        self.button.press();
    }
}

impl Drop for Devices {
    /// The console's ends may outlive the machine: they must not wait for a guest that is gone.
    fn drop(&mut self) {
        self.serial.finish();
    }
}

/// 16 random bytes of the host's.
fn random() -> std::io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    // So few bytes are given whole or not at all (getrandom(2)).
    rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}

/// An event that pulses an interrupt line.
pub(super) fn wire(vm: &dyn Vm, line: u32) -> Result<(EventFd, Guard), MachineError> {
    let event =
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(|cause| MachineError::Event { line, cause })?;
    let guard = vm.register_irqfd(&event, line)?;
    Ok((event, guard))
}

#[cfg(test)]
mod tests;
