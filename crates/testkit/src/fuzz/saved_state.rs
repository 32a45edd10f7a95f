//! Saved states of VMs and vCPUs, changed in any way: each is restored or refused, and what comes after is a guest that
//! runs or fails, but never a panic.

use super::input::Input;
use crate::guest;
use crate::{Backend, IoLog, TinyVm};
use ciborium::Value;
use drystone_hypervisor::{Clocks, VmConfig};
use drystone_state::Blob;

const EDITS: usize = 32;

/// On the fake hypervisor; see [`saved_state_on`].
///
/// # Panics
/// As [`saved_state_on`].
pub fn saved_state(data: &[u8]) {
    saved_state_on(&Backend::Fake, data);
}

/// Saves a guest, changes both states as `data` says, and restores them in a fresh VM of `backend`.
///
/// # Panics
/// If the unchanged state is refused, or a vCPU with a restored state cannot be saved or dropped.
pub fn saved_state_on(backend: &Backend, data: &[u8]) {
    let mut input = Input::new(data);
    let config = if input.u8().is_multiple_of(2) { VmConfig::bare() } else { VmConfig::default() };
    let (vm, vcpu) = saved(backend, &config);
    let mut fresh = TinyVm::new(backend, config, guest::counts());
    let (new_vm, new_vcpu) = (changed(&vm, &mut input), changed(&vcpu, &mut input));
    let restored = new_vm.as_ref().map(|state| fresh.vm.restore(state, Clocks::GoOn));
    assert!(restored.is_none_or(|r| r.is_ok()) || new_vm.as_ref() != Some(&vm), "a good VM state is refused");
    let restored = new_vcpu.as_ref().map(|state| fresh.vcpu().restore(state));
    assert!(
        restored.is_none_or(|r| r.is_ok()) || new_vcpu.as_ref() != Some(&vcpu),
        "a good state is refused"
    );
    // Where its state is exact, before the guest does anything.
    fresh.vcpu().kicker().kick();
    let _ = fresh.vcpu().run(&mut IoLog::new());
    fresh.vm.save().expect("a VM can be saved whatever was restored");
    fresh.vcpu().save().expect("a vCPU can be saved whatever was restored");
}

fn saved(backend: &Backend, config: &VmConfig) -> (Blob, Blob) {
    let mut tiny = TinyVm::new(backend, config.clone(), guest::counts());
    tiny.vcpu().run(&mut IoLog::new()).expect("the guest runs");
    tiny.vcpu().kicker().kick();
    tiny.vcpu().run(&mut IoLog::new()).expect("the guest stops");
    (tiny.vm.save().expect("it can be saved"), tiny.vcpu().save().expect("it can be saved"))
}

/// `None` if nothing that decodes is left.
fn changed(blob: &Blob, input: &mut Input<'_>) -> Option<Blob> {
    let mut parts = Value::serialized(blob).expect("a blob has an encoded form");
    for _ in 0..usize::from(input.u8()) % EDITS {
        let kind = input.u8();
        if kind % 4 == 3 {
            edit(&mut parts, input.u16().into(), kind / 4, input);
            continue;
        }
        // Inside: what the back end decodes.
        let Some(body) = field(&mut parts, "body").filter(|body| body.is_bytes()) else { continue };
        let bytes = body.as_bytes().expect("a body is bytes");
        let Ok(mut inner) = ciborium::from_reader::<Value, _>(bytes.as_slice()) else { continue };
        edit(&mut inner, input.u16().into(), kind / 4, input);
        let mut bytes = Vec::new();
        ciborium::into_writer(&inner, &mut bytes).expect("a value has an encoded form");
        *body = Value::Bytes(bytes);
    }
    parts.deserialized().ok()
}

fn field<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let fields = value.as_map_mut()?;
    fields.iter_mut().find(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value)
}

/// Changes one thing somewhere in `value`, down a path that `at` chooses, so that every part is as likely as its
/// neighbours.
fn edit(value: &mut Value, at: usize, how: u8, input: &mut Input<'_>) {
    let mut parts: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Map(fields) => fields.iter_mut().map(|(_, value)| value).collect(),
        _ => Vec::new(),
    };
    let choices = parts.len() + 1;
    let chosen = at % choices;
    if chosen + 1 < choices {
        edit(parts.swap_remove(chosen), at / choices, how, input);
    } else {
        change(value, at / choices, how, input);
    }
}

fn change(value: &mut Value, at: usize, how: u8, input: &mut Input<'_>) {
    match (how % 4, value) {
        (0, Value::Array(items)) => items.truncate(at),
        (1, Value::Array(items)) => {
            if let Some(item) = items.first().cloned() {
                items.extend(std::iter::repeat_n(item, at % 5000));
            }
        }
        (0, Value::Map(fields)) => drop(fields.pop()),
        (1, Value::Map(fields)) => fields.extend(fields.first().cloned()),
        (2, value) => *value = Value::Null,
        (_, value) => *value = Value::Integer(input.u64().into()),
    }
}
