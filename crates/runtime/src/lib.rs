//! Wires inputs, processors and outputs: channels, batching, retry and shutdown
