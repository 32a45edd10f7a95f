//! The architecture as a test over `cargo metadata`: arrows point down, devices know no hypervisor, one vm-memory,
//! and only licences that we have agreed to.
//!
//! The rules are functions over a plain `Graph`, so that each is also shown a graph that breaks it.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use std::collections::BTreeSet;

/// Layers from the bottom up. A package may depend (not counting dev-dependencies) on packages of lower layers only,
/// so never sideways: no device knows another, and no back end knows a loader.
const LAYERS: &[&[&str]] = &[
    &["drystone-state", "drystone-memory", "drystone-guest"],
    &["drystone-bus", "drystone-hypervisor"],
    &["drystone-limit", "drystone-observe"],
    &["drystone-pci"],
    &["drystone-virtio"],
    &[
        "drystone-block",
        "drystone-chipset",
        "drystone-kvm",
        "drystone-lifecycle",
        "drystone-loader",
        "drystone-runner",
        "drystone-net",
        "drystone-rng",
        "drystone-snapshot",
        "drystone-vcpu",
    ],
    // Formats are images for the block device.
    &["drystone-block-formats"],
    &["drystone"],
    // Tests and their tools look at everything and are seen by nobody.
    &["drystone-lab", "drystone-testkit"],
    &["drystone-benches", "drystone-tests"],
];

/// The only packages that may name KVM's types: the back end, and nobody else.
const KVM_PACKAGES: &[&str] = &["drystone-kvm"];
/// What naming KVM's types takes.
const KVM_CRATES: &[&str] = &["kvm-ioctls", "kvm-bindings"];
/// What a device crate must not depend on at all, not even for its tests.
const NOT_FOR_DEVICES: &[&str] = &["kvm-ioctls", "kvm-bindings", "drystone-kvm", "drystone-hypervisor"];

/// Licences that may be in the tree; an `OR` needs one of them, an `AND` all.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

#[derive(Clone, Default)]
struct Package {
    name: String,
    licence: Option<String>,
    /// Below `crates/devices/`.
    device: bool,
    member: bool,
    dependencies: Vec<(String, DependencyKind)>,
}
type Graph = Vec<Package>;

fn graph() -> Graph {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let metadata: Metadata = MetadataCommand::new().manifest_path(manifest).exec().expect("cargo metadata");
    let package = |p: &cargo_metadata::Package| Package {
        name: p.name.to_string(),
        licence: p.license.clone(),
        device: p.manifest_path.as_str().contains("/crates/devices/"),
        member: metadata.workspace_members.contains(&p.id),
        dependencies: p.dependencies.iter().map(|d| (d.name.clone(), d.kind)).collect(),
    };
    metadata.packages.iter().map(package).collect()
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|names| names.contains(&name))
}

fn arrows_that_do_not_point_down(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for package in graph.iter().filter(|p| p.member) {
        let Some(own) = layer(&package.name) else {
            found.push(format!("{} has no layer: say in {} where it belongs", package.name, file!()));
            continue;
        };
        for (name, kind) in &package.dependencies {
            let down = layer(name).is_none_or(|other| other < own);
            if *kind != DependencyKind::Development && !down {
                found.push(format!("{} depends on {name}, which is not below it", package.name));
            }
        }
    }
    found
}

fn foreign_kvm_users(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for package in graph.iter().filter(|p| p.member) {
        let forbidden = if package.device { NOT_FOR_DEVICES } else { KVM_CRATES };
        let allowed = !package.device && KVM_PACKAGES.contains(&package.name.as_str());
        for (name, _) in
            package.dependencies.iter().filter(|(n, _)| !allowed && forbidden.contains(&n.as_str()))
        {
            found.push(format!("{} names {name}", package.name));
        }
    }
    found
}

fn duplicates_of(name: &str, graph: &Graph) -> usize {
    graph.iter().filter(|p| p.name == name).count().saturating_sub(1)
}

fn licence_allowed(licence: &str) -> bool {
    let Ok(expression) = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX) else { return false };
    expression.evaluate(|requirement| LICENCES.contains(&requirement.to_string().as_str()))
}

