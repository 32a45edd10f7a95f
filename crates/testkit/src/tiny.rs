use crate::Guest;
use drystone_hypervisor::fake::FakeHypervisor;
use drystone_hypervisor::{
    DescriptorTable, Exit, Guard, Hypervisor, IoHandler, MapOptions, Regs, Segment, Sregs, Vcpu, Vm, VmConfig,
};
use drystone_memory::{Backed, GuestRam, Layout, RamConfig, RamView};
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

/// How much RAM a tiny VM has, in bytes from address 0.
pub const RAM: u64 = 1 << 20;

const GDT: u64 = 0x500;
/// Interrupt descriptor tables, one a vCPU.
const IDTS: u64 = 0x8000;
const PAGE_TABLES: u64 = 0x2000;
/// Code of vCPU 0; each further one has 64 KiB of its own, with the stack at the end.
const CODE: u64 = 0x1_0000;
const CODE_SIZE: u64 = 0x1_0000;

const CODE_SELECTOR: u16 = 8;
const DATA_SELECTOR: u16 = 16;

/// The hypervisor under test: the fake, which runs a guest's closure, or another, which runs its machine code.
#[derive(Clone)]
pub enum Backend {
    /// A fake hypervisor is made for each VM.
    Fake,
    /// The same hypervisor for all.
    Real(Arc<dyn Hypervisor>),
}

impl Backend {
    /// The hypervisor, whose vCPUs run `guests` if it is the fake.
    pub fn host(&self, guests: &[Guest]) -> Arc<dyn Hypervisor> {
        match self {
            Self::Real(host) => host.clone(),
            Self::Fake => {
                let guests = guests.to_vec();
                Arc::new(FakeHypervisor::with_programs(move |id| {
                    let fake = guests[id as usize].fake.clone();
                    Box::new(move |cpu| fake(cpu))
                }))
            }
        }
    }
}

/// A virtual machine with [`RAM`] and one guest a vCPU, ready to run.
pub struct TinyVm {
    /// Its vCPUs, by number.
    pub vcpus: Vec<Box<dyn Vcpu>>,
    /// The VM.
    pub vm: Arc<dyn Vm>,
    /// What keeps its RAM mapped; `None` once it has been taken.
    pub mapped: Option<Guard>,
    ram: GuestRam,
}

impl TinyVm {
    /// One vCPU.
    pub fn new(backend: &Backend, config: VmConfig, guest: Guest) -> Self {
        Self::with_guests(backend, config, &[guest])
    }

    /// A vCPU for each guest. Its RAM has a dirty log.
    pub fn with_guests(backend: &Backend, config: VmConfig, guests: &[Guest]) -> Self {
        let host = backend.host(guests);
        let vm = host.create_vm(&config).unwrap();
        let layout = Layout::new(RAM, 36).unwrap();
        let ram = GuestRam::new(&layout, &RamConfig::default()).unwrap();
        let region: Arc<dyn Backed> = ram.regions().remove(0);
        let mapped = Some(vm.map_memory(region, MapOptions::log_dirty()).unwrap());
        let mut tiny = Self { vcpus: Vec::new(), vm, mapped, ram };
        tiny.write_page_tables();
        for (id, guest) in (0..).zip(guests) {
            let mut vcpu = tiny.vm.create_vcpu(id).unwrap();
            vcpu.set_cpuid(&host.supported_cpuid().unwrap()).unwrap();
            tiny.vcpus.push(vcpu);
            tiny.load(id, guest);
        }
        tiny
    }

    /// Puts `guest` into RAM and sets the registers of the vCPU numbered `id` to its start.
    pub fn load(&mut self, id: u32, guest: &Guest) {
        let base = CODE + u64::from(id) * CODE_SIZE;
        self.write(base, guest.code.bytes());
        for (addr, bytes) in &guest.data {
            self.write(*addr, bytes);
        }
        let mut idt = DescriptorTable { base: IDTS + u64::from(id) * 0x1000, limit: 0 };
        for &(vector, offset) in guest.interrupts.iter().flat_map(|i| &i.handlers) {
            self.write(idt.base + u64::from(vector) * 16, &interrupt_gate(base + offset as u64));
            idt.limit = 0xfff;
        }
        let vcpu = self.vcpus[id as usize].as_mut();
        let sregs = long_mode(vcpu.sregs().unwrap(), idt);
        vcpu.set_sregs(&sregs).unwrap();
        let rsp = base + CODE_SIZE;
        vcpu.set_regs(&Regs { rip: base, rsp, rflags: 2, ..guest.regs }).unwrap();
    }

