use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a name stands for at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Value {
    /// A number that only grows, of things that happened.
    Count(u64),
    /// A number that is so now.
    Number(u64),
    /// A yes or no that is so now.
    Flag(bool),
    /// A word that is so now.
    Text(String),
}

/// A component that shows its counters and its state.
pub trait Observe: Send + Sync {
    /// Names all of them, with their values. Called from any thread, also while the component works; it should not
    /// wait for long.
    fn observe(&self, to: &mut Visitor<'_>);
}

/// Takes what a component shows. A name is a word of `a-z`, `0-9` and `_`.
pub struct Visitor<'a> {
    prefix: String,
    into: &'a mut BTreeMap<String, Value>,
}

impl Visitor<'_> {
    /// A number that only grows.
    pub fn count(&mut self, name: &str, value: u64) {
        self.put(name, Value::Count(value));
    }
    /// A number that is so now.
    pub fn number(&mut self, name: &str, value: u64) {
        self.put(name, Value::Number(value));
    }
    /// A yes or no that is so now.
    pub fn flag(&mut self, name: &str, value: bool) {
        self.put(name, Value::Flag(value));
    }
    /// A word that is so now.
    pub fn text(&mut self, name: &str, value: impl Into<String>) {
        self.put(name, Value::Text(value.into()));
    }
    /// Shows a part under `name.`.
    pub fn part(&mut self, name: &str, part: &dyn Observe) {
        part.observe(&mut Visitor { prefix: format!("{}{name}.", self.prefix), into: self.into });
    }
    fn put(&mut self, name: &str, value: Value) {
        self.into.insert(format!("{}{name}", self.prefix), value);
    }
}

/// All components of one machine that show something, by name. Cheap to clone; clones are the same registry.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<BTreeMap<String, Arc<dyn Observe>>>>);

/// All values at about one moment, by full name: `block.root.reads`. Serializes as one flat map.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Snapshot(pub BTreeMap<String, Value>);

/// Why a component was not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Two components of one name.
    #[error("something named {0} is observed already")]
    Taken(String),
    /// Not words of letters, digits, `_` and `-` with dots between.
    #[error("{0:?} is no name: use words of a-z, A-Z, 0-9, _ and - with a dot between")]
    Invalid(String),
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a component under `name`, for example `block.root`.
    ///
    /// # Errors
    /// [`NameError`]; nothing was added then.
    pub fn add(&self, name: &str, component: Arc<dyn Observe>) -> Result<(), NameError> {
        let word =
            |w: &str| !w.is_empty() && w.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
        if !name.split('.').all(word) {
            return Err(NameError::Invalid(name.into()));
        }
        match self.lock().entry(name.into()) {
            std::collections::btree_map::Entry::Occupied(_) => Err(NameError::Taken(name.into())),
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(component);
                Ok(())
            }
        }
    }

    /// Takes a component out. False if there is none of that name.
    pub fn remove(&self, name: &str) -> bool {
        self.lock().remove(name).is_some()
    }

    /// Everything.
    pub fn snapshot(&self) -> Snapshot {
        // Not under the lock: a component may take its own, and another thread may hold that while it adds one here.
        let components: Vec<_> = self.lock().iter().map(|(n, c)| (n.clone(), c.clone())).collect();
        let mut values = BTreeMap::new();
        for (name, component) in components {
            component.observe(&mut Visitor { prefix: format!("{name}."), into: &mut values });
        }
        Snapshot(values)
    }

    /// One value, by its full name; only its component is asked.
    pub fn read(&self, name: &str) -> Option<Value> {
        let (owner, component) = {
            let components = self.lock();
            let owners = name.match_indices('.').filter_map(|(at, _)| name.get(..at));
            owners.filter_map(|o| Some((o.to_owned(), components.get(o)?.clone()))).next_back()?
        };
        let mut values = BTreeMap::new();
        component.observe(&mut Visitor { prefix: format!("{owner}."), into: &mut values });
        values.remove(name)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<dyn Observe>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
