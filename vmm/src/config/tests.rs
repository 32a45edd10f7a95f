use super::*;
use std::path::Path;

fn size(text: &str) -> Result<u64, SizeError> {
    text.parse().map(|s: ByteSize| s.0)
}

#[test]
fn sizes_are_read_in_binary_units() {
    let good = [
        ("512M", 512 << 20),
        ("1G", 1 << 30),
        ("1GiB", 1 << 30),
        ("2 MiB", 2 << 20),
        ("64k", 64 << 10),
        ("3T", 3 << 40),
        ("4096", 4096),
        ("0", 0),
        (" 8m ", 8 << 20),
    ];
    for (text, bytes) in good {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
    for text in ["", "M", "-1M", "1.5G"] {
        assert!(matches!(size(text), Err(SizeError::Number(_) | SizeError::Unit(_))), "{text}");
    }
    assert_eq!(size("5MB"), Err(SizeError::Unit("MB".into())));
    for text in ["18446744073709551616", "16777216T"] {
        assert!(matches!(size(text), Err(SizeError::Overflow(_))), "{text}");
    }
}

#[test]
fn sizes_are_written_as_they_are_read() {
    for (bytes, text) in
        [(512 << 20, "512M"), (1536 << 20, "1536M"), (1 << 40, "1T"), (4097, "4097"), (0, "0")]
    {
        assert_eq!(ByteSize(bytes).to_string(), text);
        assert_eq!(size(text), Ok(bytes));
    }
}

#[test]
fn memory_is_a_size_or_a_table() {
    let short = Config::from_toml("memory = \"1G\"").unwrap();
    assert_eq!(short.memory, MemoryConfig::of(ByteSize(1 << 30)));
    let table =
        Config::from_toml("[memory]\nsize = \"64M\"\nbacking = \"memfd\"\nhuge_pages = \"never\"").unwrap();
    assert_eq!(table.memory.size, ByteSize(64 << 20));
    assert_eq!(table.memory.ram().backing, drystone_memory::Backing::Memfd);
    assert_eq!(table.memory.ram().huge_pages, drystone_memory::HugePages::Never);
    let partial = Config::from_toml("memory = { backing = \"memfd\" }").unwrap();
    assert_eq!(partial.memory.size, ByteSize(512 << 20));
    assert_eq!(Config::from_toml("memory = 8388608").unwrap().memory.size, ByteSize(8 << 20));
}

#[test]
fn cpus_are_a_number_or_a_table() {
    assert_eq!(Config::from_toml("cpus = 4").unwrap().cpus, CpusConfig::from(4));
    let table = Config::from_toml("[cpus]\ncount = 8\nsockets = 2\ncores = 2\nthreads = 2").unwrap();
    assert_eq!(table.cpus, "8,sockets=2,cores=2,threads=2".parse().unwrap());
    assert_eq!(Config::from_toml(&table.to_toml()), Ok(table));
}

/// Every field is there, and none is what it is unless given.
fn full() -> Config {
    let cpu = Config::from_toml("[cpu.msrs]\n\"0x1a2\" = \"deny\"").unwrap().cpu;
    Config {
        id: Some("web".into()),
        kernel: Some("/boot/vmlinuz".into()),
        boot_protocol: BootProtocol::Pvh,
        initrd: Some("/boot/initrd".into()),
        cmdline: "quiet \"x=y\"".into(),
        cpus: 4.into(),
        cpu: CpuConfig {
            model: ModelChoice::Named("x86-64-v2".into()),
            physical_bits: Some(40),
            halt_poll_us: Some(50),
            affinity: "0=0".parse().unwrap(),
            features: "aes=require,-avx2".parse().unwrap(),
            msrs: cpu.msrs,
        },
        memory: MemoryConfig {
            size: ByteSize(64 << 20),
            backing: MemoryBacking::Memfd,
            huge_pages: HugePages::Never,
        },
        pci: PciConfig { config_ports: false },
        transport: Transport::Mmio,
        console: ConsoleConfig::File("/tmp/out".into()),
        limit_group: vec![LimitGroupConfig {
            name: "shared".into(),
            bandwidth: Some(ByteSize(4 << 20)),
            bandwidth_burst: Some(ByteSize(1 << 20)),
            operations: Some(2000),
            operations_burst: Some(30),
        }],
        disk: vec![DiskConfig {
            limit_group: Some("shared".into()),
            path: "/var/disk".into(),
            id: Some("root".into()),
            readonly: true,
            serial: Some("S1".into()),
            transport: Some(Transport::Pci),
            queues: Some(2),
            format: DiskFormat::Qcow2,
            backing: DiskBacking::Allow,
            engine: drystone_block::EngineKind::Threads,
            direct: true,
            cache: drystone_block::Cache::Writethrough,
            on_io_error: drystone_block::OnIoError::Pause,
            bandwidth: Some(ByteSize(1 << 20)),
            bandwidth_burst: Some(ByteSize(2 << 20)),
            operations: Some(100),
            operations_burst: Some(200),
        }],
        net: vec![NetConfig {
            user: true,
            forward: vec!["8080:80".parse().unwrap()],
            dns: vec![[1, 1, 1, 1].into()],
            host_loopback: true,
            passt: Some("/run/passt".into()),
            tap: Some("vm0".into()),
            bridge: Some("br0".into()),
            fds: vec![3],
            id: Some("lan".into()),
            mac: Some(drystone_net::Mac([2, 0, 0, 0, 0, 1])),
            mtu: Some(9000),
            queues: Some(2),
            transport: Some(Transport::Mmio),
            enforce_mac: true,
            rx: LimitSettings { bandwidth: Some(ByteSize(1 << 20)), ..LimitSettings::default() },
            tx: LimitSettings { operations: Some(100), ..LimitSettings::default() },
        }],
        rng: false,
        on_reset: Policy::Stop,
        on_triple_fault: Policy::Reset,
        on_panic: PanicPolicy::Pause,
        shutdown_signal: ShutdownSignal::CtrlAltDel,
        log_level: Level::Debug,
        log_file: Some("/tmp/log".into()),
    }
}

/// In a file, and in a snapshot's manifest.
#[test]
fn a_full_configuration_is_read_as_it_is_written() {
    for config in [full(), Config::default()] {
        assert_eq!(Config::from_toml(&config.to_toml()).as_ref(), Ok(&config));
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(serde_json::from_value::<Config>(json).unwrap(), config);
    }
    // A field that is as it is unless given would be missed by nobody.
    let (full, default) = (full(), Config::default());
    let whole = [
        (serde_json::to_value(&full).unwrap(), serde_json::to_value(&default).unwrap()),
        (serde_json::to_value(&full.cpu).unwrap(), serde_json::to_value(&default.cpu).unwrap()),
        (serde_json::to_value(full.memory).unwrap(), serde_json::to_value(default.memory).unwrap()),
        (serde_json::to_value(full.pci).unwrap(), serde_json::to_value(default.pci).unwrap()),
        (serde_json::to_value(&full.disk[0]).unwrap(), serde_json::to_value(DiskConfig::default()).unwrap()),
    ];
    for (full, default) in whole {
        for (field, value) in full.as_object().unwrap() {
            assert_ne!(default.get(field), Some(value), "{field}");
        }
    }
}

#[test]
fn the_format_of_a_disk_is_always_written_down() {
    assert_eq!(serde_json::to_value(DiskConfig::default()).unwrap()["format"], "raw");
    let disk = |format| format!("[[disk]]\npath = \"a\"\nformat = \"{format}\"");
    for (name, format) in [("raw", DiskFormat::Raw), ("qcow2", DiskFormat::Qcow2), ("vmdk", DiskFormat::Vmdk)]
    {
        assert_eq!(Config::from_toml(&disk(name)).unwrap().disk[0].format, format);
    }
    let (line, said) = Config::from_toml(&disk("vdi")).unwrap_err();
    assert!(line == 3 && said.contains("unknown variant `vdi`"), "{line}: {said}");
}

#[test]
fn what_only_some_formats_can_be_is_said() {
    let said = |flag: &str| flag.parse::<DiskConfig>().unwrap().block(0).map(drop);
    let refused = |flag: &str| said(flag).unwrap_err();
    assert_eq!(refused("a,backing=allow"), "backing: a raw image names no other file");
    if cfg!(not(feature = "formats")) {
        assert_eq!(refused("a,format=qcow2"), "format: this drystone was built for raw images only");
        return;
    }
    assert_eq!(
        refused("a,format=qcow2,engine=io_uring"),
        "engine io_uring: for raw images only; use threads, sync or auto"
    );
    assert_eq!(refused("a,format=qcow2,direct"), "direct: for raw images only");
    assert_eq!(refused("a,format=vmdk"), "format vmdk: can only be read: say readonly");
    for good in ["a,format=qcow2", "a,format=qcow2,backing=allow,engine=sync", "a,format=vmdk,readonly"] {
        assert_eq!(said(good), Ok(()), "{good}");
    }
}

#[test]
fn what_is_wrong_in_a_file_is_named_with_its_line_and_field() {
    let cases = [
        ("cpus = 1\nmemroy = \"1G\"", 2, "unknown field `memroy`, expected"),
        ("cpus = 1\n\ncpus = \"two\"\n", 3, "duplicate key"),
        ("\ncpus = \"two\"", 2, "cpus: invalid type: string \"two\""),
        ("cpus = -1", 1, "cpus: invalid value"),
        ("cpus = 1\nmemory = \"5 parsecs\"", 2, "memory: \"parsecs\" is no unit"),
        (
            "cpus = 1\n[memory]\nsize = \"64M\"\nbacking = \"paper\"",
            4,
            "memory.backing: unknown variant `paper`",
        ),
        ("[memory]\nsize = \"64M\"\nsise = 1", 3, "memory: unknown field `sise`"),
        ("console = \"stdout\"", 1, "console: unknown variant `stdout`"),
        ("kernel = \"a\"\nkernel", 2, "key"),
        ("memory = -5", 1, "memory: a size cannot be negative"),
    ];
    for (text, line, what) in cases {
        let (found, message) = Config::from_toml(text).unwrap_err();
        assert_eq!(found, line, "{text:?}: {message}");
        assert!(message.contains(what), "{text:?}: {message}");
        assert!(!message.contains('\n'), "{message:?}");
        assert!(!message.starts_with("memroy:"), "{message:?}");
    }
}

#[test]
fn paths_in_a_file_are_relative_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vm.toml");
    std::fs::write(
        &path,
        "kernel = \"vmlinuz\"\ninitrd = \"/abs/initrd\"\nconsole = { file = \"out\" }\nlog_file = \"log\"",
    )
    .unwrap();
    let config = Config::from_file(&path).unwrap();
    assert_eq!(config.kernel, Some(dir.path().join("vmlinuz")));
    assert_eq!(config.initrd.as_deref(), Some(Path::new("/abs/initrd")));
    assert_eq!(config.console, ConsoleConfig::File(dir.path().join("out")));
    assert_eq!(config.log_file, Some(dir.path().join("log")));
    std::fs::write(&path, "cpus = 2").unwrap();
    assert_eq!(Config::from_file(&path).unwrap().kernel, None, "an absent path stays absent");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let message = Config::from_file(Path::new("/nonexistent/vm.toml")).unwrap_err().to_string();
    assert!(
        message.starts_with("configuration /nonexistent/vm.toml: cannot read: No such file"),
        "{message}"
    );
    let message = Config::from_file(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(message.contains("larger than 1 MiB"), "{message}");
}

#[test]
fn values_that_make_no_sense_get_one_line_each() {
    let good = Config { kernel: Some("k".into()), ..Config::default() };
    good.validate().unwrap();
    let of = |bytes| MemoryConfig::of(ByteSize(bytes));
    let cases = [
        (Config { cpus: 0.into(), ..good.clone() }, "cpus: 0 virtual CPUs: must be 1 to 32"),
        (Config { cpus: 33.into(), ..good.clone() }, "cpus: 33 virtual CPUs: must be 1 to 32"),
        (Config { memory: of(0), ..good.clone() }, "memory: 0 bytes: a machine needs at least 4M"),
        (Config { memory: of(512), ..good.clone() }, "memory: 512 bytes is less than the least, 4M"),
        (
            Config { memory: of((4 << 20) + 1), ..good.clone() },
            "memory: 4194305 bytes is not a multiple of 4096",
        ),
        (Config { id: Some("../x".into()), ..good.clone() }, "id: \"../x\""),
        (Config { cmdline: "a\nb".into(), ..good.clone() }, "cmdline: must not contain a newline"),
    ];
    for (config, start) in cases {
        let message = config.validate().unwrap_err().to_string();
        assert!(message.starts_with(start) && !message.contains('\n'), "{message}");
    }
    for config in
        [Config { cpus: 32.into(), ..good.clone() }, Config { memory: of(MIN_MEMORY), ..good.clone() }]
    {
        config.validate().unwrap();
    }
}

#[test]
fn disks_are_tables_or_flags() {
    use drystone_block::{Cache, EngineKind};
    let file = "[[disk]]\npath = \"root.img\"\nid = \"root\"\nreadonly = true\nbandwidth = \"10M\"\n[[disk]]\npath = \"b\"";
    let config = Config::from_toml(file).unwrap();
    let flags = ["path=root.img,id=root,readonly,bandwidth=10M", "b"];
    assert_eq!(config.disk, flags.map(|f| f.parse::<DiskConfig>().unwrap()));
    assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config, "it is written as it is read");

    let block = config.disk[0].block(0).unwrap();
    assert_eq!((block.id.as_str(), block.read_only), ("root", true));
    assert_eq!(
        block.limit.bandwidth.map(|r| (r.per_second.get(), r.burst())),
        Some((10 << 20, (10 << 20) / 20))
    );
    assert_eq!(config.disk[1].block(1).unwrap().id, "disk1");
    let all = "path=p,serial=A 1,queues=2,readonly=false,on_io_error=stop,format=raw,engine=io_uring,direct,cache=writethrough,bandwidth=1,bandwidth_burst=2,operations=3,operations_burst=4";
    let all = all.parse::<DiskConfig>().unwrap().block(0).unwrap();
    assert_eq!(all.on_io_error, drystone_block::OnIoError::Stop);
    assert_eq!((all.engine, all.direct, all.cache), (EngineKind::IoUring, true, Cache::Writethrough));
    let usual = "p".parse::<DiskConfig>().unwrap().block(0).unwrap();
    assert_eq!((usual.engine, usual.direct, usual.cache), (EngineKind::Auto, false, Cache::Writeback));
    assert_eq!(all.limit.operations.map(|r| (r.per_second.get(), r.burst())), Some((3, 4)));
}

