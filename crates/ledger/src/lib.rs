//! Segments, windows, stable ids and the watermark: exact metering without I/O or a clock
