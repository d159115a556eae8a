//! Real headless browser, driven over the `DevTools` protocol.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::PATIENCE;

/// Page in a browser of its own, which ends on drop.
pub struct Page {
    browser: Child,
    _profile: TempDir,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
    asked: u64,
    /// Errors on the page's console.
    pub complaints: Vec<String>,
}

impl Page {
    /// Opens this URL.
    pub async fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let mut browser = Command::new("chromium")
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--remote-debugging-port=0", "--disable-background-networking", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("Chromium (Debian's package chromium): run the tests with `make test`");
        let mut lines = BufReader::new(browser.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix("DevTools listening on ").map(str::to_owned));
        // Reads on, because the browser blocks once the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        let (socket, _) = connect_async(address.expect("it says where it listens")).await.expect("it listens");
        let session = String::new();
        let mut page = Self { browser, _profile: profile, socket, session, asked: 0, complaints: Vec::new() };
        let target = page.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = page.call("Target.attachToTarget", attach).await;
        attached["sessionId"].as_str().expect("an id").clone_into(&mut page.session);
        for domain in ["Runtime.enable", "Page.enable", "DOM.enable", "Log.enable"] {
            page.call(domain, json!({})).await;
        }
        page.call("Page.bringToFront", json!({})).await;
        page.call("Page.navigate", json!({ "url": url })).await;
        page.until("document.readyState === 'complete'").await;
        page
    }

    /// Calls a method of the browser and returns its answer.
    pub async fn call(&mut self, method: &str, params: Value) -> Value {
        self.asked += 1;
        let mut question = json!({ "id": self.asked, "method": method, "params": params });
        if !self.session.is_empty() {
            question["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(question.to_string())).await.expect("it listens");
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("an answer in time");
            let Message::Text(text) = next.expect("it is open").expect("a message") else { continue };
            let message: Value = serde_json::from_str(&text).expect("JSON");
            if message["id"] == self.asked {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].clone();
            }
            let said = &message["params"];
            if message["method"] == "Runtime.exceptionThrown"
                || (message["method"] == "Log.entryAdded" && said["entry"]["level"] == "error")
            {
                self.complaints.push(said.to_string());
            }
        }
    }

    /// Evaluates an expression on the page.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let question = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", question).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub async fn until(&mut self, expression: &str) {
        let began = std::time::Instant::now();
        while self.eval(expression).await != true {
            if began.elapsed() > PATIENCE {
                let text = self.eval("document.body.innerText").await;
                panic!("never {expression}, but:\n{text}\n{:?}", self.complaints);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Puts files into an input, as a user does.
    pub async fn choose(&mut self, input: &str, files: &[&Path]) {
        let root = self.call("DOM.getDocument", json!({})).await["root"]["nodeId"].clone();
        let found = self.call("DOM.querySelector", json!({ "nodeId": root, "selector": input })).await;
        self.call("DOM.setFileInputFiles", json!({ "nodeId": found["nodeId"], "files": files })).await;
    }

    /// Presses a key.
    pub async fn press(&mut self, key: &str, code: u32) {
        for kind in ["keyDown", "keyUp"] {
            // A key that writes no text is a raw key.
            let kind = if kind == "keyDown" && key != "Enter" { "rawKeyDown" } else { kind };
            let mut event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            if key == "Enter" && kind == "keyDown" {
                event["text"] = json!("\r");
            }
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// Emulates a screen of this size, light or dark.
    pub async fn look(&mut self, width: u32, height: u32, scheme: &str) {
        let phone = width < 600;
        let screen = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone });
        self.call("Emulation.setDeviceMetricsOverride", screen).await;
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features).await;
    }

    /// Takes a screenshot, if the variable `TAGMILL_TEST_SCREENSHOTS` names a folder.
    pub async fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("TAGMILL_TEST_SCREENSHOTS") else { return };
        let data = self.call("Page.captureScreenshot", json!({ "format": "png" })).await["data"].clone();
        let png = STANDARD.decode(data.as_str().expect("base64")).expect("base64");
        std::fs::write(Path::new(&folder).join(format!("{name}.png")), png).expect("a file");
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.browser.kill();
        let _ = self.browser.wait();
    }
}
