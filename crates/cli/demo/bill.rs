//! The bill from the events, beside the truth.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use meterline_kubesim::Bill;
use meterline_meter::{Decimal, Deduplicator, Meter, MeterConfig};
use serde_json::{Value, json};

/// The price of a CPU-core minute, in dollars.
const PRICE: Decimal = Decimal::from_parts(5, 0, 0, false, 2);

/// What one customer used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) pod_seconds: Decimal,
    pub(super) core_seconds: Decimal,
}

impl Usage {
    pub(super) fn core_minutes(self) -> Decimal {
        self.core_seconds / Decimal::from(60)
    }

    pub(super) fn dollars(self) -> Decimal {
        self.core_minutes() * PRICE
    }

    fn plus(self, other: Self) -> Self {
        Self {
            pod_seconds: self.pod_seconds + other.pod_seconds,
            core_seconds: self.core_seconds + other.core_seconds,
        }
    }
}

/// One customer: what was billed and what is true.
#[derive(Debug, Clone, Default)]
pub(super) struct Customer {
    pub(super) name: String,
    pub(super) billed: Usage,
    pub(super) truth: Usage,
}

impl Customer {
    /// How far the bill is from the truth, in dollars. Time that costs nothing counts at the price
    /// of a core, so that only an exact bill differs by nothing.
    pub(super) fn difference(&self) -> Decimal {
        let dollars = self.billed.dollars() - self.truth.dollars();
        if dollars.is_zero() && self.billed != self.truth {
            return (self.billed.pod_seconds - self.truth.pod_seconds) / Decimal::from(60) * PRICE;
        }
        dollars
    }
}

/// Two meters behind a de-duplicating door.
pub(super) struct Book {
    seen: Deduplicator,
    time: Meter,
    cpu: Meter,
    until: String,
    pub(super) events: u64,
    pub(super) duplicates: u64,
}

impl Book {
    /// Counts events that bill time before `until`, an RFC 3339 time in whole seconds of UTC.
    pub(super) fn new(until: String) -> Result<Self> {
        Ok(Self {
            seen: Deduplicator::default(),
            time: meter("pod_execution_time", "$.duration_seconds")?,
            cpu: meter("cpu_core_seconds", "$.cpu_request_millicores_per_second")?,
            until,
            events: 0,
            duplicates: 0,
        })
    }

    /// Takes an event; false for one that came before or bills what comes after the end.
    pub(super) fn take(&mut self, event: &Value) -> Result<bool> {
        if !self.seen.is_new(event) {
            self.duplicates += 1;
            return Ok(false);
        }
        // Times of one format and zone compare as text.
        let time = event.get("time").and_then(Value::as_str);
        if time.unwrap_or_default() >= self.until.as_str() {
            return Ok(false);
        }
        self.time.add(event).context("pod_execution_time")?;
        self.cpu.add(event).context("cpu_core_seconds")?;
        self.events += 1;
        Ok(true)
    }

    /// All customers, those that only one side knows included.
    pub(super) fn customers(&self, truth: &BTreeMap<String, Bill>) -> Vec<Customer> {
        let (time, cpu) = (by_subject(&self.time), by_subject(&self.cpu));
        let names: BTreeSet<&str> = time
            .keys()
            .copied()
            .chain(truth.keys().map(String::as_str))
            .collect();
        let of = |sums: &BTreeMap<&str, Decimal>, name| sums.get(name).copied().unwrap_or_default();
        names
            .into_iter()
            .map(|name| Customer {
                name: name.to_owned(),
                billed: Usage {
                    pod_seconds: of(&time, name),
                    core_seconds: of(&cpu, name),
                },
                truth: truth.get(name).copied().map(usage).unwrap_or_default(),
            })
            .collect()
    }
}