#[test]
fn a_wrong_disk_is_named() {
    let of = |flags: &[&str]| {
        let disk = flags.iter().map(|f| f.parse().unwrap()).collect();
        Config { kernel: Some("k".into()), disk, ..Config::default() }.validate().map_err(|e| e.to_string())
    };
    assert_eq!(of(&["a", "b"]), Ok(()));
    for (flags, what) in [
        (&["a,id=x", "b,id=x"][..], "disk: two disks are called `x`"),
        (&["a,id=disk1", "b"], "disk: two disks are called `disk1`"),
        (&["a", "id=x"], "disk: `x`: path: none given"),
        (&["a,queues=0"], "disk: `disk0`: queues 0: must be 1 to 64"),
        (&["a,operations=0"], "disk: `disk0`: operations 0: must be at least 1"),
        (&["a,bandwidth_burst=1"], "disk: `disk0`: bandwidth_burst without bandwidth"),
        (&["a,id=a.b"], "disk: `a.b`: id \"a.b\": use letters, digits, '_' and '-'"),
        (
            &["a,serial=123456789012345678901"],
            "disk: `disk0`: serial \"123456789012345678901\": must be at most 20",
        ),
    ] {
        let error = of(flags).unwrap_err();
        assert!(error.starts_with(what), "{error}");
    }
    for (flag, what) in [
        ("a,b", "\"b\" is no setting"),
        ("a,path=b", "path is given twice"),
        ("a,queues=x", "queues=\"x\": invalid digit"),
        ("a,queues", "queues=\"\": needs a value"),
        ("a,readonly=maybe", "readonly=\"maybe\": use true or false"),
        ("a,transport=isa", "transport=\"isa\": use pci or mmio"),
        ("a,on_io_error=no", "on_io_error=\"no\": use report, ignore, pause or stop"),
        ("a,format=vdi", "format=\"vdi\": use raw, qcow2 or vmdk"),
        ("a,backing=yes", "backing=\"yes\": use refuse or allow"),
        ("a,engine=fast", "engine=\"fast\": use auto, sync, threads or io_uring"),
        ("a,engine", "engine=\"\": use auto, sync, threads or io_uring"),
        ("a,direct=yes", "direct=\"yes\": use true or false"),
        ("a,cache=none", "cache=\"none\": use writeback or writethrough"),
        ("a,bandwidth=1.5G", "bandwidth=\"1.5G\":"),
    ] {
        let error = flag.parse::<DiskConfig>().unwrap_err().to_string();
        assert!(error.starts_with(what), "{error}");
    }
    let many = vec!["a,transport=mmio"; crate::machine::MAX_MMIO_DEVICES + 1];
    assert_eq!(of(&many).unwrap_err(), "disk: 17 devices on virtio-mmio: there are interrupt lines for 16");
    let many = vec!["a"; 31];
    assert_eq!(of(&many).unwrap_err(), "disk: 32 devices on virtio-pci: there are PCI slots for 31");
}

