//! The audit: checks that the distinct events of each pod cover its true life, no more and no less.
//!
//! For every pod it compares the intervals `[time, time + duration_seconds)` of the events with
//! `[start, end)` of the life, both clipped to the range of the audit. A second of life without an
//! event is *missing*, one with more events than lives is *double*, and a second with an event and
//! without a life is *surplus*. A bill is exact if all three are 0.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use chrono::{DateTime, Utc};
use serde_json::Value;

#[cfg(test)]
mod tests;

/// When one pod ran. Whole seconds, as Kubernetes reports them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// The pod's UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name. Lives of the same name may follow each other under different UIDs.
    pub name: String,
    /// The second in which its first container started.
    pub start: DateTime<Utc>,
    /// The second in which it stopped; `None` while it runs.
    pub end: Option<DateTime<Utc>>,
}

impl Life {
    /// The key under which [`audit`] looks for the events of this pod: `namespace/name`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A span of time in which events and life differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Its first second, Unix time.
    pub from: i64,
    /// The second after its last, Unix time.
    pub to: i64,
    /// By how many events or lives they differ, at least 1.
    pub times: i64,
}

impl Span {
    fn seconds(&self) -> i64 {
        (self.to - self.from) * self.times
    }
}

/// What was found about one pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodReport {
    /// Seconds of life in the range.
    pub lived: i64,
    /// Seconds of events in the range.
    pub billed: i64,
    /// Life without an event.
    pub missing: Vec<Span>,
    /// Life with more events than it should have.
    pub double: Vec<Span>,
    /// Events without a life.
    pub surplus: Vec<Span>,
}

/// What [`audit`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// By key, every pod with a life or an event in the range.
    pub pods: BTreeMap<String, PodReport>,
    /// Events without a valid interval, with the reason.
    pub malformed: Vec<String>,
}

impl Report {
    /// Seconds of all lives in the range.
    #[must_use]
    pub fn lived_seconds(&self) -> i64 {
        self.pods.values().map(|pod| pod.lived).sum()
    }

    /// Seconds of all events in the range.
    #[must_use]
    pub fn billed_seconds(&self) -> i64 {
        self.pods.values().map(|pod| pod.billed).sum()
    }

    /// Seconds of life that no event bills.
    #[must_use]
    pub fn missing_seconds(&self) -> i64 {
        self.sum(|pod| &pod.missing)
    }

    /// Seconds billed more than once.
    #[must_use]
    pub fn double_seconds(&self) -> i64 {
        self.sum(|pod| &pod.double)
    }

    /// Seconds billed for which no pod ran.
    #[must_use]
    pub fn surplus_seconds(&self) -> i64 {
        self.sum(|pod| &pod.surplus)
    }

    /// Whether nothing is missing, double, surplus or malformed.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.malformed.is_empty()
            && self.missing_seconds() + self.double_seconds() + self.surplus_seconds() == 0
    }

    /// # Panics
    /// With the whole report as its message, unless the bill [is exact](Report::is_exact).
    #[track_caller]
    pub fn assert_exact(&self) {
        assert!(self.is_exact(), "{self}");
    }

    fn sum(&self, spans: impl Fn(&PodReport) -> &Vec<Span>) -> i64 {
        let pods = self.pods.values();
        pods.flat_map(|pod| spans(pod).iter().map(Span::seconds))
            .sum()
    }
}

/// Compares `events` with `lives` within `range`. Pods are matched by namespace and name
/// (`data.pod_namespace`, `data.pod_name`).
///
/// `events` must be distinct: de-duplicated by source and id.
pub fn audit<'a>(
    lives: &[Life],
    events: impl IntoIterator<Item = &'a Value>,
    range: Range<DateTime<Utc>>,
) -> Report {
    let range = range.start.timestamp()..range.end.timestamp();
    let mut report = Report::default();
    let mut pods: BTreeMap<String, Timeline> = BTreeMap::new();
    for life in lives {
        let end = life.end.map_or(range.end, |end| end.timestamp());
        let timeline = pods.entry(life.key()).or_default();
        timeline.add(life.start.timestamp()..end, &range, |step| &mut step.lives);
    }
    for event in events {
        match (key(event), interval(event)) {
            (Some(key), Ok(interval)) => {
                let timeline = pods.entry(key).or_default();
                timeline.add(interval, &range, |step| &mut step.events);
            }
            (None, _) => report.malformed.push(format!("no pod in {event}")),
            (_, Err(reason)) => report.malformed.push(format!("{reason} in {event}")),
        }
    }
    for (key, timeline) in pods {
        if !timeline.steps.is_empty() {
            report.pods.insert(key, timeline.judge());
        }
    }
    report
}

