//! HTTP/1.1 over sockets: listeners, connections, the parser and the writer. Knows nothing about this product.
//!
//! Level 1. The only interface to the rest of the program is [`Handler`]: it takes rouille's `Request` and returns rouille's
//! `Response`. Each connection has a thread that reads requests, calls the handler and writes the responses. `accept` admits
//! connections, `slots` decides which of them give way when there are too many, `workers` holds their threads, and `connection`
//! speaks HTTP.

mod accept;
#[cfg_attr(not(feature = "fuzzing"), expect(unreachable_pub, reason = "the feature `fuzzing` opens it"))]
mod body;
mod connection;
mod cookies;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handler;
#[cfg_attr(not(feature = "fuzzing"), expect(unreachable_pub, reason = "the feature `fuzzing` opens it"))]
mod head;
mod limits;
mod listener;
mod own_socket;
mod peer_user;
mod reach;
mod reachable_addresses;
mod server;
mod slots;
mod workers;
mod writer;

pub use handler::{Binding, Client, Handler};
pub use head::{BODY_BYTES_MAX, Broken, SMALL_BODY_BYTES};
pub use limits::{DESCRIPTORS_MIN, LongRequests, Rank, scarce_descriptors};
pub use listener::Listener;
pub use own_socket::OwnSocket;
pub use reach::{Reach, connect_address, network_of};
pub use reachable_addresses::reachable_addresses;
pub use server::{Probe, Server};