#[test]
fn network_devices_are_read_from_flags() {
    let net = |text: &str| -> Result<NetConfig, String> {
        let net: NetConfig = text.parse().map_err(|e: FlagError| e.to_string())?;
        net.device(0, "web").map(|_| net)
    };
    let kind = |text: &str| net(text).unwrap().network().unwrap();
    assert_eq!(kind("tap=vm0,queues=4"), NetworkKind::Tap("vm0".into()));
    assert_eq!(kind("tap,bridge=br0"), NetworkKind::Tap("dry%d".into()));
    assert_eq!(kind("fd=3:4"), NetworkKind::Fds(vec![3, 4]));
    assert_eq!(kind("auto"), kind("user"));
    let NetworkKind::User(passt) = kind("user,forward=8080:80,forward=53:53/udp,dns=1.1.1.1,mtu=1500") else {
        panic!("another network");
    };
    assert_eq!((passt.forwards.len(), passt.dns.len(), passt.mtu), (2, 1, Some(1500)));
    let limited = net("user,rx_bandwidth=10M,tx_operations=500").unwrap();
    assert_eq!((limited.rx.bandwidth, limited.tx.operations), (Some(ByteSize(10 << 20)), Some(500)));
    for (text, why) in [
        ("tap=vm0,user", "several networks"),
        ("tap=vm0,forward=80:80", "say user"),
        ("user,bridge=br0", "say tap"),
        ("fd=1", "standard streams"),
        ("fd=3:4,queues=1", "there are 2 descriptors"),
        ("user,queues=2", "a network by passt has one"),
        ("user,forward=0", "is no forward"),
        ("passt=/run/p,dns=1.1.1.1", "say user"),
        ("tap=vm0,mac=01:00:00:00:00:00", "a group's"),
        ("tap=vm0,mtu=10", "mtu 10: 68 to 65535"),
        ("tap=vm0,id=a b", "use letters"),
        ("tap=vm0,tx_bandwidth_burst=1", "tx: bandwidth_burst without bandwidth"),
        ("tap=vm0,rx_speed=1", "is no setting"),
        ("tap=vm0,tap=vm1", "given twice"),
        ("path=vm0", "is no setting"),
    ] {
        let error = net(text).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
    let address = |text: &str, machine| net(text).unwrap().address(0, machine).to_string();
    assert_eq!(address("tap,mac=52:54:00:12:34:56", "web"), "52:54:00:12:34:56");
    assert_eq!(address("tap", "web"), "b6:80:b3:55:81:62", "the same in every version");
    assert_ne!(address("tap", "web"), address("tap,id=b", "web"));
    assert_ne!(address("tap", "web"), address("tap", "web2"));
}
