//! The name of the sink does not resolve, and then resolves to another address.

use meterline_testkit::{preload::Preload, scene::Scene};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::support::{BINARY, MINUTE};

/// Forwards connections to `target`. Aborting it closes them.
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
async fn a_name_that_fails_or_changes_is_resolved_again() {
    const NAME: &str = "ingest.test";
    let scene = Scene::with(BINARY, 3).await;
    let preload = Preload::compile().unwrap();
    preload.resolve(NAME, None).unwrap();
    let ingest = &scene.ingest;
    let address = ingest.url().trim_start_matches("http://").to_owned();
    let port = address.rsplit(':').next().unwrap();
    let output = format!("url: 'http://{NAME}:{port}'");
    let meterline = preload
        .put_into(scene.variant(|preset| preset, &output))
        .start()
        .unwrap();
    let unready = async |reason: &str| {
        meterline.wait_unready(reason).await.unwrap();
    };
    unready("name resolution").await;
    assert_eq!(ingest.state().requests.len(), 0);

    let other = TcpListener::bind(format!("127.0.0.2:{port}"))
        .await
        .unwrap();
    let other = tokio::spawn(forward(other, address.clone()));
    preload.resolve(NAME, Some("127.0.0.2")).unwrap();
    ingest.wait_for_events(1).await.unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();

    other.abort();
    unready("cannot reach").await;
    preload.resolve(NAME, Some("127.0.0.1")).unwrap();
    scene.finish(&meterline).await;
}
