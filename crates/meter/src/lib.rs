//! A small local meter: value property as JSONPath, aggregation, group by
