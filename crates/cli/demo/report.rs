//! The report that the demo prints.

use anyhow::Result;
use meterline_meter::Decimal;
use serde_json::{Value, json};

use super::bill::{Customer, Usage, difference, total};

/// The result of a demo.
pub(super) struct Report {
    pub(super) customers: Vec<Customer>,
    pub(super) seconds: i64,
    pub(super) seed: u64,
    pub(super) events: u64,
    pub(super) duplicates: u64,
    pub(super) refused: u64,
    pub(super) lost: u64,
    pub(super) cuts: u64,
}

impl Report {
    pub(super) fn is_exact(&self) -> bool {
        difference(&self.customers).is_zero()
    }

    /// As one JSON object.
    pub(super) fn json(&self) -> Result<Value> {
        let customers = self
            .customers
            .iter()
            .map(|it| {
                Ok(json!({
                    "customer": it.name,
                    "billed": usage(it.billed)?,
                    "truth": usage(it.truth)?,
                    "difference": number(it.difference())?,
                }))
            })
            .collect::<Result<Vec<_>>>()?;
        let total = total(&self.customers);
        Ok(json!({
            "difference": number(difference(&self.customers))?,
            "billed": usage(total.billed)?,
            "truth": usage(total.truth)?,
            "customers": customers,
            "events": self.events,
            "duplicates_dropped": self.duplicates,
            "faults": {
                "requests_refused": self.refused,
                "answers_lost": self.lost,
                "watches_cut": self.cuts,
            },
            "seconds": self.seconds,
            "seed": self.seed,
        }))
    }

    /// As a table for people.
    pub(super) fn table(&self) -> String {
        let mut rows = vec![[
            "customer".to_owned(),
            "pod-seconds".to_owned(),
            "CPU-core minutes".to_owned(),
            "bill".to_owned(),
            "truth".to_owned(),
            "difference".to_owned(),
        ]];
        rows.extend(self.grouped().iter().map(row));
        rows.push(row(&total(&self.customers)));
        let mut out = aligned(&rows);
        out.push_str(&format!(
            "\n{} events billed over {} s at $0.05 a CPU-core minute. Injected faults: {} refused by\n\
             the endpoint, {} lost after the events were stored ({} duplicates dropped by their id),\n\
             all watches closed {}.\n",
            self.events,
            self.seconds,
            count(self.refused, "request"),
            count(self.lost, "response"),
            self.duplicates,
            count(self.cuts, "time"),
        ));
        let difference = difference(&self.customers);
        out.push_str(&if difference.is_zero() {
            "Every customer's bill equals the true usage.\n".to_owned()
        } else {
            format!(
                "The bills differ from the true usage by {}.\n",
                dollars(difference)
            )
        });
        out
    }

    /// Each pod without annotations is a separate customer; the table shows them in one row.
    fn grouped(&self) -> Vec<Customer> {
        let (alone, mut rows): (Vec<_>, Vec<_>) = self
            .customers
            .iter()
            .cloned()
            .partition(|it| it.name.starts_with("worker-"));
        if !alone.is_empty() {
            let mut sum = total(&alone);
            sum.name = format!("({} without annotations)", count(alone.len() as u64, "pod"));
            rows.push(sum);
        }
        rows
    }
}

fn count(count: u64, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {what}{s}")
}

fn row(customer: &Customer) -> [String; 6] {
    [
        customer.name.clone(),
        customer.billed.pod_seconds.to_string(),
        format!("{:.3}", customer.billed.core_minutes().round_dp(3)),
        dollars(customer.billed.dollars()),
        dollars(customer.truth.dollars()),
        if customer.billed == customer.truth {
            "0".to_owned()
        } else {
            dollars(customer.billed.dollars() - customer.truth.dollars())
        },
    ]
}

fn dollars(amount: Decimal) -> String {
    let sign = if amount.is_sign_negative() { "-" } else { "" };
    format!("{sign}${:.4}", amount.abs().round_dp(4))
}

/// Aligns the first column to the left and numbers to the right, with a rule below the header and
/// above the total.
fn aligned(rows: &[[String; 6]]) -> String {
    let mut widths = [0; 6];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let rule = "-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1));
    let mut out = String::new();
    for (index, row) in rows.iter().enumerate() {
        if index == 1 || index + 1 == rows.len() {
            out.push_str(&rule);
            out.push('\n');
        }
        let mut cells = row.iter().zip(widths);
        if let Some((name, width)) = cells.next() {
            out.push_str(&format!("{name:<width$}"));
        }
        for (cell, width) in cells {
            out.push_str(&format!("  {cell:>width$}"));
        }
        out.push('\n');
    }
    out
}

fn usage(usage: Usage) -> Result<Value> {
    Ok(json!({
        "pod_seconds": number(usage.pod_seconds)?,
        "cpu_core_minutes": number(usage.core_minutes())?,
        "dollars": number(usage.dollars())?,
    }))
}

/// A decimal as the shortest JSON number.
fn number(value: Decimal) -> Result<Value> {
    Ok(serde_json::from_str(&value.normalize().to_string())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn customer(name: &str, billed: (i64, i64), truth: (i64, i64)) -> Customer {
        let usage = |(seconds, millis)| Usage {
            pod_seconds: Decimal::from(seconds),
            core_seconds: Decimal::new(millis, 3),
        };
        Customer {
            name: name.to_owned(),
            billed: usage(billed),
            truth: usage(truth),
        }
    }

    fn report(last: Customer) -> Report {
        Report {
            customers: vec![
                customer("acme", (1200, 720_500), (1200, 720_500)),
                customer("worker-6", (4, 2_000), (4, 2_000)),
                last,
            ],
            seconds: 20,
            seed: 1,
            events: 42,
            duplicates: 7,
            refused: 3,
            lost: 1,
            cuts: 1,
        }
    }

    #[test]
    fn the_table_of_an_exact_bill() {
        let report = report(customer("worker-12", (1, 50), (1, 50)));
        assert!(report.is_exact());
        insta::assert_snapshot!(report.table());
    }

    #[test]
    fn the_table_of_a_wrong_bill() {
        let report = report(customer("globex", (100, 100_000), (160, 160_000)));
        assert!(!report.is_exact());
        insta::assert_snapshot!(report.table());
    }

    #[test]
    fn the_json_has_the_difference_on_top() {
        let exact = report(customer("worker-12", (1, 50), (1, 50)));
        assert_eq!(exact.json().unwrap()["difference"].to_string(), "0");
        let wrong = report(customer("globex", (100, 0), (160, 12_000)));
        let json = wrong.json().unwrap();
        assert_eq!(json["difference"].to_string(), "0.01");
        assert_eq!(json["customers"][2]["difference"].to_string(), "-0.01");
    }
}
