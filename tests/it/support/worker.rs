//! The real program, as a process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{PATIENCE, nats::NatsServer, repository, samples};

/// A command that runs tagmill, with nothing of the caller's settings.
pub fn tagmill(arguments: &[&str]) -> Command {
    let library = std::env::var_os("ORT_DYLIB_PATH").expect("ORT_DYLIB_PATH: run the tests with `make test`");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagmill"));
    command.args(arguments).env_clear().env("ORT_DYLIB_PATH", library).stdin(Stdio::null());
    command
}

/// A running worker, killed on drop.
pub struct Worker {
    process: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Worker {
    /// On the samples and the demo model, ready for jobs.
    pub fn start(nats: &NatsServer) -> Self {
        Self::start_with(nats, &samples(), &[], &[])
    }

    /// On this store, with more arguments and environment; ready for jobs.
    pub fn start_with(
        nats: &NatsServer,
        store: &str,
        arguments: &[&str],
        environment: &[(&'static str, String)],
    ) -> Self {
        let worker = Self::spawn(nats, store, arguments, environment);
        worker.logged("working");
        worker
    }

    /// The same, without waiting for it to be ready.
    pub fn spawn(nats: &NatsServer, store: &str, arguments: &[&str], environment: &[(&'static str, String)]) -> Self {
        let url = nats.url();
        let mut command = tagmill(&["worker", "--store", store, "--nats-url", &url, "--listen", "127.0.0.1:0"]);
        if !arguments.contains(&"--models") {
            command.arg("--models").arg(repository("models"));
        }
        command.args(arguments).envs(environment.iter().cloned());
        Self::run(command)
    }

    /// The HTTP API alone, on the demo model, ready for requests.
    pub fn serve(arguments: &[&str], environment: &[(&'static str, String)]) -> Self {
        let mut command = tagmill(&["serve"]);
        if !arguments.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        if !arguments.contains(&"--models") {
            command.arg("--models").arg(repository("models"));
        }
        command.args(arguments).envs(environment.iter().cloned());
        let server = Self::run(command);
        server.logged("serving the API");
        server
    }

    /// Another command, with its log: it is not only workers that run for a while.
    pub fn run(mut command: Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, sink) = (BufReader::new(process.stderr.take().expect("piped")).lines(), Arc::clone(&log));
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                sink.lock().expect("no panic").push(line);
            }
        });
        Self { process, log, reader: Some(reader) }
    }

    /// The first line of the log that holds `text`, once there is one.
    pub fn logged(&self, text: &str) -> String {
        let began = Instant::now();
        loop {
            let log = self.log.lock().expect("no panic");
            if let Some(line) = log.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            assert!(began.elapsed() < PATIENCE, "never logged {text:?}, but:\n{}", log.join("\n"));
            drop(log);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no panic").join("\n")
    }

    /// Where it serves its metrics.
    pub fn address(&self) -> String {
        let line = self.logged("address");
        let (_, address) = line.split_once("127.0.0.1:").expect("the address");
        let port: String = address.chars().take_while(char::is_ascii_digit).collect();
        format!("127.0.0.1:{port}")
    }

    /// Where it serves this path.
    pub fn url(&self, path: &str) -> String {
        // The HTTP client wants a TLS provider, even where it uses none.
        let _ = rustls::crypto::ring::default_provider().install_default();
        format!("http://{}{path}", self.address())
    }

    /// What it answers to GET.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let response = reqwest::get(self.url(path)).await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("text"))
    }

    /// The value of a metric, with its labels as they are written.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").await;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().expect("kill runs");
        assert!(status.success(), "the worker is gone:\n{}", self.log());
    }

    /// Lets it have no more than so many bytes of address space beyond what it has now.
    pub fn limit_memory(&self, more: u64) {
        let id = self.process.id();
        let limit = format!("--as={}", self.memory("VmSize:") + more);
        let status = Command::new("prlimit").args(["--pid", &id.to_string(), &limit]).status();
        assert!(status.expect("prlimit runs").success());
    }

    /// The most memory it has had, in bytes.
    pub fn resident_memory(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let size = status.lines().find_map(|line| line.strip_prefix(field)).expect("every process has one");
        let kibibytes: u64 = size.trim().trim_end_matches("kB").trim().parse().expect("a number");
        kibibytes * 1024
    }

    /// How often each thread whose name starts so has given the processor away: those that wait for work do when they get
    /// some.
    pub fn threads(&self, name: &str) -> Vec<u64> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).expect("it runs");
        let statuses = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok());
        let named = statuses.filter(|status| status.lines().next().is_some_and(|line| line.contains(name)));
        let switches = |status: String| {
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:").map(str::to_owned));
            line.and_then(|count| count.trim().parse().ok()).expect("every thread has a count")
        };
        named.map(switches).collect()
    }

    /// The processes it has started and not reaped.
    pub fn children(&self) -> Vec<u32> {
        let parent = self.process.id().to_string();
        let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
        let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_child = |process: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            // The name before it may have spaces.
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)) == Some(parent.as_str())
        };
        numbers.filter(is_child).collect()
    }

    /// Sends a signal by name, if it still runs.
    pub fn try_signal(&mut self, name: &str) {
        if self.is_running() {
            let id = self.process.id().to_string();
            let _ = Command::new("kill").args(["-s", name, &id]).status();
        }
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("it was started").is_none()
    }

    /// Waits for its end, and for the end of its log.
    pub fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().expect("it was started") {
                self.reader.take().map(JoinHandle::join);
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("the log of the program:\n{}", self.log.lock().map(|log| log.join("\n")).unwrap_or_default());
        }
    }
}
