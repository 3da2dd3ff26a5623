//! Processors: mapping, json_schema, catch, try, switch, log, noop
