//! Functions for times and durations.

use chrono::{DateTime, SecondsFormat, Utc};
use meterline_core::duration;
use rhai::{Engine, FLOAT, INT};

use super::{Example, FunctionDoc, Group, NativeResult, Purity};

pub(super) const DOCS: &[FunctionDoc] = &[
    FunctionDoc {
        name: "now",
        signature: "now() -> text",
        summary: "Returns the current time, RFC 3339 in UTC. For the time of the usage use \
                  `meta(\"schedule_time\")`, which stays the same when the event is created again.",
        group: Group::Time,
        purity: Purity::World,
        examples: &[Example {
            script: r#"now().has_suffix("Z") && now().parse_timestamp() > 1700000000"#,
            input: "{}",
            output: "true",
        }],
    },
    FunctionDoc {
        name: "parse_duration",
        signature: "text.parse_duration() -> integer",
        summary: "Converts a Go duration such as `15s` or `1h30m` to nanoseconds.",
        group: Group::Time,
        purity: Purity::Pure,
        examples: &[
            Example {
                script: r#""1m30s".parse_duration() / 1_000_000_000"#,
                input: "{}",
                output: "90",
            },
            Example {
                script: r#""15".parse_duration()"#,
                input: "{}",
                output: "line 1, column 6: `15` is not a duration; write for example `15s`, `500ms` or `1h30m`",
            },
        ],
    },
    FunctionDoc {
        name: "parse_timestamp",
        signature: "text.parse_timestamp() -> integer",
        summary: "Converts an RFC 3339 time to Unix seconds; fractions of a second are truncated.",
        group: Group::Time,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#""2025-01-01T01:00:00+01:00".parse_timestamp()"#,
            input: "{}",
            output: "1735689600",
        }],
    },
    FunctionDoc {
        name: "format_timestamp",
        signature: "seconds.format_timestamp() -> text",
        summary: "Converts Unix seconds to an RFC 3339 time in UTC.",
        group: Group::Time,
        purity: Purity::Pure,
        examples: &[Example {
            script: "[1735689600.format_timestamp(), 0.5.format_timestamp()]",
            input: "{}",
            output: r#"["2025-01-01T00:00:00Z","1970-01-01T00:00:00.500Z"]"#,
        }],
    },
    FunctionDoc {
        name: "timestamp_unix",
        signature: "timestamp_unix() -> integer",
        summary: "Returns the current time in Unix seconds.",
        group: Group::Time,
        purity: Purity::World,
        examples: &[Example {
            script: "timestamp_unix() > 1700000000",
            input: "{}",
            output: "true",
        }],
    },
];

#[expect(clippy::disallowed_methods, reason = "a script may read the clock")]
pub(super) fn register(engine: &mut Engine) {
    engine.register_fn("now", || {
        Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)
    });
    engine.register_fn("timestamp_unix", || Utc::now().timestamp());
    engine.register_fn("parse_duration", |text: &str| -> NativeResult<INT> {
        Ok(duration::parse(text).map_err(|error| error.to_string())?)
    });
    engine.register_fn("parse_timestamp", |text: &str| -> NativeResult<INT> {
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| {
            format!("`{text}` is not an RFC 3339 time; use a time such as `2025-01-01T00:00:00Z`")
        })?;
        Ok(time.timestamp())
    });
    engine.register_fn("format_timestamp", |seconds: INT| -> NativeResult<String> {
        let time = DateTime::from_timestamp(seconds, 0)
            .ok_or_else(|| format!("{seconds} is not a time in Unix seconds"))?;
        Ok(time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    });
    engine.register_fn(
        "format_timestamp",
        |seconds: FLOAT| -> NativeResult<String> {
            let wrong = || format!("{seconds} is not a time in Unix seconds");
            let microseconds = (seconds * 1e6).round();
            // No range contains NaN.
            if !(-9e18..9e18).contains(&microseconds) {
                return Err(wrong().into());
            }
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the range is checked above"
            )]
            let time = DateTime::from_timestamp_micros(microseconds as i64).ok_or_else(wrong)?;
            Ok(time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
        },
    );
}
