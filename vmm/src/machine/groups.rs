use super::MachineError;
use super::shown::Limits;
use crate::config::LimitGroupConfig;
use drystone_bus::Clock;
use drystone_lifecycle::{Orchestrator, Stage};
use drystone_limit::{LimitConfig, LimitGroup};
use drystone_observe::{Observe, Registry, Visitor};
use drystone_state::{Component, ComponentError, PersistDyn};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The limits that a machine's disks share, by name. They are there for as long as the machine, whether they have disks or not.
/// Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Groups(Arc<BTreeMap<String, LimitGroup>>);

impl Groups {
    pub(super) fn new(config: &[LimitGroupConfig], clock: &Arc<dyn Clock>) -> Result<Self, MachineError> {
        let group = |group: &LimitGroupConfig| {
            let what = |what| MachineError::LimitGroup { name: group.name.clone(), what };
            let limit = group.limit().limits().map_err(what)?;
            Ok((group.name.clone(), LimitGroup::new(limit, clock.clone())))
        };
        Ok(Self(Arc::new(config.iter().map(group).collect::<Result<_, MachineError>>()?)))
    }

    /// Shows them, and has what they have saved up written down.
    pub(super) fn register(
        &self,
        registry: &Registry,
        orchestrator: &mut Orchestrator,
    ) -> Result<(), MachineError> {
        for (name, group) in self.0.iter() {
            let (part, group) = (format!("limit_group.{name}"), Arc::new(Part(group.clone())));
            registry.add(&part, group.clone())?;
            orchestrator.add(Stage::Backends, part, group)?;
        }
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<&LimitGroup> {
        self.0.get(name)
    }

    /// Other limits for a group from now on; false if there is none of that name.
    pub(super) fn configure(&self, name: &str, limit: LimitConfig) -> bool {
        self.get(name).map(|group| group.configure(limit)).is_some()
    }
}

/// A group as a part of a machine.
struct Part(LimitGroup);

/// Its disks pause it, and a guest's reset must not give it a burst.
impl Component for Part {
    fn pause(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn resume(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(&self.0)
    }
}

impl Observe for Part {
    fn observe(&self, to: &mut Visitor<'_>) {
        Limits(self.0.config()).observe(to);
    }
}
