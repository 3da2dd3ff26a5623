//! The metadata of an object as mappings have it of other objects.

use meterline_core::{Builder, Document, Node};

/// Name, labels and annotations of an object.
pub(crate) fn metadata(name: &str, object: Node<'_>) -> Document {
    let value = object.get("metadata").map(Node::to_value);
    let field = |key: &str| {
        let value = value.as_ref().and_then(|it| it.get(key));
        value.cloned().unwrap_or_else(|| serde_json::json!({}))
    };
    let mut builder = Builder::default();
    let open = builder.begin_object();
    for key in ["annotations", "labels"] {
        builder.key(key);
        builder.push(&field(key));
    }
    builder.key("name");
    builder.push(&name.into());
    builder.end(open);
    builder.finish()
}
