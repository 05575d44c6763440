//! A tiny HTTP server for tests of the client: real sockets, canned answers, and a record of what was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// What was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// Method and path with query, `GET /api/pipeline`.
    pub(crate) line: String,
    /// Header lines in lower case.
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

/// What to answer.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A status and a JSON body.
    Json(u16, String),
    /// A page of HTML.
    Page(&'static str),
    /// JSON from a server whose clock says this, as HTTP writes it.
    At(&'static str, String),
    /// A redirect to this address.
    Redirect(String),
    /// The head and half of the body, then nothing: the server was killed.
    Half(String),
    /// The connection ends without a byte.
    Nothing,
}

/// Listens until dropped; then connections are refused.
pub(crate) struct FakeServer {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeServer {
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the kernel's choice");
        let address = listener.local_addr().expect("it is bound");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (requests, ended, answer) = (Arc::clone(&requests), Arc::clone(&ended), Arc::new(answer));
            move || {
                for stream in listener.incoming() {
                    if ended.load(Ordering::SeqCst) {
                        return;
                    }
                    let stream = stream.expect("a connection");
                    let (requests, answer) = (Arc::clone(&requests), Arc::clone(&answer));
                    // A browser opens connections in advance, which say nothing; none of them may keep another waiting.
                    // A client that gave up is no failure of the test by itself: the test looks at the client.
                    std::thread::spawn(move || serve(&stream, &requests, &*answer));
                }
            }
        });
        Self { address, requests, ended, thread: Some(thread) }
    }

    /// Answers everything with the same JSON.
    pub(crate) fn canned(status: u16, body: &str) -> Self {
        let body = body.to_owned();
        Self::start(move |_| Reply::Json(status, body.clone()))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the thread from its accept; if that fails the thread has ended already.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: &TcpStream, requests: &Mutex<Vec<Request>>, answer: &impl Fn(&Request) -> Reply) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut request = Request::default();
    let mut line = String::new();
    reader.read_line(&mut line)?;
    line.trim_end().trim_end_matches(" HTTP/1.1").clone_into(&mut request.line);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        if line.trim_end().is_empty() {
            break;
        }
        request.headers.push(line.trim_end().to_lowercase());
    }
    let length = request.headers.iter().find_map(|header| header.strip_prefix("content-length: ")?.parse().ok());
    reader.take(length.unwrap_or(0)).read_to_string(&mut request.body)?;
    requests.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    let head_of = |kind: &str, status: u16, length: usize| {
        format!("HTTP/1.1 {status} Canned\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n")
    };
    let head = |status: u16, length: usize| head_of("application/json", status, length);
    match answer(&request) {
        Reply::Json(status, body) => write!(stream, "{}\r\n{body}", head(status, body.len())),
        Reply::Page(text) => write!(stream, "{}\r\n{text}", head_of("text/html", 200, text.len())),
        Reply::At(date, body) => write!(stream, "{}Date: {date}\r\n\r\n{body}", head(200, body.len())),
        Reply::Redirect(to) => write!(stream, "{}Location: {to}\r\n\r\n", head(302, 0)),
        Reply::Half(body) => write!(stream, "{}\r\n{}", head(200, body.len()), &body[..body.len() / 2]),
        Reply::Nothing => Ok(()),
    }
}
