//! Resources that the configuration adds to the table of accelerators.

use std::collections::BTreeMap;

use crate::accelerators::Unit;

/// A resource that the configuration adds to the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Configured {
    pub(crate) vendor: String,
    pub(crate) unit: Unit,
    /// The key of the node label that names the product.
    pub(crate) product: Option<String>,
}

/// The resources that the configuration adds, by name.
pub(crate) type Added = BTreeMap<String, Configured>;
