//! The real program, as a process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{PATIENCE, nats::NatsServer, repository, samples};

/// Command that runs tagmill, without the caller's environment.
pub fn tagmill(arguments: &[&str]) -> Command {
    let library = std::env::var_os("ORT_DYLIB_PATH").expect("ORT_DYLIB_PATH: run the tests with `make test`");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagmill"));
    command.args(arguments).env_clear().env("ORT_DYLIB_PATH", library).stdin(Stdio::null());
    command
}

/// The same command, with no more than so many open files.
pub fn with_descriptors(most: u32, command: &Command) -> Command {
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nofile={most}:{most}")).arg(command.get_program()).args(command.get_args());
    limited.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    limited
}

/// Running worker, killed on drop.
pub struct Worker {
    process: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a worker on the samples and the demo model, and waits until it is ready.
    pub fn start(nats: &NatsServer) -> Self {
        Self::start_with(nats, &samples(), &[], &[])
    }

    /// Starts a worker on this store, with more arguments and environment, and waits until it is ready.
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

    /// Starts a worker like [`Worker::start_with`], without waiting until it is ready.
    pub fn spawn(nats: &NatsServer, store: &str, arguments: &[&str], environment: &[(&'static str, String)]) -> Self {
        let url = nats.url();
        let mut command = tagmill(&["worker", "--store", store, "--nats-url", &url, "--listen", "127.0.0.1:0"]);
        if !arguments.contains(&"--models") {
            command.arg("--models").arg(repository("models"));
        }
        command.args(arguments).envs(environment.iter().cloned());
        Self::run(command)
    }

    /// Starts the HTTP API alone, on the demo model, and waits until it is ready.
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

    /// Runs another long-running command and collects its log.
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

    /// Waits for the first line of the log that contains `text`.
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

    /// Log so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no panic").join("\n")
    }

    /// Address of its HTTP server.
    pub fn address(&self) -> String {
        let line = self.logged("address");
        let (_, address) = line.split_once("127.0.0.1:").expect("the address");
        let port: String = address.chars().take_while(char::is_ascii_digit).collect();
        format!("127.0.0.1:{port}")
    }

    /// URL of this path.
    pub fn url(&self, path: &str) -> String {
        // The HTTP client requires a TLS provider, even for plain HTTP.
        let _ = rustls::crypto::ring::default_provider().install_default();
        format!("http://{}{path}", self.address())
    }

    /// Status and body of the answer to a GET request.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let response = reqwest::get(self.url(path)).await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("text"))
    }

    /// Value of a metric, named with its labels as exported.
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

    /// Limits its address space to `more` bytes above the present size.
    pub fn limit_memory(&self, more: u64) {
        let id = self.process.id();
        let limit = format!("--as={}", self.memory("VmSize:") + more);
        let status = Command::new("prlimit").args(["--pid", &id.to_string(), &limit]).status();
        assert!(status.expect("prlimit runs").success());
    }

    /// Peak resident memory in bytes.
    pub fn resident_memory(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let size = status.lines().find_map(|line| line.strip_prefix(field)).expect("every process has one");
        let kibibytes: u64 = size.trim().trim_end_matches("kB").trim().parse().expect("a number");
        kibibytes * 1024
    }

    /// Number of voluntary context switches of each thread whose name contains `name`. A thread that waits for work makes
    /// one when work arrives.
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

    /// Child processes that were not reaped.
    pub fn children(&self) -> Vec<u32> {
        let parent = self.process.id().to_string();
        let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
        let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_child = |process: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            // The name before it may contain spaces.
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)) == Some(parent.as_str())
        };
        numbers.filter(is_child).collect()
    }

    /// Sends a signal by name, if the process still runs.
    pub fn try_signal(&mut self, name: &str) {
        if self.is_running() {
            let id = self.process.id().to_string();
            let _ = Command::new("kill").args(["-s", name, &id]).status();
        }
    }

    /// Returns `true` if the process has not ended.
    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("it was started").is_none()
    }

    /// Waits for the end of the process and of its log.
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
