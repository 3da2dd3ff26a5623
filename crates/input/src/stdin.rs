//! `stdin`: reads one message per line from standard input.

use async_trait::async_trait;
use meterline_config::{Configure, InputSpec, PlanContext, Spec};
use meterline_core::{Batch, BuildContext, BuildError, Input, InputError, InputPlan, Message};
use serde::Deserialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

use crate::replay::{Replay, Source};

/// The component.
pub(crate) const SPEC: InputSpec = Spec::new::<Config>(
    "stdin",
    "Reads one message a line from standard input and ends with it.",
    &["stdin: {}", "stdin:\n  max_buffer: 4000000\n"],
);

/// Configuration of `stdin`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The maximum length of a line, in bytes.
    #[serde(default = "default_max_buffer")]
    max_buffer: usize,
}

const fn default_max_buffer() -> usize {
    1_000_000
}

impl Configure for Config {
    type Plan = dyn InputPlan;

    fn plan(self, _: &mut PlanContext<'_>) -> Option<Box<dyn InputPlan>> {
        Some(Box::new(Plan {
            max_buffer: self.max_buffer,
        }))
    }
}

struct Plan {
    max_buffer: usize,
}

#[async_trait]
impl InputPlan for Plan {
    async fn build(self: Box<Self>, _: &BuildContext) -> Result<Box<dyn Input>, BuildError> {
        Ok(Box::new(Replay::new(Lines {
            reader: BufReader::new(tokio::io::stdin()),
            line: Vec::new(),
            max_buffer: self.max_buffer,
        })))
    }
}

struct Lines<R> {
    reader: R,
    /// The part of the current line that has been read. It survives a cancelled read.
    line: Vec<u8>,
    max_buffer: usize,
}

#[async_trait]
impl<R: AsyncBufRead + Unpin + Send> Source for Lines<R> {
    async fn next(&mut self) -> Result<Option<Batch>, InputError> {
        loop {
            let chunk = self
                .reader
                .fill_buf()
                .await
                .map_err(|error| InputError(format!("cannot read standard input: {error}")))?;
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(chunk.len());
            let at_end_of_input = chunk.is_empty();
            if self.line.len().saturating_add(taken) > self.max_buffer {
                return Err(InputError(format!(
                    "a line of standard input is longer than max_buffer ({} bytes); raise max_buffer",
                    self.max_buffer
                )));
            }
            self.line
                .extend_from_slice(chunk.get(..taken).unwrap_or_default());
            self.reader.consume(taken + usize::from(end.is_some()));
            if end.is_none() && !at_end_of_input {
                continue;
            }
            let mut line = std::mem::take(&mut self.line);
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if !line.is_empty() {
                return Ok(Some(vec![Message::raw(line)]));
            }
            if at_end_of_input {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &'static str, max_buffer: usize) -> Result<Vec<String>, InputError> {
        let mut source = Lines {
            // A tiny buffer, so that lines span several reads.
            reader: BufReader::with_capacity(3, text.as_bytes()),
            line: Vec::new(),
            max_buffer,
        };
        let mut found = Vec::new();
        while let Some(batch) = source.next().await? {
            for message in batch {
                found.push(String::from_utf8(message.bytes().unwrap().to_vec()).unwrap());
            }
        }
        Ok(found)
    }

    #[tokio::test]
    async fn each_line_is_a_message() {
        assert_eq!(
            lines("one\r\n\ntwo words\nlast", 100).await.unwrap(),
            ["one", "two words", "last"]
        );
    }

    #[tokio::test]
    async fn a_line_beyond_the_limit_names_the_remedy() {
        let error = lines("123456\n", 5).await.unwrap_err();
        assert!(error.to_string().contains("raise max_buffer"), "{error}");
    }
}
