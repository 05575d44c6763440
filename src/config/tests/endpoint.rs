use super::*;

/// Returns the folder in which a client command finds its server.
fn folder(env: &[(&str, &str)], dotenv: &[(&str, &str)]) -> Folder {
    let dotenv: Vec<_> = dotenv.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
    match Endpoint::resolve(lookup(env), &dotenv, Path::new(CWD)).expect("right") {
        Endpoint::Folder(folder) => folder,
        Endpoint::Url(url) => panic!("{url}"),
    }
}

#[test]
fn client_ignores_settings_that_do_not_locate_the_server() {
    let find = |env: &[(&str, &str)]| Endpoint::resolve(lookup(env), &[], Path::new(CWD));
    let usual = Folder {
        project: CWD.into(),
        runtime_dir: "/srv/box/runtime".into(),
        folder: None,
        socket: Some("/srv/box/runtime/server.sock".into()),
        named_socket: None,
        named_address: None,
        usual_address: Some(SocketAddr::from(([127, 0, 0, 1], 8788))),
        url_in_dotenv: None,
    };
    assert_eq!(folder(&[], &[]), usual);
    let elsewhere = Folder {
        project: "/srv/box/r".into(),
        runtime_dir: "/srv/box/r".into(),
        socket: Some("/srv/box/r/server.sock".into()),
        ..usual
    };
    let wrong = [(RUNTIME_DIR, "r"), (GRACE, "wrong"), (DATABASE, "/srv/x.db")];
    assert_eq!(folder(&wrong, &[]), elsewhere, "what is wrong does not matter here");
    assert!(find(&[(PORT, "x")]).is_err());

    for (text, url) in
        [("http://127.0.0.1:1", "http://127.0.0.1:1"), ("HTTP://Box/", "http://box"), ("http://[::1]:80", "http://[::1]:80")]
    {
        assert_eq!(find(&[(URL, text), (PORT, "x")]), Ok(Endpoint::Url(url.to_owned())), "nothing else counts");
    }
    for text in ["box", "ftp://box", "http://box/x", "http://box:x", "http:box", "http://"] {
        let error = find(&[(URL, text)]).expect_err(text).to_string();
        assert_eq!(error, format!("AUTOAPPDEV_URL={text} is not a server's address: http://HOST[:PORT] without a path"));
    }
    let error = find(&[(URL, "https://box")]).expect_err("no TLS here").to_string();
    assert!(error.contains("asks for TLS"), "{error}");
}

#[test]
fn dotenv_and_defaults_name_no_address() {
    let named = |env: &[(&str, &str)], dotenv: &[(&str, &str)]| {
        folder(env, dotenv).named_address.map_or_else(String::new, |address| address.to_string())
    };
    for (env, address) in [
        (&[][..], ""),
        (&[(PORT, "9000")], "127.0.0.1:9000"),
        (&[(PORT, "9000"), (HOST, "::1,127.0.0.1")], "[::1]:9000"),
        (&[(PORT, "9000"), (HOST, "0.0.0.0")], "0.0.0.0:9000"),
        (&[(HOST, "192.168.1.5")], "192.168.1.5:8788"),
        (&[(HOST, "192.168.1.5"), ("PORT", "80")], "192.168.1.5:80"),
        // No specific server.
        (&[(PORT, "0"), (HOST, "127.0.0.1")], ""),
        (&[(HOST, "0.0.0.0")], ""),
        (&[("PORT", "9000")], ""),
    ] {
        assert_eq!(named(env, &[]), address, "{env:?}");
    }
    let dotenv = [(PORT, "9000"), (HOST, "192.168.1.5"), (SOCKET, "/s"), (URL, "http://box")];
    assert_eq!(named(&[], &dotenv), "");
    assert_eq!(named(&[(PORT, "80")], &dotenv), "127.0.0.1:80", "a folder names no host");
    assert_eq!(named(&[(HOST, "127.0.0.1")], &dotenv), "", "and no port");
    let found = folder(&[], &dotenv);
    assert_eq!((found.socket.as_deref(), found.named_socket), (Some(Path::new("/s")), None));
    assert_eq!(found.usual_address.map(|address| address.to_string()).as_deref(), Some("192.168.1.5:9000"));
    assert_eq!(found.url_in_dotenv.as_deref(), Some("http://box"));
    let found = folder(&[(SOCKET, "/s")], &[]);
    assert_eq!((found.socket, found.named_socket.as_deref()), (None, Some(Path::new("/s"))));
}
