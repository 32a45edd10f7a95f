use super::*;
use drystone_testkit::as_written;

#[test]
fn its_registers_survive_saving() {
    let (old, new) = (HostBridge::new(), HostBridge::new());
    let state = Persist::save(&old).unwrap();
    Persist::restore(&new, as_written(&state)).unwrap();
    assert_eq!(Persist::save(&new).unwrap(), state);
}
