//! Real Prometheus on a free port, killed on drop.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::repository;

pub struct Prometheus {
    process: Child,
    port: u16,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts it. It scrapes these addresses every second as the job `tagmill`, with the repository's alerts.
    pub fn start(targets: &[String]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("prometheus.yml");
        let rules = repository("dashboards/alerts.yml");
        std::fs::write(&config, configuration(&rules.display().to_string(), targets)).expect("a file");
        let mut process = Command::new(program("prometheus"))
            .args(["--web.listen-address", "127.0.0.1:0", "--log.format", "json"])
            .arg("--config.file")
            .arg(&config)
            .arg("--storage.tsdb.path")
            .arg(folder.path().join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let log = BufReader::new(process.stderr.take().expect("piped"));
        let mut lines = log.lines().map_while(Result::ok);
        let port = lines.find_map(|line| port_in(&line)).expect("it says where it listens");
        // It refuses requests before that.
        lines.find(|line| line.contains("Server is ready")).expect("it says when it is ready");
        // Reads to the end, so that Prometheus never blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, port, _folder: folder }
    }

    /// Answer of the API to a GET request.
    pub async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        // The HTTP client requires a TLS provider, even for plain HTTP.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut url = url::Url::parse(&format!("http://127.0.0.1:{}/api/v1/{path}", self.port)).expect("a URL");
        url.query_pairs_mut().extend_pairs(parameters);
        reqwest::get(url).await.expect("an answer").json().await.expect("JSON")
    }

    /// Current values of a query, without those that are not finite.
    pub async fn query(&self, query: &str) -> Vec<f64> {
        let answer = self.get("query", &[("query", query)]).await;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let series = answer["data"]["result"].as_array().expect("a vector");
        let values = series.iter().filter_map(|series| series["value"][1].as_str()?.parse::<f64>().ok());
        values.filter(|value| value.is_finite()).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Path of a program from Debian's package.
pub fn program(name: &str) -> std::path::PathBuf {
    let program = repository(".runtime").join(name);
    assert!(program.is_file(), "no {}: run the tests with `make test`", program.display());
    program
}

fn configuration(rules: &str, targets: &[String]) -> String {
    // Every JSON text is valid YAML.
    serde_json::json!({
        "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
        "rule_files": [rules],
        "scrape_configs": [{ "job_name": "tagmill", "static_configs": [{ "targets": targets }] }],
    })
    .to_string()
}

fn port_in(line: &str) -> Option<u16> {
    let line: Value = serde_json::from_str(line).ok()?;
    let address = line["address"].as_str().filter(|_| line["msg"] == "Listening on")?;
    address.rsplit(':').next()?.parse().ok()
}
