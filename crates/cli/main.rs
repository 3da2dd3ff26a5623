//! The `meterline` command.
fn main() {}