/// The key of the pod that an event bills, as [`Life::key`].
fn key(event: &Value) -> Option<String> {
    let namespace = event.pointer("/data/pod_namespace")?.as_str()?;
    let name = event.pointer("/data/pod_name")?.as_str()?;
    Some(format!("{namespace}/{name}"))
}

/// What changes at one second.
#[derive(Debug, Default)]
struct Step {
    lives: i64,
    events: i64,
}

#[derive(Debug, Default)]
struct Timeline {
    steps: BTreeMap<i64, Step>,
}

impl Timeline {
    fn add(
        &mut self,
        interval: Range<i64>,
        range: &Range<i64>,
        count: impl Fn(&mut Step) -> &mut i64,
    ) {
        let (from, to) = (interval.start.max(range.start), interval.end.min(range.end));
        if from < to {
            *count(self.steps.entry(from).or_default()) += 1;
            *count(self.steps.entry(to).or_default()) -= 1;
        }
    }

    fn judge(&self) -> PodReport {
        let mut pod = PodReport::default();
        let (mut lives, mut events, mut from) = (0, 0, 0);
        for (&at, step) in &self.steps {
            pod.lived += (at - from) * lives;
            pod.billed += (at - from) * events;
            let (found, times) = match events - lives {
                fewer @ ..0 => (&mut pod.missing, -fewer),
                more if lives == 0 => (&mut pod.surplus, more),
                more => (&mut pod.double, more),
            };
            extend(
                found,
                Span {
                    from,
                    to: at,
                    times,
                },
            );
            lives += step.lives;
            events += step.events;
            from = at;
        }
        pod
    }
}

/// Adds a span, or extends the last one if the new one follows it.
fn extend(spans: &mut Vec<Span>, next: Span) {
    if next.times == 0 {
        return;
    }
    match spans.last_mut() {
        Some(last) if last.to == next.from && last.times == next.times => last.to = next.to,
        _ => spans.push(next),
    }
}

/// The seconds that an event bills.
fn interval(event: &Value) -> Result<Range<i64>, String> {
    let time = event.get("time").and_then(Value::as_str);
    let time = time.ok_or("no time")?;
    let start = DateTime::parse_from_rfc3339(time).map_err(|_| format!("time {time:?}"))?;
    if start.timestamp_subsec_nanos() != 0 {
        return Err(format!("time {time:?} is not a whole second"));
    }
    let duration = event.pointer("/data/duration_seconds").cloned();
    let duration = duration.unwrap_or_default();
    match duration.as_i64() {
        Some(seconds @ 1..) => Ok(start.timestamp()..start.timestamp().saturating_add(seconds)),
        _ => Err(format!(
            "duration_seconds {duration} is not a positive whole number"
        )),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Enough to see what is wrong, without a long list for each pod.
        const SHOWN: usize = 20;
        writeln!(
            out,
            "{} pods ran {} s and are billed {} s: missing {} s, double {} s, surplus {} s, malformed events {}",
            self.pods.len(),
            self.lived_seconds(),
            self.billed_seconds(),
            self.missing_seconds(),
            self.double_seconds(),
            self.surplus_seconds(),
            self.malformed.len(),
        )?;
        let wrong = self.pods.iter().flat_map(|(key, pod)| {
            let kinds = [
                ("missing", &pod.missing),
                ("double", &pod.double),
                ("surplus", &pod.surplus),
            ];
            kinds
                .into_iter()
                .flat_map(move |(kind, spans)| spans.iter().map(move |span| (key, kind, span)))
        });
        let mut more = 0;
        for (index, (key, kind, span)) in wrong.enumerate() {
            if index >= SHOWN {
                more += 1;
                continue;
            }
            let seconds = span.seconds();
            let (from, to) = (clock(span.from), clock(span.to));
            writeln!(out, "  {key}: {kind} {seconds} s [{from}, {to})")?;
        }
        if more > 0 {
            writeln!(out, "  and {more} more")?;
        }
        for reason in self.malformed.iter().take(SHOWN) {
            writeln!(out, "  malformed: {reason}")?;
        }
        Ok(())
    }
}

fn clock(second: i64) -> String {
    match DateTime::from_timestamp(second, 0) {
        Some(time) => time.format("%H:%M:%S").to_string(),
        None => second.to_string(),
    }
}
