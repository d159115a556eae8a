//! A NATS client that sends bytes as they are: what a client library refuses to write, anybody can.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::PATIENCE;
use super::nats::NatsServer;

pub struct Raw(BufReader<TcpStream>);

impl Raw {
    pub async fn connect(server: &NatsServer) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", server.port)).await.expect("it runs");
        let mut raw = Self(BufReader::new(stream));
        assert!(raw.line().await.starts_with(b"INFO "));
        raw.send(br#"CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}"#).await;
        raw.send(b"\r\n").await;
        raw
    }

    /// Publishes these bytes.
    pub async fn publish(&mut self, subject: &[u8], reply: &[u8], headers: Option<&[u8]>, payload: &[u8]) {
        let verb: &[u8] = if headers.is_some() { b"HPUB " } else { b"PUB " };
        let headers_size = headers.map(|headers| format!("{} ", headers.len())).unwrap_or_default();
        let size = headers.map_or(0, <[u8]>::len) + payload.len();
        let sizes = format!(" {headers_size}{size}\r\n");
        let message =
            [verb, subject, b" ", reply, sizes.as_bytes(), headers.unwrap_or_default(), payload, b"\r\n"].concat();
        self.send(&message).await;
    }

    /// Waits until the server has taken everything; whether it has kept the connection.
    pub async fn flush(&mut self) -> bool {
        self.send(b"PING\r\n").await;
        loop {
            match &*self.line().await {
                b"PONG\r\n" => return true,
                b"" => return false,
                b"PING\r\n" => self.send(b"PONG\r\n").await,
                _ => {}
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        // A server that has closed the connection is noticed by what reads.
        let _ = self.0.get_mut().write_all(bytes).await;
    }

    async fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.0.read_until(b'\n', &mut line)).await;
        let _ = read.expect("the server answers");
        line
    }
}
