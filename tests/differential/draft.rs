//! One request before it is written, and everything that is changed in it.

use super::generate::Dice;

/// The parts of a request, which are joined unchanged.
pub(crate) struct Draft {
    before: Vec<u8>,
    first: [Vec<u8>; 3],
    gaps: [&'static str; 2],
    fields: Vec<Vec<u8>>,
    /// The ends of the first line and of each field.
    line_ends: Vec<&'static str>,
    head_end: &'static str,
    body: Vec<u8>,
}

impl Draft {
    pub(crate) fn good(dice: &mut Dice) -> Self {
        let method = dice.one_of(&["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE"]);
        let target = dice.one_of(&["/", "/api/pipeline", "/a?b=c&d=%20e", "/~x/;y=1,2", "*x".trim_end_matches("*x"), "/%00%ff"]);
        let target = if target.is_empty() { "/api/logs?since=5" } else { target };
        let mut fields = vec![b"Host: localhost:8788".to_vec()];
        for _ in 0..dice.below(4) {
            let field = dice.one_of(&[
                "Accept: */*",
                "X-Empty:",
                "User-Agent:  two  words  ",
                "Cookie: a=b; c=\"d\"",
                "x:y",
                "If-None-Match:\t\"5\"\t",
            ]);
            fields.push(field.as_bytes().to_vec());
        }
        let body = match dice.below(4) {
            0 | 1 => Vec::new(),
            2 => {
                let length = dice.below(30);
                fields.push(format!("Content-Length: {length}").into_bytes());
                b"{\"grace_s\": 0.5, \"x\": [1, 2, 3]}"[..length].to_vec()
            }
            _ => {
                fields.push(dice.one_of(&["Transfer-Encoding: chunked", "transfer-encoding:Chunked"]).as_bytes().to_vec());
                chunked(dice, "", "\r\n", "\r\n", "")
            }
        };
        let line_ends = vec!["\r\n"; fields.len() + 1];
        let first = [method.into(), target.into(), b"HTTP/1.1".to_vec()];
        Self { before: Vec::new(), first, gaps: [" ", " "], fields, line_ends, head_end: "\r\n", body }
    }

    fn put(&mut self, field: impl Into<Vec<u8>>) {
        self.fields.push(field.into());
        self.line_ends.push("\r\n");
    }

    /// Removes the fields of that name.
    fn take(&mut self, name: &str) {
        let is_other = |field: &Vec<u8>| !field.to_ascii_lowercase().starts_with(name.as_bytes());
        self.fields.retain(is_other);
        self.line_ends.resize(self.fields.len() + 1, "\r\n");
    }

    fn take_body(&mut self) {
        self.take("content-length");
        self.take("transfer-encoding");
        self.body.clear();
    }

    /// Replaces the body and its framing.
    fn with_body(&mut self, field: &str, body: impl Into<Vec<u8>>) {
        self.take_body();
        self.put(field);
        self.body = body.into();
    }

