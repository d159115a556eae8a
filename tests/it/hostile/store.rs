//! An S3 endpoint that leads elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::IntoResponse;
use tokio::net::TcpListener;

use crate::support::repository;
use crate::support::worker::tagmill;

async fn serve(router: Router) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_fetched_from_another_host_than_the_endpoint() {
    let asked = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&asked);
    let image = std::fs::read(repository("samples/orange-sunset.jpg")).expect("a sample");
    let elsewhere = serve(Router::new().fallback(move |_: HeaderMap| {
        counted.fetch_add(1, Ordering::Relaxed);
        let image = image.clone();
        async move { ([(header::LAST_MODIFIED, "Wed, 21 Oct 2015 07:28:00 GMT"), (header::ETAG, "\"a\"")], image) }
    }))
    .await;
    for status in [301, 302, 303, 307, 308] {
        // The bucket itself is there: only its objects lead elsewhere.
        let endpoint = serve(Router::new().fallback(move |method: Method, uri: Uri| async move {
            let location = format!("http://localhost:{elsewhere}{uri}");
            let status = if method == Method::HEAD { 200 } else { status };
            (StatusCode::from_u16(status).expect("a status"), [(header::LOCATION, location)]).into_response()
        }))
        .await;
        let models = repository("models").display().to_string();
        let mut tag = tagmill(&["tag", "--models", &models, "s3://images/a.jpg"]);
        tag.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{endpoint}")).env("AWS_ALLOW_HTTP", "true");
        tag.env("AWS_ACCESS_KEY_ID", "k").env("AWS_SECRET_ACCESS_KEY", "s").env("AWS_SESSION_TOKEN", "session-token");
        let output = tokio::task::spawn_blocking(move || tag.output().expect("it runs")).await.expect("no panic");
        let shown = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(asked.load(Ordering::Relaxed), 0, "{status}: {shown}");
        assert!(output.status.code() == Some(1) && shown.contains("redirect"), "{status}: {shown}");
        assert!(!shown.contains("session-token"), "{shown}");
    }
}
