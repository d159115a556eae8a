//! Who may ask.

use reqwest::multipart::Form;
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::{Answer, IMAGES, base64, client, get, is_tagged, post};
use crate::support::samples;
use crate::support::worker::Worker;

#[tokio::test(flavor = "multi_thread")]
async fn the_token_opens_all_but_health_metrics_and_the_page() {
    let environment = [("TAGMILL_HTTP_TOKEN", "open-sesame".to_owned())];
    let server = Worker::serve(&[], &environment);
    for path in ["/healthz", "/health", "/readyz", "/metrics", "/"] {
        assert_eq!(get(&server, path).await.status, 200, "{path}");
    }
    for path in ["/v1/models", "/openapi.json", "/no/such/path"] {
        let refused = get(&server, path).await;
        assert_eq!(refused.error(), (401, "unauthorized"), "{path}");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    }
    let image = json!({ "image": base64("orange-sunset.jpg") });
    for (token, status) in [("open-sesame", 200), ("open-sesam", 401), ("", 401)] {
        let request = client().post(server.url("/v1/vision/caption")).bearer_auth(token).json(&image);
        assert_eq!(Answer::to(request).await.status, status, "{token}");
    }
    let trial = post(&server, "/diagnostics/vram-test", json!({ "batch_sizes": [1] })).await;
    assert_eq!(trial.error(), (401, "unauthorized"), "from this machine, too");
    assert!(!server.log().contains("open-sesame"));
}

/// A browser sends forms to any address unasked, and a page's own name can be made to lead to this machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_for_this_machine_alone_is_none_for_pages_of_elsewhere() {
    let server = Worker::serve(&["--store", &samples(), "--cors-origin", "https://gallery.example"], &[]);
    let ask = async |name: &'static str, value: &str| {
        let form = Form::new().text("image", "orange-sunset.jpg");
        Answer::to(client().post(server.url("/v1/vision/caption")).header(name, value).multipart(form)).await
    };
    for (name, value) in [("Host", "evil.example"), ("Origin", "http://evil.example"), ("Origin", "null")] {
        let refused = ask(name, value).await;
        assert_eq!(refused.error(), (403, "forbidden"), "{name}: {value}");
        assert!(refused.json["error"]["message"].as_str().expect("a message").contains("--cors-origin"));
    }
    let (own, page) = (server.address(), server.url(""));
    for (name, value) in [
        ("Host", "localhost:8080"),
        ("Host", "gallery.example"),
        ("Host", own.as_str()),
        ("Origin", page.as_str()),
        ("Origin", "https://gallery.example"),
    ] {
        let answer = ask(name, value).await;
        assert_eq!(answer.status, 200, "{name}: {value} {}", answer.json);
    }
}

/// A browser gallery that speaks this API: on another origin, with a model's name of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_gallery_on_another_origin_works_unchanged() {
    let origin = "http://localhost:3000";
    let server = Worker::serve(&["--cors-origin", origin, "--alias", "wd14-vit-v2=demo"], &[]);
    let preflight = async |origin: &'static str| {
        let request = client().request(Method::OPTIONS, server.url("/v1/vision/batch-caption"));
        let request = request.header("Origin", origin).header("Access-Control-Request-Method", "POST");
        Answer::to(request.header("Access-Control-Request-Headers", "content-type,x-vram-mode,authorization")).await
    };
    let allowed = preflight(origin).await;
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (200, Some(origin)));
    let headers = allowed.header("access-control-allow-headers").expect("headers").to_lowercase();
    assert!(["content-type", "authorization", "x-vram-mode"].iter().all(|name| headers.contains(name)), "{headers}");
    assert_eq!(preflight("http://evil.example").await.header("access-control-allow-origin"), None);

    let from = |request: RequestBuilder| request.header("Origin", origin).header("X-VRAM-Mode", "auto");
    let models = Answer::to(from(client().get(server.url("/v1/models")))).await;
    assert_eq!(models.header("access-control-allow-origin"), Some(origin));
    let exposed = models.header("access-control-expose-headers").expect("headers").to_lowercase();
    assert!(["x-vram-used", "x-vram-total", "x-inference-time"].iter().all(|name| exposed.contains(name)), "{exposed}");
    let model = &models.json["data"][0];
    assert_eq!(models.json["object"], "list");
    assert_eq!((&model["id"], &model["type"], &model["loaded"]), (&json!("demo"), &json!("tagging"), &json!(true)));
    assert_eq!((&model["aliases"], &model["device"]), (&json!(["wd14-vit-v2"]), &json!("cpu")));
    assert_eq!(model["sha256"].as_str().map(str::len), Some(64));

    let body = json!({ "images": IMAGES.map(|(name, _)| base64(name)), "model": "wd14-vit-v2" });
    let answer = Answer::to(from(client().post(server.url("/v1/vision/batch-caption"))).json(&body)).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
    for (number, (_, tag)) in IMAGES.iter().enumerate() {
        is_tagged(&answer.json["captions"][number], tag);
    }
    let body =
        json!({ "image": format!("data:image/webp;base64,{}", base64("blue-ocean.webp")), "model": "wd14-vit-v2" });
    let answer = Answer::to(from(client().post(server.url("/v1/classify"))).json(&body)).await;
    assert!(answer.json["scores"]["blue"].as_f64() > Some(0.9), "{}", answer.json);
}
