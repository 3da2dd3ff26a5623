//! What a running process answers over HTTP: `/ready`, `/metrics`, `/stats` and the admin endpoints.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::time::Instant;

use super::Meterline;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the process may take to reach a state by itself, on a busy machine.
const MINUTE: Duration = Duration::from_secs(60);
/// The pause between two requests to an endpoint that cannot be subscribed to.
const POLL: Duration = Duration::from_millis(50);

impl Meterline {
    /// Status and text of an endpoint of its HTTP server.
    ///
    /// # Errors
    /// When there is no answer within five seconds.
    pub async fn get(&self, page: &str) -> anyhow::Result<(u16, String)> {
        let response = client()?.get(self.url(page)).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    /// The sum of a metric over all its labels; `None` when there is no such metric.
    ///
    /// # Errors
    /// When there is no answer within five seconds.
    pub async fn metric(&self, name: &str) -> anyhow::Result<Option<f64>> {
        let (_, page) = self.get("/metrics").await?;
        Ok(sum_of(&page, name))
    }

    /// Waits until `/ready` answers 200.
    ///
    /// # Errors
    /// When it does not within `limit`, or the process ends; the error shows the last answer and
    /// the end of the log.
    pub async fn wait_ready(&self, limit: Duration) -> anyhow::Result<()> {
        self.wait_for_page("/ready", limit, |status, _| status == 200)
            .await
    }

    /// Waits until an endpoint answers as `wanted`, which sees the status and the text.
    ///
    /// # Errors
    /// When it does not within `limit`, or the process ends; the error shows the last answer and
    /// the end of the log.
    pub async fn wait_for_page(
        &self,
        page: &str,
        limit: Duration,
        wanted: impl Fn(u16, &str) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let last = match self.get(page).await {
                Ok((status, text)) if wanted(status, &text) => return Ok(()),
                Ok((status, text)) => format!("{status} {text}"),
                Err(error) => format!("{error:#}"),
            };
            if let Some(status) = self.exited() {
                bail!("meterline ended ({status}):{}", self.tail());
            }
            if Instant::now() > deadline {
                bail!("{page} after {limit:?}: {last}{}", self.tail());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the sum of a metric over all its labels is as `wanted`.
    ///
    /// # Errors
    /// As [`Meterline::wait_for_page`].
    pub async fn wait_for_metric(
        &self,
        name: &str,
        limit: Duration,
        wanted: impl Fn(f64) -> bool,
    ) -> anyhow::Result<()> {
        self.wait_for_page("/metrics", limit, |_, page| {
            sum_of(page, name).is_some_and(&wanted)
        })
        .await
        .with_context(|| format!("waiting for the metric {name}"))
    }

    /// Waits until `/ready` answers 503 and names `reason`.
    ///
    /// # Errors
    /// As [`Meterline::wait_for_page`], after a minute.
    pub async fn wait_unready(&self, reason: &str) -> anyhow::Result<()> {
        self.wait_for_page("/ready", MINUTE, |status, page| {
            status == 503 && page.contains(reason)
        })
        .await
    }

    /// Waits until `/ready` answers 200 and contains `what`.
    ///
    /// # Errors
    /// As [`Meterline::wait_for_page`], after a minute.
    pub async fn wait_ready_with(&self, what: &str) -> anyhow::Result<()> {
        self.wait_for_page("/ready", MINUTE, |status, page| {
            status == 200 && page.contains(what)
        })
        .await
    }

    /// `/stats`.
    ///
    /// # Errors
    /// When there is no answer within five seconds, or it is not JSON.
    pub async fn stats(&self) -> anyhow::Result<Value> {
        let (_, page) = self.get("/stats").await?;
        serde_json::from_str(&page).with_context(|| page.clone())
    }

    /// Waits until the seconds in `/stats`, by fate, are as `wanted`.
    ///
    /// # Errors
    /// As [`Meterline::wait_for_page`].
    pub async fn wait_for_seconds(
        &self,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<()> {
        self.wait_for_page("/stats", limit, |_, page| {
            let stats = serde_json::from_str::<Value>(page).unwrap_or_default();
            stats.get("seconds").is_some_and(&wanted)
        })
        .await
    }

    /// Asserts the sum of a metric over all its labels.
    ///
    /// # Panics
    /// When the sum is different, or there is no answer within five seconds.
    pub async fn assert_metric(&self, name: &str, wanted: f64) {
        let found = self.metric(name).await;
        assert!(
            matches!(found, Ok(Some(found)) if found == wanted),
            "{name} is {found:?}, not {wanted}{}",
            self.tail()
        );
    }

    /// Returns every rejected interval. Reads all pages of the list of the admin endpoint.
    ///
    /// # Errors
    /// When there is no answer within five seconds, or it does not have the documented form.
    pub async fn rejected(&self, page_size: usize) -> anyhow::Result<Vec<Value>> {
        let mut query = format!("?limit={page_size}");
        let mut listed = Vec::new();
        loop {
            let url = self.admin_url(&format!("/rejected{query}"));
            let page = json(client()?.get(url)).await?;
            let rejected = page.get("rejected").and_then(Value::as_array);
            listed.extend(rejected.context("no list")?.iter().cloned());
            match page.get("next").and_then(Value::as_str) {
                Some(next) => query = format!("?limit={page_size}&after={next}"),
                None => return Ok(listed),
            }
        }
    }

    /// Requests a retry of everything that is rejected, and returns the answer.
    ///
    /// # Errors
    /// When there is no answer within five seconds, or it is not a success.
    pub async fn retry_rejected(&self) -> anyhow::Result<Value> {
        json(client()?.post(self.admin_url("/rejected/retry"))).await
    }
}

fn client() -> anyhow::Result<reqwest::Client> {
    crate::install_crypto();
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER);
    Ok(client.build()?)
}

async fn json(request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
    let answer = request.send().await?.error_for_status()?;
    Ok(serde_json::from_slice(&answer.bytes().await?)?)
}

/// The sum over all samples of `name` in the Prometheus text format.
fn sum_of(page: &str, name: &str) -> Option<f64> {
    let samples = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with(['{', ' ']) {
            return None;
        }
        let value = rest.rsplit('}').next()?.split_whitespace().next()?;
        value.parse::<f64>().ok()
    });
    samples.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let page =
            "# TYPE sent counter\nsent{a=\"x y\"} 2\nsent{a=\"z\"} 3.5\nsent_total 7\nup 1\n";
        assert_eq!(sum_of(page, "sent"), Some(5.5));
        assert_eq!(sum_of(page, "sent_total"), Some(7.0));
        assert_eq!(sum_of(page, "down"), None);
    }
}
