//! A directory's files over HTTP on loopback: where a page comes from in tests that have no console.

use anyhow::{Context, Result};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A browser opens connections in advance and says nothing on them.
const REQUEST_BOUND: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: u64 = 64 * 1024;

/// Serves while it lives.
#[derive(Debug)]
pub struct Pages {
    address: SocketAddr,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pages {
    /// A file that several directories have is that of the first.
    pub fn serve(directories: &[&Path]) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let ending = Arc::new(AtomicBool::new(false));
        let directories: Arc<[PathBuf]> = directories.iter().map(|it| it.to_path_buf()).collect();
        let over = Arc::clone(&ending);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let directories = Arc::clone(&directories);
                thread::spawn(move || answer(stream, &directories));
            }
        });
        Ok(Self { address, ending, thread: Some(thread) })
    }

    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        // Wakes the accepting thread; if that fails it is gone already.
        let _woken = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn answer(stream: TcpStream, directories: &[PathBuf]) {
    if let Err(error) = try_answer(stream, directories) {
        // A browser that goes away in the midst is no fault.
        eprintln!("a page: {error:#}");
    }
}

fn try_answer(mut stream: TcpStream, directories: &[PathBuf]) -> Result<()> {
    stream.set_read_timeout(Some(REQUEST_BOUND))?;
    let mut head = BufReader::new(stream.try_clone()?.take(HEAD_BYTES_MAX));
    let mut line = String::new();
    if !matches!(head.read_line(&mut line), Ok(1..)) {
        return Ok(());
    }
    let path = line.split(' ').nth(1).context("a request line")?;
    let path = path.split('?').next().unwrap_or_default().trim_start_matches('/').to_owned();
    while !line.trim_end().is_empty() {
        line.clear();
        head.read_line(&mut line)?;
    }
    let is_inside = path.split('/').all(|step| !step.is_empty() && !step.starts_with('.'));
    let found =
        directories.iter().filter(|_| is_inside).find_map(|it| fs::read(it.join(&path)).ok());
    let (status, body) = match found {
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", Vec::new()),
    };
    let kind = match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript",
        Some("css") => "text/css",
        Some(_) | None => "application/octet-stream",
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)?;
    Ok(())
}
