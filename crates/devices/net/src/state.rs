use crate::features::CHANGEABLE;
use crate::shared::Driven;
use crate::{Filter, Mac, Net};
use drystone_limit::LimiterState;
use drystone_memory::Mem;
use drystone_state::{Persist, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};

/// The saved state of a [`Net`]. Frames under way are not part of it: networks lose some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetState {
    /// The address of the configuration, by which the guest knows it at the next reset.
    pub own_mac: Mac,
    /// The address that it has.
    pub mac: Mac,
    /// The cable is in.
    pub link: bool,
    /// How many pairs of queues receive.
    pub pairs: u16,
    /// Feature bits of the offloads that the driver takes; absent before it was ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_offloads: Option<u64>,
    /// What it wants to receive.
    pub filter: Filter,
    /// What the limit of what it receives has saved up.
    pub rx_limiter: LimiterState,
    /// The same of what it sends.
    pub tx_limiter: LimiterState,
}

impl Schema for NetState {
    const KIND: &'static str = "virtio.net";
    const VERSION: u32 = 1;
}

impl<M: Mem> Persist for Net<M> {
    type State = NetState;

    fn save(&self) -> Result<NetState, SaveError> {
        let shared = self.shared();
        let Driven { mac, pairs, guest_offloads, filter } = shared.driven();
        Ok(NetState {
            own_mac: shared.own_mac,
            mac,
            link: shared.cable(),
            pairs,
            guest_offloads,
            filter,
            rx_limiter: shared.rx_limiter.save()?,
            tx_limiter: shared.tx_limiter.save()?,
        })
    }

    /// The guest is asked to announce itself when it runs: the network may be another.
    fn restore(&self, state: NetState) -> Result<(), RestoreError> {
        let NetState { own_mac, mac, link, pairs, guest_offloads, filter, rx_limiter, tx_limiter } = state;
        let shared = self.shared();
        let invalid = |cause| RestoreError::Invalid { kind: NetState::KIND, cause };
        let id = &shared.id;
        if own_mac != shared.own_mac {
            let now = shared.own_mac;
            return Err(invalid(format!(
                "network device `{id}` has the address {now}, the saved one {own_mac}"
            )));
        }
        if mac.of_one().is_err() {
            return Err(invalid(format!("network device `{id}`: address {mac}")));
        }
        if pairs == 0 || usize::from(pairs) > shared.counters.len() {
            let now = shared.counters.len();
            return Err(invalid(format!(
                "network device `{id}` has {now} pairs of queues, the saved one uses {pairs}"
            )));
        }
        if guest_offloads.is_some_and(|o| o & !CHANGEABLE != 0) || !filter.is_sound() {
            return Err(invalid(format!("network device `{id}`: offloads or filter that no driver sets")));
        }
        shared.rx_limiter.restore(rx_limiter)?;
        shared.tx_limiter.restore(tx_limiter)?;
        shared.drive(Driven { mac, pairs, guest_offloads, filter });
        shared.set_cable(link);
        self.announce_later();
        Ok(())
    }
}