/// A meter as the page "Start metering" sets one up.
fn meter(slug: &str, value_property: &str) -> Result<Meter> {
    let config: MeterConfig = serde_json::from_value(json!({
        "slug": slug,
        "eventType": "kube-pod-exec-time",
        "valueProperty": value_property,
        "aggregation": "SUM",
        "groupBy": ["pod_name", "pod_namespace"],
    }))?;
    Ok(Meter::new(config)?)
}

fn by_subject(meter: &Meter) -> BTreeMap<&str, Decimal> {
    let mut sums = BTreeMap::new();
    for row in meter.rows() {
        *sums.entry(row.subject).or_insert(Decimal::ZERO) += row.value;
    }
    sums
}

fn usage(bill: Bill) -> Usage {
    let whole = |number: i128| Decimal::from_i128_with_scale(number, 0);
    Usage {
        pod_seconds: whole(bill.pod_seconds),
        core_seconds: whole(bill.millicore_seconds) / Decimal::from(1000),
    }
}

/// The sum over all customers.
pub(super) fn total(customers: &[Customer]) -> Customer {
    let mut total = Customer {
        name: "total".to_owned(),
        ..Customer::default()
    };
    for customer in customers {
        total.billed = total.billed.plus(customer.billed);
        total.truth = total.truth.plus(customer.truth);
    }
    total
}

/// How far all bills together are from the truth: errors of two customers do not cancel out.
pub(super) fn difference(customers: &[Customer]) -> Decimal {
    customers.iter().map(|it| it.difference().abs()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, subject: &str, time: &str, seconds: u32, core_seconds: f64) -> Value {
        json!({
            "id": id, "source": "kubernetes-api", "type": "kube-pod-exec-time",
            "subject": subject, "time": time,
            "data": {
                "pod_name": "p", "pod_namespace": "default", "duration_seconds": seconds,
                "cpu_request_millicores_per_second": core_seconds,
            },
        })
    }

    fn book() -> Book {
        Book::new("2026-01-01T00:01:00Z".to_owned()).unwrap()
    }

    fn truth() -> BTreeMap<String, Bill> {
        let bill = Bill {
            pod_seconds: 60,
            millicore_seconds: 6_000,
            ..Bill::default()
        };
        BTreeMap::from([("acme".to_owned(), bill)])
    }

    #[test]
    fn an_exact_bill_differs_by_nothing() {
        let mut book = book();
        let first = event("1", "acme", "2026-01-01T00:00:00Z", 59, 5.9);
        assert!(book.take(&first).unwrap());
        assert!(!book.take(&first).unwrap());
        let last = event("2", "acme", "2026-01-01T00:00:59Z", 1, 0.1);
        assert!(book.take(&last).unwrap());
        let after = event("3", "acme", "2026-01-01T00:01:00Z", 1, 0.1);
        assert!(!book.take(&after).unwrap());
        assert_eq!((book.events, book.duplicates), (2, 1));
        let customers = book.customers(&truth());
        assert_eq!(customers[0].billed.dollars(), Decimal::new(5, 3));
        assert!(difference(&customers).is_zero());
    }

    #[test]
    fn every_wrong_bill_shows() {
        let mut book = book();
        assert_eq!(difference(&book.customers(&truth())), Decimal::new(5, 3));
        let wrong_customer = event("1", "globex", "2026-01-01T00:00:00Z", 60, 6.0);
        book.take(&wrong_customer).unwrap();
        assert_eq!(difference(&book.customers(&truth())), Decimal::new(1, 2));
        let free_time = event("2", "acme", "2026-01-01T00:00:00Z", 59, 6.0);
        book.take(&free_time).unwrap();
        assert!(!book.customers(&truth())[0].difference().is_zero());
    }

    #[test]
    fn an_event_that_cannot_be_counted_is_an_error() {
        let mut event = event("1", "acme", "2026-01-01T00:00:00Z", 1, 0.1);
        event["data"]["duration_seconds"] = json!("x");
        let error = book().take(&event).unwrap_err();
        assert!(format!("{error:#}").contains("$.duration_seconds"));
    }
}
