//! Any table of a host and any wishes: what a guest sees is coherent, and nothing that the host does not have.

use super::input::Input;
use drystone_hypervisor::{Cpuid, CpuidEntry};
use drystone_vcpu::cpuid::{self, Baseline, CpuModel, CpuSummary, FeatureBit, FeatureSettings, Topology};
use std::collections::BTreeSet;

const ENTRIES: usize = 128;
/// Leaves that mean something, so that a fuzzer need not guess them.
const LEAVES: [u32; 24] = [
    0,
    1,
    2,
    4,
    6,
    7,
    0xa,
    0xb,
    0xd,
    0x14,
    0x1d,
    0x1e,
    0x1f,
    0x24,
    0x4000_0000,
    0x4000_0001,
    0x8000_0000,
    0x8000_0001,
    0x8000_0007,
    0x8000_0008,
    0x8000_000a,
    0x8000_001d,
    0x8000_001e,
    0x8000_0021,
];
/// What says that there is a hypervisor, or how vCPUs are grouped.
const NOT_THE_HOSTS: [&str; 4] = ["hypervisor", "ht", "cmp_legacy", "topoext"];

/// Reads a model and a host's table from `data`: baseline, sockets, cores, threads, a length and so many letters of
/// settings, then entries.
///
/// # Panics
/// If a guest sees a feature that its host lacks, or one without what it needs; if an answer is there twice; if the
/// guest's table, taken as a host's, gives another guest; if settings or a summary are not what was read.
pub fn cpuid(data: &[u8]) {
    let mut input = Input::new(data);
    let baseline = Baseline::ALL[usize::from(input.u8()) % Baseline::ALL.len()];
    let [sockets, cores, threads] = [input.u8(), input.u8(), input.u8()].map(|n| u32::from(n % 8) + 1);
    let letters = usize::from(input.u8());
    let settings = settings(&String::from_utf8_lossy(input.take(letters)));
    let host = table(&mut input);
    let _ = CpuSummary::of(&host);
    let Ok(topology) = Topology::new(sockets, cores, threads) else { return };
    let mut model = CpuModel::with_topology(topology);
    (model.baseline, model.features) = (baseline, settings);
    let Ok(cpu) = model.on(&host) else { return };
    let last = topology.apic_ids().last().expect("a vCPU");
    for id in [0, last] {
        let guest = cpu.for_vcpu(id);
        check(&host, &guest);
        assert_eq!(cpu.for_vcpu(id), guest);
        let again = model.on(&guest).expect("a guest's table carries its own model");
        assert_eq!(again.for_vcpu(id), guest, "a fixed point");
    }
    for feature in baseline.required() {
        let off = model.features.iter().any(|(_, s)| s == cpuid::Setting::Off);
        assert!(off || cpu.has(feature.name), "{}", feature.name);
    }
    assert!(cpuid::Comparison::of(&host, &host).is_equal());
    let _ = cpuid::suggest(&host, &cpu.for_vcpu(0));
}

fn settings(text: &str) -> FeatureSettings {
    let Ok(settings) = text.parse::<FeatureSettings>() else { return FeatureSettings::new() };
    assert_eq!(settings.to_string().parse::<FeatureSettings>().expect("what was written"), settings);
    settings
}

fn table(input: &mut Input<'_>) -> Cpuid {
    let mut table = Cpuid::default();
    while !input.is_empty() && table.0.len() < ENTRIES {
        let selector = usize::from(input.u8());
        let leaf = LEAVES.get(selector).copied().unwrap_or_else(|| input.u32());
        let subleaf = Some(input.u8()).filter(|n| *n != 0xff).map(u32::from);
        let [eax, ebx, ecx, edx] = [input.u32(), input.u32(), input.u32(), input.u32()];
        table.0.push(CpuidEntry { leaf, subleaf, eax, ebx, ecx, edx });
    }
    table
}

fn check(host: &Cpuid, guest: &Cpuid) {
    let exceptions: BTreeSet<FeatureBit> =
        NOT_THE_HOSTS.iter().map(|name| name.parse().expect("a feature")).collect();
    let (offered, seen) = (CpuSummary::of(host), CpuSummary::of(guest));
    let beyond: Vec<_> =
        seen.features.difference(&offered.features).filter(|f| !exceptions.contains(f)).collect();
    assert!(beyond.is_empty(), "beyond the host: {beyond:?}");
    assert!(
        seen.xsave_components.iter().all(|n| offered.xsave_components.contains(n)),
        "state beyond the host"
    );
    assert_eq!(cpuid::unmet(guest), Vec::<&cpuid::Feature>::new());
    let mut keys: Vec<_> = guest.0.iter().map(|e| (e.leaf, e.subleaf)).collect();
    keys.sort_unstable();
    let all = keys.len();
    keys.dedup();
    assert_eq!(keys.len(), all, "an answer is there twice");
}
