//! Ids.

use meterline_core::{part_id, uuid_v5};
use rhai::{Engine, NativeCallContext};
use uuid::Uuid;

use super::{Example, FunctionDoc, Group, NativeResult, Purity};
use crate::context;

pub(super) const DOCS: &[FunctionDoc] = &[
    FunctionDoc {
        name: "event_id",
        signature: "event_id() -> text, event_id(type) -> text, event_id(type, key) -> text",
        summary: "Returns the id of the usage in the message for this event type. It is the same in \
                  all replicas, and after restarts and retries. Several events of one type for one \
                  usage, as `unarchive` makes them, need ids that differ: the key, a text, \
                  distinguishes them. It must not depend on their order. Without a ledger behind the \
                  input the id is derived from the content.",
        group: Group::Ids,
        // An input that keeps only parts of its objects gives its messages an identity.
        purity: Purity::Content(&[]),
        examples: &[
            Example {
                script: r#"event_id("a") == event_id("a") && event_id("a") != event_id("b")"#,
                input: "{}",
                output: "true",
            },
            Example {
                script: r#"["cpu", "memory"].map_each(|it| event_id("a", it)).unique().length()"#,
                input: "{}",
                output: "2",
            },
        ],
    },
    FunctionDoc {
        name: "uuid_v4",
        signature: "uuid_v4() -> text",
        summary: "Returns a new random UUID. As the id of an event it defeats deduplication: an event \
                  that is sent again is billed twice. Use `event_id()` instead.",
        group: Group::Ids,
        purity: Purity::World,
        examples: &[Example {
            script: "uuid_v4().len()",
            input: "{}",
            output: "36",
        }],
    },
    FunctionDoc {
        name: "uuid_v5",
        signature: "name.uuid_v5() -> text, name.uuid_v5(namespace) -> text",
        summary: "Returns the version 5 UUID of a name. The namespace is a UUID or one of `dns`, `url`, \
                  `oid` and `x500`; the default is the nil UUID.",
        group: Group::Ids,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#""www.example.com".uuid_v5("dns")"#,
            input: "{}",
            output: r#""2ed6657d-e927-568b-95e1-2665a8aea6a2""#,
        }],
    },
];

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn("uuid_v4", || Uuid::new_v4().to_string());
    engine.register_fn("uuid_v5", |name: &str| {
        uuid_v5(&Uuid::nil(), name.as_bytes()).to_string()
    });
    engine.register_fn(
        "uuid_v5",
        |name: &str, namespace: &str| -> NativeResult<String> {
            let namespace = match namespace {
                "dns" => Uuid::NAMESPACE_DNS,
                "url" => Uuid::NAMESPACE_URL,
                "oid" => Uuid::NAMESPACE_OID,
                "x500" => Uuid::NAMESPACE_X500,
                other => Uuid::parse_str(other).map_err(|_| {
                    format!("`{other}` is neither a UUID nor one of dns, url, oid and x500")
                })?,
            };
            Ok(uuid_v5(&namespace, name.as_bytes()).to_string())
        },
    );
    engine.register_fn("event_id", |call: NativeCallContext| {
        event_id(&call, "", None)
    });
    engine.register_fn("event_id", |call: NativeCallContext, event_type: &str| {
        event_id(&call, event_type, None)
    });
    engine.register_fn(
        "event_id",
        |call: NativeCallContext, event_type: &str, key: &str| {
            event_id(&call, event_type, Some(key))
        },
    );
}

fn event_id(
    call: &NativeCallContext<'_>,
    event_type: &str,
    key: Option<&str>,
) -> NativeResult<String> {
    let context = context::of(call)?;
    let id = match context.identity() {
        Some(identity) => {
            let (cluster, uid) = (identity.cluster.as_deref(), &identity.uid);
            match key {
                None => meterline_core::event_id(cluster, event_type, uid, identity.start),
                Some(key) => part_id(cluster, event_type, key, uid, identity.start),
            }
        }
        None => uuid_v5(&CONTENT, &name(event_type, key, &context.bytes()?)),
    };
    Ok(id.to_string())
}

/// Returns the name of an event that is derived from content.
fn name(event_type: &str, key: Option<&str>, content: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(event_type.len() + content.len() + 32);
    if let Some(key) = key {
        // No type begins with this byte, because it is not UTF-8. The lengths separate type, key and content.
        name.push(u8::MAX);
        name.extend((event_type.len() as u64).to_be_bytes());
        name.extend((key.len() as u64).to_be_bytes());
        name.extend(event_type.as_bytes());
        name.extend(key.as_bytes());
    } else {
        name.extend(event_type.as_bytes());
        // A type contains no NUL, so different pairs of type and content have different names.
        name.push(0);
    }
    name.extend(content);
    name
}

/// The namespace of ids derived from content, so that they never equal the id of a usage interval.
const CONTENT: Uuid = Uuid::from_u128(0x9f0d_2b1c_64f5_4a7e_8d43_5b0c_7a91_e6d2);