    /// Guest memory, as devices see it.
    pub fn ram(&self) -> RamView {
        self.ram.view()
    }

    /// The host memory behind it, to map it again.
    pub fn region(&self) -> Arc<dyn Backed> {
        self.ram.regions().remove(0)
    }

    /// Writes guest memory from outside.
    pub fn write(&self, addr: u64, bytes: &[u8]) {
        self.ram.view().memory().write_slice(bytes, GuestAddress(addr)).unwrap();
    }

    /// Reads guest memory from outside.
    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.view().memory().read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }

    /// vCPU 0.
    pub fn vcpu(&mut self) -> &mut dyn Vcpu {
        self.vcpus[0].as_mut()
    }

    /// Runs vCPU 0 until something else than I/O happens.
    pub fn run_through_io(&mut self, io: &mut dyn IoHandler) -> Exit {
        run_through_io(self.vcpus[0].as_mut(), io)
    }

    /// Changes the registers of vCPU 0.
    pub fn change_regs(&mut self, change: impl FnOnce(&mut Regs)) {
        let mut regs = self.vcpus[0].regs().unwrap();
        change(&mut regs);
        self.vcpus[0].set_regs(&regs).unwrap();
    }

    /// 4 GiB one to one, in pages of 2 MiB (Intel SDM volume 3, 5.5.4), and a GDT of a code and a data segment.
    fn write_page_tables(&self) {
        const PRESENT_WRITABLE: u64 = 3;
        const LARGE: u64 = 1 << 7;
        let entry = |addr: u64, value: u64| self.write(addr, &value.to_le_bytes());
        let (pdpt, directories) = (PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000);
        entry(PAGE_TABLES, pdpt | PRESENT_WRITABLE);
        for gib in 0..4 {
            entry(pdpt + gib * 8, (directories + gib * 0x1000) | PRESENT_WRITABLE);
        }
        for page in 0..4 * 512 {
            entry(directories + page * 8, (page << 21) | LARGE | PRESENT_WRITABLE);
        }
        entry(GDT + u64::from(CODE_SELECTOR), 0x00af_9b00_0000_ffff);
        entry(GDT + u64::from(DATA_SELECTOR), 0x00cf_9300_0000_ffff);
    }
}

/// Runs a vCPU until something else than I/O happens.
pub fn run_through_io(vcpu: &mut dyn Vcpu, io: &mut dyn IoHandler) -> Exit {
    for _ in 0..100_000 {
        match vcpu.run(io).unwrap() {
            Exit::Io => {}
            exit => return exit,
        }
    }
    panic!("the guest does not stop doing I/O");
}

/// Present, privilege level 0, interrupts off in the handler (Intel SDM volume 3, 7.14.1).
fn interrupt_gate(handler: u64) -> [u8; 16] {
    let [low, rest] = [handler & 0xffff, handler >> 16];
    let first = low | u64::from(CODE_SELECTOR) << 16 | 0x8e00 << 32 | (rest & 0xffff) << 48;
    (u128::from(first) | u128::from(handler >> 32) << 64).to_le_bytes()
}

fn long_mode(sregs: Sregs, idt: DescriptorTable) -> Sregs {
    let flat = Segment { limit: u32::MAX, present: true, s: true, g: true, ..Segment::default() };
    let code = Segment { selector: CODE_SELECTOR, kind: 11, l: true, ..flat };
    let data = Segment { selector: DATA_SELECTOR, kind: 3, db: true, ..flat };
    Sregs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        gdt: DescriptorTable { base: GDT, limit: 0x17 },
        idt,
        cr0: 0x8000_0031, // paging, numeric error, extension type, protection
        cr3: PAGE_TABLES,
        cr4: 0x620,  // SSE exceptions, FXSAVE, physical address extension
        efer: 0x500, // long mode, enabled and active
        ..sregs
    }
}
