//! `stdout`: one line a message on standard output.

use std::{
    io::{self, Write},
    sync::Arc,
};

use async_trait::async_trait;
use meterline_config::{Configure, Cx, OutputSpec, Spec};
use meterline_core::{
    BatchPolicy, BuildContext, BuildError, Content, Message, OutputNode, OutputPlan, RetryPolicy,
    Taken, WriteError, Writer, WriterNode,
};
use serde::Deserialize;

/// The component.
pub(crate) const SPEC: OutputSpec = Spec::new::<Config>(
    "stdout",
    "Prints each message on a line of standard output.",
    &["stdout: {}", "stdout:\n  codec: lines\n"],
);

/// Configuration of `stdout`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// How messages are told apart: `lines`.
    #[serde(default, rename = "codec")]
    _codec: Codec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Codec {
    #[default]
    Lines,
}

impl Configure for Config {
    type Plan = dyn OutputPlan;

    fn plan(self, _: &mut Cx<'_>) -> Option<Box<dyn OutputPlan>> {
        Some(Box::new(Stdout))
    }
}

struct Stdout;

#[async_trait]
impl OutputPlan for Stdout {
    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<OutputNode, BuildError> {
        Ok(OutputNode::Writer(WriterNode {
            label: Arc::clone(&cx.label),
            component: "stdout",
            taken: Taken::Kept,
            writer: Arc::new(Self),
            batching: BatchPolicy::default(),
            max_in_flight: 1,
            accepts_failed: false,
            retry: RetryPolicy::default(),
            drops: None,
            objects_only: false,
        }))
    }
}

#[async_trait]
impl Writer for Stdout {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        let text = lines(batch);
        // A full pipe blocks, and may for long: not on a thread that others need.
        tokio::task::spawn_blocking(move || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&text).and_then(|()| stdout.flush())
        })
        .await
        .map_err(|error| retry(&error.to_string()))?
        .map_err(|error| retry(&error.to_string()))
    }
}

fn retry(reason: &str) -> WriteError {
    WriteError::Retry {
        reason: format!("cannot write to standard output: {reason}"),
        after: None,
    }
}

/// Each message on a line of its own, whatever line breaks it holds.
fn lines(batch: &[Message]) -> Vec<u8> {
    let mut text = Vec::new();
    for message in batch {
        if let Content::Raw(bytes) = message.content() {
            text.extend(bytes.iter().map(|byte| match byte {
                b'\n' | b'\r' => b' ',
                byte => *byte,
            }));
            text.push(b'\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        let batch = [Message::raw("{\"a\":\n1}"), Message::raw("b")];
        assert_eq!(lines(&batch), b"{\"a\": 1}\nb\n");
    }
}
