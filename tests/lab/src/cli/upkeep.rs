//! `drystone-lab setup`, `status` and `clean`.

use std::fs;
use std::path::Path;

use drystone_lab::{Job, Lab, Progress, Store, Version, explain_choice};

use super::run::{launch, prepare};

/// Prepares everything, the saved machine included.
pub fn setup() -> anyhow::Result<i32> {
    let progress = Progress::stderr();
    let lab = prepare(&progress)?;
    progress.clear();
    describe(&lab);
    launch(Job::new("true").memory(2 << 30), &lab, progress)
}

fn describe(lab: &Lab) {
    println!("{}", lab.explain());
    for version in Version::ALL {
        println!("kernel {}: {}", version.name(), lab.kernel(version).release);
    }
    println!("kept in {}", lab.store().root().display());
}

/// Says what is there, without fetching anything.
pub fn status() -> anyhow::Result<i32> {
    println!("{}", explain_choice()?);
    let store = Store::locate();
    let root = store.root();
    let there = |name: &str| if root.join(name).exists() { "ready" } else { "not fetched yet" };
    println!("tools: {}", there("tools"));
    for version in Version::ALL {
        println!("kernel {}: {}", version.name(), there(&format!("kernels/{}", version.name())));
    }
    let count = |name: &str, wanted: fn(&Path) -> bool| {
        let entries = fs::read_dir(root.join(name)).into_iter().flatten().flatten();
        entries.filter(|entry| wanted(&entry.path())).count()
    };
    println!("snapshots: {}", count("snapshots", |path| path.is_dir()));
    println!("running jobs: {}", count("runs", |path| path.is_dir()));
    println!("kept in {}", root.display());
    Ok(0)
}

/// Removes everything.
pub fn clean() -> anyhow::Result<i32> {
    Store::locate().clear()?;
    Ok(0)
}
