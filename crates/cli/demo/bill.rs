//! Computes the bill from the events, and compares it with the truth.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use meterline_kubesim::Bill;
use meterline_meter::{Decimal, Deduplicator, Meter, MeterConfig};
use serde_json::{Value, json};

/// The price of a CPU-core minute, in dollars.
const PRICE: Decimal = Decimal::from_parts(5, 0, 0, false, 2);

/// The usage of one customer.
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

/// One customer: the billed usage and the true usage.
#[derive(Debug, Clone, Default)]
pub(super) struct Customer {
    pub(super) name: String,
    pub(super) billed: Usage,
    pub(super) truth: Usage,
}

impl Customer {
    /// The bill minus the truth, in dollars. Pod-seconds without a price count at the price of a core,
    /// so that the difference is zero only for an exact bill.
    pub(super) fn difference(&self) -> Decimal {
        let dollars = self.billed.dollars() - self.truth.dollars();
        if dollars.is_zero() && self.billed != self.truth {
            return (self.billed.pod_seconds - self.truth.pod_seconds) / Decimal::from(60) * PRICE;
        }
        dollars
    }
}

/// Deduplicates events and meters them.
pub(super) struct Billing {
    seen: Deduplicator,
    time: Meter,
    cpu: Meter,
    until: String,
    pub(super) events: u64,
    pub(super) duplicates: u64,
}

impl Billing {
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

    /// Adds an event. Returns false for a duplicate, and for one that bills time after the end.
    pub(super) fn add(&mut self, event: &Value) -> Result<bool> {
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

    /// Returns all customers, including those with only a bill or only true usage.
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

/// Returns a meter with the settings of the OpenMeter guide "Start metering".
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

/// The sum of the absolute differences, so that errors of two customers do not cancel out.
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

    fn billing() -> Billing {
        Billing::new("2026-01-01T00:01:00Z".to_owned()).unwrap()
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
    fn an_exact_bill_has_no_difference() {
        let mut billing = billing();
        let first = event("1", "acme", "2026-01-01T00:00:00Z", 59, 5.9);
        assert!(billing.add(&first).unwrap());
        assert!(!billing.add(&first).unwrap());
        let last = event("2", "acme", "2026-01-01T00:00:59Z", 1, 0.1);
        assert!(billing.add(&last).unwrap());
        let after = event("3", "acme", "2026-01-01T00:01:00Z", 1, 0.1);
        assert!(!billing.add(&after).unwrap());
        assert_eq!((billing.events, billing.duplicates), (2, 1));
        let customers = billing.customers(&truth());
        assert_eq!(customers[0].billed.dollars(), Decimal::new(5, 3));
        assert!(difference(&customers).is_zero());
    }

    #[test]
    fn every_wrong_bill_has_a_difference() {
        let mut billing = billing();
        assert_eq!(difference(&billing.customers(&truth())), Decimal::new(5, 3));
        let wrong_customer = event("1", "globex", "2026-01-01T00:00:00Z", 60, 6.0);
        billing.add(&wrong_customer).unwrap();
        assert_eq!(difference(&billing.customers(&truth())), Decimal::new(1, 2));
        let free_time = event("2", "acme", "2026-01-01T00:00:00Z", 59, 6.0);
        billing.add(&free_time).unwrap();
        assert!(!billing.customers(&truth())[0].difference().is_zero());
    }

    #[test]
    fn an_event_that_cannot_be_counted_is_an_error() {
        let mut event = event("1", "acme", "2026-01-01T00:00:00Z", 1, 0.1);
        event["data"]["duration_seconds"] = json!("x");
        let error = billing().add(&event).unwrap_err();
        assert!(format!("{error:#}").contains("$.duration_seconds"));
    }
}
