//! A namespace that the configuration names and that does not exist.

use meterline_testkit::scene::Scene;

use crate::support::{BINARY, MINUTE};

const MISSING: &str = "kubernetes_missing_namespaces";
const REPORTED: &str = "the namespace `mistyped` does not exist";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_missing_namespace_is_reported_until_it_exists_where_namespaces_may_be_read() {
    let scene = Scene::bare(BINARY).await;
    let control_plane = &scene.control_plane;
    for (user, resources) in [
        ("reader", &["pods", "namespaces"][..]),
        ("writer", &["pods"]),
    ] {
        for resource in resources {
            control_plane
                .grant_cluster(user, "", resource)
                .await
                .unwrap();
        }
    }
    let start = |user| {
        scene
            .preset()
            .kubeconfig(&control_plane.kubeconfig_for(user).unwrap())
            .env("SCRAPE_NAMESPACE", "default,mistyped")
            .start()
            .unwrap()
    };
    let (may_read, may_not_read) = (start("reader"), start("writer"));
    let line = may_read
        .wait_for_log("the namespace does not exist", MINUTE)
        .await
        .unwrap();
    assert!(
        line.contains("mistyped") && line.contains("level=warn"),
        "{line}"
    );
    // The other namespaces are still billed.
    may_read.wait_ready_with(REPORTED).await.unwrap();
    may_read.assert_metric(MISSING, 1.0).await;

    // A program that may not read namespaces reports nothing and does not require the right.
    let begun = may_not_read
        .metric("ledger_watermark_timestamp_seconds")
        .await
        .unwrap();
    let begun = begun.unwrap_or_default();
    may_not_read
        .wait_for_metric("ledger_watermark_timestamp_seconds", MINUTE, |at| {
            at > begun.max(1.0) + 3.0
        })
        .await
        .unwrap();
    let (status, page) = may_not_read.get("/ready").await.unwrap();
    assert!(status == 200 && !page.contains("mistyped"), "{page}");
    may_not_read.assert_metric(MISSING, 0.0).await;
    assert!(
        !may_not_read.tail().contains("does not exist"),
        "{}",
        may_not_read.tail()
    );

    control_plane.create_namespace("mistyped").await.unwrap();
    may_read
        .wait_for_page("/ready", MINUTE, |status, page| {
            status == 200 && !page.contains(REPORTED)
        })
        .await
        .unwrap();
    may_read.assert_metric(MISSING, 0.0).await;
    may_read.stop().await;
    may_not_read.stop().await;
}
