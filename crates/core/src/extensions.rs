//! Values by their type, for what some components understand and this crate does not.

use std::{
    any::{Any, TypeId, type_name},
    collections::HashMap,
    fmt,
    sync::Arc,
};

/// At most one value of each type. Clones share the values.
///
/// ```
/// use meterline_core::Extensions;
///
/// #[derive(Debug, PartialEq)]
/// struct Region(&'static str);
///
/// let extensions = Extensions::default().with(Region("eu"));
/// assert_eq!(extensions.get::<Region>().as_deref(), Some(&Region("eu")));
/// assert_eq!(extensions.get::<u8>(), None);
/// ```
#[derive(Clone, Default)]
pub struct Extensions(HashMap<TypeId, (&'static str, Arc<dyn Any + Send + Sync>)>);

impl Extensions {
    /// Adds a value, in place of another one of its type.
    #[must_use]
    pub fn with<T: Any + Send + Sync>(mut self, value: T) -> Self {
        let value = (type_name::<T>(), Arc::new(value) as _);
        self.0.insert(TypeId::of::<T>(), value);
        self
    }

    /// Returns the value of this type, if there is one.
    #[must_use]
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let (_, value) = self.0.get(&TypeId::of::<T>())?;
        Arc::clone(value).downcast().ok()
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.0.values().map(|(name, _)| name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_replaces_the_one_of_its_type_and_no_other() {
        let first = Extensions::default().with(1_u8).with("a");
        let second = first.clone().with(2_u8);
        assert_eq!(first.get::<u8>().as_deref(), Some(&1));
        assert_eq!(second.get::<u8>().as_deref(), Some(&2));
        assert_eq!(second.get::<&str>().as_deref(), Some(&"a"));
        assert_eq!(second.get::<u16>(), None);
        assert!(format!("{second:?}").contains("u8"));
    }
}
