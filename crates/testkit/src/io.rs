use drystone_hypervisor::IoHandler;
use std::collections::BTreeMap;

/// One access of a guest that left it. Data is little endian and as wide as the access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// IN from a port, with the answer.
    In(u16, Vec<u8>),
    /// OUT to a port.
    Out(u16, Vec<u8>),
    /// A load from a guest-physical address, with the answer.
    Load(u64, Vec<u8>),
    /// A store to a guest-physical address.
    Store(u64, Vec<u8>),
    /// RDMSR, with the answer.
    ReadMsr(u32, Option<u64>),
    /// WRMSR, and whether it was accepted.
    WriteMsr(u32, u64, bool),
}

/// An [`IoHandler`] that writes everything down, and answers reads with 0xa0, 0xa1, … so that every byte differs.
#[derive(Debug, Default)]
pub struct IoLog {
    /// The model-specific registers that it has, with their values.
    pub msrs: BTreeMap<u32, u64>,
    accesses: Vec<Access>,
    answers: u8,
}

impl IoLog {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// Everything since the last call.
    pub fn take(&mut self) -> Vec<Access> {
        std::mem::take(&mut self.accesses)
    }
    /// The bytes written to `port` since the log was last taken.
    pub fn written(&self, port: u16) -> Vec<u8> {
        let of_port = |a: &Access| match a {
            Access::Out(p, data) if *p == port => data.clone(),
            _ => vec![],
        };
        self.accesses.iter().flat_map(of_port).collect()
    }
    fn answer(&mut self, data: &mut [u8]) -> Vec<u8> {
        for byte in data.iter_mut() {
            *byte = 0xa0_u8.wrapping_add(self.answers);
            self.answers = self.answers.wrapping_add(1);
        }
        data.to_vec()
    }
}

impl IoHandler for IoLog {
    fn pio_read(&mut self, port: u16, data: &mut [u8]) {
        let data = self.answer(data);
        self.accesses.push(Access::In(port, data));
    }
    fn pio_write(&mut self, port: u16, data: &[u8]) {
        self.accesses.push(Access::Out(port, data.to_vec()));
    }
    fn mmio_read(&mut self, addr: u64, data: &mut [u8]) {
        let data = self.answer(data);
        self.accesses.push(Access::Load(addr, data));
    }
    fn mmio_write(&mut self, addr: u64, data: &[u8]) {
        self.accesses.push(Access::Store(addr, data.to_vec()));
    }
    fn rdmsr(&mut self, index: u32) -> Option<u64> {
        let value = self.msrs.get(&index).copied();
        self.accesses.push(Access::ReadMsr(index, value));
        value
    }
    fn wrmsr(&mut self, index: u32, value: u64) -> bool {
        let accepted = self.msrs.get_mut(&index).map(|v| *v = value).is_some();
        self.accesses.push(Access::WriteMsr(index, value, accepted));
        accepted
    }
}
