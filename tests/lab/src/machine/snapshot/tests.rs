use super::*;
use crate::kernel::KernelImages;
use crate::tools::Tools;

/// Assets of nothing but small files; enough for keys.
fn assets(dir: &Path) -> Assets {
    let tools = Tools::unpacked(dir);
    let kernel = KernelImages {
        release: "1".into(),
        bzimage: dir.join("bzImage"),
        vmlinux: dir.join("vmlinux"),
        modules: dir.join("modules"),
    };
    for file in [&tools.qemu.file(), &tools.busybox, &kernel.vmlinux, &kernel.modules.join("modules.builtin")]
    {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "x").unwrap();
    }
    Assets { tools, kernels: [kernel.clone(), kernel] }
}

fn shape(gib: u64) -> Shape {
    Shape { memory: gib << 30, processors: 1, counted: false }
}

#[test]
fn the_key_depends_on_every_input() {
    let dir = tempfile::tempdir().unwrap();
    let mut assets = assets(dir.path());
    let mut keys = vec![key(&assets, b"image", shape(1)).unwrap()];
    assert_eq!(keys[0], key(&assets, b"image", shape(1)).unwrap());
    keys.push(key(&assets, b"imagf", shape(1)).unwrap());
    keys.push(key(&assets, b"image", shape(2)).unwrap());
    keys.push(key(&assets, b"image", Shape { processors: 2, ..shape(1) }).unwrap());
    keys.push(key(&assets, b"image", Shape { counted: true, ..shape(1) }).unwrap());
    fs::write(&assets.kernels[1].vmlinux, "other").unwrap();
    keys.push(key(&assets, b"image", shape(1)).unwrap());
    fs::write(assets.tools.qemu.file(), "newer").unwrap();
    keys.push(key(&assets, b"image", shape(1)).unwrap());
    assets.kernels[1].release = "2".into();
    keys.push(key(&assets, b"image", shape(1)).unwrap());
    let mut distinct = keys.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), keys.len(), "{keys:?}");
}

#[test]
fn the_quick_key_sees_a_replaced_agent() {
    let dir = tempfile::tempdir().unwrap();
    let assets = assets(dir.path());
    let agent = dir.path().join("agent");
    fs::copy(std::env::current_exe().unwrap(), &agent).unwrap();
    let before = quick_key(&assets, &agent, shape(1)).unwrap();
    assert_eq!(before, quick_key(&assets, &agent, shape(1)).unwrap());
    fs::remove_file(&agent).unwrap();
    fs::copy(std::env::current_exe().unwrap(), &agent).unwrap();
    assert_ne!(before, quick_key(&assets, &agent, shape(1)).unwrap());
}

#[test]
fn old_snapshots_go_but_not_those_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path());
    for (age, name) in ["a", "b", "c", "d", "e"].iter().enumerate() {
        fs::create_dir_all(store.path(format!("snapshots/{name}")).unwrap()).unwrap();
        fs::write(store.path(format!("snapshots/{name}.key")).unwrap(), name).unwrap();
        let lock = fs::File::create(lock_path(&store, name).unwrap()).unwrap();
        lock.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(age as u64)).unwrap();
    }
    let in_use = Lock::shared(&lock_path(&store, "a").unwrap(), &Progress::silent(), "").unwrap();
    remove_old(&store, "new");
    let left = |name: &str| dir.path().join("snapshots").join(name).exists();
    assert!(left("a") && !left("b") && left("c") && left("d") && left("e"));
    assert!(left("a.key") && !left("b.key"));
    drop(in_use);
    // A process that another test is about to start has the lock, too, until it executes its program.
    let gone = (0..200).any(|_| {
        remove_old(&store, "new");
        std::thread::sleep(Duration::from_millis(10));
        !left("a")
    });
    assert!(gone);
}
