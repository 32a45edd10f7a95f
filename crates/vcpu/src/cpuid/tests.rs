use super::*;
use drystone_hypervisor::CpuidEntry;

mod recorded;

fn entry(leaf: u32, subleaf: Option<u32>, [eax, ebx, ecx, edx]: [u32; 4]) -> CpuidEntry {
    CpuidEntry { leaf, subleaf, eax, ebx, ecx, edx }
}

const ALL: u32 = u32::MAX;

/// A host of 8 cores of 2 threads that offers every bit that there is.
fn intel() -> Cpuid {
    Cpuid(vec![
        entry(0, None, [0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]), // GenuineIntel
        entry(1, None, [0x000c_06f2, 0x0710_0800, ALL, ALL]),
        entry(2, None, [0x00fe_ff01, 0xf0, 0, 0]),
        entry(3, None, [0, 0, 7, 7]),
        entry(4, Some(0), [0xfc00_4121, 0x02c0_003f, 63, 0]),
        entry(4, Some(1), [0xfc00_4122, 0x01c0_003f, 63, 0]),
        entry(4, Some(2), [0xfc00_4143, 0x03c0_003f, 2047, 0]),
        entry(4, Some(3), [0xfc3f_c163, 0x0380_003f, 0x1dfff, 4]),
        entry(4, Some(4), [0, 0, 0, 0]),
        entry(5, None, [64, 64, 3, 0x2020]),
        entry(6, None, [ALL; 4]),
        entry(7, Some(0), [2, ALL, ALL, ALL]),
        entry(7, Some(1), [0x1c30, 0, 0, 0x4000]),
        entry(7, Some(2), [0, 0, 0, 0x1f]),
        entry(0xa, None, [0x0730_0805, 0, 7, 0x8603]),
        entry(0xb, Some(0), [1, 2, 0x100, 7]),
        entry(0xb, Some(1), [4, 16, 0x201, 7]),
        entry(0xb, Some(2), [0, 0, 2, 7]),
        entry(0xd, Some(0), [0x6_02ff, 0x240, 0x2b00, 0]),
        entry(0xd, Some(1), [0x1f, 0x240, 0x1800, 0]),
        entry(0xd, Some(2), [0x100, 0x240, 0, 0]),
        entry(0xd, Some(3), [0x40, 0x3c0, 0, 0]),
        entry(0xd, Some(4), [0x40, 0x400, 0, 0]),
        entry(0xd, Some(5), [0x40, 0x440, 0, 0]),
        entry(0xd, Some(6), [0x200, 0x480, 0, 0]),
        entry(0xd, Some(7), [0x400, 0x680, 0, 0]),
        entry(0xd, Some(9), [8, 0xa80, 0, 0]),
        entry(0xd, Some(11), [0x10, 0, 1, 0]),
        entry(0xd, Some(12), [0x18, 0, 1, 0]),
        entry(0xd, Some(17), [0x40, 0xac0, 2, 0]),
        entry(0xd, Some(18), [0x2000, 0xb00, 6, 0]),
        entry(0x12, Some(0), [1, 1, 1, 1]),
        entry(0x14, Some(0), [1, 0xf, 7, 0]),
        entry(0x1d, Some(0), [1, 0, 0, 0]),
        entry(0x1f, Some(0), [1, 2, 0x100, 7]),
        entry(0x1f, Some(1), [4, 16, 0x201, 7]),
        entry(0x1f, Some(2), [5, 32, 0x502, 7]),
        entry(0x1f, Some(3), [0, 0, 3, 7]),
        entry(0x4000_0000, None, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        entry(0x4000_0001, None, [0x0100_7efb, 0, 0, 0]),
        entry(0x8000_0000, None, [0x8000_0008, 0, 0, 0]),
        entry(0x8000_0001, None, [0, 0, 0x121, 0x2c10_0800]),
        entry(0x8000_0002, None, [0x6579_6c53, 1, 2, 3]),
        entry(0x8000_0006, None, [0, 0, 0x0800_7040, 0]),
        entry(0x8000_0007, None, [0, 0, 0, 0x100]),
        entry(0x8000_0008, None, [0x3934, 0, 0, 0]),
    ])
}

/// A host of the Zen family, likewise.
fn amd() -> Cpuid {
    Cpuid(vec![
        entry(0, None, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]), // AuthenticAMD
        entry(1, None, [0x00a0_0f11, 0x0710_0800, ALL, ALL]),
        entry(6, None, [4, 0, 1, 0]),
        entry(7, Some(0), [0, 0x219c_91a9, 0x0040_0798, 0x10]),
        entry(0xb, Some(0), [1, 2, 0x100, 7]),
        entry(0xb, Some(1), [4, 16, 0x201, 7]),
        entry(0xd, Some(0), [0x207, 0x240, 0x988, 0]),
        entry(0xd, Some(1), [0xf, 0x240, 0x1800, 0]),
        entry(0xd, Some(2), [0x100, 0x240, 0, 0]),
        entry(0xd, Some(9), [8, 0x980, 0, 0]),
        entry(0xd, Some(11), [0x10, 0, 1, 0]),
        entry(0xd, Some(12), [0x18, 0, 1, 0]),
        entry(0x4000_0000, None, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        entry(0x4000_0001, None, [0x0100_7efb, 0, 0, 0]),
        entry(0x8000_0000, None, [0x8000_0023, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        entry(0x8000_0001, None, [0x00a0_0f11, 0x4000_0000, ALL, 0x2fd3_fbff]),
        entry(0x8000_0002, None, [0x2044_4d41, 1, 2, 3]),
        entry(0x8000_0007, None, [0, 0x3b, 0, 0x799]),
        entry(0x8000_0008, None, [0x0000_3030, 0x111e_f657, 0x700f, 0x1_0000]),
        entry(0x8000_000a, None, [1, 0x8000, 0, 0x119b_9cff]),
        entry(0x8000_001b, None, [0x3ff, 0, 0, 0]),
        entry(0x8000_001d, Some(0), [0x4121, 0x01c0_003f, 63, 0]),
        entry(0x8000_001d, Some(1), [0x4122, 0x01c0_003f, 63, 0]),
        entry(0x8000_001d, Some(2), [0x4143, 0x01c0_003f, 1023, 2]),
        entry(0x8000_001d, Some(3), [0x0003_c163, 0x03c0_003f, 0x7fff, 1]),
        entry(0x8000_001d, Some(4), [0, 0, 0, 0]),
        entry(0x8000_001e, None, [7, 0x103, 0, 0]),
        entry(0x8000_001f, None, [0x1_780f, 0x173, 0x1fd, 1]),
        entry(0x8000_0022, None, [1, 0x10, 0, 0]),
        entry(0x8000_0026, Some(0), [1, 2, 0x100, 7]),
    ])
}

fn model(sockets: u32, cores: u32, threads: u32) -> CpuModel {
    CpuModel::with_topology(Topology::new(sockets, cores, threads).unwrap())
}

/// What vCPU `id` of `model` sees on `host`.
fn seen(model: &CpuModel, host: &Cpuid, id: u32) -> Cpuid {
    model.on(host).unwrap().for_vcpu(id)
}

fn get(cpuid: &Cpuid, leaf: u32, subleaf: u32) -> CpuidEntry {
    cpuid.get(leaf, subleaf).copied().unwrap_or_default()
}

/// Thread, core and socket of a vCPU, as a kernel finds them: from the extended leaf's shifts.
fn decode(cpuid: &Cpuid, leaf: u32) -> (u32, u32, u32) {
    let (smt, core) = (get(cpuid, leaf, 0), get(cpuid, leaf, 1));
    assert_eq!((smt.ecx, core.ecx), (0x100, 0x201), "a level of threads, a level of cores");
    let end = get(cpuid, leaf, 2);
    assert_eq!((end.eax, end.ebx, end.ecx >> 8), (0, 0, 0));
    assert!(smt.edx == core.edx && core.edx == end.edx, "one APIC ID on all levels");
    assert!(smt.ebx <= 1 << smt.eax && core.ebx <= 1 << core.eax);
    let field = |from: u32, to: u32| smt.edx >> from & ((1 << (to - from)) - 1);
    (field(0, smt.eax), field(smt.eax, core.eax), smt.edx >> core.eax)
}

const SHAPES: [(u32, u32, u32); 9] =
    [(1, 1, 1), (1, 2, 1), (1, 4, 1), (1, 3, 1), (1, 4, 2), (2, 3, 1), (2, 3, 2), (3, 5, 2), (1, 200, 1)];

#[test]
fn every_vcpu_finds_its_place_and_all_leaves_agree() {
    for (sockets, cores, threads) in SHAPES {
        let model = model(sockets, cores, threads);
        let ids: Vec<u32> = model.topology.apic_ids().collect();
        assert_eq!(ids.len() as u32, sockets * cores * threads);
        let mut places = Vec::new();
        for &id in &ids {
            let (on_intel, on_amd) = (seen(&model, &intel(), id), seen(&model, &amd(), id));
            for cpuid in [&on_intel, &on_amd] {
                assert_eq!(get(cpuid, 1, 0).ebx >> 24, id, "initial APIC ID");
                assert_eq!(get(cpuid, 0xb, 0).edx, id);
                assert_eq!(get(cpuid, 0xb, 0).ebx, threads);
                assert_eq!(get(cpuid, 0xb, 1).ebx, threads * cores);
            }
            assert_eq!(decode(&on_intel, 0xb), decode(&on_intel, 0x1f));
            assert_eq!(decode(&on_intel, 0xb), decode(&on_amd, 0xb));
            let place = decode(&on_amd, 0xb);
            let zen = get(&on_amd, 0x8000_001e, 0);
            assert_eq!((zen.eax, zen.ebx & 0xff, zen.ebx >> 8 & 0xff), (id, place.1, threads - 1));
            assert_eq!(zen.ecx, place.2, "one node a socket");
            places.push((place.2, place.1, place.0));
        }
        let all =
            (0..sockets).flat_map(|s| (0..cores).flat_map(move |c| (0..threads).map(move |t| (s, c, t))));
        assert_eq!(places, all.collect::<Vec<_>>(), "{sockets}x{cores}x{threads}");
    }
}

#[test]
fn a_single_processor_is_one() {
    for host in [intel(), amd()] {
        let cpuid = seen(&CpuModel::new(1).unwrap(), &host, 0);
        let leaf = get(&cpuid, 1, 0);
        assert_eq!((leaf.edx >> 28 & 1, leaf.ebx >> 16), (0, 1), "no HTT, one logical processor");
        assert_eq!(get(&cpuid, 0xb, 1), entry(0xb, Some(1), [0, 1, 0x201, 0]));
    }
    let cpuid = seen(&CpuModel::new(1).unwrap(), &amd(), 0);
    assert_eq!(get(&cpuid, 0x8000_0001, 0).ecx & 2, 0, "no CMP_LEGACY");
    assert_eq!(get(&cpuid, 0x8000_0008, 0).ecx, 0);
}

#[test]
fn the_older_topology_fields_say_the_same() {
    // 6 threads in 3 bits.
    let model = model(2, 3, 2);
    let cpuid = seen(&model, &intel(), 8);
    assert_eq!(get(&cpuid, 1, 0).ebx, 0x0808_0800, "ID 8, 8 addressable, CLFLUSH and brand kept");
    assert_eq!(get(&cpuid, 1, 0).edx >> 28 & 1, 1, "HTT");
    let caches: Vec<u32> = (0..5).map(|i| get(&cpuid, 4, i).eax).collect();
    // Cores 4-1 in 31:26; L1 and L2 shared by 2 IDs, L3 by 8; type, level and flags kept.
    assert_eq!(caches, [0x0c00_4121, 0x0c00_4122, 0x0c00_4143, 0x0c01_c163, 0]);
    assert_eq!(get(&cpuid, 4, 3).ecx, 0x1dfff, "size kept");

    let cpuid = seen(&model, &amd(), 8);
    assert_eq!(get(&cpuid, 0x8000_0008, 0).ecx, 0x3005, "6 threads, 3 bits");
    assert_eq!(get(&cpuid, 0x8000_0008, 0).eax, 0x3030, "address sizes kept");
    assert_eq!(get(&cpuid, 0x8000_0001, 0).ecx & 2, 2, "CMP_LEGACY");
    let caches: Vec<u32> = (0..5).map(|i| get(&cpuid, 0x8000_001d, i).eax).collect();
    assert_eq!(caches, [0x4121, 0x4122, 0x4143, 0x1c163, 0]);
    assert!(cpuid.get(0x8000_0026, 0).is_none());
    // More cores than the field holds.
    let cpuid = seen(&CpuModel::new(200).unwrap(), &intel(), 0);
    assert_eq!(get(&cpuid, 4, 0).eax, 0xfc00_0121);
    assert_eq!(get(&cpuid, 1, 0).ebx >> 16 & 0xff, 255);
}

#[test]
fn leaves_beyond_the_hosts_last_are_not_invented() {
    let mut host = intel();
    host.get_mut(0, 0).unwrap().eax = 0xd;
    host.0.retain(|e| e.leaf != 0x1f);
    let cpuid = seen(&CpuModel::new(2).unwrap(), &host, 1);
    assert!(cpuid.get(0xb, 0).is_some() && cpuid.get(0x1f, 0).is_none());
    host.get_mut(0, 0).unwrap().eax = 0xa;
    assert!(seen(&CpuModel::new(2).unwrap(), &host, 1).get(0xb, 0).is_none());

    // Nothing at all: no panic.
    assert!(seen(&CpuModel::new(2).unwrap(), &Cpuid::default(), 1).0.is_empty());
}

/// A host that says of caches only what the oldest processors say: 64 KiB of two ways for data, 32 KiB that are fully associative for
/// code, 512 KiB of 16 ways, 8 MiB of 64 ways.
fn amd_without_extensions() -> Cpuid {
    let mut host = amd();
    host.0.retain(|e| e.leaf <= 0x8000_000a);
    host.get_mut(0x8000_0000, 0).unwrap().eax = 0x8000_000a;
    host.get_mut(0x8000_0001, 0).unwrap().ecx &= !(1 << 22);
    host.0.push(entry(0x8000_0005, None, [0, 0, 0x4002_0140, 0x20ff_0140]));
    host.0.push(entry(0x8000_0006, None, [0, 0, 0x0200_8140, 0x0040_c140]));
    host.0.push(entry(0x8000_001d, Some(0), [0; 4]));
    host
}

#[test]
fn amds_topology_extensions_are_there_on_any_host() {
    let model = model(2, 3, 2);
    for (n, id) in (0..).zip(model.topology.apic_ids()) {
        let cpuid = seen(&model, &amd_without_extensions(), id);
        assert_eq!(get(&cpuid, 0x8000_0000, 0).eax, 0x8000_001e);
        assert_eq!(get(&cpuid, 0x8000_0001, 0).ecx >> 22 & 1, 1);
        let place = get(&cpuid, 0x8000_001e, 0);
        assert_eq!((place.eax, place.ebx, place.ecx), (id, (n / 2 % 3) | 1 << 8, n / 6));
        let caches: Vec<_> = (0..5).map(|i| get(&cpuid, 0x8000_001d, i)).collect();
        let described: Vec<_> = caches.iter().map(|c| (c.eax, c.ebx, c.ecx)).collect();
        assert_eq!(
            described,
            [
                (0x4021, 0x0040_003f, 511),
                (0x4222, 0x7fc0_003f, 0),
                (0x4043, 0x03c0_003f, 511),
                (0x1_c063, 0x0fc0_003f, 2047),
                (0, 0, 0)
            ]
        );
        let ways = |c: &CpuidEntry| (c.ebx >> 22) + 1;
        let sizes: Vec<_> = caches.iter().take(4).map(|c| (ways(c) * (c.ecx + 1) * 64) >> 10).collect();
        assert_eq!(sizes, [64, 32, 512, 8192], "KiB");
        assert_eq!(seen(&model, &cpuid, id), cpuid, "a host that is such a guest gives the same");
    }
    // A host without caches has none, and is still told where its threads are.
    let mut host = amd_without_extensions();
    host.0.retain(|e| !(0x8000_0005..=0x8000_0006).contains(&e.leaf));
    let cpuid = seen(&model, &host, 1);
    assert_eq!((get(&cpuid, 0x8000_001d, 0).eax, get(&cpuid, 0x8000_001e, 0).eax), (0, 1));
}

/// The bits of `after` that are clear though `before` has them.
fn lost(before: u32, after: u32) -> Vec<u32> {
    (0..32).filter(|bit| (before & !after) >> bit & 1 == 1).collect()
}

#[test]
fn host_only_features_are_gone_and_all_others_stay() {
    let cpuid = seen(&CpuModel::new(2).unwrap(), &intel(), 0);
    let one = get(&cpuid, 1, 0);
    assert_eq!(one.eax, 0x000c_06f2, "family, model and stepping");
    // VMX is 5, OSXSAVE 27; TSC-deadline (24), x2APIC (21) and hypervisor (31) are there.
    assert_eq!(lost(ALL, one.ecx), [2, 3, 4, 5, 6, 7, 8, 10, 11, 14, 15, 18, 27]);
    assert_eq!(lost(ALL, one.edx), [18, 21, 22, 29, 30, 31]);
    let seven = get(&cpuid, 7, 0);
    assert_eq!(lost(ALL, seven.ebx), [2, 12, 15, 25]);
    assert_eq!(lost(ALL, seven.ecx), [4, 13, 23, 29, 30, 31]);
    assert_eq!(lost(ALL, seven.edx), [1, 5, 15, 18, 19, 30]);
    assert_eq!(get(&cpuid, 6, 0), entry(6, None, [4, 0, 0, 0]), "only ARAT");
    for leaf in [3, 5, 0xa, 0x12, 0x14] {
        assert!(cpuid.get(leaf, 0).is_none(), "{leaf:#x}");
    }
    let untouched = [(0, 0), (2, 0), (7, 1), (7, 2), (0xd, 0), (0xd, 1), (0xd, 18), (0x1d, 0)];
    let extended =
        [0x4000_0000, 0x4000_0001, 0x8000_0000, 0x8000_0001, 0x8000_0002, 0x8000_0006, 0x8000_0008];
    for (leaf, subleaf) in untouched.into_iter().chain(extended.map(|leaf| (leaf, 0))) {
        assert_eq!(cpuid.get(leaf, subleaf), intel().get(leaf, subleaf), "{leaf:#x}");
    }

    let cpuid = seen(&CpuModel::new(2).unwrap(), &amd(), 0);
    let extended = get(&cpuid, 0x8000_0001, 0);
    assert_eq!(lost(ALL, extended.ecx), [2, 3, 10, 12, 13, 15, 19, 23, 24, 27, 28, 29, 30]);
    assert_eq!(extended.edx, 0x2fd3_fbff & !(1 << 19));
    assert_eq!(get(&cpuid, 0x8000_0007, 0), entry(0x8000_0007, None, [0, 0, 0, 0x100]), "invariant TSC");
    let speculation = get(&cpuid, 0x8000_0008, 0).ebx;
    assert_eq!(lost(0x111e_f657, speculation), [1, 4, 6], "IRPERF, RDPRU, MBA");
    for leaf in [0x8000_000a, 0x8000_001b, 0x8000_001f, 0x8000_0022] {
        assert!(cpuid.get(leaf, 0).is_none(), "{leaf:#x}");
    }
    assert_eq!(cpuid.get(0x8000_0002, 0), amd().get(0x8000_0002, 0), "brand");
}

#[test]
fn nothing_is_there_that_the_host_does_not_offer_but_that_there_is_a_hypervisor() {
    let mut host = intel();
    host.get_mut(1, 0).unwrap().ecx = 0;
    assert_eq!(get(&seen(&CpuModel::new(1).unwrap(), &host, 0), 1, 0).ecx, 1 << 31);
}

#[test]
fn nested_virtualisation_is_never_there_and_asking_for_it_is_refused() {
    let model = CpuModel::new(1).unwrap();
    assert!(!model.on(&intel()).unwrap().has("vmx") && !model.on(&amd()).unwrap().has("svm"));
    assert_eq!(seen(&model, &amd(), 0).get(0x8000_000a, 0), None, "SVM's details");
    // By name and by place; taking it away is nothing new.
    for asked in ["+vmx", "svm=require", "+1.0.ecx.5"] {
        let error = asked.parse::<FeatureSettings>().unwrap_err().to_string();
        let why =
            "cannot be given to a guest: what the guest's own guests hold could be neither saved nor reset";
        assert!(error.ends_with(why), "{asked}: {error}");
    }
    assert!("-vmx,-svm".parse::<FeatureSettings>().is_ok());
}

#[test]
fn an_answer_is_never_there_twice() {
    for host in [intel(), amd()] {
        let cpuid = seen(&model(2, 3, 2), &host, 9);
        let mut keys: Vec<_> = cpuid.0.iter().map(|e| (e.leaf, e.subleaf)).collect();
        keys.sort();
        let all = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }
}

#[test]
fn impossible_machines_are_refused() {
    for (s, c, t) in [(0, 1, 1), (1, 0, 1), (1, 1, 0)] {
        assert!(matches!(Topology::new(s, c, t), Err(TopologyError::None { .. })));
    }
    assert_eq!(CpuModel::new(255).unwrap().topology.apic_ids().last(), Some(254));
    let too_many =
        [(1, 256, 1), (256, 1, 1), (1, 1, u32::MAX), (u32::MAX, u32::MAX, u32::MAX), (3, 65, 1), (2, 128, 1)];
    for (s, c, t) in too_many {
        assert!(matches!(Topology::new(s, c, t), Err(TopologyError::TooMany { .. })), "{s}x{c}x{t}");
    }
    let message = CpuModel::new(300).unwrap_err().to_string();
    assert_eq!(message, "too many vCPUs: sockets 1, cores 300, threads 1: local APIC IDs end at 254");
}
