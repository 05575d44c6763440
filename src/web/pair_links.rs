//! The links that log another device in, each with its QR code as a picture.

use std::fmt::Write as _;
use std::net::SocketAddr;

use qrcodegen::{QrCode, QrCodeEcc};

use crate::api::session::{PairLink, QrPicture};
use crate::transport::reachable_addresses;

/// The maximum number of links. A machine can have many virtual networks; the likeliest addresses come first.
const LINKS_MAX: usize = 8;
/// The maximum length of the origin in a link, in bytes: a host name has at most 253. It limits the size of the picture.
const ORIGIN_BYTES_MAX: usize = 272;

/// Returns the links for a code. `named` is the origin by which the client reached the server, if the owner named it in the
/// settings.
pub(super) fn links(named: Option<String>, listening: &[SocketAddr], code: &str) -> Vec<PairLink> {
    let mut origins: Vec<String> = named.into_iter().collect();
    for address in reachable_addresses(listening) {
        let origin = format!("http://{address}");
        if !origins.contains(&origin) {
            origins.push(origin);
        }
    }
    let fitting = origins.iter().filter(|origin| origin.len() <= ORIGIN_BYTES_MAX).take(LINKS_MAX);
    fitting.filter_map(|origin| link(format!("{origin}/#code={code}"))).collect()
}

fn link(url: String) -> Option<PairLink> {
    let code = QrCode::encode_text(&url, QrCodeEcc::Low).ok()?;
    let mut path = String::new();
    for y in 0..code.size() {
        let mut x = 0;
        while x < code.size() {
            let dark = (x..code.size()).take_while(|&x| code.get_module(x, y)).count();
            if dark > 0 {
                let _never_fails = write!(path, "M{x} {y}h{dark}v1H{x}z");
            }
            x += i32::try_from(dark).ok()? + 1;
        }
    }
    Some(PairLink { url, qr: QrPicture { size: u32::try_from(code.size()).ok()?, path } })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "abcd-efgh-ijkm-npqr-stuv-wxyz";

    #[test]
    fn named_origin_comes_first_and_each_origin_once() {
        let at = |text: &str| text.parse().expect("an address");
        let listening = [at("127.0.0.1:1"), at("10.0.0.5:1"), at("[fd00::5]:1")];
        let made = |named: &str| links(Some(named.to_owned()), &listening, CODE).into_iter().map(|link| link.url);
        let url = |origin: &str| format!("{origin}/#code={CODE}");
        let own = ["http://10.0.0.5:1", "http://[fd00::5]:1"].map(url);
        assert!(made("https://board.example").eq([url("https://board.example"), own[0].clone(), own[1].clone()]));
        assert!(made("http://10.0.0.5:1").eq(own.clone()));
        assert!(made(&"x".repeat(ORIGIN_BYTES_MAX + 1)).eq(own));
        assert!(links(None, &listening[..1], CODE).is_empty());
        let many: Vec<_> = (1..100).map(|n| SocketAddr::from(([10, 0, 0, n], 1))).collect();
        assert_eq!(links(None, &many, CODE).len(), LINKS_MAX);
    }

    #[test]
    fn qr_path_draws_the_modules_of_the_link() {
        let longest = links(Some(format!("https://{}", "a".repeat(ORIGIN_BYTES_MAX - 8))), &[], CODE).remove(0);
        for link in [link(format!("http://10.0.0.5:8788/#code={CODE}")).expect("it fits"), longest] {
            let code = QrCode::encode_text(&link.url, QrCodeEcc::Low).expect("it fits");
            let size = usize::try_from(code.size()).expect("small");
            let mut drawn = vec![vec![false; size]; size];
            for run in link.qr.path.split_terminator('z') {
                let parts: Vec<usize> =
                    run.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
                let [x, y, width, 1, back] = parts[..] else { panic!("{run}") };
                assert_eq!((run, back), (&*format!("M{x} {y}h{width}v1H{x}"), x));
                drawn[y][x..x + width].fill(true);
            }
            let is_dark = |x: usize, y: usize| code.get_module(x.try_into().expect("small"), y.try_into().expect("small"));
            assert!((0..size).all(|y| (0..size).all(|x| drawn[y][x] == is_dark(x, y))), "{}", link.url);
            assert!(link.qr.size as usize == size && link.qr.path.len() <= 16_384, "{}", link.qr.path.len());
        }
    }
}
