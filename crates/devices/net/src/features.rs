//! Feature bits of a network device (5.1.3), what they need, and what they mean to a back end.
use std::ops::BitOr;

pub(crate) const CSUM: u64 = 1 << 0;
pub(crate) const GUEST_CSUM: u64 = 1 << 1;
pub(crate) const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
pub(crate) const MTU: u64 = 1 << 3;
pub(crate) const MAC: u64 = 1 << 5;
pub(crate) const GUEST_TSO4: u64 = 1 << 7;
pub(crate) const GUEST_TSO6: u64 = 1 << 8;
pub(crate) const GUEST_ECN: u64 = 1 << 9;
pub(crate) const GUEST_UFO: u64 = 1 << 10;
pub(crate) const HOST_TSO4: u64 = 1 << 11;
pub(crate) const HOST_TSO6: u64 = 1 << 12;
pub(crate) const HOST_ECN: u64 = 1 << 13;
pub(crate) const HOST_UFO: u64 = 1 << 14;
pub(crate) const MRG_RXBUF: u64 = 1 << 15;
pub(crate) const STATUS: u64 = 1 << 16;
pub(crate) const CTRL_VQ: u64 = 1 << 17;
pub(crate) const CTRL_RX: u64 = 1 << 18;
pub(crate) const CTRL_VLAN: u64 = 1 << 19;
pub(crate) const CTRL_RX_EXTRA: u64 = 1 << 20;
pub(crate) const GUEST_ANNOUNCE: u64 = 1 << 21;
pub(crate) const MQ: u64 = 1 << 22;
pub(crate) const CTRL_MAC_ADDR: u64 = 1 << 23;
pub(crate) const GUEST_USO4: u64 = 1 << 54;
pub(crate) const GUEST_USO6: u64 = 1 << 55;
pub(crate) const HOST_USO: u64 = 1 << 56;

/// What each needs at least one of (5.1.3.1).
const NEEDS: [(u64, u64); 19] = [
    (GUEST_TSO4, GUEST_CSUM),
    (GUEST_TSO6, GUEST_CSUM),
    (GUEST_ECN, GUEST_TSO4 | GUEST_TSO6),
    (GUEST_UFO, GUEST_CSUM),
    (GUEST_USO4, GUEST_CSUM),
    (GUEST_USO6, GUEST_CSUM),
    (HOST_TSO4, CSUM),
    (HOST_TSO6, CSUM),
    (HOST_ECN, HOST_TSO4 | HOST_TSO6),
    (HOST_UFO, CSUM),
    (HOST_USO, CSUM),
    (CTRL_RX, CTRL_VQ),
    (CTRL_RX_EXTRA, CTRL_VQ),
    (CTRL_VLAN, CTRL_VQ),
    (GUEST_ANNOUNCE, CTRL_VQ),
    (MQ, CTRL_VQ),
    (CTRL_MAC_ADDR, CTRL_VQ),
    (CTRL_GUEST_OFFLOADS, CTRL_VQ),
    (GUEST_ANNOUNCE, STATUS),
];

/// Whether a driver may use just these.
pub(crate) fn agree(features: u64) -> bool {
    NEEDS.iter().all(|(bit, needs)| features & bit == 0 || features & needs != 0)
}

/// What may be left to do in a frame: checksums to compute, segments to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads(u8);

impl Offloads {
    /// Frames as they are on a wire.
    pub const NONE: Self = Self(0);
    /// The checksum of TCP or UDP.
    pub const CHECKSUM: Self = Self(1);
    /// Segments of TCP over IPv4.
    pub const TSO4: Self = Self(1 << 1);
    /// Segments of TCP over IPv6.
    pub const TSO6: Self = Self(1 << 2);
    /// Segments of TCP with congestion notification.
    pub const ECN: Self = Self(1 << 3);
    /// Fragments of UDP.
    pub const UFO: Self = Self(1 << 4);
    /// Datagrams of UDP over IPv4.
    pub const USO4: Self = Self(1 << 5);
    /// Datagrams of UDP over IPv6.
    pub const USO6: Self = Self(1 << 6);

    /// All of these.
    pub const ALL: Self = Self(0x7f);

    const GUEST: [(u64, Self); 7] = [
        (GUEST_CSUM, Self::CHECKSUM),
        (GUEST_TSO4, Self::TSO4),
        (GUEST_TSO6, Self::TSO6),
        (GUEST_ECN, Self::ECN),
        (GUEST_UFO, Self::UFO),
        (GUEST_USO4, Self::USO4),
        (GUEST_USO6, Self::USO6),
    ];
    const HOST: [(u64, Self); 6] = [
        (CSUM, Self::CHECKSUM),
        (HOST_TSO4, Self::TSO4),
        (HOST_TSO6, Self::TSO6),
        (HOST_ECN, Self::ECN),
        (HOST_UFO, Self::UFO),
        (HOST_USO, Self(Self::USO4.0 | Self::USO6.0)),
    ];

    /// Whether all of `other` are among these.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether frames may be longer than what goes over a wire.
    pub fn are_large(self) -> bool {
        self.0 & !(Self::CHECKSUM.0 | Self::ECN.0) != 0
    }

    /// What a guest takes, by its features or by what it has set.
    pub(crate) fn of_guest(features: u64) -> Self {
        let one = |(bit, own): &(u64, Self)| if features & bit != 0 { *own } else { Self::NONE };
        Self::GUEST.iter().map(one).fold(Self::NONE, Self::bitor)
    }

    /// The features of a device whose back end can do these.
    pub(crate) fn features(self) -> u64 {
        let all = Self::GUEST.iter().chain(&Self::HOST).filter(|(_, own)| self.contains(*own));
        all.fold(0, |features, (bit, _)| features | bit)
    }
}

/// The features that a driver may change while it runs (5.1.6.5.6).
pub(crate) const CHANGEABLE: u64 =
    GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_UFO | GUEST_USO4 | GUEST_USO6;

impl BitOr for Offloads {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_need_others() {
        assert!(agree(0) && agree(GUEST_CSUM | GUEST_TSO4 | GUEST_ECN) && agree(CSUM | HOST_USO));
        for bad in [GUEST_TSO4, GUEST_CSUM | GUEST_ECN, HOST_TSO6, MQ, CTRL_VQ | GUEST_ANNOUNCE, GUEST_USO6] {
            assert!(!agree(bad), "{bad:#x}");
        }
        let all = NEEDS.iter().fold(0, |all, (bit, needs)| all | bit | needs);
        assert!(agree(all));
    }

    #[test]
    fn offloads_and_features_are_the_same_told_twice() {
        let wire = Offloads::NONE;
        assert_eq!((wire.features(), wire.are_large()), (0, false));
        let all = Offloads::ALL;
        assert_eq!(Offloads::of_guest(all.features()), all);
        assert_eq!(all.features() & CHANGEABLE, CHANGEABLE);
        let half = Offloads::CHECKSUM | Offloads::USO4;
        assert_eq!(half.features(), CSUM | GUEST_CSUM | GUEST_USO4, "the host's needs both versions of IP");
        assert!(half.are_large() && !(Offloads::CHECKSUM | Offloads::ECN).are_large());
        assert!(all.contains(half) && !half.contains(all));
    }
}
