use super::*;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::process::Command;

fn registry() -> (tempfile::TempDir, Registry) {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::at(&dir.path().join("r")).unwrap();
    (dir, registry)
}

fn id(name: &str) -> VmId {
    name.parse().unwrap()
}

/// What a machine that was killed leaves.
fn leave_behind(registry: &Registry, name: &str) -> PathBuf {
    let dir = registry.root().join(name);
    fs::create_dir(&dir).unwrap();
    for file in FILES {
        fs::write(dir.join(file), "4194304").unwrap();
    }
    dir
}

#[test]
fn a_claim_is_listed_while_it_lives_and_leaves_nothing() {
    let (_dir, registry) = registry();
    let claim = registry.claim(Some(&id("web"))).unwrap();
    let mode = fs::metadata(claim.dir()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let entry = Entry {
        id: id("web"),
        pid: Some(std::process::id()),
        socket: registry.root().join("web/control.sock"),
    };
    assert_eq!(claim.socket(), entry.socket);
    assert_eq!(registry.list().unwrap(), std::slice::from_ref(&entry));
    assert_eq!(registry.find(&id("web")).unwrap(), Some(entry));
    assert_eq!(registry.find(&id("other")).unwrap(), None);
    for file in [claim.socket(), claim.log()] {
        fs::write(file, "").unwrap();
    }
    let dir = claim.dir().to_owned();
    drop(claim);
    assert!(!dir.exists());
    assert_eq!(registry.list().unwrap(), []);
}

#[test]
fn a_name_is_held_once() {
    let (_dir, registry) = registry();
    let first = registry.claim(Some(&id("web"))).unwrap();
    let error = registry.claim(Some(&id("web"))).unwrap_err().to_string();
    assert_eq!(error, format!("a machine named web is running already (pid {})", std::process::id()));
    assert!(first.dir().join("pid").exists(), "the living one keeps its files");
    let unnamed = [registry.claim(None).unwrap(), registry.claim(None).unwrap()];
    assert_eq!(registry.list().unwrap().len(), 3);
    drop((first, unnamed));
    registry.claim(Some(&id("web"))).unwrap();
}

#[test]
fn what_dead_machines_left_is_removed_by_whoever_meets_it() {
    let (_dir, registry) = registry();
    let living = registry.claim(Some(&id("living"))).unwrap();
    let dead = leave_behind(&registry, "dead");
    assert_eq!(registry.list().unwrap().len(), 1);
    assert!(!dead.exists(), "list cleans");
    let dead = leave_behind(&registry, "dead");
    assert_eq!(registry.find(&id("dead")).unwrap(), None);
    assert!(!dead.exists(), "find cleans");
    leave_behind(&registry, "dead");
    let claim = registry.claim(Some(&id("dead"))).unwrap();
    assert_eq!(read_pid(claim.dir()), Some(std::process::id()), "claim starts afresh");
    assert!(!claim.socket().exists());
    assert!(living.dir().exists());
}

#[test]
fn a_killed_process_frees_its_name() {
    let (_dir, registry) = registry();
    let dir = leave_behind(&registry, "web");
    let mut holder = Command::new("flock")
        .args(["--exclusive", "--no-fork"])
        .arg(dir.join("lock"))
        .args(["sh", "-c", "echo; exec sleep 60"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    assert!(registry.find(&id("web")).unwrap().is_some());
    assert!(matches!(registry.claim(Some(&id("web"))), Err(RegistryError::Taken { .. })));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(registry.find(&id("web")).unwrap(), None);
    assert!(!dir.exists());
}

#[test]
fn claims_at_once_have_one_winner() {
    let (_dir, registry) = registry();
    for _ in 0..200 {
        let barrier = std::sync::Barrier::new(4);
        let claims: Vec<_> = std::thread::scope(|s| {
            let claim = || {
                barrier.wait();
                registry.claim(Some(&id("web")))
            };
            let threads: Vec<_> = (0..4).map(|_| s.spawn(claim)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(claims.iter().filter(|c| c.is_ok()).count(), 1);
        assert!(claims.iter().all(|c| matches!(c, Ok(_) | Err(RegistryError::Taken { .. }))));
    }
}

#[test]
fn what_is_not_a_machine_is_left_alone() {
    let (dir, registry) = registry();
    fs::create_dir(registry.root().join("Mine")).unwrap();
    fs::create_dir_all(registry.root().join("photos/2020")).unwrap();
    fs::write(registry.root().join("notes"), "").unwrap();
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    fs::create_dir(registry.root().join("project")).unwrap();
    for file in ["elsewhere/log", "elsewhere/lock", "r/project/log"] {
        fs::write(dir.path().join(file), "").unwrap();
    }
    symlink(dir.path().join("elsewhere"), registry.root().join("link")).unwrap();
    fs::create_dir(registry.root().join("empty")).unwrap();
    assert_eq!(registry.list().unwrap(), []);
    for kept in ["Mine", "photos/2020", "notes", "project/log", "link/log"] {
        assert!(registry.root().join(kept).exists(), "{kept}");
    }
    assert!(!registry.root().join("empty").exists(), "a claim that died early");
    assert!(matches!(registry.claim(Some(&id("project"))), Err(RegistryError::Io { attempt: "create", .. })));
    assert!(registry.root().join("project/log").exists());
}

#[test]
fn a_socket_path_that_is_too_long_is_refused_before_anything_is_made() {
    let (dir, registry) = registry();
    let deep = dir.path().join("d".repeat(80));
    let registry_deep = Registry::at(&deep).unwrap();
    let error = registry_deep.claim(Some(&id("web"))).unwrap_err().to_string();
    assert!(error.contains("and may have 107"), "{error}");
    assert_eq!(registry_deep.list().unwrap(), []);
    let room = MAX_SOCKET_PATH - registry.root().as_os_str().len() - "//control.sock".len();
    let fits = id(&"x".repeat(room.min(63)));
    std::os::unix::net::UnixListener::bind(registry.claim(Some(&fits)).unwrap().socket()).unwrap();
}

#[test]
fn the_environment_names_the_place() {
    let place = |vars: &[(&str, &str)], ours: &[&str]| {
        let env = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into());
        let place = root::place(7, env, |p| ours.iter().any(|o| p == Path::new(o)));
        (place.path.to_str().unwrap().to_owned(), place.explicit)
    };
    let all = [("DRYSTONE_RUNTIME_DIR", "/a"), ("XDG_RUNTIME_DIR", "/x")];
    assert_eq!(place(&all, &["/x"]), ("/a".into(), true));
    assert_eq!(place(&all[1..], &["/x", "/run/user/7"]), ("/x/drystone".into(), false));
    assert_eq!(place(&all[1..], &["/run/user/7"]), ("/run/user/7/drystone".into(), false), "not ours");
    assert_eq!(place(&[("XDG_RUNTIME_DIR", "x")], &["x"]), ("/tmp/drystone-7".into(), false), "relative");
    assert_eq!(place(&[("DRYSTONE_RUNTIME_DIR", "")], &[]), ("/tmp/drystone-7".into(), false));
}

#[test]
fn a_directory_that_others_could_have_prepared_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let uid = rustix::process::geteuid().as_raw();
    let prepare = |name: &str, explicit, uid| {
        root::prepare(&root::Place { path: dir.path().join(name), explicit }, uid).map_err(|e| e.to_string())
    };
    prepare("new", false, uid).unwrap();
    assert_eq!(fs::metadata(dir.path().join("new")).unwrap().permissions().mode() & 0o777, 0o700);
    prepare("new", false, uid).unwrap();
    assert!(prepare("new", false, uid + 1).unwrap_err().contains("belongs to another user"));
    symlink(dir.path().join("new"), dir.path().join("link")).unwrap();
    assert!(prepare("link", false, uid).unwrap_err().contains("is not a directory"));
    prepare("link", true, uid).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(prepare("file", true, uid).unwrap_err().contains("is not a directory"));
    fs::DirBuilder::new().mode(0o777).create(dir.path().join("open")).unwrap();
    fs::set_permissions(dir.path().join("open"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(prepare("open", true, uid).unwrap_err().contains("written to by others"));
    assert!(prepare("no/such", true, uid).unwrap_err().contains("cannot create"));
}
