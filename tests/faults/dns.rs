//! The sink's name is not resolved, and then leads elsewhere.

use meterline_testkit::{ingest::RecordingIngest, preload::Preload};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::Scene;
use crate::support::{MINUTE, stop};

/// What comes in here goes to `target`; ends, with its connections, when it is aborted.
async fn forward(from: TcpListener, target: String) {
    let mut connections = JoinSet::new();
    while let Ok((mut near, _)) = from.accept().await {
        let target = target.clone();
        connections.spawn(async move {
            let mut far = TcpStream::connect(target).await?;
            copy_bidirectional(&mut near, &mut far).await
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_name_that_fails_or_changes_is_resolved_anew() {
    const NAME: &str = "ingest.test";
    let scene = Scene::with(3).await;
    let preload = Preload::compile().unwrap();
    preload.resolve(NAME, None).unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let address = ingest.url().trim_start_matches("http://").to_owned();
    let port = address.rsplit(':').next().unwrap();
    let output = format!("url: 'http://{NAME}:{port}'");
    let meterline = preload
        .put_into(scene.variant(|preset| preset, &output))
        .start()
        .unwrap();
    let unready = async |reason: &str| {
        meterline
            .wait_for_page("/ready", MINUTE, |status, page| {
                status == 503 && page.contains(reason)
            })
            .await
            .unwrap();
    };
    unready("name resolution").await;
    assert_eq!(ingest.state().requests.len(), 0);

    let other = TcpListener::bind(format!("127.0.0.2:{port}"))
        .await
        .unwrap();
    let other = tokio::spawn(forward(other, address.clone()));
    preload.resolve(NAME, Some("127.0.0.2")).unwrap();
    ingest
        .wait_until(MINUTE, |state| !state.events.is_empty())
        .await
        .unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();

    other.abort();
    unready("cannot reach").await;
    preload.resolve(NAME, Some("127.0.0.1")).unwrap();
    scene.assert_exact(&ingest, &meterline).await;
    stop(&meterline).await;
}
