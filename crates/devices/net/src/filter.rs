use crate::Mac;
use serde::{Deserialize, Serialize};

/// Most addresses of each kind that a filter knows: with more, it lets all of that kind pass.
pub const MAX_MACS: usize = 64;

/// What the guest wants to receive (5.1.6.5.1 to 5.1.6.5.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Everything.
    pub promiscuous: bool,
    /// All groups.
    pub all_multicast: bool,
    /// To all single addresses.
    pub all_unicast: bool,
    /// No groups.
    pub no_multicast: bool,
    /// To no single address.
    pub no_unicast: bool,
    /// Nothing that is for everybody.
    pub no_broadcast: bool,
    /// Single addresses beside its own; `None`: too many to know.
    pub unicast: Option<Vec<Mac>>,
    /// Groups; `None`: too many to know.
    pub multicast: Option<Vec<Mac>>,
    /// The VLANs that it wants, by number; `None`: all.
    pub vlans: Option<Vec<u16>>,
}

impl Default for Filter {
    /// Everything, as long as the driver says nothing.
    fn default() -> Self {
        Self {
            promiscuous: true,
            all_multicast: false,
            all_unicast: false,
            no_multicast: false,
            no_unicast: false,
            no_broadcast: false,
            unicast: Some(Vec::new()),
            multicast: Some(Vec::new()),
            vlans: None,
        }
    }
}

/// Bytes of a frame that a filter looks at: addresses, and a VLAN tag.
pub(crate) const LOOK: usize = 16;
/// EtherType of a VLAN tag (IEEE 802.1Q).
const VLAN: [u8; 2] = [0x81, 0x00];

impl Filter {
    /// Whether it need not be asked.
    pub fn is_open(&self) -> bool {
        self.promiscuous
    }

    /// Whether a frame that begins with `head` is for a guest of address `own`.
    pub fn passes(&self, own: Mac, head: &[u8; LOOK]) -> bool {
        let [d0, d1, d2, d3, d4, d5, _, _, _, _, _, _, t0, t1, v0, v1] = *head;
        let to = Mac([d0, d1, d2, d3, d4, d5]);
        let vlan = u16::from_be_bytes([v0, v1]) & 0xfff;
        self.promiscuous || (self.wants_vlan([t0, t1] == VLAN, vlan) && self.wants(own, to))
    }

    fn wants_vlan(&self, tagged: bool, vlan: u16) -> bool {
        !tagged || self.vlans.as_ref().is_none_or(|vlans| vlans.contains(&vlan))
    }

    fn wants(&self, own: Mac, to: Mac) -> bool {
        let among = |list: &Option<Vec<Mac>>| list.as_ref().is_none_or(|list| list.contains(&to));
        if to == Mac::BROADCAST {
            return !self.no_broadcast;
        }
        if to.is_group() {
            return !self.no_multicast && (self.all_multicast || among(&self.multicast));
        }
        !self.no_unicast && (self.all_unicast || to == own || among(&self.unicast))
    }

    /// Whether it can be one that a driver has set.
    pub(crate) fn is_sound(&self) -> bool {
        let short = |list: &Option<Vec<Mac>>| list.as_ref().is_none_or(|list| list.len() <= MAX_MACS);
        let vlans = self.vlans.as_ref().is_none_or(|v| v.len() <= 4096 && v.iter().all(|id| *id < 4096));
        short(&self.unicast) && short(&self.multicast) && vlans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const GROUP: Mac = Mac([1, 0, 0x5e, 0, 0, 1]);

    fn head(to: Mac, vlan: Option<u16>) -> [u8; LOOK] {
        let mut head = [0; LOOK];
        head[..6].copy_from_slice(&to.0);
        if let Some(vlan) = vlan {
            head[12..14].copy_from_slice(&VLAN);
            head[14..].copy_from_slice(&(vlan | 0xe000).to_be_bytes());
        }
        head
    }

    #[test]
    fn a_guest_gets_what_it_wants() {
        let closed = Filter { promiscuous: false, ..Filter::default() };
        let gets = |filter: &Filter| {
            [OWN, OTHER, GROUP, Mac::BROADCAST].map(|to| filter.passes(OWN, &head(to, None)))
        };
        assert_eq!(gets(&Filter::default()), [true; 4]);
        assert_eq!(gets(&closed), [true, false, false, true]);
        let of = |change: fn(&mut Filter)| {
            let mut filter = closed.clone();
            change(&mut filter);
            gets(&filter)
        };
        assert_eq!(of(|f| f.all_multicast = true), [true, false, true, true]);
        assert_eq!(of(|f| f.all_unicast = true), [true, true, false, true]);
        assert_eq!(of(|f| f.no_unicast = true), [false, false, false, true]);
        assert_eq!(of(|f| (f.no_multicast, f.all_multicast) = (true, true)), [true, false, false, true]);
        assert_eq!(of(|f| f.no_broadcast = true), [true, false, false, false]);
        assert_eq!(of(|f| f.unicast = Some(vec![OTHER])), [true, true, false, true]);
        assert_eq!(of(|f| f.multicast = Some(vec![GROUP])), [true, false, true, true]);
        assert_eq!(of(|f| (f.unicast, f.multicast) = (None, None)), [true; 4]);
    }

    #[test]
    fn vlans_are_chosen_by_number() {
        let mut filter = Filter { promiscuous: false, vlans: Some(vec![7]), ..Filter::default() };
        let gets = |filter: &Filter, vlan| filter.passes(OWN, &head(OWN, vlan));
        assert_eq!(
            (gets(&filter, Some(7)), gets(&filter, Some(8)), gets(&filter, None)),
            (true, false, true)
        );
        assert!(filter.is_sound());
        filter.vlans = Some(vec![4096]);
        assert!(!filter.is_sound());
        filter.vlans = None;
        assert!(gets(&filter, Some(8)));
        filter.multicast = Some(vec![GROUP; MAX_MACS + 1]);
        assert!(!filter.is_sound());
    }
}
