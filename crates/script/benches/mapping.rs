//! What a mapping like the preset's costs for one pod. The budget is 8 µs.

mod pod;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use meterline_core::{Content, Document, Identity, Message};
use meterline_script::{Engine, Limits};

fn message() -> Message {
    let pod = pod::pod();
    let mut message = Message::new(Content::Document(Document::from(&pod)));
    message
        .metadata
        .set("schedule_time", "2025-01-01T00:00:00Z");
    message.metadata.set("schedule_interval", "15s");
    message.with_identity(Identity {
        about: "pod customer-a/web".into(),
        uid: "6b1c5a1e-5d55-4b1e-9a55-0d9f9f0f2a11".into(),
        start: 1_735_689_600,
        cluster: None,
    })
}

fn mapping(c: &mut Criterion) {
    let engine = Engine::new(Limits::default());
    let message = message();
    for (name, source) in [
        ("preset", include_str!("preset.rhai")),
        ("spelled out", include_str!("spelled_out.rhai")),
        ("nothing", ""),
        ("copy", "root = this"),
    ] {
        let mapping = match engine.compile_mapping(source) {
            Ok(mapping) => mapping,
            Err(errors) => unreachable!("{errors:?}"),
        };
        c.bench_function(name, |b| {
            b.iter_batched(
                || message.clone(),
                |mut message| {
                    let outcome = mapping.run(&mut message);
                    assert!(outcome.is_ok(), "{outcome:?}");
                    black_box(message)
                },
                criterion::BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, mapping);
criterion_main!(benches);
