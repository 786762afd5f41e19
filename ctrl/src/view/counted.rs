//! Counters in JSON: keys beside the others of the object that they belong to, by the dataplane's own lists.

use dataplane::stats::Count;
use serde::ser::{Serialize, SerializeMap, Serializer};

/// The values of a list of counters, to be flattened into an object.
#[derive(Clone, Debug)]
pub struct Counted(Vec<(&'static str, u64)>);

impl Counted {
    /// `totals` by the list of what they are.
    pub fn of<T>(list: &[Count<T>], totals: &T) -> Self {
        Self(list.iter().map(|count| (count.name, (count.get)(totals))).collect())
    }
}

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