    fn some_field(&mut self, dice: &mut Dice) -> &mut Vec<u8> {
        let at = dice.below(self.fields.len());
        &mut self.fields[at]
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend(&self.before);
        for (part, gap) in self.first.iter().zip([self.gaps[0], self.gaps[1], self.line_ends[0]]) {
            out.extend(part);
            out.extend(gap.bytes());
        }
        for (field, end) in self.fields.iter().zip(&self.line_ends[1..]) {
            out.extend(field);
            out.extend(end.bytes());
        }
        out.extend(self.head_end.bytes());
        out.extend(&self.body);
    }
}

/// Returns a few chunks, with these extensions, ends of size lines and of chunks, and trailers.
fn chunked(dice: &mut Dice, extension: &str, size_end: &str, data_end: &str, trailers: &str) -> Vec<u8> {
    let mut body = String::new();
    for _ in 0..=dice.below(2) {
        let length = dice.below(20) + 1;
        let size = if dice.below(2) == 0 { format!("{length:x}") } else { format!("0{length:X}") };
        body.extend([&size, extension, size_end, &"abcdefghij0123456789"[..length], data_end]);
    }
    body.extend(["0", extension, size_end, trailers, "\r\n"]);
    body.into_bytes()
}

const CHUNKED: &str = "Transfer-Encoding: chunked";

pub(crate) type Mutate = fn(&mut Draft, &mut Dice);

/// Changes that make a request wrong, or only odd. Each is used dozens of times.
pub(crate) const MUTATIONS: &[(&str, Mutate)] = &[
    ("none", |_, _| {}),
    ("method: odd token", |r, d| r.first[0] = d.one_of(&["get", "M-SEARCH", "!#$%&'*+-.^_`|~9", "CONNECT", "PRI"]).into()),
    ("method: no token", |r, d| r.first[0] = d.one_of(&[&b""[..], b"G@T", b"GE\0T", b"G\xc3\x89T", b"(GET)", b"GET:"]).into()),
    ("target: absolute", |r, d| {
        r.first[1] = d
            .one_of(&["http://localhost:8788/x?y", "https://LOCALHOST:8788/", "http://localhost:8788", "http://localhost:8788?x"])
            .into();
    }),
    ("target: absolute, another host", |r, d| {
        r.first[1] = d
            .one_of(&[
                "http://evil/x",
                "http://localhost/x",
                "http://a@localhost:8788/",
                "http:///x",
                "HTTP://localhost:8788/",
                "ftp://x/",
            ])
            .into();
    }),
    ("target: no path", |r, d| r.first[1] = d.one_of(&["x", "localhost:8788", "?x", "#", "..", "\\x", "*", "**"]).into()),
    ("target: high bytes", |r, d| r.first[1] = d.one_of(&["/gr\u{f6}\u{df}e".as_bytes(), b"/\xff", b"/\x80x", b"/a\xc3"]).into()),
    ("target: controls", |r, d| {
        r.first[1] = d.one_of(&[&b"/\0"[..], b"/\x01", b"/a\x7f", b"/a\tb", b"/a\x0cb", b"/\x1b[2J"]).into();
    }),
    ("target: odd characters", |r, d| r.first[1] = d.one_of(&["/a#b", "/<x>", "/\"", "/{}|\\^`", "//x", "/..//../x"]).into()),
    ("target: empty", |r, _| r.first[1].clear()),
    ("target: long", |r, d| r.first[1] = format!("/{}", "x".repeat(7_000 + d.below(4_000))).into()),
    ("version: 1.0", |r, _| r.first[2] = b"HTTP/1.0".to_vec()),
    ("version: others", |r, d| {
        r.first[2] = d
            .one_of(&[
                "HTTP/1.2",
                "HTTP/2.0",
                "HTTP/0.9",
                "HTTP/1.9",
                "HTTP/1",
                "HTTP/1.10",
                "http/1.1",
                "HTTP/11",
                "HTTP/1.1x",
                "HTTP/ 1.1",
                "",
                "ICY/1.1",
            ])
            .into();
    }),
    ("first line: gaps", |r, d| {
        let gap = ["  ", "\t", " \t", "", "\u{b}", "\r"][d.below(6)];
        r.gaps[d.below(2)] = gap;
    }),
    ("first line: blanks around", |r, d| {
        if d.below(2) == 0 {
            r.first[0].insert(0, b' ');
        } else {
            r.first[2].push(*d.one_of(&[b" ", b"\t"]).first().expect("one"));
        }
    }),
    ("before: empty lines", |r, d| r.before = d.one_of(&["\r\n", "\n", "\r\n\r\n", "\n\n\r\n"]).into()),
    ("before: no empty line", |r, d| r.before = d.one_of(&["\r", "\0", " \r\n", "x\r\n", "\r\r\n"]).into()),
    ("line end: lone LF", |r, d| {
        let at = d.below(r.line_ends.len());
        r.line_ends[at] = "\n";
    }),
    ("line end: lone LF everywhere", |r, _| {
        r.line_ends.fill("\n");
        r.head_end = "\n";
    }),
    ("line end: lone LF at the end", |r, _| r.head_end = "\n"),
    ("line end: others", |r, d| {
        let at = d.below(r.line_ends.len());
        r.line_ends[at] = ["\r", "\r\r\n", "\n\r\n", "\r\n\r", "\u{85}", "\0\r\n", " \r\n", "\u{b}\r\n"][d.below(8)];
    }),
    ("field: blank before the colon", |r, d| {
        let blank = *d.one_of(&[b" ", b"\t"]).first().expect("one");
        let field = r.some_field(d);
        let colon = field.iter().position(|byte| *byte == b':').expect("a field");
        field.insert(colon, blank);
    }),
    ("field: folded", |r, d| {
        let fold = d.one_of(&["\r\n folded", "\r\n\tfolded", "\n folded", "\r\n \r\n x", "\r\n "]);
        r.some_field(d).extend(fold.bytes());
    }),
    ("field: first one folded", |r, d| {
        let blank = *d.one_of(&[b" ", b"\t"]).first().expect("one");
        r.fields[0].insert(0, blank);
    }),
    ("field: no name", |r, d| {
        r.put(d.one_of(&[": x", "nocolon", ":", "\u{e4}: x", "a b: x", "a(b: x", "a\"b: x", "a@b: x", "[a]: x", "a/b: x"]));
    }),
    ("field: odd name", |r, d| {
        r.put(d.one_of(&["1: x", "content_length: 5", "Content-Length-: 5", "!#$%&'*+-.^_`|~: x", "transfer-encodin: chunked"]));
    }),
    ("field: control in a name", |r, d| r.put(d.one_of(&[&b"a\0b: x"[..], b"a\x01: x", b"a\x7f: x", b"\x0ba: x"]))),
    ("field: control in a value", |r, d| {
        r.put(d.one_of(&[
            &b"x: a\0b"[..],
            b"x: \x01",
            b"x: a\x7fb",
            b"x: a\x1b[2J",
            b"x: \x08",
            b"x: a\x0bb",
            b"x: a\x0cb",
            b"x: a\x1fb",
        ]));
    }),
    ("field: CR in a value", |r, d| r.put(d.one_of(&["x: a\rb", "x: a\rContent-Length: 5", "x: \r", "x:\ra", "\rx: a"]))),
    ("field: high bytes in a value", |r, d| {
        r.put(d.one_of(&[&b"x: \xe4"[..], b"x: \xff\xfe", "x: \u{e4}\u{20ac}".as_bytes(), b"x: a\x80b", b"x: \xf0\x9f\x92"]));
    }),
    ("field: blanks in a value", |r, d| r.put(d.one_of(&["x: \t a \t b \t ", "x:a", "x:", "x: \t ", "x:\t\ta"]))),
    ("fields: many", |r, d| {
        for _ in 0..90 + d.below(20) {
            r.put("x: y");
        }
    }),
    ("head: large", |r, d| r.put(format!("x: {}", "y".repeat(15_500 + d.below(2_000))))),
    ("host: none", |r, _| r.take("host")),
    ("host: none in 1.0", |r, _| {
        r.take("host");
        r.first[2] = b"HTTP/1.0".to_vec();
    }),
    ("host: two", |r, d| r.put(d.one_of(&["Host: localhost:8788", "host: evil", "HOST:", "Host: localhost:8788\r\nHost: x"]))),
    ("host: odd", |r, d| {
        r.fields[0] = d.one_of(&["Host:", "Host: a b", "Host: a,b", "Host: [::1]:8788", "Host: http://x", "Host: a@b"]).into();
    }),
    ("length: twice", |r, d| {
        r.with_body("Content-Length: 5", "abcde");
        r.put(d.one_of(&["Content-Length: 5", "Content-Length: 6", "content-length: 0", "Content-Length: 05"]));
    }),
    ("length: a list", |r, d| {
        let field = d.one_of(&[
            "Content-Length: 5, 5",
            "Content-Length: 5,5",
            "Content-Length: 5, 6",
            "Content-Length: 5,",
            "Content-Length: ,5",
        ]);
        r.with_body(field, "abcde");
    }),
    ("length: no number", |r, d| {
        let field =
            d.one_of(&["+5", "-5", "0x5", "5.0", "5e0", "", "five", "5 5", "5;5", "\"5\"", "\u{665}", "5_0", "-0", "5\t5"]);
        r.with_body(&format!("Content-Length: {field}"), "abcde");
    }),
    ("length: odd number", |r, d| {
        let field = d.one_of(&["005", "0000000000000000000005", " 5 ", "\t5\t", "5 "]);
        r.with_body(&format!("Content-Length:{field}"), "abcde");
    }),
    ("length: beyond the limit", |r, d| {
        let field =
            d.one_of(&["1048577", "100000000000", "9223372036854775807", "18446744073709551616", "99999999999999999999999999"]);
        r.with_body(&format!("Content-Length: {field}"), "abcde");
    }),
    ("length: shorter than the body", |r, d| r.with_body(&format!("Content-Length: {}", d.below(5)), "abcde")),
    ("length: longer than the body", |r, d| r.with_body(&format!("Content-Length: {}", 6 + d.below(400)), "abcde")),
    ("length and encoding", |r, d| {
        let body = chunked(d, "", "\r\n", "\r\n", "");
        r.with_body("Content-Length: 5", body);
        if d.below(2) == 0 {
            r.put(CHUNKED);
        } else {
            r.fields.insert(1, CHUNKED.into());
            r.line_ends.push("\r\n");
        }
    }),
    ("encoding: others", |r, d| {
        let body = chunked(d, "", "\r\n", "\r\n", "");
        let field = d.one_of(&[
            "gzip",
            "gzip, chunked",
            "chunked, gzip",
            "identity",
            "chunked, chunked",
            "xchunked",
            "chunked;q=1",
            "",
            "\"chunked\"",
            "chunked,",
            ",chunked",
            "chunked identity",
            "chun ked",
            "\u{b}chunked",
            "chunked\0",
            "deflate",
        ]);
        r.with_body(&format!("Transfer-Encoding: {field}"), body);
    }),
    ("encoding: twice", |r, d| {
        let body = chunked(d, "", "\r\n", "\r\n", "");
        r.with_body(CHUNKED, body);
        r.put(d.one_of(&[CHUNKED, "Transfer-Encoding: identity", "transfer-encoding:", "Transfer-Encoding: gzip"]));
    }),
    ("encoding: odd spelling", |r, d| {
        let body = chunked(d, "", "\r\n", "\r\n", "");
        let field = d.one_of(&["CHUNKED", " chunked ", "\tchunked\t", "chunked", "cHuNkEd"]);
        r.with_body(&format!("TRANSFER-encoding:{field}"), body);
    }),
    ("encoding: in 1.0", |r, d| {
        let body = chunked(d, "", "\r\n", "\r\n", "");
        r.with_body(CHUNKED, body);
        r.first[2] = b"HTTP/1.0".to_vec();
    }),
    ("chunk: good extension", |r, d| {
        let extension = d.one_of(&[";a", ";a=b", ";a=\"b c\"", ";a;b=c", ";a=\"\\\"\""]);
        let body = chunked(d, extension, "\r\n", "\r\n", "");
        r.with_body(CHUNKED, body);
    }),
    ("chunk: extension with blanks", |r, d| {
        let extension = d.one_of(&[" ;a", "\t;a", "; a", " ; a = b ", ";a "]);
        let body = chunked(d, extension, "\r\n", "\r\n", "");
        r.with_body(CHUNKED, body);
    }),
    ("chunk: odd extension", |r, d| {
        let extension = d.one_of(&[
            " ", "\t", "  x", ",a", ";", ";;", "=a", ":a", "\0", ";\0", ";\u{1}", ";a\rb", ";a\n", ";\u{7f}", ";\u{e4}",
        ]);
        let body = chunked(d, extension, "\r\n", "\r\n", "");
        r.with_body(CHUNKED, body);
    }),
    ("chunk: size line ends oddly", |r, d| {
        let end = d.one_of(&["\n", "\r", "\r\r\n", "\n\r\n", "", "\0\r\n"]);
        let body = chunked(d, "", end, "\r\n", "");
        r.with_body(CHUNKED, body);
    }),
    ("chunk: data ends oddly", |r, d| {
        let end = d.one_of(&["\n", "\r", "", "x\r\n", "\r\r\n", "\n\n", "\r\n\r\n", "\0\0"]);
        let body = chunked(d, "", "\r\n", end, "");
        r.with_body(CHUNKED, body);
    }),
    ("chunk: size is none", |r, d| {
        let size = d.one_of(&["", "+5", "-5", "0x5", " 5", "5 5", "g", "5h", "\"5\"", "5.", "\u{665}", "_5", "5_", "\0", "\t5"]);
        r.with_body(CHUNKED, format!("{size}\r\nabcde\r\n0\r\n\r\n"));
    }),
    ("chunk: size is odd", |r, d| {
        let size = d.one_of(&["00005", "0000000000000005", "00000000000000005", "00000000000000000005", "000000000000000000005"]);
        r.with_body(CHUNKED, format!("{size}\r\nabcde\r\n0\r\n\r\n"));
    }),
    ("chunk: size beyond the limit", |r, d| {
        let size =
            d.one_of(&["100001", "fffffffff", "7fffffffffffffff", "ffffffffffffffff", "10000000000000000", "10000000000000005"]);
        r.with_body(CHUNKED, format!("{size}\r\nabcde\r\n0\r\n\r\n"));
    }),
    ("chunk: size is wrong", |r, d| {
        let size = d.one_of(&["4", "6", "1", "5f", "0"]);
        r.with_body(CHUNKED, format!("{size}\r\nabcde\r\n0\r\n\r\n"));
    }),
    ("chunk: the last one is missing", |r, d| {
        let rest = d.one_of(&["", "0", "0\r\n", "0\r\n\r", "\r\n"]);
        r.with_body(CHUNKED, format!("5\r\nabcde\r\n{rest}"));
    }),
    ("trailers: good", |r, d| {
        let trailers = d.one_of(&[
            "X: y\r\n",
            "X:\r\nY: z\r\n",
            "Content-Length: 5\r\n",
            "Host: evil\r\n",
            "Transfer-Encoding: chunked\r\n",
            "x: \t a \t \r\n",
        ]);
        let body = chunked(d, "", "\r\n", "\r\n", trailers);
        r.with_body(CHUNKED, body);
    }),
    ("trailers: bad", |r, d| {
        let trailers = d.one_of(&[
            "x\r\n",
            ": y\r\n",
            "x : y\r\n",
            "x: y\r\n z\r\n",
            " x: y\r\n",
            "x: a\rb\r\n",
            "x: a\0b\r\n",
            "x: \u{1}\r\n",
            "GET / HTTP/1.1\r\n",
        ]);
        let body = chunked(d, "", "\r\n", "\r\n", trailers);
        r.with_body(CHUNKED, body);
    }),
    ("trailers: line ends", |r, d| {
        let trailers = d.one_of(&["x: y\n", "\n", "x: y\r\n\n", "x: y\r", "\r", "x: y\n\n"]);
        let body = chunked(d, "", "\r\n", "\r\n", trailers);
        r.with_body(CHUNKED, body);
    }),
    ("connection", |r, d| {
        r.put(d.one_of(&[
            "Connection: close",
            "connection: Close",
            "Connection: keep-alive",
            "Connection: x, close",
            "Connection: keep-alive, close",
            "Connection: closed",
            "Connection: ,close,",
            "Connection:close\t",
            "Connection: \"close\"",
        ]));
        if d.below(3) == 0 {
            r.put(d.one_of(&["Connection: close", "Connection: keep-alive", "Connection:"]));
        }
    }),
    ("connection: 1.0", |r, d| {
        r.first[2] = b"HTTP/1.0".to_vec();
        r.put(d.one_of(&[
            "Connection: close",
            "Connection: keep-alive",
            "Connection: Keep-Alive, x",
            "Connection: keep-alive, close",
            "Connection: x",
        ]));
    }),
    ("connection: upgrade", |r, d| {
        r.put("Connection: Upgrade");
        r.put(d.one_of(&["Upgrade: websocket", "Upgrade: h2c", "Upgrade: x, y"]));
    }),
    ("expect", |r, d| {
        let length = d.below(2) * 5;
        r.with_body(&format!("Content-Length: {length}"), &b"abcde"[..length]);
        r.put(d.one_of(&[
            "Expect: 100-continue",
            "expect: 100-CONTINUE",
            "Expect: tea",
            "Expect:",
            "Expect: 100-continue, tea",
            "Expect: 100-continue\r\nExpect: tea",
        ]));
        if d.below(4) == 0 {
            r.first[2] = b"HTTP/1.0".to_vec();
        }
    }),
];
