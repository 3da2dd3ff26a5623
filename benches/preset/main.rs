//! The cost of the preset for one pod on one core: from the stored pod to the encoded event, through
//! every processor of the preset, for pods that are seen for the first time and for pods that did not
//! change since the last window. The budget is 15 µs.
//!
//! For comparison, it also measures the same mapping with each metric written out. Run it with
//! `cargo bench --bench preset`.

mod pod;
mod processors;

use std::{hint::black_box, sync::Arc};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use meterline_components::registry;
use meterline_core::{Content, Document, Drops, Identity, Message, Processor};
use meterline_script::{Engine, Limits};

/// Returns the message that the input makes from a stored pod.
fn message(pod: &Document) -> Message {
    let interval: Arc<str> = "15s".into();
    let time: Arc<str> = "2025-01-01T00:00:00Z".into();
    let mut message = Message::new(Content::Document(pod.clone()));
    for (key, value) in [
        ("schedule_time", &time),
        ("schedule_interval", &interval),
        ("window_time", &time),
        ("window_interval", &interval),
    ] {
        message.metadata.set(key, Arc::clone(value));
    }
    message.with_identity(Identity {
        about: "pod customer-a/web".into(),
        uid: "6b1c5a1e-5d55-4b1e-9a55-0d9f9f0f2a11".into(),
        start: 1_735_689_600,
        end: 1_735_689_615,
        cluster: None,
    })
}

/// Runs all processors and encodes the result.
fn process(processors: &mut [Box<dyn Processor>], batch: Vec<Message>) {
    let mut drops = Drops::default();
    let batch = processors.iter_mut().fold(batch, |batch, processor| {
        processor.process(batch, &mut drops)
    });
    for message in &batch {
        assert!(message.failure().is_none(), "{:?}", message.failure());
        black_box(message.bytes().ok());
    }
}

fn preset(c: &mut Criterion) {
    // As the pipeline does it: a few hundred pods through one processor, then through the next.
    const PODS: usize = 500;
    let pod = pod::pod();
    let registry = match registry() {
        Ok(registry) => registry,
        Err(error) => unreachable!("{error}"),
    };
    let mut processors = processors::processors(&registry);
    let mut group = c.benchmark_group("stored pod to encoded event");
    group.throughput(criterion::Throughput::Elements(PODS as u64));
    let new_pods = || -> Vec<_> { (0..PODS).map(|_| Document::from(&pod)).collect() };
    let messages = |pods: &[Document]| pods.iter().map(message).collect::<Vec<_>>();
    group.bench_function("first window of 500 pods", |b| {
        b.iter_batched(
            || messages(&new_pods()),
            |batch| process(&mut processors, batch),
            BatchSize::LargeInput,
        );
    });
    let known = new_pods();
    group.bench_function("later windows of 500 pods", |b| {
        b.iter_batched(
            || messages(&known),
            |batch| process(&mut processors, batch),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn mapping(c: &mut Criterion) {
    let pod = pod::pod();
    let engine = Engine::new(Limits::default());
    let spelled_out = include_str!("spelled_out.rhai");
    for (name, source) in [
        ("spelled out", spelled_out),
        ("nothing", ""),
        ("copy", "root = this"),
    ] {
        let mapping = match engine.compile_mapping(source) {
            Ok(mapping) => mapping,
            Err(errors) => unreachable!("{errors:?}"),
        };
        c.bench_function(&format!("mapping: {name}"), |b| {
            b.iter_batched(
                || message(&Document::from(&pod)),
                |mut message| {
                    let outcome = mapping.run(&mut message);
                    assert!(outcome.is_ok(), "{outcome:?}");
                    message
                },
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, preset, mapping);
criterion_main!(benches);