fn licences_outside_the_list(graph: &Graph) -> Vec<String> {
    let bad = |p: &&Package| !p.licence.as_deref().is_some_and(licence_allowed);
    graph.iter().filter(bad).map(|p| format!("{}: {:?}", p.name, p.licence)).collect()
}

const NONE: [&str; 0] = [];

#[test]
fn arrows_point_down() {
    let graph = graph();
    assert_eq!(arrows_that_do_not_point_down(&graph), NONE);
    let members: BTreeSet<_> = graph.iter().filter(|p| p.member).map(|p| p.name.as_str()).collect();
    let listed: BTreeSet<_> = LAYERS.iter().flat_map(|l| l.iter().copied()).collect();
    assert_eq!(members, listed, "a layer lists a package that is gone, or misses one");
}

#[test]
fn only_the_kvm_back_end_names_kvm() {
    let graph = graph();
    assert!(graph.iter().any(|p| p.device), "no device crate was recognised");
    assert_eq!(foreign_kvm_users(&graph), NONE);
}

#[test]
fn there_is_one_vm_memory() {
    let graph = graph();
    assert!(graph.iter().any(|p| p.name == "vm-memory"));
    assert_eq!(duplicates_of("vm-memory", &graph), 0);
}

#[test]
fn licences_are_on_the_list() {
    assert_eq!(licences_outside_the_list(&graph()), NONE);
}

/// Our crates' sources name no KVM type outside the back end, not even through a re-export.
#[test]
fn no_other_source_names_kvm_types() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pending = vec![root.join("crates"), root.join("vmm")];
    let mut seen = 0;
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).expect("a source folder").map(|e| e.expect("an entry").path()) {
            if entry.is_dir() && !entry.ends_with("crates/kvm") {
                pending.push(entry);
            } else if entry.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&entry).expect("a source file");
                seen += 1;
                for word in ["kvm_ioctls::", "kvm_bindings::"] {
                    assert!(!text.contains(word), "{} names {word}", entry.display());
                }
            }
        }
    }
    assert!(seen > 30, "only {seen} source files were looked at");
}

#[test]
fn each_rule_catches_what_it_forbids() {
    let good = graph();
    let with = |name: &str, change: &dyn Fn(&mut Package)| {
        let mut graph = good.clone();
        change(graph.iter_mut().find(|p| p.name == name).expect("a package"));
        graph
    };
    let depends = |name: &str, on: &'static str, kind: DependencyKind| {
        with(name, &|p| p.dependencies.push((on.into(), kind)))
    };
    let normal = DependencyKind::Normal;
    for (name, on) in [
        ("drystone-bus", "drystone-vcpu"),
        ("drystone-vcpu", "drystone-kvm"),
        ("drystone-state", "drystone-memory"),
        ("drystone", "drystone-testkit"),
    ] {
        assert_eq!(arrows_that_do_not_point_down(&depends(name, on, normal)).len(), 1, "{name} -> {on}");
    }
    assert_eq!(
        arrows_that_do_not_point_down(&with("drystone-bus", &|p| p.name = "drystone-new".into())).len(),
        1
    );

    for (name, on) in [("drystone-chipset", "drystone-hypervisor"), ("drystone-vcpu", "kvm-bindings")] {
        for kind in [normal, DependencyKind::Development, DependencyKind::Build] {
            assert_eq!(foreign_kvm_users(&depends(name, on, kind)).len(), 1, "{name} -> {on}");
        }
    }

    let mut two = good.clone();
    two.push(Package { name: "vm-memory".into(), ..Package::default() });
    assert_eq!(duplicates_of("vm-memory", &two), 1);

    for licence in [None, Some("GPL-3.0-only"), Some("MIT AND AGPL-3.0"), Some("not a licence")] {
        let graph = with("vm-memory", &|p| p.licence = licence.map(String::from));
        assert_eq!(licences_outside_the_list(&graph).len(), 1, "{licence:?}");
    }
    for licence in ["MIT/Apache-2.0", "GPL-2.0 OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
        assert!(licence_allowed(licence), "{licence}");
    }
}
