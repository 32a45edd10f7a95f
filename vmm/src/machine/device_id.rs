use std::fmt;

/// A device that can come and go while the guest runs: what it is, and its own name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceId {
    /// A disk.
    Disk(String),
    /// A network device.
    Net(String),
}

const BLOCK: &str = "block.";
const NET: &str = "net.";

impl DeviceId {
    /// Its name among the machine's parts.
    pub(super) fn part(&self) -> String {
        match self {
            Self::Disk(name) => format!("{BLOCK}{name}"),
            Self::Net(name) => format!("{NET}{name}"),
        }
    }

    /// The device that has that name among the machine's parts; `None` for one that stays.
    pub(super) fn of_part(part: &str) -> Option<Self> {
        let disk = part.strip_prefix(BLOCK).map(|name| Self::Disk(name.into()));
        disk.or_else(|| part.strip_prefix(NET).map(|name| Self::Net(name.into())))
    }

    /// What it is, with its article.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Disk(_) => "a disk",
            Self::Net(_) => "a network device",
        }
    }

    /// Its own name.
    pub fn name(&self) -> &str {
        match self {
            Self::Disk(name) | Self::Net(name) => name,
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(name) => write!(f, "disk `{name}`"),
            Self::Net(name) => write!(f, "network device `{name}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_a_device_and_back() {
        for device in [DeviceId::Disk("root".into()), DeviceId::Net("net0".into())] {
            assert_eq!(DeviceId::of_part(&device.part()), Some(device));
        }
        assert_eq!(DeviceId::of_part("rng"), None);
    }
}
