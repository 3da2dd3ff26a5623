//! Counters and gauges. They are created on first use and shown on `/metrics`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{
    Encoder, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// All metrics of the process. Cloning shares them.
///
/// A metric keeps the help text and the label names of the first call. A later call with other label names
/// returns a metric that counts but is not shown, and fails a debug assertion: this is a programming error,
/// but it must not stop the billing.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    registry: Registry,
    counters: Mutex<HashMap<&'static str, IntCounterVec>>,
    gauges: Mutex<HashMap<&'static str, IntGaugeVec>>,
    /// What [`Metrics::replace`] showed last, by metric and owner.
    replaced: Mutex<HashMap<Part, Vec<Labels>>>,
    /// Functions that update metrics before they are shown. The lock is held while a response is made, so that
    /// its figures are of one moment.
    refreshers: Mutex<Vec<Refresher>>,
}

/// Updates metrics. Returns `false` when it is not to be called again.
struct Refresher(Box<dyn Fn() -> bool + Send>);

impl std::fmt::Debug for Refresher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Refresher")
    }
}

/// Label values, in the order of the labels' names.
type Labels = Vec<Arc<str>>;

/// The part of a metric that belongs to one owner.
type Part = (&'static str, Arc<str>);

/// Label values and the value of a gauge.
pub type Labelled = (Vec<Arc<str>>, i64);

impl Metrics {
    /// The counter `name` with these labels.
    #[must_use]
    pub fn counter(
        &self,
        name: &'static str,
        help: &str,
        labels: &[(&'static str, &str)],
    ) -> IntCounter {
        let (names, values): (Vec<_>, Vec<_>) = labels.iter().copied().unzip();
        let mut counters = self
            .0
            .counters
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !counters.contains_key(name)
            && let Ok(family) = IntCounterVec::new(Opts::new(name, help), &names)
            && self.0.registry.register(Box::new(family.clone())).is_ok()
        {
            counters.insert(name, family);
        }
        counters
            .get(name)
            .and_then(|family| family.get_metric_with_label_values(&values).ok())
            .unwrap_or_else(|| {
                debug_assert!(false, "counter {name} was requested with other labels");
                IntCounter::with_opts(Opts::new("unregistered", "unregistered"))
                    .unwrap_or_else(|_| unreachable!("a constant name is valid"))
            })
    }

    /// The gauge `name` with these labels.
    #[must_use]
    pub fn gauge(
        &self,
        name: &'static str,
        help: &str,
        labels: &[(&'static str, &str)],
    ) -> IntGauge {
        let (names, values): (Vec<_>, Vec<_>) = labels.iter().copied().unzip();
        let mut gauges = self.0.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        if !gauges.contains_key(name)
            && let Ok(family) = IntGaugeVec::new(Opts::new(name, help), &names)
            && self.0.registry.register(Box::new(family.clone())).is_ok()
        {
            gauges.insert(name, family);
        }
        gauges
            .get(name)
            .and_then(|family| family.get_metric_with_label_values(&values).ok())
            .unwrap_or_else(|| {
                debug_assert!(false, "gauge {name} was requested with other labels");
                IntGauge::with_opts(Opts::new("unregistered", "unregistered"))
                    .unwrap_or_else(|_| unreachable!("a constant name is valid"))
            })
    }

    /// Sets the gauge `name` for these label values, and removes those that `owner` set before and does not set
    /// now. Each owner, such as one of several inputs, sets its part of the gauge; a label distinguishes
    /// the parts.
    pub fn replace(
        &self,
        name: &'static str,
        help: &str,
        labels: &[&'static str],
        owner: &Arc<str>,
        values: &[Labelled],
    ) {
        let mut gauges = self.0.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        if !gauges.contains_key(name)
            && let Ok(family) = IntGaugeVec::new(Opts::new(name, help), labels)
            && self.0.registry.register(Box::new(family.clone())).is_ok()
        {
            gauges.insert(name, family);
        }
        let Some(family) = gauges.get(name) else {
            return;
        };
        let now = values.iter().map(|(labels, _)| labels.clone()).collect();
        let before = self
            .0
            .replaced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((name, Arc::clone(owner)), now);
        for labels in before.into_iter().flatten() {
            let labels: Vec<_> = labels.iter().map(AsRef::as_ref).collect();
            // An entry that does not exist need not be removed.
            let _ = family.remove_label_values(&labels);
        }
        for (labels, value) in values {
            let labels: Vec<_> = labels.iter().map(AsRef::as_ref).collect();
            if let Ok(gauge) = family.get_metric_with_label_values(&labels) {
                gauge.set(*value);
            }
        }
    }

    /// Registers `refresh`, which is called before each response until it returns `false`. It must be fast,
    /// and must not render the metrics itself.
    pub fn refresh_with(&self, refresh: impl Fn() -> bool + Send + 'static) {
        self.0
            .refreshers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Refresher(Box::new(refresh)));
    }

    /// All values by name, with labels as in the text format: `output_sent{label="openmeter"}`.
    #[must_use]
    pub fn values(&self) -> BTreeMap<String, f64> {
        let page = self.render();
        page.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (name, value) = line.rsplit_once(' ')?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect()
    }

    /// All metrics in Prometheus' text format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut refreshers = self
            .0
            .refreshers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        refreshers.retain(|it| (it.0)());
        let mut page = Vec::new();
        if TextEncoder::new()
            .encode(&self.0.registry.gather(), &mut page)
            .is_err()
        {
            page.clear();
        }
        String::from_utf8(page).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_requested_twice_is_one_counter() {
        let metrics = Metrics::default();
        metrics
            .counter("output_sent", "Messages sent.", &[("label", "openmeter")])
            .inc_by(2);
        metrics
            .counter("output_sent", "Messages sent.", &[("label", "openmeter")])
            .inc();
        assert!(
            metrics
                .render()
                .contains("output_sent{label=\"openmeter\"} 3\n")
        );
    }

    #[test]
    fn values_have_the_names_of_the_text_format() {
        let metrics = Metrics::default();
        metrics
            .counter("sent", "Messages.", &[("label", "a b")])
            .inc_by(3);
        let values = metrics.values();
        assert_eq!(values.get("sent{label=\"a b\"}"), Some(&3.0));
    }

    #[test]
    fn refreshers_run_before_each_response() {
        let metrics = Metrics::default();
        let (shown, calls) = (metrics.clone(), std::sync::atomic::AtomicI64::new(0));
        metrics.refresh_with(move || {
            let call = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let value = |name: &str| (vec![name.into()], call);
            let values = [value("a"), value("b")];
            let some = values.get(usize::from(call > 0)..).unwrap();
            shown.replace("unbilled", "Seconds.", &["namespace"], &"a".into(), some);
            call < 1
        });
        let first = metrics.render();
        assert!(first.contains("unbilled{namespace=\"a\"} 0\nunbilled{namespace=\"b\"} 0\n"));
        // Removed values are no longer shown, and a refresher that returned `false` is not called again.
        let second = metrics.render();
        assert!(second.contains("unbilled{namespace=\"b\"} 1\n") && !second.contains("\"a\""));
        assert_eq!(metrics.render(), second);
    }

    #[test]
    fn an_owner_replaces_only_its_own_values() {
        let metrics = Metrics::default();
        let show = |owner: &str, namespaces: &[(&str, i64)]| {
            let values: Vec<_> = namespaces
                .iter()
                .map(|(namespace, seconds)| (vec![owner.into(), (*namespace).into()], *seconds))
                .collect();
            let labels = ["label", "namespace"];
            metrics.replace("unbilled", "Seconds.", &labels, &owner.into(), &values);
        };
        show("pods", &[("a", 1), ("b", 2)]);
        show("nodes", &[("a", 3)]);
        show("pods", &[("b", 4)]);
        let shown = metrics.values();
        let shown: Vec<_> = shown.iter().map(|(name, it)| (&**name, *it)).collect();
        let expected = [
            ("unbilled{label=\"nodes\",namespace=\"a\"}", 3.0),
            ("unbilled{label=\"pods\",namespace=\"b\"}", 4.0),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_text_format_has_help_and_type() {
        let metrics = Metrics::default();
        metrics.gauge("watermark_age", "Seconds.", &[]).set(-4);
        assert_eq!(
            metrics.render(),
            "# HELP watermark_age Seconds.\n# TYPE watermark_age gauge\nwatermark_age -4\n"
        );
    }
}
