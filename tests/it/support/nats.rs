//! Real nats-server on a free port with a store of its own, killed on drop.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::PATIENCE;

pub struct NatsServer {
    process: Process,
    program: String,
    arguments: Vec<String>,
    folder: TempDir,
    pub port: u16,
    /// `user:password@` for its URL, or empty.
    pub login: &'static str,
}

impl NatsServer {
    /// Starts a server with JetStream.
    pub fn start() -> Self {
        Self::start_with(&["--jetstream"])
    }

    /// Starts a server with these arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::start_program("nats-server".to_owned(), arguments, folder)
    }

    /// Starts the current release instead of Debian's. It syncs every message to disk before it confirms it.
    pub fn start_current() -> Self {
        let program = std::env::var("TAGMILL_TEST_NATS_SERVER").expect("run the tests with `make test`");
        Self::start_program_configured(program, "jetstream { sync_interval: always }")
    }

    /// The current release, with JetStream and this configuration.
    pub fn start_current_configured(configuration: &str) -> Self {
        let program = std::env::var("TAGMILL_TEST_NATS_SERVER").expect("run the tests with `make test`");
        Self::start_program_configured(program, configuration)
    }

    fn start_program(program: String, arguments: &[&str], folder: TempDir) -> Self {
        let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let (process, port) = spawn(&program, folder.path(), &arguments, -1);
        Self { process, program, arguments, folder, port, login: "" }
    }

    /// Starts a server with JetStream and this configuration, which [`NatsServer::configure`] can change.
    pub fn start_configured(configuration: &str) -> Self {
        Self::start_program_configured("nats-server".to_owned(), configuration)
    }

    fn start_program_configured(program: String, configuration: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("nats.conf");
        std::fs::write(&config, configuration).expect("a file");
        let config = config.display().to_string();
        Self::start_program(program, &["--jetstream", "--config", &config], folder)
    }

    /// Restarts it with another configuration.
    pub fn configure(&mut self, configuration: &str) {
        std::fs::write(self.folder.path().join("nats.conf"), configuration).expect("a file");
        self.kill();
        self.restart();
    }

    /// Sends a signal by name: STOP suspends the server with its connections open, CONT resumes it.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.process.0.id().to_string()]).status();
        assert!(status.expect("kill runs").success(), "nats-server is gone");
    }

    pub fn url(&self) -> String {
        format!("nats://{}127.0.0.1:{}", self.login, self.port)
    }

    /// Kills the server, like a crash.
    pub fn kill(&mut self) {
        self.process.end();
    }

    /// Restarts it on the same store and port.
    pub fn restart(&mut self) {
        let (process, port) = spawn(&self.program, self.folder.path(), &self.arguments, self.port.into());
        assert_eq!(port, self.port);
        self.process = process;
    }
}

/// Process, killed on drop.
struct Process(Child);

impl Process {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts a server and waits until it has written its port to a file.
fn spawn(program: &str, folder: &Path, arguments: &[String], port: i32) -> (Process, u16) {
    for entry in std::fs::read_dir(folder).expect("the folder").flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "ports") {
            std::fs::remove_file(entry.path()).expect("an old ports file");
        }
    }
    let process = Command::new(program)
        .args(arguments)
        .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
        .arg("--store_dir")
        .arg(folder.join("store"))
        .arg("--ports_file_dir")
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let process = Process(process.expect("nats-server is installed by `make test`"));
    // The file is named after the program's own file name.
    let name = Path::new(program).file_name().and_then(|name| name.to_str()).expect("a program");
    let file = folder.join(format!("{name}_{}.ports", process.0.id()));
    let began = Instant::now();
    loop {
        if let Some(port) = std::fs::read(&file).ok().and_then(|json| port_in(&json)) {
            return (process, port);
        }
        assert!(began.elapsed() < PATIENCE, "nats-server did not start");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn port_in(json: &[u8]) -> Option<u16> {
    let ports: serde_json::Value = serde_json::from_slice(json).ok()?;
    ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
}
