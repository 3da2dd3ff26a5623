//! Parses amounts of resources. An error names the field, because a bill must not contain guesses.

use std::{collections::HashMap, fmt};

use meterline_core::{Node, Scalar};

use crate::quantity::Quantity;

/// An object in a pod that holds amounts: `spec`, `spec.containers[1]`, `status.containerStatuses[0]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder {
    /// `spec` or `status`.
    pub(super) part: &'static str,
    /// The list in it and the index in that list; `None` for the part itself.
    pub(super) item: Option<(&'static str, usize)>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.item {
            Some((list, index)) => write!(f, "{}.{list}[{index}]", self.part),
            None => f.write_str(self.part),
        }
    }
}

/// Amounts by the name of their resource, with their place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Amounts<T> {
    values: T,
    holder: Holder,
    /// The field of the holder, such as `resources.requests`.
    field: &'static str,
}

/// Amounts as they are in the document: a search reads all names before the wanted one.
pub(super) type Listed<'a> = Amounts<Node<'a>>;

/// Amounts with an index of their names.
pub(super) type Indexed<'a> = Amounts<HashMap<&'a str, Node<'a>>>;

/// A search by name.
pub(super) trait Search {
    /// Returns the value of a resource that is listed.
    fn search(&self, name: &str) -> Option<Node<'_>>;
}

impl Search for Node<'_> {
    fn search(&self, name: &str) -> Option<Node<'_>> {
        self.get(name)
    }
}

impl Search for HashMap<&str, Node<'_>> {
    fn search(&self, name: &str) -> Option<Node<'_>> {
        self.get(name).copied()
    }
}

impl<T: Search> Amounts<T> {
    /// Returns the amount of a resource; `None` if it is not listed or null.
    pub(super) fn get(&self, name: &str) -> Result<Option<Quantity>, String> {
        match self.values.search(name).filter(|value| !value.is_null()) {
            Some(value) => match parse(value) {
                Ok(amount) => Ok(Some(amount)),
                Err(reason) => Err(self.error(name, &reason)),
            },
            None => Ok(None),
        }
    }
}

impl<T> Amounts<T> {
    /// Formats an error of an amount.
    fn error(&self, name: &str, reason: &str) -> String {
        let key = if name.contains(['.', '/']) {
            format!("[\"{name}\"]")
        } else {
            format!(".{name}")
        };
        format!("{}.{}{key}: {reason}", self.holder, self.field)
    }
}

impl<'a> Listed<'a> {
    pub(super) fn new(values: Node<'a>, holder: Holder, field: &'static str) -> Self {
        Self {
            values,
            holder,
            field,
        }
    }

    /// Returns the names of all resources that are listed.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.values.entries().map(|(name, _)| name)
    }

    pub(super) fn indexed(&self) -> Indexed<'a> {
        Amounts {
            values: self.values.entries().collect(),
            holder: self.holder,
            field: self.field,
        }
    }
}

/// Parses an amount. The API server always writes text, but users may write numbers.
pub(crate) fn parse(value: Node<'_>) -> Result<Quantity, String> {
    let parse = |text: &str| Quantity::parse(text).map_err(|error| error.to_string());
    let quantity = match value.scalar() {
        Some(Scalar::Text(text) | Scalar::Number(text)) => parse(text)?,
        Some(Scalar::Integer(number)) => parse(&number.to_string())?,
        Some(Scalar::Unsigned(number)) => parse(&number.to_string())?,
        Some(Scalar::Float(number)) => parse(&number.to_string())?,
        Some(Scalar::Null | Scalar::Bool(_)) | None => {
            return Err("is not a Kubernetes quantity".into());
        }
    };
    if quantity.is_negative() {
        return Err(format!("`{quantity}` is negative"));
    }
    Ok(quantity)
}
