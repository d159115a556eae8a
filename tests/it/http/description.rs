//! What the documentation and the server's own description say is so.

use reqwest::Method;
use reqwest::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::{Answer, base64, client, get};
use crate::support::nats::NatsServer;
use crate::support::worker::Worker;
use crate::support::{repository, samples};

/// The commands in `docs/http.md` are run as they stand there, against the server that it starts.
#[tokio::test(flavor = "multi_thread")]
async fn the_examples_in_the_documentation_work() {
    let server = Worker::serve(&["--store", &samples()], &[]);
    let text = std::fs::read_to_string(repository("docs/http.md")).expect("it is there");
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    let examples: Vec<_> = blocks.filter(|block| block.contains("curl")).collect();
    assert!(examples.len() >= 4, "{examples:?}");
    for example in examples {
        let script = example.replace("http://127.0.0.1:8080", &server.url(""));
        let mut bash = std::process::Command::new("bash");
        let run = bash.args(["-euo", "pipefail", "-c", &script]).current_dir(repository("")).output().expect("it runs");
        let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success() && !out.contains("\"error\""), "{example}\n{out}\n{err}");
        let expected = example.lines().filter_map(|line| line.strip_prefix("# → "));
        for part in expected {
            assert!(out.contains(part), "{example}\nshould show {part}, but:\n{out}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_how_it_is_as_described() {
    let nats = NatsServer::start();
    let worker = Worker::start(&nats);
    let document = get(&worker, "/openapi.json").await.json;
    let ready = get(&worker, "/readyz").await;
    assert_eq!((&ready.json["nats"], &ready.json["answers"]), (&json!(true), &json!(true)));
    let schema = resolve(&document, &json!({ "$ref": "#/components/schemas/Readiness" })).clone();
    fits(&document, &schema, &ready.json).unwrap_or_else(|wrong| panic!("{wrong} in {}", ready.json));
}

/// Every answer has the shape that the server's own description gives it.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_described() {
    let server = Worker::serve(&[], &[]);
    let document = get(&server, "/openapi.json").await.json;
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let image = base64("orange-sunset.jpg");
    let exchanges = [
        (Method::GET, "/v1/models", json!(null)),
        (Method::GET, "/healthz", json!(null)),
        (Method::GET, "/readyz", json!(null)),
        (Method::POST, "/v1/models/refresh", json!(null)),
        (Method::POST, "/v1/vision/caption", json!({ "image": image })),
        (Method::POST, "/v1/vision/caption", json!({ "image": "" })),
        (Method::POST, "/v1/vision/batch-caption", json!({ "images": [image, "?"] })),
        (Method::POST, "/v1/classify", json!({ "image": image })),
        (Method::POST, "/v1/classify", json!({ "image": image, "model": "x" })),
        (Method::POST, "/diagnostics/vram-test", json!({ "batch_sizes": [1] })),
    ];
    for (method, path, body) in exchanges {
        let request = client().request(method.clone(), server.url(path));
        let json = (HeaderName::from_static("content-type"), HeaderValue::from_static("application/json"));
        let request = request.header(json.0, json.1).body(body.to_string());
        let answer = Answer::to(request).await;
        let operation = &document["paths"][path][method.as_str().to_lowercase()];
        let described = resolve(&document, &operation["responses"][answer.status.to_string()]);
        let schema = &described["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{path} {} is not described", answer.status);
        fits(&document, schema, &answer.json).unwrap_or_else(|wrong| panic!("{path}: {wrong} in {}", answer.json));
    }
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => resolve(document, document.pointer(&reference[1..]).expect("what is referred to")),
        None => schema,
    }
}

/// Whether JSON is what a schema says, as far as this document's schemas go.
fn fits(document: &Value, schema: &Value, json: &Value) -> Result<(), String> {
    let schema = resolve(document, schema);
    let wrong = |what: &str| Err(format!("{json} is not {what}"));
    if let Some(choices) = schema["oneOf"].as_array() {
        let fitting = choices.iter().filter(|choice| fits(document, choice, json).is_ok()).count();
        return if fitting == 1 { Ok(()) } else { wrong("one of its kinds") };
    }
    if schema.get("const").is_some_and(|constant| constant != json) {
        return wrong("the constant");
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(json)) {
        return wrong("one of its values");
    }
    let kind = match json {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is = |name: &Value| name == kind || (name == "integer" && json.is_u64());
    match &schema["type"] {
        Value::Null => {}
        Value::Array(kinds) if kinds.iter().any(is) => {}
        name if is(name) => {}
        name => return wrong(&name.to_string()),
    }
    for item in json.as_array().into_iter().flatten() {
        fits(document, &schema["items"], item)?;
    }
    let Some(object) = json.as_object() else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !object.contains_key(name.as_str().expect("a name")) {
            return wrong(&format!("complete: {name} is missing"));
        }
    }
    for (name, value) in object {
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, Value::Object(_)) => fits(document, &schema["additionalProperties"], value)?,
            (Value::Null, Value::Bool(false)) => return wrong(&format!("without the undescribed {name}")),
            (Value::Null, _) => {}
            (described, _) => fits(document, described, value)?,
        }
    }
    Ok(())
}
