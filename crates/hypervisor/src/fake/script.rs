use super::GuestCpu;

/// One step of a [`Script`]. Data is little endian; its length is the access's width.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields are the arguments of the `GuestCpu` methods
pub enum Step {
    /// IN; anything but `expect` fails the vCPU.
    In { port: u16, expect: Vec<u8> },
    /// OUT.
    Out { port: u16, data: Vec<u8> },
    /// A load; anything but `expect` fails the vCPU.
    Read { addr: u64, expect: Vec<u8> },
    /// A store.
    Write { addr: u64, data: Vec<u8> },
    /// HLT.
    Halt,
    /// Waits for an interrupt and takes it; any other than `gsi` fails the vCPU.
    Interrupt { gsi: u32 },
    /// Triple fault.
    Shutdown,
    /// Fails the vCPU, with this explanation.
    Error(String),
}

/// A guest as a list of steps; see [`FakeHypervisor::scripted`](super::FakeHypervisor::scripted).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script(Vec<Step>);

impl Script {
    /// A guest that halts at once.
    pub fn new() -> Self {
        Self::default()
    }
    /// Reads a port, and fails on anything but `expect` (1, 2 or 4 bytes).
    #[must_use]
    pub fn pio_in(self, port: u16, expect: &[u8]) -> Self {
        self.then(Step::In { port, expect: expect.to_vec() })
    }
    /// Writes 1, 2 or 4 bytes to a port.
    #[must_use]
    pub fn pio_out(self, port: u16, data: &[u8]) -> Self {
        self.then(Step::Out { port, data: data.to_vec() })
    }
    /// Reads 1 to 8 bytes from a guest-physical address, and fails on anything but `expect`.
    #[must_use]
    pub fn read(self, addr: u64, expect: &[u8]) -> Self {
        self.then(Step::Read { addr, expect: expect.to_vec() })
    }
    /// Writes 1 to 8 bytes to a guest-physical address.
    #[must_use]
    pub fn write(self, addr: u64, data: &[u8]) -> Self {
        self.then(Step::Write { addr, data: data.to_vec() })
    }
    /// Executes HLT.
    #[must_use]
    pub fn halt(self) -> Self {
        self.then(Step::Halt)
    }
    /// Waits for the interrupt `gsi`, and fails on any other.
    #[must_use]
    pub fn interrupt(self, gsi: u32) -> Self {
        self.then(Step::Interrupt { gsi })
    }
    /// Triple faults.
    #[must_use]
    pub fn shutdown(self) -> Self {
        self.then(Step::Shutdown)
    }
    /// Fails the vCPU: [`Vcpu::run`](crate::Vcpu::run) returns an error that says `why`.
    #[must_use]
    pub fn error(self, why: &str) -> Self {
        self.then(Step::Error(why.into()))
    }
    /// Adds any step.
    #[must_use]
    pub fn then(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    pub(super) fn run(&self, cpu: &mut GuestCpu) {
        for (number, step) in self.0.iter().enumerate() {
            let expected = |cpu: &mut GuestCpu, expect: &[u8], got: &[u8]| {
                if expect != got {
                    cpu.fail(&format!("script step {number}: expected {expect:02x?}, read {got:02x?}"));
                }
            };
            match step {
                Step::In { port, expect } => {
                    let mut data = vec![0; expect.len()];
                    cpu.pio_in(*port, &mut data);
                    expected(cpu, expect, &data);
                }
                Step::Out { port, data } => cpu.pio_out(*port, data),
                Step::Read { addr, expect } => {
                    let mut data = vec![0; expect.len()];
                    cpu.mmio_read(*addr, &mut data);
                    expected(cpu, expect, &data);
                }
                Step::Write { addr, data } => cpu.mmio_write(*addr, data),
                Step::Halt => cpu.halt(),
                Step::Interrupt { gsi } => {
                    let got = cpu.wait_interrupt();
                    if got != *gsi {
                        cpu.fail(&format!("script step {number}: expected interrupt {gsi}, took {got}"));
                    }
                }
                Step::Shutdown => cpu.shutdown(),
                Step::Error(why) => cpu.fail(why),
            }
        }
    }
}
