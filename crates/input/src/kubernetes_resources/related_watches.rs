//! The watches of the objects whose metadata belongs to what is billed.

use std::sync::Arc;

use meterline_core::Reads;
use meterline_script::Relation;

use super::resource_type::ResourceType;

/// A watch of such objects.
#[derive(Debug)]
pub(super) struct RelatedWatch<'a> {
    /// The name of the watch in the ledger.
    pub(super) name: Arc<str>,
    /// The namespace, or none for all of them.
    pub(super) namespace: Option<String>,
    /// What the objects are to those that are billed.
    pub(super) relation: Relation,
    pub(super) resource_type: ResourceType,
    /// What is read of their metadata.
    pub(super) reads: &'a Reads,
}

/// Returns the watches for what is read of other objects. Controllers are in the namespaces of what is billed; none stands
/// for all.
pub(super) fn related_watches<'a>(
    related: &'a [(Relation, Reads)],
    namespaces: &[String],
) -> Vec<RelatedWatch<'a>> {
    let mut watches = Vec::new();
    for (relation, reads) in related {
        let mut add = |name: Arc<str>, namespace: Option<&String>, resource_type| {
            watches.push(RelatedWatch {
                name,
                namespace: namespace.cloned(),
                relation: *relation,
                resource_type,
                reads,
            });
        };
        let key = relation.key();
        match relation {
            Relation::Namespace => add(key.into(), None, ResourceType::Namespace),
            Relation::Node => add(key.into(), None, ResourceType::Node),
            Relation::Owner => {
                for controller in ResourceType::CONTROLLERS {
                    let word = controller.word();
                    if namespaces.is_empty() {
                        add(format!("{key} {word} *").into(), None, controller);
                    }
                    for namespace in namespaces {
                        let name = format!("{key} {word} {namespace}");
                        add(name.into(), Some(namespace), controller);
                    }
                }
            }
        }
    }
    watches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_watched_in_the_namespaces_of_the_pods_and_nodes_as_a_whole() {
        let reads = Reads::of(&["labels.team"]);
        let of = |relation, namespaces: &[&str]| -> Vec<String> {
            let related = [(relation, reads.clone())];
            let namespaces: Vec<_> = namespaces.iter().map(|&it| it.to_owned()).collect();
            let watches = related_watches(&related, &namespaces);
            let name = |it: &RelatedWatch<'_>| {
                assert_eq!((it.relation, it.reads), (relation, &reads));
                format!("{} {:?}", it.name, it.namespace)
            };
            watches.iter().map(name).collect()
        };
        assert_eq!(of(Relation::Node, &["a"]), ["node() None"]);
        let all = of(Relation::Owner, &[]);
        assert_eq!(all.len(), 5);
        assert_eq!(all[4], "owner() cronjob * None");
        let two = of(Relation::Owner, &["a", "b"]);
        assert_eq!(two.len(), 10);
        assert_eq!(two[1], r#"owner() deployment b Some("b")"#);
    }
}
