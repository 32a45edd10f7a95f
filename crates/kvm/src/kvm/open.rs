//! What to tell a user whose KVM cannot be opened.

use drystone_hypervisor::Error;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub(super) fn unavailable(path: &Path, cause: io::Error) -> Error {
    let hint = match cause.kind() {
        io::ErrorKind::NotFound => {
            missing_hint(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
        }
        io::ErrorKind::PermissionDenied => std::fs::metadata(path).map_or_else(
            |_| "; its folder cannot be searched".into(),
            |m| {
                let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
                permission_hint(&path.display().to_string(), m.mode(), m.gid(), &groups)
            },
        ),
        _ if matches!(cause.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)) => {
            missing_hint(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
        }
        _ => String::new(),
    };
    Error::Unavailable { device: path.display().to_string(), cause, hint }
}

/// `cpuinfo` is /proc/cpuinfo, whose `flags` name what the processor offers.
fn missing_hint(cpuinfo: &str) -> String {
    let flags = cpuinfo.lines().find(|l| l.starts_with("flags")).unwrap_or_default();
    let has = |flag| flags.split_whitespace().any(|f| f == flag);
    match (has("vmx"), has("svm")) {
        (true, _) => "; load the kernel module: sudo modprobe kvm_intel".into(),
        (_, true) => "; load the kernel module: sudo modprobe kvm_amd".into(),
        _ => "; this processor offers neither VMX nor SVM: enable virtualisation in the firmware (in a virtual \
              machine: nested virtualisation on its host), then load kvm_intel or kvm_amd"
            .into(),
    }
}

/// `groups` is /etc/group.
fn permission_hint(path: &str, mode: u32, gid: u32, groups: &str) -> String {
    let mut fields = groups.lines().map(|l| l.split(':'));
    let group = fields.find_map(|mut f| {
        let (name, id) = (f.next()?, f.nth(1)?);
        (id.parse() == Ok(gid)).then_some(name)
    });
    match group {
        Some(group) if gid != 0 && mode & 0o060 == 0o060 => {
            format!("; it belongs to the group {group}: sudo usermod -aG {group} $USER, then log in again")
        }
        _ => format!(
            "; only root may open it: sudo chgrp kvm {path} && sudo chmod 660 {path}, then sudo usermod -aG kvm $USER and log in again"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_names_the_module_or_the_firmware() {
        let cpu = |flags| format!("processor\t: 0\nflags\t\t: fpu {flags} sse\n");
        assert!(missing_hint(&cpu("vmx")).ends_with("modprobe kvm_intel"));
        assert!(missing_hint(&cpu("svm")).ends_with("modprobe kvm_amd"));
        for none in ["vmxoff svm_lock", ""] {
            assert!(missing_hint(&cpu(none)).contains("nested virtualisation"), "{none}");
        }
    }

    #[test]
    fn a_forbidden_device_names_its_group_if_that_helps() {
        let groups = "root:x:0:\ndaemon:x:1:\nkvm:x:104:me\n";
        let hint = permission_hint("/dev/kvm", 0o20660, 104, groups);
        assert_eq!(hint, "; it belongs to the group kvm: sudo usermod -aG kvm $USER, then log in again");
        for (mode, gid) in [(0o20600, 104), (0o20660, 0), (0o20660, 999)] {
            assert!(
                permission_hint("/dev/kvm", mode, gid, groups).contains("chgrp kvm /dev/kvm"),
                "{mode:o} {gid}"
            );
        }
    }

    #[test]
    fn the_error_is_one_clear_line() {
        let missing = unavailable(Path::new("/nonexistent/kvm"), io::ErrorKind::NotFound.into()).to_string();
        assert!(missing.starts_with("/nonexistent/kvm: cannot open: "), "{missing}");
        assert_eq!(missing.lines().count(), 1);
    }
}
