//! A small HTTP server for tests of the client: real sockets, fixed responses, and a record of the requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A request that the server received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// The method, and the path with its query: `GET /api/pipeline`.
    pub(crate) line: String,
    /// The header lines, in lower case.
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

/// The response to send.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A status code and a JSON body.
    Json(u16, String),
    /// An HTML page.
    Page(&'static str),
    /// JSON from a server whose `Date` header has this value.
    At(&'static str, String),
    /// A redirect to this address.
    Redirect(String),
    /// The head and half of the body, and then the end of the connection, as if the server was killed.
    Half(String),
    /// The connection ends without a byte.
    Nothing,
}

/// A server that listens until it is dropped. Then connections are refused.
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
                    // A browser opens connections in advance and sends nothing on them; they must not delay other connections.
                    // A client that disconnects does not fail the test by itself: the test checks the client.
                    std::thread::spawn(move || serve(&stream, &requests, &*answer));
                }
            }
        });
        Self { address, requests, ended, thread: Some(thread) }
    }

    /// Starts a server that sends the same JSON to every request.
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
        // Wakes the thread from its accept. If the connection fails, the thread has already ended.
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
